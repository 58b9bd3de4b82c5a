# SPDX-License-Identifier: BSD-3-Clause
# The C functions of an installed fastreg, for Cython: nothing to link. Compile with
# include_dirs=[fastreg.get_include()], and in the module:
#
#     from fastreg.capi cimport fastreg_array, fastreg_capi, fastreg_import, FASTREG_F32
#     cdef const fastreg_capi *fr = fastreg_import()
#
# From then on fr.value(...) and the others run with or without the lock.

cdef extern from "fastreg.h" nogil:
    const char *FASTREG_VERSION
    int FASTREG_ABI

    ctypedef enum fastreg_status:
        FASTREG_OK
        FASTREG_BAD_DTYPE
        FASTREG_BAD_WEIGHT
        FASTREG_BAD_SCALE
        FASTREG_BAD_SHAPE
        FASTREG_NULL_POINTER
        FASTREG_BAD_LEVEL
        FASTREG_BAD_THREADS
        FASTREG_INTERRUPTED
        FASTREG_UNDECIDED
        FASTREG_BELOW_ZERO
        FASTREG_BAD_STATE
        FASTREG_NOT_NARROW
        FASTREG_BAD_BUILD
        FASTREG_BAD_OPTIONS
        FASTREG_BAD_DEVICE

    ctypedef enum fastreg_dtype:
        FASTREG_F16
        FASTREG_BF16
        FASTREG_F32
        FASTREG_F64
        FASTREG_BOOL
        FASTREG_I8
        FASTREG_U8
        FASTREG_I16
        FASTREG_U16
        FASTREG_I32
        FASTREG_U32
        FASTREG_I64
        FASTREG_U64

    enum:
        FASTREG_NARROW
        FASTREG_WIDE
        FASTREG_DIGITS64_NARROW
        FASTREG_DIGITS64_WIDE
        FASTREG_DIGITS32_NARROW
        FASTREG_DIGITS32_WIDE
        FASTREG_SUM_DIGITS64

    ctypedef struct fastreg_array:
        const void *data
        void *gradient
        const Py_ssize_t *shape
        const Py_ssize_t *strides
        const Py_ssize_t *gradient_strides
        int ndim
        fastreg_dtype dtype
        double l1
        double l2

    ctypedef struct fastreg_options:
        size_t size
        int threads
        size_t bytes_per_thread
        const char *level
        int (*poll)(void *) noexcept nogil
        void *poll_context
        int first_tier
        double error_factor
        int *tier
        void (*run)(void *pool, int shares, void (*body)(void *, int) noexcept nogil,
                    void *work) noexcept nogil
        void *pool

    ctypedef struct fastreg_statistics:
        unsigned long long n
        double sum_abs
        double sum_squares
        double norm
        double max_abs
        unsigned long long zeros
        unsigned long long subnormals
        unsigned long long nans
        unsigned long long infs

    ctypedef struct fastreg_state:
        unsigned long long n
        unsigned long long zeros
        unsigned long long nans
        unsigned long long positive_infinities
        unsigned long long negative_infinities
        unsigned long long layout

    ctypedef struct fastreg_sum:
        pass

cdef extern from "fastreg_capi.h":
    ctypedef struct fastreg_capi:
        size_t size
        int abi
        const char *version
        const char *(*status_text)(fastreg_status status) noexcept nogil
        size_t (*itemsize)(fastreg_dtype dtype) noexcept nogil
        fastreg_status (*value)(const fastreg_array *arrays, size_t count, fastreg_dtype result,
            const fastreg_options *options, double *value) noexcept nogil
        fastreg_status (*norm)(const fastreg_array *arrays, size_t count, fastreg_dtype result,
            const fastreg_options *options, double *value) noexcept nogil
        fastreg_status (*gradient)(const fastreg_array *arrays, size_t count, double scale,
            int accumulate, const fastreg_options *options) noexcept nogil
        fastreg_status (*value_and_gradient)(const fastreg_array *arrays, size_t count,
            double scale, int accumulate, fastreg_dtype result, const fastreg_options *options,
            double *value) noexcept nogil
        fastreg_status (*statistics_of)(const fastreg_array *arrays, size_t count,
            const fastreg_options *options, fastreg_statistics *rows,
            fastreg_statistics *total) noexcept nogil
        fastreg_status (*state_fill)(fastreg_state *to, const fastreg_array *arrays,
            size_t count, const fastreg_options *options) noexcept nogil
        fastreg_status (*state_add)(fastreg_state *to, const fastreg_state *source) noexcept nogil
        fastreg_status (*state_subtract)(fastreg_state *to,
            const fastreg_state *source) noexcept nogil
        fastreg_status (*state_value)(const fastreg_state *states, const double *l1,
            const double *l2, size_t count, fastreg_dtype result, double *value) noexcept nogil
        fastreg_status (*state_norm)(const fastreg_state *states, const double *l1,
            const double *l2, size_t count, fastreg_dtype result, double *value) noexcept nogil
        fastreg_status (*state_digits64)(const fastreg_state *state, long long *digits,
            size_t count) noexcept nogil
        fastreg_status (*state_digits32)(const fastreg_state *state, int *digits,
            size_t count) noexcept nogil
        fastreg_status (*state_from_digits64)(fastreg_state *to, const long long *digits,
            size_t count) noexcept nogil
        fastreg_status (*state_from_digits32)(fastreg_state *to, const int *digits,
            size_t count) noexcept nogil
        size_t (*state_nbytes)(const fastreg_state *state) noexcept nogil
        fastreg_status (*state_save)(const fastreg_state *state, void *bytes,
            size_t nbytes) noexcept nogil
        fastreg_status (*state_load)(fastreg_state *to, const void *bytes,
            size_t nbytes) noexcept nogil
        fastreg_status (*enclose)(const fastreg_array *arrays, size_t count,
            const fastreg_options *options, fastreg_sum *sum) noexcept nogil
        fastreg_status (*sum_merge)(fastreg_sum *to, const fastreg_sum *source) noexcept nogil
        fastreg_status (*sum_value)(const fastreg_sum *sum, fastreg_dtype result,
            double *value) noexcept nogil
        fastreg_status (*sum_norm)(const fastreg_sum *sum, fastreg_dtype result,
            double *value) noexcept nogil
        fastreg_status (*sum_digits64)(const fastreg_sum *sum, long long *digits) noexcept nogil
        fastreg_status (*digits64_decide)(const long long *digits, int root,
            fastreg_dtype result, double *value) noexcept nogil
        fastreg_status (*prox)(const fastreg_array *arrays, size_t count, double step, int flush,
            const fastreg_options *options) noexcept nogil
        fastreg_status (*pack)(fastreg_dtype dtype, double value, void *element) noexcept nogil
        fastreg_status (*unpack)(fastreg_dtype dtype, const void *element,
            double *value) noexcept nogil
        const char *(*level)() noexcept nogil
        const char *(*level_name)(size_t i, int *available) noexcept nogil
        int (*has_openmp)() noexcept nogil
        fastreg_status (*set_num_threads)(int threads, int *previous) noexcept nogil
        fastreg_status (*set_thread_num_threads)(int threads, int *previous) noexcept nogil
        int (*get_num_threads)() noexcept nogil

    const fastreg_capi *fastreg_import() except NULL
