/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The four float formats: decoding, and rounding to nearest, ties to even, in integer arithmetic.
 */
#ifndef FR_FORMATS_H
#define FR_FORMATS_H

#include "../common.h"

/* A binary format: significand bits, exponent of the lowest subnormal bit, largest exponent; the
 * smallest positive number and the smallest normal one. */
typedef struct {
    int precision;
    int lowest;
    int highest;
    double tiny, normal;
} fr_format;

static const fr_format fr_format_f16 = {11, -24, 15, 0x1p-24, 0x1p-14};
static const fr_format fr_format_bf16 = {8, -133, 127, 0x1p-133, 0x1p-126};
static const fr_format fr_format_f32 = {24, -149, 127, 0x1p-149, 0x1p-126};
static const fr_format fr_format_f64 = {53, -1074, 1023, 0x1p-1074, 0x1p-1022};

/* Bits of m without leading zeros. */
FR_INLINE int fr_width(uint64_t m) { return m ? 64 - __builtin_clzll(m) : 0; }

/* q * 2^k for 0 <= q <= 2^53 where the product is representable: two exact steps, no libm. */
FR_INLINE double fr_scale(uint64_t q, int k)
{
    const int half = k / 2;
    return (double)q * fr_pow2(half) * fr_pow2(k - half);
}

/* RN((m + s) * 2^e) in format f, where s is 0 if `sticky` is 0 and otherwise some number in (0, 1).
 * With sticky, m must have at least one bit more than the format keeps (or the value lie below the
 * format's lowest bit). The result is returned as the double that equals it.
 * proofs: Window.rounded_nearest, Window.round_integer_correct */
static inline double fr_round_integer(uint64_t m, int e, int sticky, const fr_format *f)
{
    if (m == 0)
        return 0.0;
    const int top = e + fr_width(m) - 1;
    if (top > f->highest)
        return FR_INFINITY;
    const int last = FR_MAX(top - f->precision + 1, f->lowest);
    const int shift = last - e;
    if (shift <= 0)
        return fr_scale(m, e);
    if (shift > 64)
        return 0.0;
    const uint64_t half = UINT64_C(1) << (shift - 1);
    const uint64_t rest = shift == 64 ? m : m & ((half << 1) - 1);
    uint64_t q = shift == 64 ? 0 : m >> shift;
    q += rest > half || (rest == half && (sticky || (q & 1)));
    if (fr_width(q) - 1 + last > f->highest)
        return FR_INFINITY;
    return fr_scale(q, last);
}

/* RN(v) in format f for any double v, sign and specials kept; NaN becomes the canonical one. */
static inline double fr_round_double(double v, const fr_format *f)
{
    const uint64_t b = fr_bits(v), magnitude = b & (UINT64_MAX >> 1);
    if (magnitude > UINT64_C(0x7ff0000000000000))
        return FR_NAN;
    const int biased = (int)(magnitude >> 52);
    double r;
    if (biased == 0x7ff)
        r = FR_INFINITY;
    else {
        const uint64_t fraction = magnitude & ((UINT64_C(1) << 52) - 1);
        r = biased ? fr_round_integer(fraction | UINT64_C(1) << 52, biased - 1075, 0, f)
                   : fr_round_integer(fraction, -1074, 0, f);
    }
    return (b >> 63) ? -r : r;
}

/* A 16-bit float of either kind as the double that equals it. */
FR_INLINE double fr_f16_to_f64(uint16_t h)
{
    const uint64_t sign = (uint64_t)(h >> 15) << 63;
    const unsigned exponent = (h >> 10) & 31, fraction = h & 1023;
    if (exponent == 31)
        return fr_from_bits(sign | UINT64_C(0x7ff) << 52 | (uint64_t)fraction << 42);
    if (exponent == 0)
        return fr_from_bits(sign | fr_bits((double)fraction * 0x1p-24));
    return fr_from_bits(sign | (uint64_t)(exponent + 1008) << 52 | (uint64_t)fraction << 42);
}

FR_INLINE double fr_bf16_to_f64(uint16_t h)
{
    const uint32_t b = (uint32_t)h << 16;
    float v;
    memcpy(&v, &b, sizeof v);
    return (double)v;
}

/* One element of each type, from any address. */
FR_INLINE double fr_element_f16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return fr_f16_to_f64(h);
}
FR_INLINE double fr_element_bf16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return fr_bf16_to_f64(h);
}
FR_INLINE double fr_element_f32(const void *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return (double)v;
}
FR_INLINE double fr_element_f64(const void *p)
{
    double v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The nearest 16-bit float of either kind, from a double, in one rounding. */
static inline uint16_t fr_f64_to_f16(double v)
{
    const double r = fr_round_double(v, &fr_format_f16);
    const uint64_t b = fr_bits(r), magnitude = b & (UINT64_MAX >> 1);
    const uint16_t sign = (uint16_t)(b >> 63 << 15);
    if (r != r)
        return 0x7e00;
    if (magnitude >= UINT64_C(0x7ff) << 52)
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < fr_bits(0x1p-14))
        return (uint16_t)(sign | (uint16_t)(fr_from_bits(magnitude) * 0x1p24));
    return (uint16_t)(sign | (uint16_t)((magnitude >> 42) - (UINT64_C(1008) << 10)));
}

static inline uint16_t fr_f64_to_bf16(double v)
{
    const float r = (float)fr_round_double(v, &fr_format_bf16);
    uint32_t b;
    memcpy(&b, &r, sizeof b);
    return (uint16_t)(b >> 16);
}

#endif
