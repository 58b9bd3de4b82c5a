/* SPDX-License-Identifier: BSD-3-Clause */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#    define _GNU_SOURCE
#endif
#include "parallel.h"
#include "fastreg.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef _OPENMP
#    include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#    include <pthread.h>
#    include <unistd.h>
#endif
#ifdef __linux__
#    include <sched.h>
#endif

/* A call is worth sharing when its time alone exceeds that of waking a team. Measured on two cores
 * (EPYC, libgomp): a region costs 1 to 2 us while its workers still spin and 5 to 20 us when they
 * have gone to sleep; 256 kB take 4 us in L2 and 17 us from memory. */
enum { BYTES_PER_THREAD = 256 << 10 };

static atomic_int process_threads;
static _Thread_local int thread_threads;
static atomic_int forked;

static fastreg_status set_threads(int threads, int *previous, int old)
{
    if (threads < 0)
        return FASTREG_BAD_THREADS;
    if (previous)
        *previous = old;
    return FASTREG_OK;
}

fastreg_status fastreg_set_num_threads(int threads, int *previous)
{
    const fastreg_status s = set_threads(threads, previous, atomic_load(&process_threads));
    if (s == FASTREG_OK)
        atomic_store(&process_threads, threads);
    return s;
}

fastreg_status fastreg_set_thread_num_threads(int threads, int *previous)
{
    const fastreg_status s = set_threads(threads, previous, thread_threads);
    if (s == FASTREG_OK)
        thread_threads = threads;
    return s;
}

#ifdef _OPENMP

/* The pool of a parent does not exist in its child, but the runtime believes that it does and waits
 * for it (libgomp hangs). So a forked child is serial for good: with equal bits, only slower. */
static void after_fork_in_child(void) { atomic_store(&forked, 1); }

__attribute__((constructor)) static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork_in_child);
}

/* ceil(quota / period) of one cgroup file, 0 if it sets no limit. */
static int read_quota(const char *path, const char *period_path)
{
    long long quota = -1, period = 100000;
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    const int got = fscanf(f, "%lld %lld", &quota, &period);
    (void)fclose(f);
    if (period_path && got >= 1) {
        f = fopen(period_path, "re");
        if (f) {
            if (fscanf(f, "%lld", &period) != 1)
                period = 0;
            (void)fclose(f);
        }
    }
    if (got < 1 || quota <= 0 || period <= 0)
        return 0;
    const long long cpus = (quota + period - 1) / period;
    return cpus > 4096 ? 4096 : (int)cpus;
}

/* The tightest CPU quota of this process' cgroup and those above it (version 2), or of version 1.
 * Read once: quotas are set when a container starts. */
static int cgroup_quota(void)
{
    static atomic_int known; /* quota + 1 */
    const int k = atomic_load(&known);
    if (k)
        return k - 1;
    int limit = 0;
    char line[1024], group[1024] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f) {
        while (fgets(line, sizeof line, f))
            if (strncmp(line, "0::/", 4) == 0) {
                line[strcspn(line, "\n")] = 0;
                memcpy(group, line + 3, strlen(line + 3) + 1);
            }
        (void)fclose(f);
    }
    for (;;) {
        char path[1100];
        (void)snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        const int q = read_quota(path, NULL);
        if (q && (!limit || q < limit))
            limit = q;
        char *const slash = strrchr(group, '/');
        if (!slash)
            break;
        *slash = 0;
    }
    const int v1 =
        read_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (v1 && (!limit || v1 < limit))
        limit = v1;
    atomic_store(&known, limit + 1);
    return limit;
}

static int automatic_threads(void)
{
    int n = omp_get_max_threads();
#    ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = FR_MIN(n, FR_MAX(CPU_COUNT(&set), 1));
#    endif
    const int quota = cgroup_quota();
    if (quota)
        n = FR_MIN(n, quota);
    return FR_MAX(n, 1);
}

/* The stack that libgomp gives its workers: OMP_STACKSIZE, a number with B, K (default), M or G. */
static size_t worker_stack(void)
{
    const char *s = getenv("OMP_STACKSIZE");
    if (!s)
        s = getenv("GOMP_STACKSIZE");
    if (!s)
        return 0;
    char *end;
    const unsigned long long v = strtoull(s, &end, 10);
    while (*end == ' ')
        ++end;
    const int shift = *end == 'B' || *end == 'b'   ? 0
                      : *end == 'M' || *end == 'm' ? 20
                      : *end == 'G' || *end == 'g' ? 30
                                                   : 10;
    return v > SIZE_MAX >> shift ? SIZE_MAX : (size_t)v << shift;
}

/* A gate that probe threads wait at. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    int open;
} gate;

static void *wait_at(void *g_)
{
    gate *const g = g_;
    (void)pthread_mutex_lock(&g->lock);
    while (!g->open)
        (void)pthread_cond_wait(&g->opened, &g->lock);
    (void)pthread_mutex_unlock(&g->lock);
    return NULL;
}

enum { PROBE_MOST = 256 };

/* Can this process start `extra` more threads at once? libgomp ends the process if it cannot, so it
 * must not be the one to find out. Costs tens of microseconds. */
static int can_start(int extra)
{
    gate g = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    pthread_t probe[PROBE_MOST];
    pthread_attr_t attributes;
    const size_t stack = worker_stack();
    int n = 0;
    if (extra > PROBE_MOST)
        extra = PROBE_MOST;
    if (pthread_attr_init(&attributes) != 0)
        return 0;
    if (stack == 0 || pthread_attr_setstacksize(&attributes, stack) == 0)
        while (n < extra && pthread_create(&probe[n], &attributes, wait_at, &g) == 0)
            ++n;
    (void)pthread_mutex_lock(&g.lock);
    g.open = 1;
    (void)pthread_cond_broadcast(&g.opened);
    (void)pthread_mutex_unlock(&g.lock);
    for (int i = 0; i < n; ++i)
        (void)pthread_join(probe[i], NULL);
    (void)pthread_attr_destroy(&attributes);
    return n == extra;
}

/* The last team that this thread has had: its workers exist already. Not the largest one: libgomp ends
 * the workers that a smaller team leaves over. Another library may do that unseen with a team of its own. */
static _Thread_local int had_team = 1;

int fastreg_get_num_threads(void)
{
    if (atomic_load(&forked) || omp_in_parallel())
        return 1;
    if (thread_threads)
        return thread_threads;
    const int process = atomic_load(&process_threads);
    return process ? process : automatic_threads();
}

int fr_parallel_threads(size_t nbytes, int requested, size_t bytes_per_thread)
{
    const size_t grain = bytes_per_thread ? bytes_per_thread : BYTES_PER_THREAD;
    if (FR_LIKELY(nbytes < 2 * grain))
        return 1;
    if (atomic_load(&forked) || omp_in_parallel())
        return 1;
    size_t n = (size_t)(requested ? requested : fastreg_get_num_threads());
    n = FR_MIN(n, nbytes / grain);
    n = FR_MIN(n, (size_t)omp_get_thread_limit());
    n = FR_MIN(n, PROBE_MOST);
    if (n > 1) {
        if ((int)n > had_team && !can_start((int)n - 1))
            return 1;
        had_team = (int)n;
    }
    return (int)FR_MAX(n, 1);
}

void fr_parallel_run(int threads, void (*body)(void *, int, int, int), void *context)
{
    if (threads <= 1) {
        body(context, 0, 1, 1);
        return;
    }
    /* A share each, whatever team the runtime gives (omp_set_dynamic may make it smaller). */
#    pragma omp parallel num_threads(threads)
    {
        const int team = omp_get_num_threads(), me = omp_get_thread_num();
        for (int i = me; i < threads; i += team)
            body(context, i, threads, me == 0);
    }
}

int fastreg_has_openmp(void) { return 1; }

#else

int fastreg_get_num_threads(void)
{
    (void)forked;
    return 1;
}

int fr_parallel_threads(size_t nbytes, int requested, size_t bytes_per_thread)
{
    (void)nbytes, (void)requested, (void)bytes_per_thread, (void)BYTES_PER_THREAD;
    return 1;
}

void fr_parallel_run(int threads, void (*body)(void *, int, int, int), void *context)
{
    for (int i = 0; i < threads; ++i)
        body(context, i, threads, 1);
}

int fastreg_has_openmp(void) { return 0; }

#endif

size_t fr_parallel_stream_threshold(void)
{
    static atomic_size_t known;
    size_t t = atomic_load_explicit(&known, memory_order_relaxed);
    if (t)
        return t;
    long cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    /* Virtual machines report none, or that of the whole host: stay within what one is likely to
     * get. */
    t = cache > 0 ? (size_t)cache / 2 : (size_t)16 << 20;
    t = FR_MIN(FR_MAX(t, (size_t)4 << 20), (size_t)64 << 20);
    atomic_store_explicit(&known, t, memory_order_relaxed);
    return t;
}
