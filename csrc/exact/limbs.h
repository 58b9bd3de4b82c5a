/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Exact sums: fixed-point integers wide enough for every term, the tier that always decides.
 *
 * A number is an array of 64-bit limbs, limb i weighing 2^(base + 64 i). Adding is adding with
 * carry, in any order: that makes partial sums mergeable. Sums of non-negative terms, so there is
 * no sign.
 */
#ifndef FR_LIMBS_H
#define FR_LIMBS_H

#include "formats.h"

__extension__ typedef unsigned __int128 fr_u128;

/* Sums of |x| and x*x over one chunk of an array. f64 squares reach down to 2^-2148 and up to
 * 2^2048; 2^63 of them to 2^2111. */
#define FR_MOMENT_BASE  (-2176)
#define FR_MOMENT_LIMBS 70

/* A weighted total. A weight's bits lie in [2^-1074, 2^1024): 2^-3222 to 2^3135, and 2^63
 * arrays. */
#define FR_TOTAL_BASE  (-3264)
#define FR_TOTAL_LIMBS 104

typedef struct {
    uint64_t limb[FR_TOTAL_LIMBS];
} fr_total;

typedef struct {
    uint64_t limb[FR_MOMENT_LIMBS];
} fr_moment;

/* *limb += v; the carry runs on, nearly never further than the next limb. */
FR_INLINE void fr_limb_add(uint64_t *limb, uint64_t v)
{
    *limb += v;
    if (*limb < v)
        while (++*++limb == 0)
            ;
}

/* limb += v * 2^position, position counted from the lowest limb's lowest bit. */
FR_INLINE void fr_limbs_add(uint64_t *limb, fr_u128 v, unsigned position)
{
    const unsigned shift = position & 63;
    uint64_t *const l = limb + (position >> 6);
    const fr_u128 low = v << shift;
    const uint64_t top = shift ? (uint64_t)(v >> 64) >> (64 - shift) : 0;
    fr_limb_add(l, (uint64_t)low);
    fr_limb_add(l + 1, (uint64_t)(low >> 64));
    if (top)
        fr_limb_add(l + 2, top);
}

/* Add |x| and x*x of a finite double; NULL for a sum that is not wanted. */
FR_INLINE void fr_moment_add(fr_moment *absolute, fr_moment *square, double x)
{
    const uint64_t b = fr_bits(x) & (UINT64_MAX >> 1);
    if (b == 0)
        return;
    uint64_t m = b & ((UINT64_C(1) << 52) - 1);
    int e = (int)(b >> 52);
    if (e)
        m |= UINT64_C(1) << 52;
    else
        e = 1;
    e -= 1075;
    if (absolute)
        fr_limbs_add(absolute->limb, m, (unsigned)(e - FR_MOMENT_BASE));
    if (square)
        fr_limbs_add(square->limb, (fr_u128)m * m, (unsigned)(2 * e - FR_MOMENT_BASE));
}

/* Add |x| and x*x of an integer of up to 64 bits. */
FR_INLINE void fr_moment_add_integer(fr_moment *absolute, fr_moment *square, uint64_t magnitude)
{
    const unsigned one = (unsigned)-FR_MOMENT_BASE;
    if (absolute)
        fr_limbs_add(absolute->limb, magnitude, one);
    if (square)
        fr_limbs_add(square->limb, (fr_u128)magnitude * magnitude, one);
}

/* total += weight * moment, exactly. The weight is finite and > 0. */
static inline void fr_total_add(fr_total *total, double weight, const fr_moment *moment)
{
    const uint64_t b = fr_bits(weight);
    uint64_t m = b & ((UINT64_C(1) << 52) - 1);
    int e = (int)(b >> 52);
    if (e)
        m |= UINT64_C(1) << 52;
    else
        e = 1;
    e -= 1075;
    for (int i = 0; i < FR_MOMENT_LIMBS; ++i)
        if (moment->limb[i])
            fr_limbs_add(total->limb, (fr_u128)m * moment->limb[i],
                         (unsigned)(FR_MOMENT_BASE + 64 * i + e - FR_TOTAL_BASE));
}

static inline void fr_total_merge(fr_total *total, const fr_total *other)
{
    for (int i = 0; i < FR_TOTAL_LIMBS; ++i)
        if (other->limb[i])
            fr_limb_add(&total->limb[i], other->limb[i]);
}

/* Limb i, 0 outside. */
FR_INLINE uint64_t fr_total_limb(const fr_total *total, int i)
{
    return i >= 0 && i < FR_TOTAL_LIMBS ? total->limb[i] : 0;
}

/* Bits [position, position + 64); bits outside the number are 0. */
static inline uint64_t fr_total_window(const fr_total *total, int position)
{
    const int i = position >= 0 ? position >> 6 : -((63 - position) >> 6);
    const int shift = position - 64 * i;
    const uint64_t low = fr_total_limb(total, i) >> shift;
    return shift ? low | fr_total_limb(total, i + 1) << (64 - shift) : low;
}

/* Is any bit below `position` set? */
static inline int fr_total_any_below(const fr_total *total, int position)
{
    if (position <= 0)
        return 0;
    for (int i = 0; i < position >> 6; ++i)
        if (total->limb[i])
            return 1;
    return (total->limb[position >> 6] & ((UINT64_C(1) << (position & 63)) - 1)) != 0;
}

/* Position of the highest set bit, or -1 for zero. */
static inline int fr_total_top(const fr_total *total)
{
    for (int i = FR_TOTAL_LIMBS - 1; i >= 0; --i)
        if (total->limb[i])
            return 64 * i + fr_width(total->limb[i]) - 1;
    return -1;
}

/* RN(total): one rounding of the exact number. */
static inline double fr_total_round(const fr_total *total, const fr_format *f)
{
    const int top = fr_total_top(total);
    if (top < 0)
        return 0.0;
    const int position = top - 63;
    return fr_round_integer(fr_total_window(total, position), FR_TOTAL_BASE + position,
                            fr_total_any_below(total, position), f);
}

/* RN(sqrt(total)). floor(sqrt(N / 4^k)) depends only on floor(N / 4^k), so 128 bits of the number
 * give 64 exact bits of the root; whatever was left over is the sticky bit. */
static inline double fr_total_round_sqrt(const fr_total *total, const fr_format *f)
{
    const int top = fr_total_top(total);
    if (top < 0)
        return 0.0;
    /* 127 or 128 bits, cut at an even exponent (the base is even). */
    const int position = (top - 126) & ~1;
    const fr_u128 n =
        (fr_u128)fr_total_window(total, position + 64) << 64 | fr_total_window(total, position);
    uint64_t root = 0;
    for (int k = 63; k >= 0; --k) {
        const uint64_t trial = root | UINT64_C(1) << k;
        if ((fr_u128)trial * trial <= n)
            root = trial;
    }
    const int sticky = (fr_u128)root * root != n || fr_total_any_below(total, position);
    return fr_round_integer(root, (FR_TOTAL_BASE + position) / 2, sticky, f);
}

#endif
