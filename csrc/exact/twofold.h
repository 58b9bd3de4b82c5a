/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sums of non-negative terms as an unevaluated pair with a proven error bound, and the test whether
 * that bound allows only one rounding (Ziv). Every number here is >= 0, so bounds simply add; their
 * own roundings, 2^-53 for each addition, are far below the factor 2 that every bound has to spare.
 *
 * TwoSum: Knuth, TAOCP 2, 4.2.2. TwoProduct: Dekker 1971; one FMA where the target has it.
 */
#ifndef FR_TWOFOLD_H
#define FR_TWOFOLD_H

#include "formats.h"

/* The exact sum lies in [high + low - error, high + low + error]; |low| is at most a little more
 * than 2^-52 high, which a weight may make of 2^-53. */
typedef struct {
    double high, low, error;
} fr_sum;

FR_INLINE fr_sum fr_two_sum(double a, double b)
{
    const double s = a + b, t = s - a;
    const fr_sum r = {s, (a - (s - t)) + (b - t), 0.0};
    return r;
}

/* The error of p = RN(a * b), exact unless it underflows or |a| or |b| exceeds 2^995. */
FR_INLINE double fr_product_error(double a, double b, double p)
{
#if defined(__FP_FAST_FMA)
    return __builtin_fma(a, b, -p);
#else
    const double ca = 0x1.0000002p27 * a, cb = 0x1.0000002p27 * b;
    const double ah = ca - (ca - a), al = a - ah, bh = cb - (cb - b), bl = b - bh;
    return ((ah * bh - p) + ah * bl + al * bh) + al * bl;
#endif
}

/* One rounding of a twofold addition loses at most 2^-105 of the sum (Joldes, Muller and Popescu
 * 2017 prove 3 * 2^-106 for the addition of two pairs); here 3 / 4 of what is stated, for the
 * largest `low` (proofs: Pair.pair_add, Pair.pair_weighted, Pair.bounds_add). */
#define FR_TWOFOLD_LOSS 0x1p-103

/* s + t. */
FR_INLINE void fr_sum_add(fr_sum *s, fr_sum t)
{
    fr_sum r = fr_two_sum(s->high, t.high);
    const double low = r.low + (s->low + t.low);
    s->high = r.high + low;
    s->low = low - (s->high - r.high);
    s->error += t.error + s->high * FR_TWOFOLD_LOSS;
}

/* w * t for a finite weight w > 0. Each part may underflow by 2^-1074; if one overflows the result
 * is not finite, which fr_sum_decide refuses. */
FR_INLINE fr_sum fr_sum_weighted(double w, fr_sum t)
{
    if (w == 1.0 || (t.high == 0.0 && t.error == 0.0))
        return t;
    const double p = w * t.high;
    const fr_sum q = {p, fr_product_error(w, t.high, p) + w * t.low,
                      w * t.error + p * FR_TWOFOLD_LOSS + 0x1p-1060};
    return q;
}

/* The pair's square root. With y = RN(sqrt(high)) and the correction c = (s - y*y) / (2 y) the true
 * root is y + c - c*c / (2 y) + ..., and |c| <= 2^-52 y: the omitted term is below 2^-105 y, the
 * roundings of c below 2^-102 y. An error of the sum shrinks by 2 y (the root is concave; twice the
 * slope covers the lower side as long as error <= high / 2, which the caller's bounds ensure).
 * proofs: Pair.root_correction, Pair.root_of_error */
static inline fr_sum fr_sum_sqrt(fr_sum s, double y)
{
    if (s.high == 0.0)
        return s;
    const double p = y * y;
    const double c = (((s.high - p) - fr_product_error(y, y, p)) + s.low) / (2.0 * y);
    fr_sum r;
    r.high = y + c;
    r.low = c - (r.high - y);
    r.error = s.error / y + y * 0x1p-100;
    return r;
}

/* Store RN(sum) in the format and return 1 if the bound leaves no choice; else return 0.
 * Rounding is monotonic: if both ends of the interval round to the same number, so does what lies
 * between. The ends are rounded outwards: `low -+ error` by 2^-52 of its parts, and for the narrow
 * formats, where adding `high` is a rounding of its own, by 2^-52 of the sum. `factor` multiplies
 * the interval: 1, but for tests. proofs: Rounding.decide_f64, Rounding.decide_narrow */
FR_INLINE int fr_sum_decide(const fr_sum *s, const fr_format *f, double factor, double *result)
{
    if (!(s->high + s->error < FR_INFINITY))
        return 0;
    const double size = f->precision == 53 ? (s->low < 0.0 ? -s->low : s->low) : s->high;
    const double error = (s->error + (s->error + size) * 0x1p-51) * factor;
    double below = s->high + (s->low - error), above = s->high + (s->low + error);
    if (f->precision == 24) {
        below = (double)(float)below;
        above = (double)(float)above;
    } else if (f->precision != 53) {
        below = fr_round_double(below, f);
        above = fr_round_double(above, f);
    }
    *result = above;
    return below == above;
}

#endif
