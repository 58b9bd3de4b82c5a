/* SPDX-License-Identifier: BSD-3-Clause */
#include "threads.h"
#include "host.h"
#include "machine.h"

#ifdef _OPENMP
#    include <omp.h>
#    ifndef _WIN32
#        include <pthread.h>
#    endif
#    include <setjmp.h>
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
#    ifndef _WIN32
static void after_fork_in_child(void) { atomic_store(&forked, 1); }

__attribute__((constructor)) static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork_in_child);
}
#    endif

/* What a worker must have left of its stack. A pass needs 25 KiB, of which a fr_walk is 19; without
 * optimisation the kernels, all inlined, take 500 KiB with gcc 12 and 1.4 MiB with clang 14.
 * OMP_STACKSIZE and limits on the stack may leave less. */
#    ifdef __OPTIMIZE__
enum { WORKER_STACK = 64 << 10 };
#    else
enum { WORKER_STACK = 2 << 20 };
#    endif

/* Would the runtime bind workers to processors that this process may not use? */
static int places_can_be_had(void)
{
    enum { MOST = 1024 }; /* a place that is larger than that is not looked at */
    static atomic_int known;
    int processors[MOST];
    if (atomic_load(&known))
        return 1;
    for (int i = 0; i < omp_get_num_places(); ++i) {
        const int n = omp_get_place_num_procs(i);
        if (n > MOST)
            continue;
        omp_get_place_proc_ids(i, processors);
        if (!fr_host_can_bind(processors, n))
            return 0;
    }
    atomic_store(&known, 1);
    return 1;
}

/* The last team that this thread has had: its workers exist already. Not the largest one: libgomp
 * ends the workers that a smaller team leaves over. Another library may do that unseen with a team
 * of its own. */
static _Thread_local int had_team = 1;

/* Said by each thread of a team; the calling one is not asked. */
static int has_room_for_work(void)
{
    return omp_get_thread_num() == 0 || fr_host_has_stack(WORKER_STACK);
}

/* One thread at a time starts a team. On Windows nothing is probed, so nothing is to be kept apart. */
#    ifdef _WIN32
static void start_lock(void) {}
static void start_unlock(void) {}
#    else
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static void start_lock(void) { (void)pthread_mutex_lock(&one_at_a_time); }
static void start_unlock(void) { (void)pthread_mutex_unlock(&one_at_a_time); }
#    endif

/* Have the runtime start the workers of a team of n. It ends the process if it cannot, so a probe
 * comes first; one thread at a time, or several would take the same room for theirs. Returns 0 if
 * they cannot be had, or not with a stack that is large enough. */
static FR_NOINLINE int start_team(int n)
{
    static atomic_int too_small;
    if (atomic_load(&too_small))
        return 0;
    start_lock();
    /* One more than wanted: the runtime allocates too. */
    const int can = places_can_be_had() && fr_host_can_start(n);
    if (can) {
#    pragma omp parallel num_threads(n)
        {
            if (!has_room_for_work())
                atomic_store(&too_small, 1);
        }
    }
    start_unlock();
    if (!can || atomic_load(&too_small))
        return 0;
    had_team = n;
    return 1;
}

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
    if (n > (size_t)had_team && !start_team((int)n))
        return 1;
    if (n > 1)
        had_team = (int)n;
    return (int)FR_MAX(n, 1);
}

typedef struct {
    int threads;
    void (*body)(void *, int, int, int);
    void *context;
    jmp_buf out;
} team_work;

/* The barrier at the end of a region would wait for the parent's threads. */
static void leave_if_forked(team_work *w)
{
    if (atomic_load(&forked))
        longjmp(w->out, 1);
}

static FR_NOINLINE void run_team(team_work *w)
{
    /* A share each, whatever team the runtime gives (omp_set_dynamic may make it smaller). */
#    pragma omp parallel num_threads(w->threads)
    {
        const int team = omp_get_num_threads(), me = omp_get_thread_num();
        const fr_environment saved = fr_environment_enter();
        for (int i = me; i < w->threads; i += team)
            w->body(w->context, i, w->threads, me == 0);
        fr_environment_leave(saved);
        if (me == 0)
            leave_if_forked(w);
    }
}

static void run_alone(int threads, void (*body)(void *, int, int, int), void *context)
{
    for (int i = 0; i < threads; ++i)
        body(context, i, threads, 1);
}

int fr_threads_run(int threads, void (*body)(void *, int, int, int), int (*restart)(void *),
                   void *context)
{
    /* A fork may lie between the count of threads and here. */
    if (threads <= 1 || atomic_load(&forked)) {
        run_alone(threads, body, context);
        return 1;
    }
    team_work w = {.threads = threads, .body = body, .context = context};
    if (setjmp(w.out) == 0) {
        run_team(&w);
        return 1;
    }
    if (!restart(w.context))
        return 0;
    run_alone(w.threads, w.body, w.context);
    return 1;
}

void fr_threads_lock(atomic_flag *lock)
{
    while (atomic_flag_test_and_set_explicit(lock, memory_order_acquire) && !atomic_load(&forked))
        ;
}

int fr_threads_exist(void) { return 1; }

#else

int fr_threads(void) { return 1; }

int fr_threads_for(size_t nbytes, int requested, size_t bytes_per_thread)
{
    (void)nbytes, (void)requested, (void)bytes_per_thread, (void)BYTES_PER_THREAD;
    return 1;
}

int fr_threads_run(int threads, void (*body)(void *, int, int, int), int (*restart)(void *),
                   void *context)
{
    (void)restart;
    for (int i = 0; i < threads; ++i)
        body(context, i, threads, 1);
    return 1;
}

void fr_threads_lock(atomic_flag *lock)
{
    while (atomic_flag_test_and_set_explicit(lock, memory_order_acquire))
        ;
}

int fr_threads_exist(void) { return 0; }

#endif

void fr_threads_unlock(atomic_flag *lock)
{
    atomic_flag_clear_explicit(lock, memory_order_release);
}
