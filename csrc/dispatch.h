/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Chooses one kernel table, once. The only file that asks the processor what it can do.
 */
#ifndef FR_DISPATCH_H
#define FR_DISPATCH_H

#include "kernels/kernels.h"

/* The table by name, or the chosen one for NULL; NULL if there is none to run. */
FR_HIDDEN const fr_kernels *fr_dispatch(const char *name);

/* Does the arithmetic of this build follow IEEE 754? Where it does not, no table is given. */
FR_HIDDEN int fr_dispatch_is_strict(void);

/* The i-th level, slowest first, or NULL past the last; *available: whether this processor has
 * it. */
FR_HIDDEN const char *fr_dispatch_name(size_t i, int *available);

#endif
