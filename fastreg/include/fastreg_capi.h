/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The functions of an installed fastreg, for extension modules: nothing to link. Include Python.h
 * first, and call fastreg_import() once, with the lock held:
 *
 *     static const fastreg_capi *fr;
 *     fr = fastreg_import();            NULL: ImportError is set
 *     fr->value(&array, 1, FASTREG_F64, NULL, &result);
 */
#ifndef FASTREG_CAPI_H
#define FASTREG_CAPI_H

#include "fastreg.h"

/* Functions are only ever appended; `size` tells how many there are. They need no lock. */
typedef struct {
    size_t size;
    int32_t abi;
    int32_t reserved;
    size_t array_size, options_size, statistics_size, state_size, sum_size;
    const char *version;
    const char *(*status_text)(fastreg_status status);
    size_t (*itemsize)(fastreg_dtype dtype);
    fastreg_status (*value)(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                            const fastreg_options *options, double *value);
    fastreg_status (*norm)(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                           const fastreg_options *options, double *value);
    fastreg_status (*gradient)(const fastreg_array *arrays, size_t count, double scale,
                               int accumulate, const fastreg_options *options);
    fastreg_status (*value_and_gradient)(const fastreg_array *arrays, size_t count, double scale,
                                         int accumulate, fastreg_dtype result,
                                         const fastreg_options *options, double *value);
    fastreg_status (*statistics_of)(const fastreg_array *arrays, size_t count,
                                    const fastreg_options *options, fastreg_statistics *rows,
                                    fastreg_statistics *total);
    fastreg_status (*state_fill)(fastreg_state *to, const fastreg_array *arrays, size_t count,
                                 const fastreg_options *options);
    fastreg_status (*state_add)(fastreg_state *to, const fastreg_state *from);
    fastreg_status (*state_subtract)(fastreg_state *to, const fastreg_state *from);
    fastreg_status (*state_value)(const fastreg_state *states, const double *l1, const double *l2,
                                  size_t count, fastreg_dtype result, double *value);
    fastreg_status (*state_norm)(const fastreg_state *states, const double *l1, const double *l2,
                                 size_t count, fastreg_dtype result, double *value);
    fastreg_status (*state_digits64)(const fastreg_state *state, long long *digits, size_t count);
    fastreg_status (*state_digits32)(const fastreg_state *state, int *digits, size_t count);
    fastreg_status (*state_from_digits64)(fastreg_state *to, const long long *digits, size_t count);
    fastreg_status (*state_from_digits32)(fastreg_state *to, const int *digits, size_t count);
    size_t (*state_nbytes)(const fastreg_state *state);
    fastreg_status (*state_save)(const fastreg_state *state, void *bytes, size_t nbytes);
    fastreg_status (*state_load)(fastreg_state *to, const void *bytes, size_t nbytes);
    fastreg_status (*enclose)(const fastreg_array *arrays, size_t count,
                              const fastreg_options *options, fastreg_sum *sum);
    fastreg_status (*sum_merge)(fastreg_sum *to, const fastreg_sum *from);
    fastreg_status (*sum_value)(const fastreg_sum *sum, fastreg_dtype result, double *value);
    fastreg_status (*sum_norm)(const fastreg_sum *sum, fastreg_dtype result, double *value);
    fastreg_status (*sum_digits64)(const fastreg_sum *sum, long long *digits);
    fastreg_status (*digits64_decide)(const long long *digits, int root, fastreg_dtype result,
                                      double *value);
    fastreg_status (*prox)(const fastreg_array *arrays, size_t count, double step, int flush,
                           const fastreg_options *options);
    fastreg_status (*pack)(fastreg_dtype dtype, double value, void *element);
    fastreg_status (*unpack)(fastreg_dtype dtype, const void *element, double *value);
    const char *(*level)(void);
    const char *(*level_name)(size_t i, int *available);
    int (*has_openmp)(void);
    fastreg_status (*set_num_threads)(int threads, int *previous);
    fastreg_status (*set_thread_num_threads)(int threads, int *previous);
    int (*get_num_threads)(void);
} fastreg_capi;

#define FASTREG_CAPI_NAME "fastreg._kernels.capi"

#ifdef Py_PYTHON_H
/* The table, or NULL with ImportError set where the installed fastreg has another ABI, structs of
 * another size, or fewer functions than this header. */
static inline const fastreg_capi *fastreg_import(void)
{
    const fastreg_capi *const t = (const fastreg_capi *)PyCapsule_Import(FASTREG_CAPI_NAME, 0);
    if (!t)
        return NULL;
    if (t->abi != FASTREG_ABI || t->array_size != sizeof(fastreg_array) ||
        t->options_size < sizeof(fastreg_options) ||
        t->statistics_size != sizeof(fastreg_statistics) ||
        t->state_size != sizeof(fastreg_state) || t->sum_size != sizeof(fastreg_sum) ||
        t->size < sizeof(fastreg_capi)) {
        (void)PyErr_Format(PyExc_ImportError,
                           "expected fastreg with ABI %d and at least %zu bytes of functions, as "
                           "this module was compiled for (fastreg %s); received ABI %d and %zu "
                           "(fastreg %s); compile the module again, or install that version",
                           (int)FASTREG_ABI, sizeof(fastreg_capi), FASTREG_VERSION, (int)t->abi,
                           t->size, t->version);
        return NULL;
    }
    return t;
}
#endif

#endif
