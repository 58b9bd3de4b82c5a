/* SPDX-License-Identifier: BSD-3-Clause */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#    define _GNU_SOURCE
#endif
#include "host.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__unix__) || defined(__APPLE__)
#    include <pthread.h>
#    include <unistd.h>
#endif
#ifdef __linux__
#    include <sched.h>
#endif

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
    const int k = atomic_load(&known), error = errno;
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
    errno = error;
    return limit;
}

int fr_host_processors(void)
{
    int n = INT_MAX;
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = FR_MAX(CPU_COUNT(&set), 1);
#endif
    const int quota = cgroup_quota();
    return quota ? FR_MIN(n, quota) : n;
}

#if defined(__unix__) || defined(__APPLE__)

/* The stack that libgomp gives its workers: OMP_STACKSIZE, a number with B, K (default), M or G; 0
 * for its default, which it takes for what it does not understand, too. */
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
    if (*end && strchr("BbKkMmGg", *end))
        ++end;
    while (*end == ' ')
        ++end;
    if (*end)
        return 0;
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

int fr_host_can_start(int extra)
{
    gate g = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    pthread_t probe[FR_HOST_MOST_THREADS];
    pthread_attr_t attributes;
    const int error = errno;
    const size_t stack = worker_stack();
    int n = 0;
    errno = error;
    if (extra > FR_HOST_MOST_THREADS)
        extra = FR_HOST_MOST_THREADS;
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

#else

int fr_host_can_start(int extra)
{
    (void)extra;
    return 1;
}

#endif

#ifdef __GLIBC__ /* musl has no pthread_attr_setaffinity_np */

static void *nothing(void *context) { return context; }

int fr_host_can_bind(const int *processors, int count)
{
    cpu_set_t sets[8]; /* 8192 processors */
    pthread_attr_t attributes;
    pthread_t probe;
    memset(sets, 0, sizeof sets);
    for (int i = 0; i < count; ++i)
        CPU_SET_S((size_t)processors[i], sizeof sets, sets);
    if (pthread_attr_init(&attributes) != 0)
        return 0;
    const int bound = pthread_attr_setaffinity_np(&attributes, sizeof sets, sets) == 0 &&
                      pthread_create(&probe, &attributes, nothing, NULL) == 0;
    if (bound)
        (void)pthread_join(probe, NULL);
    (void)pthread_attr_destroy(&attributes);
    return bound;
}

#else

int fr_host_can_bind(const int *processors, int count)
{
    (void)processors, (void)count;
    return 1;
}

#endif

#ifdef __linux__

int fr_host_has_stack(size_t nbytes)
{
    pthread_attr_t attributes;
    void *end;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0)
        return 0;
    const int known = pthread_attr_getstack(&attributes, &end, &size) == 0;
    (void)pthread_attr_destroy(&attributes);
    return known && (size_t)((char *)&attributes - (char *)end) >= nbytes;
}

#else

int fr_host_has_stack(size_t nbytes)
{
    (void)nbytes;
    return 1;
}

#endif

size_t fr_host_stream_threshold(void)
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
