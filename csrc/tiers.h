/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Run a pass, and climb the tiers until one decides the rounding. Arguments have been checked.
 */
#ifndef FR_TIERS_H
#define FR_TIERS_H

#include "pass.h"

/* How an exact number becomes a result. */
typedef struct {
    const fr_format *format;
    int root;      /* its square root */
    double factor; /* multiplies every error bound; 1, but for tests */
} fr_rounding;

/* The rounded value, or its root, if what a pass found decides it; else 0. The total decides, if
 * there is one, else the sum. */
FR_HIDDEN int fr_decide(const fr_found *found, const fr_sum *sum, const fr_total *total,
                        const fr_rounding *how, double *value);

/* FR_VALUE and FR_BOTH, from the request's tier on: the value, and which tier decided it. The
 * request's operation, tier and narrow change from pass to pass. */
FR_HIDDEN fastreg_status fr_climb(fr_request *request, const fr_rounding *how, double *value,
                                  int *tier);

#endif
