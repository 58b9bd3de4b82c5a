/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Blocks whose sums are exact pairs of doubles: anchored sums (anchored.h) of which it is proven,
 * block by block, that their second level lost nothing either. A block then adds a few doubles to
 * the integers (digits.h), and nothing is left to decide. Here are the proof and the constants it
 * needs; the loops are kernels/exact.inc.
 *
 * Let p be the bits of the format. The smallest non-zero |x| of a block lies in [2^k, 2^(k+1)), so
 * every x is a whole number of u = 2^(k - p + 1), and every square one of u^2. A sum of doubles is
 * exact as long as every partial sum is a whole number of v and at most 2^53 v (a).
 *
 * |x| of f16, bf16, f32: plain f64 lanes, v = u. All terms are >= 0, so a lane whose computed sum
 *     is below 2^53 u never reached that: every addition was exact.
 *
 * Squares of f16, bf16, f32: x*x is exact in f64. With an anchor C above the total, `high` and the
 *     total are exact, and each rest is exact, at most C 2^-53, and a whole number of u^2, as the
 *     square and what `high` took of it (a whole number of ulp(C)) are. [If ulp(C) is below u^2
 *     there is no rest.] With at most m terms in a lane, `low` is exact by (a) if
 *         m C 2^-53 <= 2^53 u^2.                                                             (b)
 *
 * |x| of f64: the same with an anchor and u in place of u^2.
 *
 * Squares of f64: x*x = s + e, two doubles, both whole numbers of u^2, |e| <= 2^-53 s, exact since
 *     no s is below 2^-969 or above 2^1000. s goes to `high` as above. Its rest, at most C 2^-53,
 *     and e go to `middle`, which starts at 1.5 D for a power of two D. All that a lane's middle
 *     gets is at most m C 2^-53 + C 2^-53, the s being at most C together; with
 *         (m + 1) C 2^-53 < D / 2                                                            (c)
 *     and room for its own roundings, 2 m D 2^-53, which the code's m + 2 for m + 1 leaves,
 *     it stays in (D, 2 D), so it is a whole number of ulp(D), every difference of two such is
 *     exact, and the two rests of each element are exact, at most D 2^-53, and whole numbers of
 *     u^2 (a rest is no larger than the number it is the rest of, and a whole number of the same).
 *     They go to `low`, plain, which is exact by (a) if
 *         2 m D 2^-53 <= 2^53 u^2.                                                           (d)
 *
 * Squares of half precision: plain lanes too, v = u^2; if that fails, as squares of f32.
 *
 * Lanes are folded into one double if the sum of their magnitudes is at most 2^52 v, which leaves
 * more than that sum's own roundings to (a); else each lane is added to the integers by itself.
 *
 * A block that fails, or holds what is not finite, is swept again in ranges of |x|,
 * [2^(top - w), 2^top), largest first, scaled by 2^-top, with one level more: for f16, bf16 and f32
 * squares have a middle as well, where no e comes; for f64 a second one, `next`, takes the rests of
 * the first, 2 m D 2^-53 at most in a lane, and starts at 1.5 E with
 *         2 m D 2^-53 < E / 2                                                                (e)
 * whose own rests go to `low`, exact by (a) if
 *         2 m E 2^-53 <= 2^53 u^2.                                                           (f)
 * |x| has an anchor and a rest in every type. All squares are below 1 there, C is a power of two
 * above n, u = 2^(1 - w - p), and w is the largest for which (b), (d) or (f) holds.
 *
 * proofs: Exact.two_levels, Exact.middle_exact, Exact.middle_has_room, Exact.next_has_room
 * proofs: Exact.middle_condition, Exact.low_pairs_exact, Exact.plain_lane_exact, Exact.fold_exact
 */
#ifndef FR_BLOCKS_H
#define FR_BLOCKS_H

#include "anchored.h"
#include "digits.h"

/* Elements of a block. Longer: fewer folds; shorter: more blocks pass (b) and (d), for C and m grow
 * with the block. Of normal data 1 % of f32 blocks and 4 % of f64 blocks fail. */
enum { FR_BLOCK = 4096, FR_BLOCK_F64 = 1024 };

/* After so many ranges an element at a time is faster. */
enum { FR_MOST_RANGES = 6 };

/* No f64 block is exact as it is with a non-zero |x| below the least, where the error of a square
 * might underflow; nor with an anchor above the most. */
#define FR_BLOCK_LEAST 0x1p-400
#define FR_BLOCK_MOST  0x1p900

/* u: the last place of the smallest non-zero |x|, and no less than the format's; inf for inf (no
 * element is non-zero). */
FR_INLINE double fr_block_unit(double smallest, const fr_format *f)
{
    const double u =
        fr_from_bits(fr_bits(smallest) & UINT64_C(0x7ff0000000000000)) * fr_pow2(1 - f->precision);
    return FR_MAX(u, f->tiny);
}

/* What the lanes of a block begin with: C for both sums, D and E. */
typedef struct {
    double absolute, square, middle, next;
} fr_anchors;

/* The power of two above 2 (m + 2) C 2^-53, which is (c) with room to spare; twice that for D in
 * place of C is (e). */
FR_INLINE double fr_block_middle(double anchor, size_t m)
{
    return anchor * 0x1p-53 * fr_pow2(fr_width(2 * (m + 2)));
}

FR_INLINE fr_anchors fr_anchors_of(double absolute, double square, size_t m)
{
    const double middle = fr_block_middle(square, m);
    const fr_anchors a = {absolute, square, middle, 2.0 * fr_block_middle(middle, m)};
    return a;
}

/* (b) for squares with v = u^2 and for |x| with v = u: is v at least m C 2^-106? */
FR_INLINE int fr_block_is_exact(double anchor, size_t m, double v)
{
    return anchor * 0x1p-106 * (double)m <= v;
}

/* (d): is v = u^2 at least 2 m D 2^-106? */
FR_INLINE int fr_block_middle_is_exact(double middle, size_t m, double v)
{
    return middle * 0x1p-105 * (double)m <= v;
}

/* Binades of a range of at most n elements, at most m to a lane: (f) for f64, (d) without e for the
 * others, where |x| has more to spare: m C 2^-106 <= u is 2^-85 <= 2^-65 at the worst.
 * proofs: Exact.range_width */
FR_INLINE int fr_range_width(const fr_format *f, size_t n, size_t m)
{
    const int log_n = fr_width(n), log_m = fr_width(m); /* 2^log_n is above n: C */
    const int middle = log_n - 53 + fr_width(2 * (m + 2)),
              next = middle - 52 + fr_width(2 * (m + 2));
    return (106 - log_m - (f->precision == 53 ? next + 1 : middle)) / 2 - (f->precision - 1);
}

#endif
