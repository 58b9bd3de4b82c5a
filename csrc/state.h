/* SPDX-License-Identifier: BSD-3-Clause
 *
 * States from within: made of what a pass found, and checked.
 */
#ifndef FR_STATE_H
#define FR_STATE_H

#include "exact/limbs.h"
#include "exact_chunk.h"

/* Limbs that begin where the narrow layout's windows do: 2^-320 and 2^-192. */
#define FR_NARROW_SQUARE    29
#define FR_NARROW_SQUARES   10
#define FR_NARROW_ABSOLUTE  14
#define FR_NARROW_ABSOLUTES 6

_Static_assert(FR_SQUARE_BASE + 64 * FR_NARROW_SQUARE == -320, "below the least square of f32");
_Static_assert(FR_ABSOLUTE_BASE + 64 * FR_NARROW_ABSOLUTE == -192, "below the least f32");
_Static_assert(2 * FASTREG_STATE_SQUARES == FR_SQUARE_DIGITS, "two digits a limb");
_Static_assert(2 * FASTREG_STATE_ABSOLUTES == FR_ABSOLUTE_DIGITS, "two digits a limb");

/* The state of n elements of what a pass found; its digits need not be canonical. */
FR_HIDDEN void fr_state_of(fastreg_state *to, fr_exact *found, uint64_t n, int32_t layout);

/* Could arrays have given it? */
FR_HIDDEN int fr_state_is_good(const fastreg_state *s);

/* Has the narrow layout room for it? */
FR_HIDDEN int fr_state_is_narrow(const fastreg_state *s);

/* RN(total), or of its root. In the environment of the kernels. */
FR_INLINE double fr_total_rounded(const fr_total *total, const fr_format *format, int root)
{
    return root ? fr_total_round_sqrt(total, format) : fr_total_round(total, format);
}

#endif
