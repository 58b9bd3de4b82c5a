/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whether the compiler kept to IEEE 754: asked of compiled code, for flags that no macro tells of
 * (clang's -fno-honor-nans; -ffp-contract=fast, of which clang's backend hears but no pragma).
 */
#ifndef FR_STRICT_H
#define FR_STRICT_H

#include "exact/formats.h"
#include "machine.h"

/* 1 if the arithmetic of this unit is what it is written as, in the default
 * floating-point environment. Each operand is read anew, so nothing
 * is known while compiling. */
static inline int fr_is_strict(void)
{
    volatile const double one = 1.0, large = 0x1p53, minus_zero = -0.0,
                          nan = fr_from_bits(UINT64_C(0xfff8000000000123)), infinity = FR_INFINITY,
                          smallest = 0x1p-1074, above = 1.0 + 0x1p-30, below = 1.0 - 0x1p-30,
                          divisor = 49.0;
    int strict = 1;
    /* Nothing reassociated, nothing kept in more than 53 bits. */
    strict &= (large + one) - large == 0.0;
    strict &= large - (large - one) == 1.0;
    /* Not contracted: (1 + e)(1 - e) = 1 - e^2 rounds to 1. */
    strict &= above * below - one == 0.0;
    /* No reciprocal: 49 * RN(1/49) is not 1. */
    strict &= divisor / divisor == 1.0 && one / divisor * divisor != 1.0;
    /* NaN, infinities, signs of zeros and subnormals are what they are, where one is chosen too. */
    strict &= nan != nan && !(nan == nan) && !(nan < one) && !(nan > one);
    volatile const int yes = 1;
    volatile double kept = yes ? FR_NAN : one;
    strict &= kept != kept && fr_bits(kept) == fr_bits(FR_NAN);
    kept = yes ? FR_INFINITY : one;
    strict &= fr_bits(kept) == fr_bits(FR_INFINITY);
    strict &= fr_f64_to_f16(nan) == 0x7e00 && fr_f64_to_f16(infinity) == 0x7c00;
    const double v = nan, z = minus_zero, w = infinity;
    strict &= fr_bits(v != v ? FR_NAN : v) == fr_bits(FR_NAN);
    strict &= fr_bits(z == 0.0 ? 0.0 : z) == 0;
    strict &= fr_bits(w - w != 0.0 ? one : w) == fr_bits(1.0);
    strict &= infinity == infinity && infinity - infinity != 0.0 && large < infinity;
    strict &= fr_bits(minus_zero + 0.0) == 0 && fr_bits(0.0 - minus_zero) == 0;
    strict &= smallest > 0.0 && smallest * 0.5 == 0.0 && smallest + smallest == 0x1p-1073;
    /* Constants are doubles. */
    strict &= fr_bits(0.1) == UINT64_C(0x3fb999999999999a);
    return strict;
}

#endif
