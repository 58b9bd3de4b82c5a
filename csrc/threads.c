/* SPDX-License-Identifier: BSD-3-Clause */
#include "threads.h"
#include "host.h"
#include "machine.h"

#include <stdatomic.h>

#ifdef _OPENMP
#    include <omp.h>
#    include <pthread.h>
#endif

/* A call is worth sharing when its time alone exceeds that of waking a team. Measured on two cores
 * (EPYC, libgomp): a region costs 1 to 2 us while its workers still spin and 5 to 20 us when they
 * have gone to sleep; 256 kB take 4 us in L2 and 17 us from memory. */
enum { BYTES_PER_THREAD = 256 << 10 };

static atomic_int process_threads;
static _Thread_local int thread_threads;

int fr_threads_set(int threads) { return atomic_exchange(&process_threads, threads); }

int fr_threads_set_own(int threads)
{
    const int old = thread_threads;
    thread_threads = threads;
    return old;
}

#ifdef _OPENMP

static atomic_int forked;

/* The pool of a parent does not exist in its child, but the runtime believes that it does and waits
 * for it (libgomp hangs). So a forked child is serial for good: with equal bits, only slower. */
static void after_fork_in_child(void) { atomic_store(&forked, 1); }

__attribute__((constructor)) static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork_in_child);
}

/* The last team that this thread has had: its workers exist already. Not the largest one: libgomp ends
 * the workers that a smaller team leaves over. Another library may do that unseen with a team of its own. */
static _Thread_local int had_team = 1;

int fr_threads(void)
{
    if (atomic_load(&forked) || omp_in_parallel())
        return 1;
    if (thread_threads)
        return thread_threads;
    const int process = atomic_load(&process_threads);
    if (process)
        return process;
    const int most = omp_get_max_threads(), granted = fr_host_processors();
    return FR_MAX(FR_MIN(most, granted), 1);
}

int fr_threads_for(size_t nbytes, int requested, size_t bytes_per_thread)
{
    const size_t grain = bytes_per_thread ? bytes_per_thread : BYTES_PER_THREAD;
    if (FR_LIKELY(nbytes < 2 * grain))
        return 1;
    if (atomic_load(&forked) || omp_in_parallel())
        return 1;
    size_t n = (size_t)(requested ? requested : fr_threads());
    n = FR_MIN(n, nbytes / grain);
    n = FR_MIN(n, (size_t)omp_get_thread_limit());
    n = FR_MIN(n, FR_HOST_MOST_THREADS);
    if (n > 1) {
        if ((int)n > had_team && !fr_host_can_start((int)n - 1))
            return 1;
        had_team = (int)n;
    }
    return (int)FR_MAX(n, 1);
}

void fr_threads_run(int threads, void (*body)(void *, int, int, int), void *context)
{
    if (threads <= 1) {
        body(context, 0, 1, 1);
        return;
    }
    /* A share each, whatever team the runtime gives (omp_set_dynamic may make it smaller). */
#    pragma omp parallel num_threads(threads)
    {
        const int team = omp_get_num_threads(), me = omp_get_thread_num();
        const fr_environment saved = fr_environment_enter();
        for (int i = me; i < threads; i += team)
            body(context, i, threads, me == 0);
        fr_environment_leave(saved);
    }
}

int fr_threads_exist(void) { return 1; }

#else

int fr_threads(void) { return 1; }

int fr_threads_for(size_t nbytes, int requested, size_t bytes_per_thread)
{
    (void)nbytes, (void)requested, (void)bytes_per_thread, (void)BYTES_PER_THREAD;
    return 1;
}

void fr_threads_run(int threads, void (*body)(void *, int, int, int), void *context)
{
    for (int i = 0; i < threads; ++i)
        body(context, i, threads, 1);
}

int fr_threads_exist(void) { return 0; }

#endif
