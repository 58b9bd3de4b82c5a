/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Statistics of each array of a list and of all together, from one pass.
 */
#ifndef FR_STATISTICS_H
#define FR_STATISTICS_H

#include "pass.h"

/* Fill rows[k] for each array, and *total unless it is NULL. factor multiplies every error
 * bound. */
FR_HIDDEN fastreg_status fr_statistics(const fr_request *request, double factor,
                                       fastreg_statistics *rows, fastreg_statistics *total);

#endif
