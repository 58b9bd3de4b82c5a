/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Threads: how many, when they pay, and when there must be none. The only file that knows OpenMP.
 */
#ifndef FR_THREADS_H
#define FR_THREADS_H

#include "common.h"

#include <stdatomic.h>

/* 1 if there can be more than one. */
FR_HIDDEN int fr_threads_exist(void);

/* Set the number for calls that do not name one, of the process or of this thread, which comes
 * first; 0: the automatic choice. Return the number before. */
FR_HIDDEN int fr_threads_set(int threads);
FR_HIDDEN int fr_threads_set_own(int threads);

/* The number that a large call made here and now would use. */
FR_HIDDEN int fr_threads(void);

/* How many threads a call over nbytes of arrays should use. requested 0: fr_threads(). */
FR_HIDDEN int fr_threads_for(size_t nbytes, int requested, size_t bytes_per_thread);

/* Run body(context, i, threads, here) once for each i in [0, threads), in the default
 * floating-point environment. The calling thread, which must be in it already, takes i = 0 and, if
 * the runtime gives a smaller team, others too; there `here` is 1.
 *
 * What runs within body on the calling thread, a signal handler for one, may fork. The child has
 * none of the other threads, so it calls restart(context), which undoes what bodies have done, and
 * then runs all of them by itself. Returns 0, in such a child only, if restart does because nothing
 * can undo it. */
FR_HIDDEN int fr_threads_run(int threads, void (*body)(void *, int, int, int),
                             int (*restart)(void *), void *context);

/* A lock that is held for moments. In a forked child, whose parent's threads may have held it, it
 * locks nothing and keeps nobody waiting. */
FR_HIDDEN void fr_threads_lock(atomic_flag *lock);
FR_HIDDEN void fr_threads_unlock(atomic_flag *lock);

#endif
