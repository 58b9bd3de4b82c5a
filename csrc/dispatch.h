/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Chooses one kernel table, once. The only room that asks the processor what it can do.
 */
#ifndef FR_DISPATCH_H
#define FR_DISPATCH_H

#include "kernels/kernels.h"

/* The table by name, or the chosen one for NULL; NULL if there is none to run. */
FR_HIDDEN const fr_kernels *fr_dispatch(const char *name);

#endif
