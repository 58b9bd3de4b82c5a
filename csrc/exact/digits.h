/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Exact sums of |x| and of x*x, as integers: digits of 32 bits in 64, so that adding needs no
 * carry, in any order, and negative parts are welcome on the way.
 *
 * Digit i of a sum weighs 2^(base + 32 i). Both grids lie on multiples of 64, so that two digits
 * are a limb of limbs.h. The windows hold all of f64: the least bit of |x| is 2^-1074, of x*x
 * 2^-2148; 2^63 elements below 2^1024 sum to less than 2^1087, their squares to less than 2^2111.
 */
#ifndef FR_DIGITS_H
#define FR_DIGITS_H

#include "../common.h"

__extension__ typedef unsigned __int128 fr_u128;

#define FR_DIGIT_BITS 32
#define FR_DIGIT_MASK UINT64_C(0xffffffff)

#define FR_SQUARE_BASE     (-2176)
#define FR_SQUARE_DIGITS   134 /* up to 2^2112 */
#define FR_ABSOLUTE_BASE   (-1088)
#define FR_ABSOLUTE_DIGITS 68 /* up to 2^1088 */

/* An addition puts less than 2^32 in any digit, a canonical one has less than 2^32, and 2^30 times
 * both are below 2^63: after so many additions carries are due (proofs: Digits.additions_fit). */
#define FR_DIGIT_ADDITIONS (UINT64_C(1) << 30)

typedef struct {
    int64_t square[FR_SQUARE_DIGITS];
    int64_t absolute[FR_ABSOLUTE_DIGITS];
    uint64_t additions; /* since the last carry */
} fr_digits;

/* digit += sign * v * 2^position, position counted from the lowest digit's lowest bit. v < 2^106,
 * and bits below position 0 are 0. */
FR_INLINE void fr_digits_add(int64_t *digit, fr_u128 v, int position, int negative)
{
    if (FR_UNLIKELY(position < 0)) {
        v = position > -128 ? v >> -position : 0;
        position = 0;
    }
    const unsigned shift = (unsigned)position % FR_DIGIT_BITS;
    const uint64_t low = (uint64_t)v, high = (uint64_t)(v >> 64);
    const int64_t sign = negative ? -1 : 1;
    int64_t *const d = digit + position / FR_DIGIT_BITS;
    const uint64_t middle = shift ? low >> (64 - shift) | high << shift : high;
    const uint64_t top = shift ? high >> (64 - shift) : 0;
    d[0] += sign * (int64_t)((low << shift) & FR_DIGIT_MASK);
    d[1] += sign * (int64_t)((low << shift) >> FR_DIGIT_BITS);
    if (middle | top) {
        d[2] += sign * (int64_t)(middle & FR_DIGIT_MASK);
        if (middle >> FR_DIGIT_BITS | top) {
            d[3] += sign * (int64_t)(middle >> FR_DIGIT_BITS);
            if (top)
                d[4] += sign * (int64_t)top;
        }
    }
}

/* A finite double as its integer of 53 bits, and the exponent of that integer's last bit. */
FR_INLINE uint64_t fr_split(double v, int *exponent)
{
    const uint64_t b = fr_bits(v) & (UINT64_MAX >> 1);
    const uint64_t fraction = b & ((UINT64_C(1) << 52) - 1);
    const int biased = (int)(b >> 52);
    *exponent = (biased ? biased : 1) - 1075;
    return biased ? fraction | UINT64_C(1) << 52 : fraction;
}

/* digit += v * 2^position for any finite v of either sign, position counted from the lowest digit's
 * lowest bit. */
FR_INLINE void fr_digits_add_double(int64_t *digit, double v, int position)
{
    int e;
    const uint64_t m = fr_split(v, &e);
    if (m)
        fr_digits_add(digit, m, e + position, (int)(fr_bits(v) >> 63));
}

/* Let every digit be in [0, 2^32), which a sum that is not negative allows. Returns 0 if it is
 * negative, or too large for its digits; then the digits are of no use.
 * proofs: Digits.carry_value, Digits.carry_fits, Digits.carry_in_range, Digits.canonical_unique */
static inline int fr_digits_carry_one(int64_t *digit, int count)
{
    int64_t carry = 0;
    for (int i = 0; i < count; ++i) {
        const int64_t v = digit[i] + carry;
        digit[i] = v & (int64_t)FR_DIGIT_MASK;
        carry = v >> FR_DIGIT_BITS;
    }
    return carry == 0;
}

static inline int fr_digits_carry(fr_digits *d)
{
    d->additions = 0;
    return fr_digits_carry_one(d->square, FR_SQUARE_DIGITS) &
           fr_digits_carry_one(d->absolute, FR_ABSOLUTE_DIGITS);
}

/* Make room for so many additions. Sums of whole blocks are never negative. */
FR_INLINE void fr_digits_reserve(fr_digits *d, uint64_t additions)
{
    if (FR_UNLIKELY((d->additions += additions) > FR_DIGIT_ADDITIONS)) {
        (void)fr_digits_carry(d);
        d->additions = additions;
    }
}

/* Add all that another one has; it must be canonical, and is then one addition. */
static inline void fr_digits_merge(fr_digits *to, const fr_digits *from)
{
    fr_digits_reserve(to, 1);
    for (int i = 0; i < FR_SQUARE_DIGITS; ++i)
        to->square[i] += from->square[i];
    for (int i = 0; i < FR_ABSOLUTE_DIGITS; ++i)
        to->absolute[i] += from->absolute[i];
}

/* Add |x| and x*x of one number: an integer m < 2^64 times 2^exponent. The slow way, element by
 * element. */
FR_INLINE void fr_digits_add_element(fr_digits *d, uint64_t m, int exponent)
{
    if (m == 0)
        return;
    const fr_u128 square = (fr_u128)m * m;
    const int at = 2 * exponent - FR_SQUARE_BASE;
    fr_digits_add(d->absolute, m, exponent - FR_ABSOLUTE_BASE, 0);
    if (square >> 106) { /* of 64-bit integers */
        fr_digits_add(d->square, (fr_u128)(uint64_t)square, at, 0);
        fr_digits_add(d->square, square >> 64, at + 64, 0);
    } else
        fr_digits_add(d->square, square, at, 0);
}

#endif
