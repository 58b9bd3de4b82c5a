/* SPDX-License-Identifier: BSD-3-Clause
 *
 * RN(a * b + c) in one rounding, in integers: for CPUs without a fused multiply-add.
 */
#ifndef FR_FMA_H
#define FR_FMA_H

#include "limbs.h"

/* m * 2^e with the top bit of m at bit 126. */
typedef struct {
    fr_u128 m;
    int e, negative;
} fr_wide;

FR_INLINE fr_wide fr_wide_from(fr_u128 m, int e, int negative)
{
    const uint64_t high = (uint64_t)(m >> 64);
    const int shift = 127 - (high ? 64 + fr_width(high) : fr_width((uint64_t)m));
    const fr_wide w = {m << shift, e - shift, negative};
    return w;
}

static inline double fr_fma(double a, double b, double c)
{
    const int finite = a - a == 0.0 && b - b == 0.0 && c - c == 0.0;
    if (!finite || a == 0.0 || b == 0.0)
        return a * b + c;
    if (c == 0.0)
        return a * b;
    int ea, eb, ec;
    const uint64_t ma = fr_split(a, &ea), mb = fr_split(b, &eb), mc = fr_split(c, &ec);
    fr_wide p = fr_wide_from((fr_u128)ma * mb, ea + eb, (a < 0.0) != (b < 0.0));
    fr_wide q = fr_wide_from(mc, ec, c < 0.0);
    if (q.e > p.e || (q.e == p.e && q.m > p.m)) {
        const fr_wide t = p;
        p = q;
        q = t;
    }
    /* Shift the smaller one right; what falls off stays as a sticky last bit. A product has 106
     * bits and 20 free ones below them, so nothing falls off where the difference could cancel. */
    const int d = p.e - q.e;
    if (d > 126)
        q.m = 1;
    else if (d > 0)
        q.m = q.m >> d | ((q.m & (((fr_u128)1 << d) - 1)) != 0);
    const fr_u128 m = p.negative == q.negative ? p.m + q.m : p.m - q.m;
    if (m == 0)
        return 0.0;
    const fr_wide r = fr_wide_from(m >> 1 | (m & 1), p.e + 1, 0);
    const double v = fr_round_integer((uint64_t)(r.m >> 63), r.e + 63,
                                      (r.m & (UINT64_MAX >> 1)) != 0, &fr_format_f64);
    return p.negative ? -v : v;
}

#endif
