/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Threads: how many, when they pay, and when there must be none. The only room that knows OpenMP.
 */
#ifndef FR_PARALLEL_H
#define FR_PARALLEL_H

#include "common.h"

/* How many threads a call over nbytes of arrays should use. requested 0: the current setting. */
FR_HIDDEN int fr_parallel_threads(size_t nbytes, int requested, size_t bytes_per_thread);

/* Run body(context, i, threads, here) once for each i in [0, threads); here: 1 on the calling thread, which
 * takes i = 0 and, if the runtime gives a smaller team, others too. */
FR_HIDDEN void fr_parallel_run(int threads, void (*body)(void *, int, int, int), void *context);

/* Size in bytes from which a result should bypass the cache: half of the last level. */
FR_HIDDEN size_t fr_parallel_stream_threshold(void);

#endif
