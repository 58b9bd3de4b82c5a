/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The caller's own threads, and which of the two a call uses.
 */
#ifndef FR_POOL_H
#define FR_POOL_H

#include "threads.h"

/* run and pool of fastreg_options; run is NULL where there is none. */
typedef struct {
    void (*run)(void *pool, int shares, void (*body)(void *work, int share), void *work);
    void *pool;
} fr_pool;

/* How many shares a call over nbytes of arrays should have on a pool of the caller's. requested 0:
 * the processors granted. */
FR_HIDDEN int fr_pool_shares(size_t nbytes, int requested, size_t bytes_per_thread);

/* fr_threads_run on the caller's threads if there are any, else on our own. */
FR_HIDDEN int fr_pool_run(const fr_pool *pool, int shares, void (*body)(void *, int, int, int),
                          int (*restart)(void *), void *context);

#endif
