/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the library asks of the world outside, and what it makes of the answers: cgroup files,
 * variables, thread creation, the affinity mask, the size of the cache, CPUID. host.c, threads.c
 * and dispatch.c are included here with that world replaced, so that no rights and no other machine
 * are needed. Prints "good", or the first line that does not hold. Each case is a process of its
 * own: what is asked is asked once.
 *
 *     outside         compile with -fopenmp
 */
#define _GNU_SOURCE
#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <omp.h>
#ifdef __x86_64__
#    include <cpuid.h>
#endif

/* -- The world --------------------------------------------------------------------------------- */

static struct {
    const char *path, *text;
} files[6];
static int opened;

static FILE *world_fopen(const char *path, const char *mode)
{
    HOLDS(strcmp(mode, "re") == 0);
    ++opened;
    for (int i = 0; i < 6; ++i)
        if (files[i].path && strcmp(files[i].path, path) == 0)
            return fmemopen((void *)(size_t)files[i].text, strlen(files[i].text), "r");
    return NULL;
}

static int cpus_allowed = -1; /* -1: the mask cannot be had */
static int world_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
    HOLDS(pid == 0 && size == sizeof *set);
    CPU_ZERO(set);
    for (int i = 0; i < cpus_allowed; ++i)
        CPU_SET(i, set);
    return cpus_allowed < 0 ? -1 : 0;
}

static int omp_most = 8, omp_limit = 1 << 30, in_region;
static int world_max_threads(void) { return omp_most; }
static int world_thread_limit(void) { return omp_limit; }
static int world_in_parallel(void) { return in_region; }

/* Threads that can be had; how many were asked for; the stack they asked for. */
static int threads_left = 1 << 30, threads_made, no_attributes;
static size_t stack_asked;
static int world_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *),
                        void *context)
{
    if (threads_left-- <= 0)
        return 11;
    ++threads_made;
    return pthread_create(thread, attributes, body, context);
}

static int world_attr_init(pthread_attr_t *a) { return no_attributes ? 12 : pthread_attr_init(a); }

static int world_setstacksize(pthread_attr_t *a, size_t size)
{
    stack_asked = size;
    return size > (size_t)1 << 40 ? 22 : pthread_attr_setstacksize(a, (size_t)1 << 20);
}

/* Places that threads are bound to, by their only processors; those of them that exist. */
static int places[2], place_count, huge_place = -1, processors_there = 4, place_asked;
static int world_num_places(void) { return place_count; }
static int world_place_num_procs(int place) { return place == huge_place ? 2000 : 1; }
static void world_place_proc_ids(int place, int *ids) { *ids = places[place]; }
static int world_setaffinity(pthread_attr_t *a, size_t size, const cpu_set_t *set)
{
    (void)a;
    ++place_asked;
    HOLDS(CPU_COUNT_S(size, set) == 1);
    for (int i = 0; i < processors_there; ++i)
        if (CPU_ISSET_S((size_t)i, size, set))
            return 0;
    return 22;
}

/* What a thread learns of its stack. */
static size_t stack_below = SIZE_MAX;
static int no_stack;
static int world_getattr(pthread_t thread, pthread_attr_t *a)
{
    HOLDS(pthread_equal(thread, pthread_self()));
    return no_stack == 1 ? 12 : pthread_attr_init(a);
}
static int world_getstack(const pthread_attr_t *a, void **end, size_t *size)
{
    *end = stack_below == SIZE_MAX ? NULL : (char *)(size_t)a - stack_below, *size = 0;
    return no_stack == 2 ? 22 : 0;
}

static long cache_size;
static long world_sysconf(int name) { return name == _SC_LEVEL3_CACHE_SIZE ? cache_size : -1; }

#define fopen                     world_fopen
#define sched_getaffinity         world_getaffinity
#define omp_get_max_threads       world_max_threads
#define omp_get_thread_limit      world_thread_limit
#define omp_in_parallel           world_in_parallel
#define pthread_create            world_create
#define pthread_attr_init         world_attr_init
#define pthread_attr_setstacksize world_setstacksize
#define sysconf                   world_sysconf

#define omp_get_num_places          world_num_places
#define omp_get_place_num_procs     world_place_num_procs
#define omp_get_place_proc_ids      world_place_proc_ids
#define pthread_attr_setaffinity_np world_setaffinity
#define pthread_getattr_np          world_getattr
#define pthread_attr_getstack       world_getstack

#define fr_threads_set           outside_threads_set
#define fr_threads_set_own       outside_threads_set_own
#define fr_threads               outside_threads
#define fr_threads_exist         outside_threads_exist
#define fr_threads_for           outside_threads_for
#define fr_threads_run           outside_threads_run
#define fr_threads_lock          outside_threads_lock
#define fr_threads_unlock        outside_threads_unlock
#define fr_host_processors       outside_host_processors
#define fr_host_can_start        outside_host_can_start
#define fr_host_can_bind         outside_host_can_bind
#define fr_host_has_stack        outside_host_has_stack
#define fr_host_stream_threshold outside_host_stream_threshold
#include "../../csrc/host.c"
#include "../../csrc/threads.c"

#ifdef __x86_64__
/* A processor, by what CPUID says. */
static struct {
    unsigned highest, vendor[3], signature, leaf1, leaf7, xcr0;
    int asked, silent;
} cpu;

static int world_cpuid(unsigned leaf, unsigned *a, unsigned *b, unsigned *c, unsigned *d)
{
    ++cpu.asked;
    *a = *b = *c = *d = 0;
    if (leaf > cpu.highest || cpu.silent)
        return 0;
    if (leaf == 0) {
        *b = cpu.vendor[0], *c = cpu.vendor[1], *d = cpu.vendor[2];
    } else
        *a = cpu.signature, *c = cpu.leaf1;
    return 1;
}

static int world_cpuid_count(unsigned leaf, unsigned sub, unsigned *a, unsigned *b, unsigned *c,
                             unsigned *d)
{
    HOLDS(leaf == 7 && sub == 0);
    *a = *c = *d = 0, *b = cpu.leaf7;
    return leaf <= cpu.highest;
}

#    define __get_cpuid       world_cpuid
#    define __get_cpuid_count world_cpuid_count
/* `__asm__ volatile("xgetbv" : ...)`, the only assembly there. */
#    ifdef __clang__
#        pragma clang diagnostic ignored "-Wkeyword-macro"
#    endif
#    include "dispatch.h"
#    include <stdatomic.h>
// clang-format off
#    define __asm__
#    define volatile(...) (low = cpu.xcr0, high = 0, c = 0, (void)high, (void)c)
// clang-format on
#    define fr_dispatch           outside_dispatch
#    define fr_dispatch_is_strict outside_dispatch_is_strict
#    define fr_dispatch_name      outside_dispatch_name
const fr_kernels *fr_dispatch(const char *name);
const char *fr_dispatch_name(size_t i, int *available);
#    include "dispatch.c"
#    undef volatile
#    undef __asm__
#endif

/* -- Cases ------------------------------------------------------------------------------------- */

/* Run a case in a child that has forgotten that it is one. */
static void apart(void (*body)(const void *), const void *context)
{
    (void)fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        HOLDS(atomic_load(&forked) == 1 && fr_threads() == 1);
        HOLDS(fr_threads_for((size_t)1 << 40, 4, 1) == 1);
        atomic_store(&forked, 0);
        body(context);
        exit(0);
    }
    int status = 1;
    HOLDS(child > 0 && waitpid(child, &status, 0) == child);
    if (status != 0) {
        printf("status %d\n", status);
        exit(1);
    }
}

typedef struct {
    const char *path[6], *text[6];
    int wanted;
} quota_case;

#define GROUP "/proc/self/cgroup"
#define ROOT  "/sys/fs/cgroup/cpu.max"
#define V1    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
#define V1P   "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
static const quota_case quota_cases[] = {
    {{NULL}, {NULL}, 0},
    {{ROOT}, {"100000 100000\n"}, 1},
    {{ROOT}, {"100001 100000\n"}, 2},
    {{ROOT}, {"99999 100000\n"}, 1},
    {{ROOT}, {"1 100000\n"}, 1},
    {{ROOT}, {"max 100000\n"}, 0},
    {{ROOT}, {"-5 x\n"}, 0},
    {{ROOT}, {"0 100000\n"}, 0},
    {{ROOT}, {"1 0\n"}, 0},
    {{ROOT}, {"1 1\n"}, 1},
    {{ROOT}, {"100000 -1\n"}, 0},
    {{ROOT}, {"250000\n"}, 3},
    {{ROOT}, {" "}, 0},
    {{ROOT}, {"4096 1\n"}, 4096},
    {{ROOT}, {"4097 1\n"}, 4096},
    {{ROOT}, {"9000000000000 1\n"}, 4096},
    {{GROUP, ROOT}, {"0::/\n", "300000 100000\n"}, 3},
    {{GROUP, "/sys/fs/cgroup/a/b/cpu.max", ROOT},
     {"0::/a/b\n", "200000 100000\n", "400000 100000\n"},
     2},
    {{GROUP, "/sys/fs/cgroup/a/b/cpu.max", "/sys/fs/cgroup/a/cpu.max", ROOT},
     {"0::/a/b\n", "max 100000\n", "250000 100000\n", "400000 100000\n"},
     3},
    {{GROUP, "/sys/fs/cgroup/a/b/cpu.max", "/sys/fs/cgroup/a/cpu.max"},
     {"12:cpu,cpuacct:/x\n1:name=systemd:/y\n0::/a/b\n", "800000 100000\n", "700000 100000\n"},
     7},
    {{GROUP, "/sys/fs/cgroup/x/cpu.max"}, {"12:cpu:/x\n", "200000 100000\n"}, 0},
    {{GROUP, "/sys/fs/cgroup/a/cpu.max"}, {"0::/a", "200000 100000\n"}, 2},
    {{GROUP, "/sys/fs/cgroup/a/cpu.max"}, {"1::/b\n0::/a\n", "200000 100000\n"}, 2},
    {{V1, V1P}, {"300000\n", "100000\n"}, 3},
    {{V1, V1P}, {"300000\n", "50000\n"}, 6},
    {{V1}, {"300000\n"}, 3},
    {{V1, V1P}, {"300000\n", "nonsense\n"}, 0},
    {{V1, V1P}, {"-1\n", "100000\n"}, 0},
    {{V1, V1P}, {"nonsense\n", "100000\n"}, 0},
    {{ROOT, V1, V1P}, {"500000 100000\n", "300000\n", "100000\n"}, 3},
    {{ROOT, V1, V1P}, {"300000 100000\n", "500000\n", "100000\n"}, 3},
};

static void show_files(const quota_case *c)
{
    for (int i = 0; i < 6; ++i)
        files[i].path = c->path[i], files[i].text = c->text[i];
}

static void check_quota(const void *context)
{
    const quota_case *const c = context;
    show_files(c);
    errno = 33;
    HOLDS(cgroup_quota() == c->wanted && errno == 33);
    /* Asked once. */
    memset(files, 0, sizeof files);
    const int before = opened;
    HOLDS(before > 0 && cgroup_quota() == c->wanted && opened == before);
    /* The automatic choice: what OpenMP says, at most the mask, at most the quota, at least one. */
    const int quota = c->wanted ? c->wanted : 1 << 20;
    for (omp_most = 1; omp_most < 6; ++omp_most)
        for (cpus_allowed = -1; cpus_allowed < 6; ++cpus_allowed) {
            const int mask = cpus_allowed < 0 ? 1 << 20 : FR_MAX(cpus_allowed, 1);
            HOLDS(fr_threads() == FR_MIN(FR_MIN(omp_most, mask), quota));
        }
    omp_most = 0;
    HOLDS(fr_threads() == 1);
}

/* A path longer than any buffer: cut, but nothing is written behind it. */
static void check_long_group(const void *context)
{
    static char text[5000];
    (void)context;
    (void)strcpy(text, "0::/");
    memset(text + 4, 'x', 4000);
    (void)strcpy(text + 4004, "/y\n0::/a\n");
    const quota_case c = {
        {GROUP, "/sys/fs/cgroup/a/cpu.max", ROOT}, {text, "200000 100000\n", "700000 100000\n"}, 2};
    show_files(&c);
    HOLDS(cgroup_quota() == 2);
}

static void check_stack_variable(const void *context)
{
    static const struct {
        const char *text;
        size_t wanted;
    } cases[] = {{"64", 64 << 10},
                 {"1B", 1},
                 {"2b", 2},
                 {"3M", 3 << 20},
                 {"3 m", 3 << 20},
                 {"2G", (size_t)2 << 30},
                 {"1g", (size_t)1 << 30},
                 {"7k", 7 << 10},
                 {"7K", 7 << 10},
                 {"  5   M", 5 << 20},
                 {"", 0},
                 {"x", 0},
                 {"64x", 0},
                 {"64Kx", 0},
                 {"5 M 2", 0},
                 {" 6 K  ", 6 << 10},
                 {"99999999999G", SIZE_MAX},
                 {"17179869183G", (size_t)17179869183u << 30},
                 {"17179869184G", SIZE_MAX}};
    (void)context;
    (void)unsetenv("OMP_STACKSIZE");
    (void)unsetenv("GOMP_STACKSIZE");
    HOLDS(worker_stack() == 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        (void)setenv("GOMP_STACKSIZE", cases[i].text, 1);
        HOLDS(worker_stack() == cases[i].wanted);
        (void)setenv("OMP_STACKSIZE", "9B", 1); /* comes first */
        HOLDS(worker_stack() == 9);
        (void)unsetenv("OMP_STACKSIZE");
    }
}

static void check_probes(const void *context)
{
    (void)context;
    (void)unsetenv("OMP_STACKSIZE");
    (void)unsetenv("GOMP_STACKSIZE");
    HOLDS(fr_host_can_start(0) && threads_made == 0);
    HOLDS(fr_host_can_start(3) && threads_made == 3 && stack_asked == 0);
    HOLDS(fr_host_can_start(FR_HOST_MOST_THREADS) && threads_made == 3 + FR_HOST_MOST_THREADS);
    HOLDS(fr_host_can_start(FR_HOST_MOST_THREADS + 5) &&
          threads_made == 3 + 2 * FR_HOST_MOST_THREADS);
    threads_left = 2;
    HOLDS(!fr_host_can_start(3) && threads_made == 5 + 2 * FR_HOST_MOST_THREADS);
    threads_left = 3;
    HOLDS(fr_host_can_start(3));
    threads_left = 100;
    (void)setenv("OMP_STACKSIZE", "1M", 1);
    HOLDS(fr_host_can_start(1) && stack_asked == 1 << 20 && threads_left == 99);
    (void)setenv("OMP_STACKSIZE", "9999999999G", 1);
    HOLDS(!fr_host_can_start(1) && threads_left == 99);
    (void)setenv("OMP_STACKSIZE", "99999999999999999999G", 1);
    errno = 33;
    HOLDS(!fr_host_can_start(1) && errno == 33);
    (void)unsetenv("OMP_STACKSIZE");
    no_attributes = 1;
    HOLDS(!fr_host_can_start(1) && threads_left == 99);
}

static void check_counts(const void *context)
{
    (void)context;
    memset(files, 0, sizeof files);
    const size_t grain = BYTES_PER_THREAD;
    /* No team for less than two grains; then as many as there are grains, or were asked for. A
     * probe takes one thread more than there will be workers. */
    HOLDS(fr_threads_for(2 * grain - 1, 4, 0) == 1 && threads_made == 0);
    HOLDS(fr_threads_for(2 * grain, 4, 0) == 2 && threads_made == 2);
    HOLDS(fr_threads_for(199, 4, 100) == 1);
    HOLDS(fr_threads_for(200, 4, 100) == 2 && threads_made == 2); /* those exist */
    HOLDS(fr_threads_for(399, 4, 100) == 3 && threads_made == 5);
    HOLDS(fr_threads_for(4000, 4, 100) == 4 && threads_made == 9);
    HOLDS(fr_threads_for(4000, 2, 100) == 2 && threads_made == 9);
    /* libgomp ends those that a smaller team leaves over: they are probed again. */
    HOLDS(fr_threads_for(4000, 3, 100) == 3 && threads_made == 12);
    HOLDS(fr_threads_for(4000, 1, 100) == 1 && threads_made == 12);
    HOLDS(fr_threads_for(4000, 3, 100) == 3 && threads_made == 12);
    /* Beyond reason. */
    HOLDS(fr_threads_for((size_t)1 << 40, 100000, 1) == FR_HOST_MOST_THREADS);
    omp_limit = 3;
    HOLDS(fr_threads_for((size_t)1 << 40, 100000, 1) == 3);
    omp_limit = 0;
    HOLDS(fr_threads_for((size_t)1 << 40, 100000, 1) == 1);
    omp_limit = 1 << 30;
    /* Within a region. */
    in_region = 1;
    HOLDS(fr_threads_for((size_t)1 << 40, 4, 1) == 1 && fr_threads() == 1);
    in_region = 0;
    /* Threads that cannot be had. */
    threads_left = 4;
    HOLDS(fr_threads_for((size_t)1 << 40, 5, 1) == 1);
    threads_left = 5;
    HOLDS(fr_threads_for((size_t)1 << 40, 5, 1) == 5);
    HOLDS(fr_threads_for((size_t)1 << 40, 5, 1) == 5); /* none is left, but they exist */
    HOLDS(fr_threads_for((size_t)1 << 40, 6, 1) == 1);
    threads_left = 1 << 30;
    /* Settings: the call's, then the thread's, then the process', then the automatic one. */
    omp_most = 5, cpus_allowed = -1;
    HOLDS(fr_threads_for((size_t)1 << 40, 0, 1) == 5 && fr_threads() == 5);
    HOLDS(fr_threads_set(7) == 0);
    HOLDS(fr_threads_for((size_t)1 << 40, 0, 1) == 7 && fr_threads() == 7);
    HOLDS(fr_threads_set_own(3) == 0);
    HOLDS(fr_threads_for((size_t)1 << 40, 0, 1) == 3 && fr_threads() == 3);
    HOLDS(fr_threads_for((size_t)1 << 40, 2, 1) == 2);
    HOLDS(fr_threads_set_own(0) == 3 && fr_threads() == 7);
    HOLDS(fr_threads_set(0) == 7 && fr_threads() == 5);
    HOLDS(fr_threads_exist() == 1);
}

/* No team where a worker would be bound to a processor that is not there, or have too little
 * stack. */
static void check_workers(const void *context)
{
    const int i = *(const int *)context;
    if (i == 0) {
        place_count = 2, places[0] = 3, places[1] = 7;
        HOLDS(fr_threads_for(4000, 4, 100) == 1 && place_asked == 2 && threads_made == 1);
        HOLDS(fr_threads_for(4000, 4, 100) == 1 && place_asked == 4);
        huge_place = 1; /* one with so many processors has one that can be had */
        HOLDS(fr_threads_for(4000, 4, 100) == 4 && place_asked == 5);
        huge_place = -1;
        /* Asked once, if they can be had. */
        HOLDS(fr_threads_for(4000, 6, 100) == 6 && place_asked == 5);
    } else if (i == 1) {
        const int all[] = {1, 8191};
        processors_there = 2;
        HOLDS(fr_host_can_bind(all, 1) && fr_host_can_bind(all, 1) &&
              !fr_host_can_bind(all + 1, 1));
        threads_left = 0;
        HOLDS(!fr_host_can_bind(all, 1));
        threads_left = 1, no_attributes = 1;
        HOLDS(!fr_host_can_bind(all, 1));
    } else if (i == 2) {
        stack_below = WORKER_STACK - 1;
        HOLDS(fr_threads_for(4000, 4, 100) == 1 && threads_made == 4);
        HOLDS(fr_threads_for(4000, 4, 100) == 1 && threads_made == 4); /* for good */
    } else if (i == 3) {
        stack_below = WORKER_STACK;
        HOLDS(fr_threads_for(4000, 4, 100) == 4);
    } else {
        no_stack = i - 3;
        HOLDS(fr_threads_for(4000, 4, 100) == 1);
    }
}

/* Each share once, the first on the calling thread, whatever team there is. */
static int done[10], calls_here, first_here;
static void note(void *context, int i, int shares, int here)
{
#pragma omp atomic
    ++done[i];
    if (here) {
        HOLDS(pthread_equal(*(pthread_t *)context, pthread_self()));
        ++calls_here;
        first_here |= i == 0;
    }
    HOLDS(shares >= 1 && i < shares);
}

static int never(void *context)
{
    (void)context;
    HOLDS(0);
    return 0;
}

static void check_shares(const void *context)
{
    (void)context;
    for (int nested = 0; nested < 2; ++nested)
        for (int shares = 1; shares < 10; ++shares) {
            memset(done, 0, sizeof done);
            calls_here = first_here = 0;
            if (nested) { /* a team of one takes all shares */
#pragma omp parallel num_threads(2)
#pragma omp single
                {
                    pthread_t me = pthread_self();
                    HOLDS(fr_threads_run(shares, note, never, &me));
                }
            } else {
                pthread_t me = pthread_self();
                HOLDS(fr_threads_run(shares, note, never, &me));
            }
            for (int i = 0; i < 10; ++i)
                HOLDS(done[i] == (i < shares));
            HOLDS(first_here && calls_here >= 1);
            HOLDS(!nested || calls_here == shares);
        }
}

static void check_threshold(const void *context)
{
    static const long sizes[][2] = {{-1, 16}, {0, 16},  {1, 4},    {8, 4},
                                    {10, 5},  {32, 16}, {1024, 64}};
    const long *const s = sizes[*(const int *)context];
    cache_size = s[0] > 0 ? s[0] << 20 : s[0];
    HOLDS(fr_host_stream_threshold() == (size_t)s[1] << 20);
    cache_size = 20 << 20;
    HOLDS(fr_host_stream_threshold() == (size_t)s[1] << 20);
}

#ifdef __x86_64__
enum {
    ALL1 = LEAF1_FMA | LEAF1_OSXSAVE | LEAF1_AVX | LEAF1_F16C,
    ALL512 = LEAF7_AVX512F | LEAF7_AVX512DQ | LEAF7_AVX512BW
};

typedef struct {
    unsigned highest, leaf1, leaf7, xcr0;
    int levels;
} processor;

static const processor processors[] = {
    {0, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 0xe7, 0}, /* knows no leaf 1 */
    {1, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 0xe7, 0}, /* knows no leaf 7 */
    {7, ALL1 & ~LEAF1_FMA, LEAF7_AVX2, 7, 0},
    {7, ALL1 & ~LEAF1_OSXSAVE, LEAF7_AVX2, 7, 0},
    {7, ALL1 & ~LEAF1_AVX, LEAF7_AVX2, 7, 0},
    {7, ALL1 & ~LEAF1_F16C, LEAF7_AVX2, 7, 0},
    {7, ALL1, 0, 7, 0},
    {7, ALL1, LEAF7_AVX2, 1, 0}, /* the system saves no AVX registers */
    {7, ALL1, LEAF7_AVX2, 3, 0},
    {7, ALL1, LEAF7_AVX2, 5, 0},
    {7, ALL1, LEAF7_AVX2, 7, 1},
    {7, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 7, 1}, /* nor those of AVX-512 */
    {7, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 0x67, 1},
    {7, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 0xa7, 1},
    {7, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 0xc7, 1},
    {7, ALL1, LEAF7_AVX2 | ALL512, 0xe7, 1},
    {7, ALL1, LEAF7_AVX2 | (ALL512 & ~LEAF7_AVX512F) | LEAF7_AVX512VL, 0xe7, 1},
    {7, ALL1, LEAF7_AVX2 | (ALL512 & ~LEAF7_AVX512DQ) | LEAF7_AVX512VL, 0xe7, 1},
    {7, ALL1, LEAF7_AVX2 | (ALL512 & ~LEAF7_AVX512BW) | LEAF7_AVX512VL, 0xe7, 1},
    {7, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 0xe7, 2},
    {7, ALL1, LEAF7_AVX2 | ALL512 | LEAF7_AVX512VL, 0xe6, 2},
};

static void become(const processor *p)
{
    cpu.highest = p->highest, cpu.leaf1 = p->leaf1, cpu.leaf7 = p->leaf7, cpu.xcr0 = p->xcr0;
}

static void check_processor(const void *context)
{
    static const char *const names[] = {"baseline", "x86_v3", "x86_v4"};
    const processor *const p = context;
    become(p);
    HOLDS(cpu_levels() == p->levels);
    const int asked = cpu.asked;
    HOLDS(cpu_levels() == p->levels && cpu.asked == asked);
    int available = 7;
    for (size_t i = 0; i < LEVELS; ++i) {
        HOLDS(strcmp(fr_dispatch_name(i, &available), names[i]) == 0);
        HOLDS(available == ((int)i <= p->levels));
        const fr_kernels *const k = fr_dispatch(names[i]);
        HOLDS(available ? k && strcmp(k->name, names[i]) == 0 : !k);
    }
    HOLDS(!fr_dispatch_name(LEVELS, &available));
    HOLDS(!fr_dispatch("") && !fr_dispatch("typo"));
    /* The best there is, unless the environment names one. */
    static const char *const variables[] = {NULL, "", "baseline", "x86_v3", "x86_v4", "typo"};
    const int which = (int)(p - processors) % 6;
    const char *const wanted = variables[which];
    (void)unsetenv("FASTREG_ISA");
    if (wanted)
        (void)setenv("FASTREG_ISA", wanted, 1);
    const fr_kernels *const chosen_here = fr_dispatch(NULL);
    const char *const level = chosen_here ? chosen_here->name : NULL;
    if (which < 2)
        HOLDS(strcmp(level, names[p->levels]) == 0);
    else if (which - 2 <= p->levels)
        HOLDS(strcmp(level, wanted) == 0);
    else
        HOLDS(!level);
    (void)setenv("FASTREG_ISA", "baseline", 1); /* too late */
    HOLDS(fr_dispatch(NULL) == chosen_here);
}

/* What CPUID says of AMD's family 19h, and what differs from it. */
static const struct {
    unsigned highest, vendor[3], signature;
    int slow, silent;
} vendors[] = {
    {7, {signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx}, 0xa10f12, 1, 0},
    {7, {signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx}, 0xb00f12, 0, 0},
    {7, {signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx}, 0xa10e12, 0, 0},
    {7, {signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx}, 0x10ac0e12, 0, 0},
    {0, {signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx}, 0xa10f12, 0, 0},
    {7, {signature_INTEL_ebx, signature_INTEL_ecx, signature_INTEL_edx}, 0xa10f12, 0, 0},
    {7, {signature_AMD_ebx, signature_INTEL_ecx, signature_AMD_edx}, 0xa10f12, 0, 0},
    {7, {signature_AMD_ebx, signature_AMD_ecx, signature_INTEL_edx}, 0xa10f12, 0, 0},
    {7, {signature_AMD_ebx, signature_AMD_ecx, signature_AMD_edx}, 0xa10f12, 0, 1},
};

static void check_widening(const void *context)
{
    const int i = *(const int *)context;
    become(&processors[sizeof processors / sizeof processors[0] - 1]);
    HOLDS(cpu_levels() == 2);
    cpu.highest = vendors[i].highest;
    memcpy(cpu.vendor, vendors[i].vendor, sizeof cpu.vendor);
    cpu.signature = vendors[i].signature;
    cpu.silent = vendors[i].silent;
    const fr_kernels *const k = fr_dispatch("x86_v4");
    const int asked = cpu.asked;
    HOLDS(fr_dispatch("x86_v4") == k && cpu.asked == asked && strcmp(k->name, "x86_v4") == 0);
    for (int type = 0; type < FR_FLOAT_COUNT; ++type) {
        const int other = vendors[i].slow && type == FR_FLOAT_f32;
        HOLDS(k->of[type] == (other ? &fr_kernels_x86_v3 : &fr_kernels_x86_v4)->of[type]);
    }
    HOLDS(fr_dispatch("x86_v3") == &fr_kernels_x86_v3);
}
#endif

int main(void)
{
    for (size_t i = 0; i < sizeof quota_cases / sizeof quota_cases[0]; ++i)
        apart(check_quota, &quota_cases[i]);
    apart(check_long_group, NULL);
    apart(check_stack_variable, NULL);
    apart(check_probes, NULL);
    apart(check_counts, NULL);
    for (int i = 0; i < 6; ++i)
        apart(check_workers, &i);
    apart(check_shares, NULL);
    for (int i = 0; i < 7; ++i)
        apart(check_threshold, &i);
#ifdef __x86_64__
    for (size_t i = 0; i < sizeof processors / sizeof processors[0]; ++i)
        apart(check_processor, &processors[i]);
    for (int i = 0; i < (int)(sizeof vendors / sizeof vendors[0]); ++i)
        apart(check_widening, &i);
#endif
    printf("good\n");
    return 0;
}
