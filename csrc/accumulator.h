/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sums that go on from call to call: what passes found so far, and the same in integers.
 */
#ifndef FR_ACCUMULATOR_H
#define FR_ACCUMULATOR_H

#include "tiers.h"

typedef struct {
    uint64_t limb[70]; /* from 2^-2176 */
} fr_moment;

/* What a fastreg_accumulator holds. All zero is the empty one. */
typedef struct {
    fr_found found;       /* of all arrays that were added */
    uint64_t n;           /* their elements */
    uint64_t exact_n;     /* elements that were added to the integers; n: these decide */
    fr_moment exactly[2]; /* of |x| and x*x */
} fr_accumulator;

/* Add a request's arrays: to what was found, or to the integers. */
FR_HIDDEN fastreg_status fr_accumulate(fr_accumulator *to, const fr_request *request, int exactly);

FR_HIDDEN void fr_accumulator_merge(fr_accumulator *to, const fr_accumulator *from);

/* l1 * sum|x| + l2 * sum x*x rounded once, or its root; 0 if what was added does not decide it. */
FR_HIDDEN int fr_accumulator_value(const fr_accumulator *a, double l1, double l2,
                                   const fr_rounding *how, double *value);

/* 0 if what was added does not decide all of it. */
FR_HIDDEN int fr_accumulator_statistics(const fr_accumulator *a, fastreg_statistics *s);

#endif
