/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Runs every kernel on arrays that end, or begin, where an unreadable page does. A read or a write
 * of one byte too many is a fault: unlike sanitizers this sees masked loads too. Inputs are mapped
 * read-only, and what surrounds an output is compared. Compiled with the library by
 * test_guard_pages.py.
 *
 *     guard LEVEL [LONGEST]     prints the number of cases, or what was wrong (status 1)
 */
#define _GNU_SOURCE
#include "dispatch.h"
#include "fastreg.h"
#include "harness.h"
#include "kernels/kernels.h"
#include "host.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, ROOM = 8 * PAGE, CANARY = 64, MARK = 0xa5, DTYPES = 13, BASELINES = 4 };
static const size_t items[DTYPES] = {2, 2, 4, 8, 1, 1, 1, 2, 2, 4, 4, 8, 8};
static const char *const names[DTYPES] = {"f16", "bf16", "f32", "f64", "bool", "i8", "u8",
                                          "i16", "u16",  "i32", "u32", "i64",  "u64"};

static unsigned long long cases;
static volatile struct {
    const char *what, *level;
    int dtype, back, tier;
    size_t n, gap;
    long step;
} now;

static void describe(const char *problem)
{
    char line[256];
    const int k = snprintf(
        line, sizeof line,
        "%s: %s, level %s, dtype %s, n %zu, %s page, %zu bytes away, stride %ld, tier %d\n",
        problem, now.what, now.level, names[now.dtype], now.n, now.back ? "before a" : "after a",
        now.gap, now.step, now.tier);
    if (write(1, line, (size_t)k) < 0)
        _exit(3);
}

static void on_fault(int signal)
{
    describe(signal == SIGSEGV ? "touched a byte outside" : "bus error or illegal instruction");
    _exit(1);
}

static void fail(const char *problem)
{
    describe(problem);
    exit(1);
}

/* ROOM bytes between two unreadable pages. */
static unsigned char *guarded(size_t room)
{
    unsigned char *p = mmap(NULL, room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + PAGE, room, PROT_READ | PROT_WRITE) != 0) {
        perror("mmap");
        exit(3);
    }
    return p + PAGE;
}

static void protect(unsigned char *p, size_t room, int writable)
{
    if (mprotect(p, room, writable ? PROT_READ | PROT_WRITE : PROT_READ) != 0) {
        perror("mprotect");
        exit(3);
    }
}

/* Finite elements of any sign, some of them zero or subnormal; any bits for integers. */
static void fill(unsigned char *p, size_t n, int dtype)
{
    for (size_t i = 0; i < n; ++i, p += items[dtype]) {
        uint64_t r = next();
        const int rare = (r >> 59) == 0;
        if (dtype == FASTREG_F64) {
            const double v = (rare ? 0.0 : (double)(int64_t)r * 0x1p-60);
            memcpy(p, &v, sizeof v);
        } else if (dtype == FASTREG_F32) {
            const float v = (float)(rare ? 0.0 : (double)(int64_t)r * 0x1p-60);
            memcpy(p, &v, sizeof v);
        } else if (dtype <= FASTREG_BF16) {
            const uint16_t sign = (uint16_t)(r & 0x8000), low = (uint16_t)(r >> 20);
            const uint16_t v = dtype == FASTREG_F16
                                   ? (uint16_t)(sign | (rare ? low & 0x3ff : low % 0x4400))
                                   : (uint16_t)(sign | (rare ? 0 : 0x3c00 + low % 0x0600));
            memcpy(p, &v, sizeof v);
        } else
            memcpy(p, &r, items[dtype]);
    }
}

static int same(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

/* -- Every kernel of the table, dense ---------------------------------------------------------- */

static void check_output(const unsigned char *room, const unsigned char *out, size_t nbytes,
                         const unsigned char *wanted)
{
    const unsigned char *const end = out + nbytes;
    if (memcmp(out, wanted, nbytes) != 0)
        fail("wrong gradient");
    for (int i = 1; i <= CANARY && out - i >= room; ++i)
        if (out[-i] != MARK)
            fail("wrote before the output");
    for (int i = 0; i < CANARY && end + i < room + ROOM; ++i)
        if (end[i] != MARK)
            fail("wrote behind the output");
}

/* What the baseline's kernels write for one input: of two slopes, of which the second lets f32
 * lanes try. */
typedef struct {
    fr_slope slope[2];
    fr_shrinkage shrinkage;
    unsigned char *fresh[2], *added[2], *shrunk;
} expected;

static void expect(expected *e, const fr_float_kernels *baseline, const unsigned char *x, size_t n,
                   size_t item)
{
    for (int i = 0; i < 2; ++i) {
        baseline->gradient[FR_STORE_fresh](x, e->fresh[i], n, &e->slope[i]);
        memset(e->added[i], MARK, n * item);
        baseline->gradient[FR_STORE_accumulated](x, e->added[i], n, &e->slope[i]);
    }
    baseline->prox(x, e->shrunk, n, &e->shrinkage);
}

static void sweep_sums(const fr_float_kernels *k, const unsigned char *x, size_t n)
{
    fr_sum sum[2];
    for (int p = 0; p < FR_PENALTY_COUNT; ++p) {
        double anchor[2] = {0.0, 0.0};
        now.what = "plain sum";
        k->plain[p](x, n, sum);
        now.what = "narrow sum";
        k->narrow[p](x, n, sum);
        now.what = "anchored sum";
        if (!k->anchored[p](x, n, anchor, sum))
            fail("no sum");
        cases += 3;
    }
    double anchor[2] = {0.0, 0.0};
    fr_counts counts = {0};
    now.what = "statistics";
    if (!k->statistics(x, n, anchor, sum, &counts))
        fail("no sum");
    ++cases;
}

static void mark_around(unsigned char *room, unsigned char *out, size_t nbytes)
{
    unsigned char *const from = out - room > CANARY ? out - CANARY : room;
    unsigned char *const end = out + nbytes + CANARY;
    memset(from, MARK, (size_t)((end < room + ROOM ? end : room + ROOM) - from));
}

/* Kernels that write, at `o` within `out`; what they should is `skip` bytes into what is
 * expected. */
static void sweep_stores(const fr_float_kernels *k, const unsigned char *x, size_t n, size_t item,
                         unsigned char *out, unsigned char *o, const expected *e, size_t skip)
{
    static const char *const gradients[] = {"gradient", "streamed gradient",
                                            "accumulated gradient"};
    static const char *const boths[] = {"sums and gradient", "sums and streamed gradient",
                                        "sums and accumulated gradient"};
    const size_t nbytes = n * item;
    for (int store = 0; store < FR_STORE_COUNT; ++store) {
        unsigned char *const *const wanted = store == FR_STORE_accumulated ? e->added : e->fresh;
        for (int i = 0; i < 2; ++i) {
            now.what = gradients[store];
            mark_around(out, o, nbytes);
            k->gradient[store](x, o, n, &e->slope[i]);
            check_output(out, o, nbytes, wanted[i] + skip);
            ++cases;
        }
        for (int p = 0; p < FR_PENALTY_COUNT; ++p) {
            /* What they ask of their callers. */
            if (!k->both[p][store] || (store == FR_STORE_streamed && (uintptr_t)o % 64) ||
                p != e->slope[0].terms)
                continue;
            fr_sum sum[2];
            double anchor[2] = {0.0, 0.0};
            now.what = boths[store];
            mark_around(out, o, nbytes);
            if (!k->both[p][store](x, o, n, anchor, sum, &e->slope[0]))
                fail("no sum");
            check_output(out, o, nbytes, wanted[0] + skip);
            ++cases;
        }
    }
    now.what = "prox";
    mark_around(out, o, nbytes);
    k->prox(x, o, n, &e->shrinkage);
    check_output(out, o, nbytes, e->shrunk + skip);
    ++cases;
}

static void sweep_kernels(const char *level, size_t longest)
{
    const fr_kernels *const kernels = fr_dispatch(level), *const baseline = fr_dispatch("baseline");
    unsigned char *const in = guarded(ROOM), *const out = guarded(ROOM);
    unsigned char *const copy = malloc(ROOM), *const rooms = malloc((size_t)5 * ROOM);
    expected e = {.shrinkage = {0.25, 1.5, 0}};
    for (int i = 0; i < 2; ++i)
        e.fresh[i] = rooms + (size_t)i * ROOM, e.added[i] = rooms + (size_t)(2 + i) * ROOM;
    e.shrunk = rooms + (size_t)4 * ROOM;
    for (int dtype = 0; dtype < BASELINES; ++dtype)
        for (int back = 0; back < 2; ++back)
            for (size_t gap = 0; gap < 64; ++gap) {
                const size_t item = items[dtype], most = gap ? FR_MIN(longest, 700) : longest;
                /* Both terms next to the page, else one or the other: two are slow where there is
                 * no FMA. */
                e.slope[1] =
                    fr_slope_of(gap % 2 ? 0.0 : 0.01, gap && gap % 2 == 0 ? 0.0 : 0.15, 1.0);
                e.slope[0] = e.slope[1];
                e.slope[0].narrow = 0;
                unsigned char *const first = back ? in + ROOM - gap - most * item : in + gap;
                protect(in, ROOM, 1);
                fill(first, most, dtype);
                protect(in, ROOM, 0);
                memcpy(copy, first, most * item);
                expect(&e, baseline->of[dtype], copy, most, item);
                now.level = level, now.dtype = dtype, now.back = back, now.gap = gap, now.tier = -1;
                now.step = (long)item;
                /* Every length; the output at the same guard, but aligned otherwise. */
                const size_t other = gap * 5 % 64;
                for (size_t n = 0; n <= most; ++n) {
                    const size_t skip = back ? (most - n) * item : 0;
                    unsigned char *const o = back ? out + ROOM - other - n * item : out + other;
                    now.n = n;
                    sweep_sums(kernels->of[dtype], first + skip, n);
                    sweep_stores(kernels->of[dtype], first + skip, n, item, out, o, &e, skip);
                }
            }
    free(copy), free(rooms);
}

/* -- Every call of the interface, dense and strided, every element type and tier --------------- */

static void sweep_calls(const char *level)
{
    static const ptrdiff_t factors[] = {1, -1, 2, -2, 3, -5, 0};
    static const double weights[][2] = {{0.3, 0.0}, {0.0, 0.7}, {0.3, 0.7}};
    unsigned char *const in = guarded(ROOM), *const out = guarded(ROOM);
    unsigned char *const dense = malloc(ROOM), *const wanted = malloc(ROOM);
    for (int dtype = 0; dtype < DTYPES; ++dtype)
        for (size_t f = 0; f < sizeof factors / sizeof factors[0]; ++f)
            for (int back = 0; back < 2; ++back)
                for (ptrdiff_t n = 0; n <= 1100; n += n < 70 ? 1 : n < 1000 ? 311 : 24) {
                    const size_t item = items[dtype];
                    /* An odd step on top, so that elements are misaligned too. */
                    const ptrdiff_t factor = factors[f], odd = factor > 2 || factor < -2;
                    const ptrdiff_t step = factor * (ptrdiff_t)item + odd;
                    const ptrdiff_t reach =
                        n ? (step < 0 ? -step : step) * (n - 1) + (ptrdiff_t)item : 0;
                    if (reach > ROOM)
                        continue;
                    unsigned char *const low = back ? in + ROOM - reach : in;
                    unsigned char *const x = step < 0 && n ? low - step * (n - 1) : low;
                    unsigned char *const glow = back ? out + ROOM - reach : out;
                    unsigned char *const g = step < 0 && n ? glow - step * (n - 1) : glow;
                    protect(in, ROOM, 1);
                    fill(dense, (size_t)n, dtype);
                    for (ptrdiff_t i = 0; i < n; ++i)
                        memcpy(x + i * step, dense + i * (ptrdiff_t)item, item);
                    for (ptrdiff_t i = 0; i < n; ++i) /* zero and crossing strides overwrite */
                        memcpy(dense + i * (ptrdiff_t)item, x + i * step, item);
                    protect(in, ROOM, 0);
                    now.level = level, now.dtype = dtype, now.back = back, now.gap = 0;
                    now.n = (size_t)n, now.step = step;
                    /* One dimension, or two that do not join. */
                    const ptrdiff_t shape[2] = {n % 7 ? 1 : 7, n % 7 ? n : n / 7};
                    const ptrdiff_t strides[2] = {shape[1] * step, step};
                    fastreg_array a = {.data = x,
                                       .shape = shape,
                                       .strides = strides,
                                       .ndim = 2,
                                       .dtype = (fastreg_dtype)dtype};
                    fastreg_array b = {
                        .data = dense, .shape = &n, .ndim = 1, .dtype = (fastreg_dtype)dtype};
                    for (int w = 0; w < 3; ++w) {
                        a.l1 = b.l1 = weights[w][0], a.l2 = b.l2 = weights[w][1];
                        for (int root = 0; root < 2; ++root) {
                            fastreg_options exact = {.level = "baseline", .first_tier = 2};
                            double truth, v;
                            (root ? fastreg_norm : fastreg_value)(&b, 1, FASTREG_F64, &exact,
                                                                  &truth);
                            for (int tier = 0; tier < 3; ++tier) {
                                const fastreg_options o = {.level = level,
                                                           .first_tier = tier,
                                                           .threads = 3,
                                                           .bytes_per_thread = 1};
                                now.what = root ? "norm" : "value", now.tier = tier;
                                if ((root ? fastreg_norm : fastreg_value)(&a, 1, FASTREG_F64, &o,
                                                                          &v))
                                    fail("no value");
                                if (!same(v, truth))
                                    fail("wrong value");
                                ++cases;
                            }
                        }
                    }
                    if (dtype >= BASELINES || step == 0)
                        continue;
                    for (int accumulate = 0; accumulate < 2; ++accumulate) {
                        const fastreg_options o = {
                            .level = level, .threads = 3, .bytes_per_thread = 1};
                        memset(wanted, MARK, (size_t)n * item);
                        memset(out, MARK, ROOM);
                        a.gradient = g, a.gradient_strides = strides, b.gradient = wanted;
                        now.what = accumulate ? "strided accumulated gradient" : "strided gradient";
                        now.tier = 0;
                        const fastreg_options base = {.level = "baseline"};
                        double v = 0.0, u = 0.0;
                        if (fastreg_gradient(&b, 1, 0.5, accumulate, &base) ||
                            fastreg_value_and_gradient(&a, 1, 0.5, accumulate, FASTREG_F32, &o,
                                                       &v) ||
                            fastreg_value(&b, 1, FASTREG_F32, &base, &u))
                            fail("no gradient");
                        if (!same(u, v))
                            fail("wrong value beside a gradient");
                        /* Take the elements out, then nothing but the mark may be left. */
                        for (ptrdiff_t i = 0; i < n; ++i) {
                            if (memcmp(g + i * step, wanted + i * (ptrdiff_t)item, item) != 0)
                                fail("wrong gradient");
                            memset(g + i * step, MARK, item);
                        }
                        for (size_t i = 0; i < ROOM; ++i)
                            if (out[i] != MARK)
                                fail("wrote between or beside the elements");
                        a.gradient = b.gradient = NULL;
                        cases += 2;
                    }
                }
    free(dense), free(wanted);
}

/* -- Outputs so large that stores go past the cache -------------------------------------------- */

static void sweep_streamed(const char *level)
{
    /* Bytes between the output and the page behind or before it: lines that start late, or never
     * do. The last two only for the types whose conversion is fast on every level. */
    static const struct {
        int back;
        size_t gap;
    } places[] = {{1, 0}, {0, 62}, {1, 8}, {0, 1}};
    const size_t nbytes = fr_host_stream_threshold() + 12345 * 8,
                 room = (nbytes + 2 * PAGE) & ~(size_t)(PAGE - 1);
    unsigned char *const in = guarded(room), *const out = guarded(room);
    for (int dtype = 0; dtype < BASELINES; ++dtype) {
        const size_t item = items[dtype];
        const ptrdiff_t n = (ptrdiff_t)(nbytes / item);
        unsigned char *const x = in + room - (size_t)n * item;
        protect(in, room, 1);
        /* One page of numbers, repeated with an odd period. */
        fill(x, 4099, dtype);
        for (size_t done = 4099 * item; done < (size_t)n * item; done *= 2)
            memcpy(x + done, x, FR_MIN(done, (size_t)n * item - done));
        protect(in, room, 0);
        unsigned char period[4099 * 8];
        const ptrdiff_t few = 4099;
        fastreg_options o = {.level = level, .threads = 3};
        fastreg_array small = {.data = x,
                               .gradient = period,
                               .shape = &few,
                               .ndim = 1,
                               .dtype = (fastreg_dtype)dtype,
                               .l1 = dtype % 2 ? 0.01 : 0.0,
                               .l2 = 0.3};
        if (fastreg_gradient(&small, 1, 1.0, 0, &o))
            fail("no gradient");
        for (int s = 0; s < (item == 2 ? 2 : 4); ++s) {
            const int back = places[s].back;
            const size_t shift = places[s].gap;
            unsigned char *const g = back ? out + room - shift - (size_t)n * item : out + shift;
            unsigned char *const end = g + (size_t)n * item;
            now.what = "large gradient", now.level = level, now.dtype = dtype, now.back = back;
            now.gap = shift, now.n = (size_t)n, now.step = (long)item, now.tier = 0;
            memset(out, MARK, room);
            fastreg_array a = small;
            a.gradient = g, a.shape = &n;
            /* Beside a value the chunks are shorter. */
            double v, u;
            if (s == 1 ? fastreg_value_and_gradient(&a, 1, 1.0, 0, FASTREG_F32, &o, &v)
                       : fastreg_gradient(&a, 1, 1.0, 0, &o))
                fail("no gradient");
            if (s == 1 && (fastreg_value(&a, 1, FASTREG_F32, &o, &u) || !same(u, v)))
                fail("wrong value beside a gradient");
            for (unsigned char *p = g; p < end; p += few * (ptrdiff_t)item)
                if (memcmp(p, period, FR_MIN((size_t)few * item, (size_t)(end - p))) != 0)
                    fail("wrong gradient");
            for (unsigned char *p = out; p < g; ++p)
                if (*p != MARK)
                    fail("wrote before the output");
            for (unsigned char *p = end; p < out + room; ++p)
                if (*p != MARK)
                    fail("wrote behind the output");
            ++cases;
        }
    }
}

/* -- What describes the arrays: list, extents, strides, options, read-only and next to a page -- */

/* n bytes at the end of a room. */
static void *last(unsigned char *room, size_t n) { return room + PAGE - n; }

static void sweep_lists(const char *level)
{
    enum { MOST = 9, ROOMS = 6 };
    static const float x[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    unsigned char *rooms[ROOMS];
    for (int i = 0; i < ROOMS; ++i)
        rooms[i] = guarded(PAGE);
    now.level = level, now.dtype = FASTREG_F32, now.back = 1, now.gap = 0, now.step = 4;
    for (size_t count = 0; count < MOST; ++count)
        for (int ndim = 0; ndim < 4; ++ndim)
            for (int threads = 1; threads < 4; threads += 2)
                for (int tier = 0; tier < 3; ++tier) {
                    float out[MOST][12];
                    fastreg_array *const list = last(rooms[0], count * sizeof *list);
                    const size_t extents = (size_t)ndim * sizeof(ptrdiff_t);
                    ptrdiff_t *const shape = last(rooms[1], extents),
                                     *const strides = last(rooms[2], extents),
                                     *const steps = last(rooms[3], extents);
                    fastreg_options *const o = last(rooms[4], sizeof *o);
                    fastreg_statistics *const rows = last(rooms[5], count * sizeof *rows);
                    for (int i = 0; i < ROOMS - 1; ++i)
                        protect(rooms[i], PAGE, 1);
                    ptrdiff_t n = 1;
                    for (int d = 0; d < ndim; ++d) {
                        static const ptrdiff_t counts[] = {3, 2, 2};
                        shape[d] = counts[d], strides[d] = n * 4, steps[d] = n * 4;
                        n *= counts[d];
                    }
                    for (size_t k = 0; k < count; ++k)
                        list[k] = (fastreg_array){.data = x,
                                                  .gradient = out[k],
                                                  .shape = shape,
                                                  .strides = k % 3 == 1 ? NULL : strides,
                                                  .gradient_strides = k % 3 == 1 ? NULL : steps,
                                                  .ndim = ndim,
                                                  .dtype = FASTREG_F32,
                                                  .l1 = k % 2 ? 0.5 : 0.0,
                                                  .l2 = 0.25};
                    *o = (fastreg_options){.level = level,
                                           .threads = threads,
                                           .bytes_per_thread = 1,
                                           .first_tier = tier};
                    for (int i = 0; i < ROOMS - 1; ++i)
                        protect(rooms[i], PAGE, 0);
                    double wanted = 0.0, v = -1.0, u = -1.0;
                    for (size_t k = 0; k < count; ++k)
                        for (ptrdiff_t i = 0; i < n; ++i)
                            wanted +=
                                list[k].l1 * (double)x[i] + 0.25 * (double)x[i] * (double)x[i];
                    now.what = "list", now.n = count, now.tier = tier;
                    if (fastreg_value(list, count, FASTREG_F64, o, &v) || !same(v, wanted) ||
                        fastreg_norm(list, count, FASTREG_F32, o, &u) ||
                        fastreg_value_and_gradient(list, count, 1.0, 0, FASTREG_F64, o, &v) ||
                        !same(v, wanted) || fastreg_gradient(list, count, 1.0, 1, o) ||
                        fastreg_prox(list, count, 1.0, 0, o) ||
                        fastreg_statistics_of(list, count, o, rows, NULL))
                        fail("wrong value of a list");
                    for (size_t k = 0; k < count; ++k)
                        if (rows[k].n != (unsigned long long)n)
                            fail("wrong row");
                    cases += 6;
                }
}

/* Sums that overflow, so that the elements are looked at one by one for infinities. */
static void sweep_overflow(const char *level)
{
    unsigned char *const in = guarded(PAGE);
    now.what = "overflow", now.level = level, now.dtype = FASTREG_F64, now.back = 1, now.gap = 0;
    now.step = 8;
    for (int infinite = 0; infinite < 2; ++infinite)
        for (ptrdiff_t n = 2; n < 70; ++n) {
            double *const x = last(in, (size_t)n * sizeof *x), v = 0.0;
            protect(in, PAGE, 1);
            for (ptrdiff_t i = 0; i < n; ++i)
                x[i] = infinite && i == n - 1 ? HUGE_VAL : 0x1.fp1023;
            protect(in, PAGE, 0);
            fastreg_array a = {
                .data = x, .shape = &n, .ndim = 1, .dtype = FASTREG_F64, .l1 = 0x1p-8};
            for (int tier = 0; tier < 3; ++tier) {
                const fastreg_options o = {.level = level, .first_tier = tier};
                now.n = (size_t)n, now.tier = tier;
                if (fastreg_value(&a, 1, FASTREG_F64, &o, &v) ||
                    !same(v, infinite ? HUGE_VAL : (double)n * 0x1.fp1015))
                    fail("wrong value");
                ++cases;
            }
        }
}

int main(int argc, char **argv)
{
    if (argc < 2 || !fr_dispatch(argv[1])) {
        (void)fprintf(stderr, "usage: guard LEVEL [LONGEST]; LEVEL one that this machine has\n");
        return 3;
    }
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    signal(SIGILL, on_fault);
    now.what = "nothing yet", now.level = argv[1];
    sweep_kernels(argv[1], argc > 2 ? (size_t)atoi(argv[2]) : 600);
    sweep_calls(argv[1]);
    sweep_streamed(argv[1]);
    sweep_lists(argv[1]);
    sweep_overflow(argv[1]);
    printf("%llu\n", cases);
    return 0;
}
