/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The type of a kernel table, unfolded from the lists. All kernels read [x, x + n) and nothing
 * else, at any alignment, allocate nothing, and assume the default floating-point environment.
 */
#ifndef FR_KERNELS_H
#define FR_KERNELS_H

#include "../exact/twofold.h"
#include "../lists.h"

enum {
#define X(name, type, constant) FR_FLOAT_##name,
    FR_FLOATS(X)
#undef X
        FR_FLOAT_COUNT
};
enum {
#define X(name, l1, l2) FR_PENALTY_##name,
    FR_PENALTIES(X)
#undef X
        FR_PENALTY_COUNT
};
enum {
#define X(store) FR_STORE_##store,
    FR_STORES(X)
#undef X
        FR_STORE_COUNT
};

/* The gradient of l1 |x| + l2 x*x times an upstream factor u: fma(slope, x, step * sign(x)) with
 * slope = 2 l2 u, step = l1 u, zero_step = step * 0. one_term: slope or step is zero. */
typedef struct {
    double slope, step, zero_step;
    int one_term;
} fr_slope;

/* sum[0] of |x| and sum[1] of x*x, each only if the penalty has it, with proven error bounds. */
typedef void fr_plain_kernel(const void *x, size_t n, fr_sum sum[2]);

/* The narrow ones are those of f32 lanes for half precision, good for results of 11 bits, and the plain
 * ones for the other types.
 *
 * The same to about 2^-85. anchor: guesses, 0 at first, kept between stretches of one array.
 * Returns 0 for NaN, infinities and sums above 2^1000. */
typedef int fr_anchored_kernel(const void *x, size_t n, double anchor[2], fr_sum sum[2]);

/* Writes out[0 .. n); out == x is allowed, any other overlap is not. After streamed stores the caller
 * owes fr_stream_end. */
typedef void fr_gradient_kernel(const void *x, void *out, size_t n, const fr_slope *s);

/* What a survey counts: the largest |x| that is not NaN, zeros, subnormals (of x's type), NaNs and
 * infinities. */
typedef struct {
    double largest;
    uint64_t zeros, subnormals, nans, infs;
} fr_survey;

/* The anchored kernel for both sums, and what [x, x + n) holds added to *s. */
typedef int fr_survey_kernel(const void *x, size_t n, double anchor[2], fr_sum sum[2],
                             fr_survey *s);

/* threshold = step l1, divisor = 1 + 2 step l2; flush: subnormal results become 0. */
typedef struct {
    double threshold, divisor;
    int flush;
} fr_shrinkage;

typedef void fr_prox_kernel(const void *x, void *out, size_t n, const fr_shrinkage *s);

typedef struct {
    fr_plain_kernel *plain[FR_PENALTY_COUNT];
    fr_plain_kernel *narrow[FR_PENALTY_COUNT];
    fr_anchored_kernel *anchored[FR_PENALTY_COUNT];
    fr_gradient_kernel *gradient[FR_STORE_COUNT];
    fr_survey_kernel *survey;
    fr_prox_kernel *prox;
} fr_float_kernels;

typedef struct {
    const char *name;
    const fr_float_kernels *of[FR_FLOAT_COUNT];
} fr_kernels;

#define X(level) extern FR_HIDDEN const fr_kernels fr_kernels_##level;
FR_LEVELS(X)
#undef X

#endif
