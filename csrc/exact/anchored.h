/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Anchored sums: an error-free transformation (pre-rounding: Rump, Ogita and Oishi 2008;
 * FastTwoSum: Dekker 1971) whose rests are summed in plain f64. Here are the bound of that second
 * sum, proven, and the constants that the proof needs. The steps are fr_anchored_l1 and
 * fr_anchored_l2 of points.inc for each element, and fr_anchored_fold of instantiate.inc at the
 * end.
 *
 * A lane has two numbers. `high` starts at the anchor, a power of two C above the sum of all lanes,
 * so C <= high < 2 C throughout, and high is a whole number of ulp(C). A term t >= 0 makes it
 * s = RN(high + t). Then d = s - high is exact, and the rest t - d, at most ulp(C) / 2 = C 2^-53,
 * goes to `low`. Each high - C and their sum, the total, are whole numbers of ulp(C) and exact as
 * well; total < C, which the fold tests, proves that C was large enough. So only rests and `low`
 * can lose anything.
 *
 * Let n terms fall to 2^v lanes, at most m to a lane, and let the unit be C 2^-106, which is what
 * rounding a number of at most C 2^-53 loses.
 *
 * |x|, and squares that f64 holds (f16, bf16, f32): rests are exact. `low` is at most j C 2^-53
 *     after j additions and the j-th loses at most j units: n (m + 1) / 2 in all lanes together.
 * Squares of f64 with FMA: each rest is rounded once, from x^2 - d: n units more.
 * Squares of f64 without FMA: x^2 = p + e, p = RN(x^2), |e| <= 2^-53 p. The rest is (p - d) + e:
 *     its first part is exact and at most C 2^-53; the second parts are at most C 2^-53 all
 *     together, for the p sum to the total. Rounding the rests loses n + 1; and the second parts in
 *     `low` make its additions lose m more.
 *
 * In every case all |low| together are at most (n + 1) C 2^-53 and a little, so each of the v levels
 * of the pairwise fold loses at most n + 1 and a little. The last case is the worst: n (m + 1) / 2 +
 * (n + 1) + m + v (n + 1) units, which is at most (n + 1) (m / 2 + 2 + v), for m <= n. Stated is
 * twice that, (n + 1) (m + 4 + 2 v), which csrc/proofs/Anchored.v shows in a simpler way, counting
 * n + 1 units for each of m + v additions; what the parts exceed their bounds by is in it, and what
 * underflows (proofs: Anchored.anchored_exact_rests, Anchored.anchored_fma,
 * proofs: Anchored.anchored_no_fma, Anchored.parts_are_small, Anchored.anchored_high).
 */
#ifndef FR_ANCHORED_H
#define FR_ANCHORED_H

#include "formats.h"

/* Below the least, a unit would come near what underflows; above the most, sums of anchors to
 * infinity. */
#define FR_ANCHOR_LEAST 0x1p-850
#define FR_ANCHOR_MOST  0x1p1000

/* The anchor above a plain sum whose relative error is below 2^-20: a power of two above the true
 * sum, or 0 if there is none to use. */
FR_INLINE double fr_anchor_above(double sum)
{
    const double padded = sum + sum * 0x1p-20;
    if (!(padded < FR_ANCHOR_MOST))
        return 0.0;
    if (padded < FR_ANCHOR_LEAST)
        return FR_ANCHOR_LEAST;
    return fr_from_bits((fr_bits(padded) + ((UINT64_C(1) << 52) - 1)) &
                        UINT64_C(0x7ff0000000000000));
}

/* The bound proven above, for n terms, at most m to each of `lanes`, a power of two. */
FR_INLINE double fr_anchored_error(double anchor, size_t n, size_t m, unsigned lanes)
{
    const int levels = fr_width(lanes) - 1;
    return anchor * 0x1p-106 * (((double)n + 1.0) * ((double)m + 4.0 + 2.0 * levels));
}

/* A guess far above the sum would do, but at the price of a loose bound. */
FR_INLINE int fr_anchor_is_loose(double sum, double anchor) { return sum < anchor * 0x1p-8; }

#endif
