/* SPDX-License-Identifier: BSD-3-Clause */
#include "pool.h"
#include "host.h"
#include "machine.h"

/* As in threads.c: a share is worth what waking a thread costs. */
enum { BYTES_PER_SHARE = 256 << 10 };

int fr_pool_shares(size_t nbytes, int requested, size_t bytes_per_thread)
{
    const size_t grain = bytes_per_thread ? bytes_per_thread : BYTES_PER_SHARE;
    const size_t most = (size_t)(requested ? requested : fr_host_processors());
    return (int)FR_MAX(FR_MIN(most, nbytes / grain), 1);
}

/* Its address tells threads apart. */
static _Thread_local char here;

typedef struct {
    void (*body)(void *, int, int, int);
    void *context;
    const char *caller;
    int shares;
    atomic_int next; /* the first share that nobody has taken */
} pool_work;

/* Takes the next share, not the one it is told: then a pool that drops calls, or repeats them,
 * leaves nothing out and does nothing twice. */
static void do_next(void *work, int share)
{
    pool_work *const w = work;
    (void)share;
    const int i = atomic_fetch_add(&w->next, 1);
    if (i >= w->shares)
        return;
    const fr_environment saved = fr_environment_enter();
    w->body(w->context, i, w->shares, &here == w->caller);
    fr_environment_leave(saved);
}

int fr_pool_run(const fr_pool *pool, int shares, void (*body)(void *, int, int, int),
                int (*restart)(void *), void *context)
{
    if (!pool->run || shares <= 1)
        return fr_threads_run(shares, body, restart, context);
    pool_work w = {.body = body, .context = context, .caller = &here, .shares = shares};
    atomic_init(&w.next, 0);
    pool->run(pool->pool, shares, do_next, &w);
    while (atomic_load(&w.next) < shares)
        do_next(&w, 0);
    return 1;
}
