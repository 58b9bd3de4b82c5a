/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The type of a kernel table, unfolded from the lists. All kernels read [x, x + n) and nothing
 * else, at any alignment, allocate nothing, and assume the default floating-point environment.
 */
#ifndef FR_KERNELS_H
#define FR_KERNELS_H

#include "../exact/blocks.h"
#include "../exact/twofold.h"
#include "../registry.h"

// clang-format off
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
    FR_STORE_COUNT,
    FR_STORE_none = -1
};
// clang-format on

/* The penalty with these terms, at least one of them. */
#define FR_TERMS(l1, l2) ((l1) ? (l2) ? FR_PENALTY_l1l2 : FR_PENALTY_l1 : FR_PENALTY_l2)

/* The gradient of l1 |x| + l2 x*x times an upstream factor u: fma(slope, x, step * sign(x)) with
 * slope = 2 l2 u, step = l1 u, zero_step = step * 0. A weight that is 0 removes its term: slope * x
 * alone, or step * sign(x) alone. */
typedef struct {
    double slope, step, zero_step;
    int terms;  /* FR_PENALTY_l1, l2 or l1l2: by the weights, not by their products with u */
    int narrow; /* f32 lanes may try: the next two are within 2^-24 of slope and step, or zeros */
    float slope_f32, step_f32;
} fr_slope;

FR_INLINE int fr_fits_f32(double a)
{
    const double magnitude = FR_MAX(a, -a);
    return a == 0.0 || (magnitude >= 0x1p-100 && magnitude <= 0x1p100);
}

/* RN(2 w u): 2 w, or 2 u, is exact, and overflows only where 2 w u does. */
FR_INLINE double fr_twice(double w, double u) { return w < 1.0 ? 2.0 * w * u : w * (2.0 * u); }

FR_INLINE fr_slope fr_slope_of(double l1, double l2, double u)
{
    const double slope = fr_twice(l2, u), step = l1 * u;
    fr_slope s = {slope, step, step * 0.0, FR_TERMS(l1 != 0.0, l2 != 0.0), 0, 0.0f, 0.0f};
    s.narrow = fr_fits_f32(slope) && fr_fits_f32(step);
    if (s.narrow)
        s.slope_f32 = (float)slope, s.step_f32 = (float)step;
    return s;
}

/* sum[0] of |x| and sum[1] of x*x, each only if the penalty has it, with proven error bounds. The
 * `narrow` kernels are those of f32 lanes for half precision, good for results of 11 bits, and the
 * plain ones for the other types. */
typedef void fr_plain_kernel(const void *x, size_t n, fr_sum sum[2]);

/* The same to about 2^-80 (exact/anchored.h). anchor: guesses, 0 at first, kept between chunks of
 * one array. Returns 0 for NaN, infinities and sums above 2^1000. */
typedef int fr_anchored_kernel(const void *x, size_t n, double anchor[2], fr_sum sum[2]);

/* Writes out[0 .. n); out == x is allowed, any other overlap is not. After streamed stores the
 * caller owes fr_stream_end. */
typedef void fr_gradient_kernel(const void *x, void *out, size_t n, const fr_slope *s);

/* Sums and gradient in one loop, so that loads and stores overlap: those of the type's first tier,
 * plain for f32 and anchored for f64. NULL where arithmetic is the limit and code would only grow:
 * half precision, and levels without FMA. The gradient is written whatever comes of the sums. out
 * and x do not overlap; for streamed stores out starts a cache line; the slope has the penalty's
 * terms. */
typedef int fr_both_kernel(const void *x, void *out, size_t n, double anchor[2], fr_sum sum[2],
                           const fr_slope *s);

/* What statistics count: the largest |x| that is not NaN, zeros, subnormals (of x's type), NaNs and
 * infinities. */
typedef struct {
    double largest;
    uint64_t zeros, subnormals, nans, infs;
} fr_counts;

/* The anchored kernel for both sums, and what [x, x + n) holds added to *c. */
typedef int fr_statistics_kernel(const void *x, size_t n, double anchor[2], fr_sum sum[2],
                                 fr_counts *c);

/* Add the exact sums of a block, of at most FR_BLOCK elements (FR_BLOCK_F64 for f64), to the
 * integers: exact/blocks.h. guess: of anchors, 0 at first, kept between blocks. zeros: if both sums
 * are wanted and it is not NULL, the elements that are 0 are added to it. Returns 0, with nothing
 * added, if the block has to be swept in ranges. */
typedef int fr_exact_kernel(const void *x, size_t n, double guess[2], fr_digits *d,
                            uint64_t *zeros);

/* Add both sums of the elements of a block with |x| < 2^top, down to as many binades below as are
 * exact for sure. Returns the largest |x| below those, 0 if there is none but zeros. */
typedef double fr_range_kernel(const void *x, size_t n, int top, fr_digits *d);

/* The zeros of a block, and in *largest, of x's type, its largest |x|; any NaN counts as larger than
 * inf. */
typedef uint64_t fr_scan_kernel(const void *x, size_t n, void *largest);

/* What x holds, added to *c but for c->largest. Returns the largest finite |x|. */
typedef double fr_look_kernel(const void *x, size_t n, fr_counts *c);

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
    fr_both_kernel *both[FR_PENALTY_COUNT][FR_STORE_COUNT];
    fr_exact_kernel *exact[FR_PENALTY_COUNT];
    fr_range_kernel *range;
    fr_scan_kernel *scan;
    fr_look_kernel *look;
    fr_statistics_kernel *statistics;
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
