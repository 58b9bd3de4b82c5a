/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Exact weighted totals, fixed-point integers wide enough for every term, and their one rounding.
 *
 * A number is an array of 64-bit limbs, limb i weighing 2^(base + 64 i). Adding is adding with
 * carry, in any order: that makes partial sums mergeable. Sums of non-negative terms, so there is
 * no sign.
 */
#ifndef FR_LIMBS_H
#define FR_LIMBS_H

#include "digits.h"
#include "formats.h"

/* A weighted total. A weight's bits lie in [2^-1074, 2^1024): 2^-3222 to 2^3135, and 2^63
 * arrays. */
#define FR_TOTAL_BASE  (-3264)
#define FR_TOTAL_LIMBS 104

typedef struct {
    uint64_t limb[FR_TOTAL_LIMBS];
} fr_total;

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

/* total += weight * sum, exactly, for a weight that is finite and > 0 and the canonical digits of a
 * sum. */
static inline void fr_total_add(fr_total *total, double weight, const int64_t *digit, int count,
                                int base)
{
    int e;
    const uint64_t m = fr_split(weight, &e);
    for (int i = 0; i < count; i += 2) {
        const uint64_t limb = (uint64_t)digit[i] | (uint64_t)digit[i + 1] << FR_DIGIT_BITS;
        if (limb)
            fr_limbs_add(total->limb, (fr_u128)m * limb,
                         (unsigned)(base + FR_DIGIT_BITS * i + e - FR_TOTAL_BASE));
    }
}

/* total += l1 * sum|x| + l2 * sum x*x; the digits become canonical. */
static inline void fr_total_add_weighted(fr_total *total, double l1, double l2, fr_digits *d)
{
    (void)fr_digits_carry(d);
    if (l1 != 0.0)
        fr_total_add(total, l1, d->absolute, FR_ABSOLUTE_DIGITS, FR_ABSOLUTE_BASE);
    if (l2 != 0.0)
        fr_total_add(total, l2, d->square, FR_SQUARE_DIGITS, FR_SQUARE_BASE);
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
 * give 64 exact bits of the root; whatever was left over is the sticky bit
 * (proofs: Window.root_of_window, Window.root_sticky, Window.root_has_64_bits). */
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
