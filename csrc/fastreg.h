/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fastreg: L1 and L2 penalties of arrays, correctly rounded.
 *
 * A penalty is  sum over all arrays of  l1 * sum|x| + l2 * sum x^2,  with weights per array. It is
 * computed as the exact real number and rounded once, to nearest with ties to even, so it does not
 * depend on the processor, the number of threads, the layout of the arrays, their order or the
 * order of their elements. Its gradient with respect to x, times an upstream factor, is one fused
 * multiply-add per element.
 *
 * Build: compile csrc/ *.c and csrc/isa/ *.c with any C11 compiler; no flag is needed. -O2 or -O3
 * gives the speed, -fopenmp the threads. Nothing here depends on Python.
 *
 * Every function may be called from any number of threads at once. None allocates memory, prints,
 * ends the process, sets errno, or leaves the floating-point environment (rounding mode,
 * flush-to-zero, exception flags) other than it found it; none is influenced by that environment
 * either.
 */
#ifndef FASTREG_H
#define FASTREG_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTREG_VERSION "0.1.0"

/* -- Statuses ------------------------------------------------------------------------------------ */

typedef enum {
    FASTREG_OK = 0,
    FASTREG_BAD_DTYPE,  /* an element type, result type or gradient type that does not exist here */
    FASTREG_BAD_WEIGHT, /* a weight that is negative, NaN or infinite */
    FASTREG_BAD_SCALE,  /* an upstream factor that is NaN or infinite */
    FASTREG_BAD_SHAPE,  /* a negative extent, more than 64 dimensions, or more than 2^63 elements */
    FASTREG_NULL_POINTER, /* data, shape or a result is NULL where it must not be */
    FASTREG_BAD_LEVEL,    /* an ISA level that is unknown, or that this processor lacks */
    FASTREG_BAD_THREADS,  /* a thread count below 0 */
    FASTREG_INTERRUPTED   /* the caller's poll asked to stop; gradients may be partly written */
} fastreg_status;

/* A sentence for a status; never NULL. */
const char *fastreg_status_text(fastreg_status status);

/* -- Arrays -------------------------------------------------------------------------------------- */

/* Element types. The first four have gradients and may be result types. Integers are read exactly. */
typedef enum {
    FASTREG_F16 = 0, /* IEEE binary16 */
    FASTREG_BF16,    /* bfloat16: the upper half of an IEEE binary32 */
    FASTREG_F32,
    FASTREG_F64,
    FASTREG_BOOL, /* one byte; anything but 0 counts as 1 */
    FASTREG_I8,
    FASTREG_U8,
    FASTREG_I16,
    FASTREG_U16,
    FASTREG_I32,
    FASTREG_U32,
    FASTREG_I64,
    FASTREG_U64
} fastreg_dtype;

#define FASTREG_MAX_NDIM 64

/* One array, its weights, and where its gradient goes. Initialise with {0} and set what is needed.
 * Elements are in native byte order, at any address: no alignment is required. */
typedef struct {
    const void *data;         /* element [0, 0, ...]; may be NULL if there are no elements */
    void *gradient;           /* where the gradient of element [0, 0, ...] goes; same dtype.
                                 Either equal to data with equal strides, or disjoint from
                                 every array of the call. NULL: no gradient of this array */
    const ptrdiff_t *shape;   /* ndim extents >= 0; NULL if ndim is 0 (one element) */
    const ptrdiff_t *strides; /* ndim byte steps, any sign, 0 allowed; NULL: C order, dense */
    const ptrdiff_t
        *gradient_strides; /* the same for gradient; different elements must not overlap */
    int ndim;              /* 0 ... FASTREG_MAX_NDIM */
    fastreg_dtype dtype;
    double l1; /* weight of sum|x|, finite, >= 0; 0 removes the term whatever x holds */
    double l2; /* weight of sum x^2, the same */
} fastreg_array;

/* -- Options: NULL, or initialise with {0} and set what is needed
 * ---------------------------------- */

typedef struct {
    int threads; /* how many at most; 0: fastreg_get_num_threads() */
    size_t
        bytes_per_thread; /* a thread is used only for at least so many; 0: the measured default */
    const char *level;    /* ISA level by name; NULL: the one chosen at start */
    int (*poll)(void *);  /* asked on the calling thread about once per millisecond of work, with
                             poll_context; non-zero stops the call. NULL: never */
    void *poll_context;
    int first_tier;      /* 0, 1 or 2: the tier to start at. Does not change any result */
    double error_factor; /* multiplies every error bound; 0 stands for 1. A test raises it to make
                            fallbacks frequent; below 1, results are no longer guaranteed */
    int *tier;           /* if not NULL, receives the tier that decided */
} fastreg_options;

/* -- Values and gradients
 * -------------------------------------------------------------------------- */

/* The penalty of `count` arrays, rounded once to the result type.
 *
 * result  FASTREG_F16 ... FASTREG_F64. *value holds the rounded number (every one is a double).
 *
 * A NaN in an array with a non-zero weight gives the quiet NaN 0x7ff8000000000000, otherwise an
 * infinity gives +inf. No elements, or no non-zero weight, give +0. A finite penalty is infinite or
 * zero only if rounding the exact number makes it so. On error *value is untouched. */
fastreg_status fastreg_value(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                             const fastreg_options *options, double *value);

/* The square root of the penalty, correctly rounded as well: with l1 = 0 and l2 = 1 the Euclidean
 * norm of all arrays taken together. Otherwise like fastreg_value. */
fastreg_status fastreg_norm(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                            const fastreg_options *options, double *value);

/* The gradient of the penalty times `scale`, into each array's `gradient`:
 *     g = RN_T(RN_64(fma(2 * l2 * scale, x, l1 * scale * sign(x)))),  sign(+-0) = 0, NaN for NaN,
 * the products of the weights rounded to f64 from left to right. With accumulate non-zero,
 * gradient <- RN_T(gradient + g). scale is finite, of any sign. On error (other than
 * FASTREG_INTERRUPTED) nothing has been written. */
fastreg_status fastreg_gradient(const fastreg_array *arrays, size_t count, double scale,
                                int accumulate, const fastreg_options *options);

/* Both in one pass over the data; equal, bit for bit, to fastreg_value followed by
 * fastreg_gradient. The value is not multiplied by scale. */
fastreg_status fastreg_value_and_gradient(const fastreg_array *arrays, size_t count, double scale,
                                          int accumulate, fastreg_dtype result,
                                          const fastreg_options *options, double *value);

/* -- Statistics and proximal steps --------------------------------------------------------------- */

/* What one array holds. The sums and the norm are correctly rounded to f64; weights play no part. */
typedef struct {
    unsigned long long n;
    double sum_abs, sum_squares, norm;
    double max_abs; /* largest |x|; NaN if there is a NaN, 0 without elements */
    unsigned long long zeros, subnormals, nans, infs; /* subnormal: of the array's own type */
} fastreg_statistics;

/* Statistics of each array, rows[k] for arrays[k], and of all together in *total unless that is NULL,
 * from one pass: the total's sums are the exact sums over all arrays, rounded once. Integers of 64 bits
 * have max_abs rounded to f64. On error (other than FASTREG_INTERRUPTED) nothing has been written. */
fastreg_status fastreg_survey(const fastreg_array *arrays, size_t count,
                              const fastreg_options *options, fastreg_statistics *rows,
                              fastreg_statistics *total);

/* The proximal step of the penalty, into each array's `gradient` pointer (data itself for in place):
 *     t = |x| - step * l1, in f64;  0 if t <= 0, else sign(x) * RN_T(t / (1 + 2 * step * l2)),
 * the soft threshold, whose zeros are exact and positive. step is finite and >= 0. flush non-zero turns
 * results that are subnormal in T into 0. NaN stays NaN. */
fastreg_status fastreg_prox(const fastreg_array *arrays, size_t count, double step, int flush,
                            const fastreg_options *options);

/* Write the element of a float type nearest to `value` to *element (2, 4 or 8 bytes, any address);
 * for a rounded value of that type, the value itself. FASTREG_BAD_DTYPE for integer types. */
fastreg_status fastreg_pack(fastreg_dtype dtype, double value, void *element);

/* -- What is in use ------------------------------------------------------------------------------ */

/* The ISA level in use, or NULL if the environment variable FASTREG_ISA names one that is unknown
 * or that this processor lacks; then every call answers FASTREG_BAD_LEVEL. Chosen once, at the
 * first question. */
const char *fastreg_level(void);

/* The i-th level compiled in, slowest first, or NULL past the last; *available (may be NULL) tells
 * whether this processor can run it. */
const char *fastreg_level_name(size_t i, int *available);

/* 1 if compiled with OpenMP. */
int fastreg_has_openmp(void);

/* Set the number of threads for calls that do not name one: for the process, or for the calling
 * thread only (which comes first). 0 returns to the automatic choice: OpenMP's own setting, at most
 * the processors that the affinity mask and the cgroup's CPU quota leave. `previous` may be NULL.
 */
fastreg_status fastreg_set_num_threads(int threads, int *previous);
fastreg_status fastreg_set_thread_num_threads(int threads, int *previous);

/* The number of threads that a large call made here and now would use. 1 in a forked child and
 * inside a parallel region: there fastreg runs serially. */
int fastreg_get_num_threads(void);

#ifdef __cplusplus
}
#endif

#endif
