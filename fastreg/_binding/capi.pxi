# SPDX-License-Identifier: BSD-3-Clause
# Part of fastreg/_kernels.pyx: the C functions for other extension modules, and their addresses.

cdef extern from *:
    """
    #include "fastreg_capi.h"

    static const fastreg_capi fr_capi = {
        sizeof(fastreg_capi), FASTREG_ABI, 0, sizeof(fastreg_array), sizeof(fastreg_options),
        sizeof(fastreg_statistics), sizeof(fastreg_state), sizeof(fastreg_sum), FASTREG_VERSION,
        fastreg_status_text,
        fastreg_itemsize,
        fastreg_value,
        fastreg_norm,
        fastreg_gradient,
        fastreg_value_and_gradient,
        fastreg_statistics_of,
        fastreg_state_fill,
        fastreg_state_add,
        fastreg_state_subtract,
        fastreg_state_value,
        fastreg_state_norm,
        fastreg_state_digits64,
        fastreg_state_digits32,
        fastreg_state_from_digits64,
        fastreg_state_from_digits32,
        fastreg_state_nbytes,
        fastreg_state_save,
        fastreg_state_load,
        fastreg_enclose,
        fastreg_sum_merge,
        fastreg_sum_value,
        fastreg_sum_norm,
        fastreg_sum_digits64,
        fastreg_digits64_decide,
        fastreg_prox,
        fastreg_pack,
        fastreg_unpack,
        fastreg_level,
        fastreg_level_name,
        fastreg_has_openmp,
        fastreg_set_num_threads,
        fastreg_set_thread_num_threads,
        fastreg_get_num_threads,
    };
    static const struct { const char *name; uintptr_t address; } fr_addresses[] = {
        {"status_text", (uintptr_t)fastreg_status_text},
        {"itemsize", (uintptr_t)fastreg_itemsize},
        {"value", (uintptr_t)fastreg_value},
        {"norm", (uintptr_t)fastreg_norm},
        {"gradient", (uintptr_t)fastreg_gradient},
        {"value_and_gradient", (uintptr_t)fastreg_value_and_gradient},
        {"statistics_of", (uintptr_t)fastreg_statistics_of},
        {"state_fill", (uintptr_t)fastreg_state_fill},
        {"state_add", (uintptr_t)fastreg_state_add},
        {"state_subtract", (uintptr_t)fastreg_state_subtract},
        {"state_value", (uintptr_t)fastreg_state_value},
        {"state_norm", (uintptr_t)fastreg_state_norm},
        {"state_digits64", (uintptr_t)fastreg_state_digits64},
        {"state_digits32", (uintptr_t)fastreg_state_digits32},
        {"state_from_digits64", (uintptr_t)fastreg_state_from_digits64},
        {"state_from_digits32", (uintptr_t)fastreg_state_from_digits32},
        {"state_nbytes", (uintptr_t)fastreg_state_nbytes},
        {"state_save", (uintptr_t)fastreg_state_save},
        {"state_load", (uintptr_t)fastreg_state_load},
        {"enclose", (uintptr_t)fastreg_enclose},
        {"sum_merge", (uintptr_t)fastreg_sum_merge},
        {"sum_value", (uintptr_t)fastreg_sum_value},
        {"sum_norm", (uintptr_t)fastreg_sum_norm},
        {"sum_digits64", (uintptr_t)fastreg_sum_digits64},
        {"digits64_decide", (uintptr_t)fastreg_digits64_decide},
        {"prox", (uintptr_t)fastreg_prox},
        {"pack", (uintptr_t)fastreg_pack},
        {"unpack", (uintptr_t)fastreg_unpack},
        {"level", (uintptr_t)fastreg_level},
        {"level_name", (uintptr_t)fastreg_level_name},
        {"has_openmp", (uintptr_t)fastreg_has_openmp},
        {"set_num_threads", (uintptr_t)fastreg_set_num_threads},
        {"set_thread_num_threads", (uintptr_t)fastreg_set_thread_num_threads},
        {"get_num_threads", (uintptr_t)fastreg_get_num_threads},
    };
    enum { FR_ADDRESSES = sizeof fr_addresses / sizeof fr_addresses[0] };
    static PyObject *fr_capsule(void)
    {
        return PyCapsule_New((void *)(uintptr_t)&fr_capi, FASTREG_CAPI_NAME, NULL);
    }
    """
    ctypedef struct fr_address:
        const char *name
        uintptr_t address
    const fr_address fr_addresses[]
    int FR_ADDRESSES
    object fr_capsule()

capi = fr_capsule()


def addresses():
    """Return the address of each C function, by its name without ``fastreg_``."""
    return {fr_addresses[i].name.decode(): fr_addresses[i].address for i in range(FR_ADDRESSES)}
