# SPDX-License-Identifier: BSD-3-Clause
# The C library, as Cython sees it.

cdef extern from "fastreg.h" nogil:
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

    const char *FASTREG_VERSION
    int FASTREG_ABI
    int fastreg_abi()
    const char *fastreg_version()
    const char *fastreg_status_text(fastreg_status status)
    fastreg_status fastreg_value(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                                 const fastreg_options *options, double *value)
    fastreg_status fastreg_norm(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                                const fastreg_options *options, double *value)
    fastreg_status fastreg_gradient(const fastreg_array *arrays, size_t count, double scale,
                                    int accumulate, const fastreg_options *options)
    fastreg_status fastreg_value_and_gradient(const fastreg_array *arrays, size_t count,
                                              double scale, int accumulate, fastreg_dtype result,
                                              const fastreg_options *options, double *value)
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

    fastreg_status fastreg_statistics_of(const fastreg_array *arrays, size_t count,
                                  const fastreg_options *options, fastreg_statistics *rows,
                                  fastreg_statistics *total)
    enum:
        FASTREG_NARROW
        FASTREG_WIDE
        FASTREG_DIGITS64_NARROW
        FASTREG_DIGITS64_WIDE
        FASTREG_DIGITS32_NARROW
        FASTREG_DIGITS32_WIDE
        FASTREG_SUM_DIGITS64

    ctypedef struct fastreg_state:
        unsigned long long n
        unsigned long long zeros
        unsigned long long nans
        unsigned long long positive_infinities
        unsigned long long negative_infinities
        unsigned long long layout

    fastreg_status fastreg_state_fill(fastreg_state *to, const fastreg_array *arrays, size_t count,
                                      const fastreg_options *options)
    fastreg_status fastreg_state_add(fastreg_state *to, const fastreg_state *source)
    fastreg_status fastreg_state_subtract(fastreg_state *to, const fastreg_state *source)
    fastreg_status fastreg_state_value(const fastreg_state *states, const double *l1,
                                       const double *l2, size_t count, fastreg_dtype result,
                                       double *value)
    fastreg_status fastreg_state_norm(const fastreg_state *states, const double *l1,
                                      const double *l2, size_t count, fastreg_dtype result,
                                      double *value)
    fastreg_status fastreg_state_digits64(const fastreg_state *state, long long *digits,
                                          size_t count)
    fastreg_status fastreg_state_digits32(const fastreg_state *state, int *digits, size_t count)
    fastreg_status fastreg_state_from_digits64(fastreg_state *to, const long long *digits,
                                               size_t count)
    fastreg_status fastreg_state_from_digits32(fastreg_state *to, const int *digits, size_t count)
    size_t fastreg_state_nbytes(const fastreg_state *state)
    fastreg_status fastreg_state_save(const fastreg_state *state, void *data, size_t nbytes)
    fastreg_status fastreg_state_load(fastreg_state *to, const void *data, size_t nbytes)

    ctypedef struct fastreg_sum:
        pass
    fastreg_status fastreg_enclose(const fastreg_array *arrays, size_t count,
                                   const fastreg_options *options, fastreg_sum *sum)
    fastreg_status fastreg_sum_merge(fastreg_sum *to, const fastreg_sum *source)
    fastreg_status fastreg_sum_value(const fastreg_sum *sum, fastreg_dtype result, double *value)
    fastreg_status fastreg_sum_norm(const fastreg_sum *sum, fastreg_dtype result, double *value)
    fastreg_status fastreg_sum_digits64(const fastreg_sum *sum, long long *digits)
    fastreg_status fastreg_digits64_decide(const long long *digits, int root, fastreg_dtype result,
                                           double *value)
    fastreg_status fastreg_prox(const fastreg_array *arrays, size_t count, double step, int flush,
                                const fastreg_options *options)
    fastreg_status fastreg_pack(fastreg_dtype dtype, double value, void *element)
    const char *fastreg_level()
    const char *fastreg_level_name(size_t i, int *available)
    int fastreg_has_openmp()
    fastreg_status fastreg_set_num_threads(int threads, int *previous)
    fastreg_status fastreg_set_thread_num_threads(int threads, int *previous)
    int fastreg_get_num_threads()
