/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the operating system and the container grant: processors, threads, cache.
 */
#ifndef FR_HOST_H
#define FR_HOST_H

#include "common.h"

/* No call asks for more threads than so many. */
enum { FR_HOST_MOST_THREADS = 256 };

/* How many processors the affinity mask and the cgroup's CPU quota leave; INT_MAX if neither
 * says. */
FR_HIDDEN int fr_host_processors(void);

/* Can this process start `extra` more threads at once, with the stacks that the OpenMP runtime
 * gives them? libgomp ends the process if it cannot, so it must not be the one to find out. Costs
 * tens of microseconds. */
FR_HIDDEN int fr_host_can_start(int extra);

/* Can a thread of this process be bound to these processors? 1 if that cannot be known. */
FR_HIDDEN int fr_host_can_bind(const int *processors, int count);

/* Has this thread, which is not the process' first one, so many bytes of stack left? 1 if that
 * cannot be known. */
FR_HIDDEN int fr_host_has_stack(size_t nbytes);

/* Size in bytes from which a result should bypass the cache: half of the last level. */
FR_HIDDEN size_t fr_host_stream_threshold(void);

#endif
