/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the machine can do at best: loops that only load, copy, or compute g += s * x, with vectors as wide
 * as the compile flags allow. Nothing here shares code with the kernels.
 *
 * Every function does its work `reps` times, so that small sizes are not a measurement of the call.
 */
#include <stddef.h>

#if defined(__x86_64__)
#    include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { WIDTH = 64 };
#elif defined(__AVX2__)
enum { WIDTH = 32 };
#else
enum { WIDTH = 16 };
#endif

typedef long long bits __attribute__((vector_size(WIDTH), aligned(1), may_alias));
typedef float floats __attribute__((vector_size(WIDTH), aligned(1), may_alias));

enum { LINES = 8, BLOCK = LINES * WIDTH, PREFETCH = 2048, STREAMS = 4 };

typedef void part(const char *x, char *g, size_t nbytes);

static volatile long long sink;

static void use(bits v) { sink = v[0]; }

/* A store past the cache; dst is aligned to WIDTH. */
static inline void store_past(char *dst, bits v)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)dst, (__m512i)v);
#elif defined(__AVX2__)
    _mm256_stream_si256((void *)dst, (__m256i)v);
#elif defined(__x86_64__)
    _mm_stream_si128((void *)dst, (__m128i)v);
#else
    *(bits *)dst = v;
#endif
}

static void load_part(const char *x, char *g, size_t nbytes)
{
    bits a[LINES] = {{0}};
    (void)g;
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK)
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++)
            a[k] |= *(const bits *)(x + i + (size_t)k * WIDTH);
    for (int k = 1; k < LINES; k++)
        a[0] |= a[k];
    use(a[0]);
}

static void load_prefetched_part(const char *x, char *g, size_t nbytes)
{
    bits a[LINES] = {{0}};
    (void)g;
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK) {
        for (int line = 0; line < BLOCK; line += 64)
            __builtin_prefetch(x + i + PREFETCH + line, 0, 3);
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++)
            a[k] |= *(const bits *)(x + i + (size_t)k * WIDTH);
    }
    for (int k = 1; k < LINES; k++)
        a[0] |= a[k];
    use(a[0]);
}

/* Several places at once: a core follows more than one stream of lines. */
static void load_streams_part(const char *x, char *g, size_t nbytes)
{
    const size_t quarter = nbytes / STREAMS / BLOCK * BLOCK;
    bits a[STREAMS][2] = {{{0}}};
    (void)g;
    for (size_t i = 0; i + 2 * WIDTH <= quarter; i += 2 * WIDTH)
#pragma GCC unroll 4
        for (int s = 0; s < STREAMS; s++) {
            a[s][0] |= *(const bits *)(x + (size_t)s * quarter + i);
            a[s][1] |= *(const bits *)(x + (size_t)s * quarter + i + WIDTH);
        }
    for (int s = 0; s < STREAMS; s++)
        a[0][0] |= a[s][0] | a[s][1];
    use(a[0][0]);
    load_part(x + STREAMS * quarter, g, nbytes - STREAMS * quarter);
}

static void copy_part(const char *x, char *g, size_t nbytes)
{
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK)
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++)
            *(bits *)(g + i + (size_t)k * WIDTH) = *(const bits *)(x + i + (size_t)k * WIDTH);
}

static void copy_past_part(const char *x, char *g, size_t nbytes)
{
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK)
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++)
            store_past(g + i + (size_t)k * WIDTH, *(const bits *)(x + i + (size_t)k * WIDTH));
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

static void copy_past_prefetched_part(const char *x, char *g, size_t nbytes)
{
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK) {
        for (int line = 0; line < BLOCK; line += 64)
            __builtin_prefetch(x + i + PREFETCH + line, 0, 3);
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++)
            store_past(g + i + (size_t)k * WIDTH, *(const bits *)(x + i + (size_t)k * WIDTH));
    }
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

static inline floats triad_step(const char *x, const char *g)
{
    const floats s = (floats){0} + 0.0009765625f;
    return *(const floats *)g + s * *(const floats *)x;
}

static void triad_part(const char *x, char *g, size_t nbytes)
{
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK)
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++) {
            const size_t at = i + (size_t)k * WIDTH;
            *(floats *)(g + at) = triad_step(x + at, g + at);
        }
}

static void triad_past_part(const char *x, char *g, size_t nbytes)
{
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK)
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++) {
            const size_t at = i + (size_t)k * WIDTH;
            store_past(g + at, (bits)triad_step(x + at, g + at));
        }
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

static void triad_prefetched_part(const char *x, char *g, size_t nbytes)
{
    for (size_t i = 0; i + BLOCK <= nbytes; i += BLOCK) {
        for (int line = 0; line < BLOCK; line += 64) {
            __builtin_prefetch(x + i + PREFETCH + line, 0, 3);
            __builtin_prefetch(g + i + PREFETCH + line, 1, 3);
        }
#pragma GCC unroll 8
        for (int k = 0; k < LINES; k++) {
            const size_t at = i + (size_t)k * WIDTH;
            *(floats *)(g + at) = triad_step(x + at, g + at);
        }
    }
}

/* Thread t takes one contiguous share, cut at pages. x and g start on a page. */
static void run(part *f, const char *x, char *g, size_t nbytes, size_t reps, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        const size_t pages = (nbytes + 4095) / 4096, n = (size_t)threads;
        const size_t first = pages * (size_t)t / n * 4096;
        const size_t last = pages * ((size_t)t + 1) / n * 4096;
        const size_t end = last < nbytes ? last : nbytes;
        for (size_t r = 0; r < reps; r++) {
            f(x + first, g ? g + first : g, end - first);
            __asm__ volatile("" ::: "memory");
        }
    }
}

#define LIMIT(name)                                                                                \
    void limit_##name(const char *x, char *g, size_t nbytes, size_t reps, int threads)             \
    {                                                                                              \
        run(name##_part, x, g, nbytes, reps, threads);                                             \
    }

LIMIT(load)
LIMIT(load_prefetched)
LIMIT(load_streams)
LIMIT(copy)
LIMIT(copy_past)
LIMIT(copy_past_prefetched)
LIMIT(triad)
LIMIT(triad_past)
LIMIT(triad_prefetched)
