/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One call of the library, described by bytes, judged by truth.h: any function, element types,
 * layouts, weights, levels, tiers and thread counts. Under libFuzzer (-fsanitize=fuzzer
 * -DLIBFUZZER) the bytes are its own; else they are random:
 *
 *     fuzz LEVEL CASES SEED    prints the number of cases, or the first wrong one (status 1)
 */
#define _POSIX_C_SOURCE 200112L
#include "harness.h"
#include "truth.h"

#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef __SSE2__
#    include <xmmintrin.h>
#endif

enum { MOST_ARRAYS = 3, MOST_ELEMENTS = 20000, MARK = 0xa5 };

typedef struct {
    const uint8_t *at, *end;
} source;

static uint8_t byte(source *s) { return s->at < s->end ? *s->at++ : 0; }

static uint64_t word(source *s)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; ++i)
        v |= (uint64_t)byte(s) << 8 * i;
    return v;
}

/* A weight or a factor: the usual ones, or any positive finite number. */
static double weight(source *s)
{
    static const double usual[] = {0.0,  0.0, 1.0,   0.5,  0.01,   0.1,
                                   1e-4, 3.0, 1e-30, 1e30, 1e-300, 5e-324};
    const unsigned kind = byte(s);
    if (kind < 192)
        return usual[kind % (sizeof usual / sizeof usual[0])];
    const uint64_t bits = word(s);
    const uint64_t field = kind < 224 ? 1003 + (bits >> 52) % 40 : (bits >> 52) % 2047;
    const double v = decode(FASTREG_F64, field << 52 | (bits & ((UINT64_C(1) << 52) - 1)));
    return v;
}

/* Element i of the pattern: any bits, or (other kinds) numbers that matter beside one another. */
static uint64_t element(int dtype, int kind, uint64_t bits)
{
    const unsigned width = 8 * (unsigned)item_sizes[dtype];
    if (width < 64)
        bits &= (UINT64_C(1) << width) - 1;
    if (dtype >= FASTREG_BOOL || kind == 0)
        return bits;
    const int stored = formats[dtype].precision - 1;
    const uint64_t bias = (uint64_t)formats[dtype].highest,
                   low = bits & ((UINT64_C(1) << stored) - 1);
    const uint64_t sign = bits >> (width - 1) << (width - 1),
                   field = bits >> stored & (2 * bias + 1);
    switch (kind) {
    case 1: /* near one */
        return sign | (bias - 3 + field % 6) << stored | low;
    case 2: /* few bits, zeros among them: exact ties are frequent */
        return bits % 5 == 0 ? sign
                             : sign | (bias - 2 + field % 8) << stored |
                                   (low >> (stored - 3) << (stored - 3));
    case 3: /* below the normal numbers */
        return sign | low;
    case 4: /* squares around the smallest normal number */
        return sign | (bias / 2 - 3 + field % 6) << stored | low;
    case 7: /* infinities, which any bits bring only beside NaNs */
        return sign | (field % 16 ? bias : 2 * bias + 1) << stored | (field % 16 ? low : 0);
    case 5: /* squares around the largest one */
        return sign | (bias + bias / 2 - 3 + field % 5) << stored | low;
    default: /* anything finite */
        return sign | (field % (2 * bias + 1)) << stored | low;
    }
}

typedef struct {
    int dtype, ndim, overlaps, dense, out_dense;
    ptrdiff_t shape[3], strides[3], out_strides[3];
    size_t n, room, out_room;
    unsigned char *memory, *before, *out_memory, *out_wanted;
    unsigned char *x, *out;
    double l1, l2;
} described;

/* Dense strides with the dimensions in some order, gaps between, some reversed. Returns the bytes
 * they span; *first receives where element 0 lies. */
static size_t lay_out(source *s, const described *a, ptrdiff_t *strides, ptrdiff_t *first,
                      int *dense)
{
    unsigned order = byte(s), gaps = byte(s), signs = byte(s);
    if (order >= 128) /* dense */
        order = gaps = signs = 0;
    *dense = order % 4 == 0 && gaps % 64 == 0 && signs % 8 == 0;
    ptrdiff_t step = (ptrdiff_t)item_sizes[a->dtype], low = 0, high = step;
    int axis[3] = {a->ndim - 1, a->ndim - 2, a->ndim - 3};
    if (order & 1 && a->ndim > 1) {
        const int t = axis[0];
        axis[0] = axis[1], axis[1] = t;
    }
    if (order & 2 && a->ndim > 2) {
        const int t = axis[1];
        axis[1] = axis[2], axis[2] = t;
    }
    for (int i = 0; i < a->ndim; ++i) {
        const unsigned gap = gaps >> 2 * i & 3;
        /* No gap, an odd number of bytes, or whole elements. */
        step += gap == 1 ? 1 : gap == 2 ? step : gap == 3 ? 3 * step + 5 : 0;
        strides[axis[i]] = signs >> i & 1 ? -step : step;
        if (a->shape[axis[i]] > 0) {
            const ptrdiff_t reach = (a->shape[axis[i]] - 1) * strides[axis[i]];
            *(reach < 0 ? &low : &high) += reach;
            step *= a->shape[axis[i]];
        }
    }
    *first = -low;
    return (size_t)(high - low);
}

static unsigned char *element_at(unsigned char *base, const described *a, const ptrdiff_t *strides,
                                 size_t i)
{
    for (int d = a->ndim - 1; d >= 0; --d) {
        base += (ptrdiff_t)(i % (size_t)a->shape[d]) * strides[d];
        i /= (size_t)a->shape[d];
    }
    return base;
}

static void *get_memory(size_t n)
{
    void *const p = malloc(n ? n : 1);
    if (!p)
        exit(3);
    return p;
}

static void describe_array(source *s, described *a, int must_be_float)
{
    memset(a, 0, sizeof *a);
    a->dtype = byte(s) % (must_be_float ? FLOAT_TYPES : DTYPES);
    const unsigned shape = byte(s), size = byte(s), repeat = byte(s), kind = byte(s) % 8;
    a->l1 = weight(s), a->l2 = weight(s);
    a->ndim = shape & 3;
    size_t n = size % 97;
    if (repeat >= 252)
        n = size * (repeat - 251) * 19u; /* several chunks, several shares */
    else if (repeat >= 240)
        n = size * 5u;
    if (n > MOST_ELEMENTS)
        n = MOST_ELEMENTS;
    if (a->ndim == 3 && n % 4 != 0)
        n -= n % 4;
    a->shape[0] = a->ndim == 3 ? 2 : a->ndim == 2 ? 1 + (ptrdiff_t)(shape >> 2 & 15) : (ptrdiff_t)n;
    a->shape[1] = a->ndim == 3 ? (ptrdiff_t)(n / 4)
                               : (ptrdiff_t)(n / (size_t)(a->shape[0] ? a->shape[0] : 1));
    a->shape[2] = 2;
    a->n = 1;
    for (int d = 0; d < a->ndim; ++d)
        a->n *= (size_t)a->shape[d];
    ptrdiff_t first, out_first;
    a->room = lay_out(s, a, a->strides, &first, &a->dense);
    a->out_room = lay_out(s, a, a->out_strides, &out_first, &a->out_dense);
    if (shape >= 240 && a->ndim) {
        /* One element again and again. */
        a->strides[0] = 0;
        a->overlaps = 1, a->dense = 0;
    }
    const unsigned shift = byte(s) % 64;
    a->memory = get_memory(a->room + shift), a->before = get_memory(a->room + shift);
    a->out_memory = get_memory(a->out_room), a->out_wanted = get_memory(a->out_room);
    memset(a->memory, MARK, a->room + shift);
    a->x = a->memory + shift + first, a->out = a->out_memory + out_first;
    a->room += shift;
    /* A few words of pattern, mixed with the index once they are used up. */
    uint64_t bits = 0, mix = 0;
    for (size_t i = 0; i < a->n; ++i) {
        if (s->at < s->end)
            bits = word(s);
        else {
            mix = (mix + bits + i) * UINT64_C(0x9e3779b97f4a7c15);
            bits = mix ^ mix >> 29;
        }
        put_bits(element_at(a->x, a, a->strides, i), item_sizes[a->dtype],
                 element(a->dtype, (int)kind, bits));
    }
    memcpy(a->before, a->memory, a->room);
    memset(a->out_memory, MARK, a->out_room);
    for (size_t i = 0; i < a->n; ++i)
        put_bits(element_at(a->out, a, a->out_strides, i), item_sizes[a->dtype],
                 a->dtype < FLOAT_TYPES ? element(a->dtype, (int)kind, bits * (2 * i + 1)) : 0);
    memcpy(a->out_wanted, a->out_memory, a->out_room);
}

static const char *const operations[] = {"value", "norm",      "gradient", "value_and_gradient",
                                         "prox",  "statistics"};

static void report(const char *what, int operation, const char *level, const fastreg_options *o,
                   int count, const described *arrays)
{
    printf("wrong %s of %s: level %s, tier %d, threads %d, factor %g\n", what,
           operations[operation], level, o->first_tier, o->threads, o->error_factor);
    for (int k = 0; k < count; ++k) {
        const described *const a = &arrays[k];
        printf("  array %d: dtype %d, n %zu, ndim %d, shape %td %td %td, strides %td %td %td, l1 "
               "%a, l2 %a\n",
               k, a->dtype, a->n, a->ndim, a->shape[0], a->shape[1], a->shape[2], a->strides[0],
               a->strides[1], a->strides[2], a->l1, a->l2);
    }
    (void)fflush(stdout);
    abort();
}

static int same(double a, double b)
{
    /* NaN is the canonical one. */
    const uint64_t wanted = encode(FASTREG_F64, b);
    return get_bits(&a, sizeof a) == wanted;
}

static const char *forced_level;

static int run_case(const uint8_t *data, size_t size)
{
    source s = {data, data + size};
    const int operation = byte(&s) % 6;
    const unsigned how = byte(&s), level = byte(&s), threads = byte(&s);
    const int writes = operation >= 2 && operation <= 4, accumulate = how & 1 && operation != 4;
    const int flush = how & 1, result = how >> 1 & 3,
              in_place = (how >> 3 & 3) == 3 && writes && !accumulate;
    const int count = how >> 5 == 7 ? 0 : how >> 5 == 6 ? 3 : how >> 5 == 5 ? 2 : 1;
    static const double factors[] = {0.0, 0.0, 0.0, 1.0, 0x1p20, 0x1p40, 1e300, 0.0};
    fastreg_options o = {.first_tier = (int)(level >> 2 & 3) % 3,
                         .threads = threads & 1 ? 1 + (int)(threads >> 1 & 3) : 0,
                         .bytes_per_thread = threads & 8 ? 1 + (threads >> 4) * 64u : 0,
                         .error_factor = factors[level >> 4 & 7]};
    int available = 0;
    const char *const name =
        forced_level ? forced_level : fastreg_level_name((level & 3) % 3, &available);
    o.level = forced_level || available ? name : NULL;
    /* Without options there is a shorter way. */
    const fastreg_options *const options = how == 0 || level >> 7 ? NULL : &o;
    double scale = weight(&s);
    if (writes && operation != 4) {
        const unsigned turn = byte(&s);
        if (turn % 32 == 31)
            scale = turn & 64 ? NAN : INFINITY;
        if (turn & 128)
            scale = -scale;
    }

    described arrays[MOST_ARRAYS];
    fastreg_array list[MOST_ARRAYS] = {{0}};
    fastreg_statistics rows[MOST_ARRAYS];
    static sums each[MOST_ARRAYS];
    weighted total;
    memset(&total, 0, sizeof total);
    for (int k = 0; k < count; ++k) {
        described *const a = &arrays[k];
        describe_array(&s, a, writes);
        const int same_place = in_place && !a->overlaps,
                  none = (threads >> 7) && count > 1 && k == 1;
        list[k] = (fastreg_array){.data = a->n || threads & 1 ? a->x : NULL,
                                  .shape = a->ndim ? a->shape : NULL,
                                  .strides = a->ndim && !a->dense ? a->strides : NULL,
                                  .ndim = a->ndim,
                                  .dtype = (fastreg_dtype)a->dtype,
                                  .l1 = a->l1,
                                  .l2 = a->l2};
        if (writes && !none) {
            list[k].gradient = same_place ? a->x : a->out;
            list[k].gradient_strides = same_place                 ? list[k].strides
                                       : a->ndim && !a->out_dense ? a->out_strides
                                                                  : NULL;
        }
        memset(&each[k], 0, sizeof each[k]);
        for (size_t i = 0; i < a->n; ++i) {
            const size_t item = item_sizes[a->dtype];
            unsigned char *const from =
                element_at(a->before + (a->x - a->memory), a, a->strides, i);
            const uint64_t bits = get_bits(from, item);
            feed(&each[k], a->dtype, bits);
            if (!writes || none)
                continue;
            unsigned char *const to =
                element_at(a->out_wanted + (a->out - a->out_memory), a, a->out_strides, i);
            const uint64_t old = get_bits(to, item);
            const uint64_t g =
                operation == 4
                    ? true_prox(a->dtype, bits, a->l1, a->l2, scale, flush)
                    : true_gradient(a->dtype, bits, a->l1, a->l2, scale, accumulate ? &old : NULL);
            put_bits(to, item, g);
        }
        weigh(&total, &each[k], a->l1, a->l2);
    }

    /* The caller's floating-point modes and flags: they must not matter, and must stay as they
     * are. */
    static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    const unsigned strange = byte(&s);
    if (strange & 1) {
        (void)fesetround(modes[strange >> 1 & 3]);
        (void)feraiseexcept(strange & 8 ? FE_OVERFLOW | FE_INEXACT : FE_UNDERFLOW);
    } else
        (void)feclearexcept(FE_ALL_EXCEPT);
#ifdef __SSE2__
    if (strange & 16)
        _mm_setcsr(_mm_getcsr() |
                   (strange & 32 ? 0x8040u : 0x0040u)); /* flush-to-zero, denormals-are-zero */
    const unsigned mxcsr = _mm_getcsr();
#endif
    const int flags = fetestexcept(FE_ALL_EXCEPT), mode = fegetround();

    double v = -1.0;
    fastreg_statistics together;
    fastreg_status status = FASTREG_OK;
    const fastreg_dtype type = (fastreg_dtype)result;
    const size_t n = (size_t)count;
    switch (operation) {
    case 0:
        status = fastreg_value(list, n, type, options, &v);
        break;
    case 1:
        status = fastreg_norm(list, n, type, options, &v);
        break;
    case 2:
        status = fastreg_gradient(list, n, scale, accumulate, options);
        break;
    case 3:
        status = fastreg_value_and_gradient(list, n, scale, accumulate, type, options, &v);
        break;
    case 4:
        status = fastreg_prox(list, n, scale, flush, options);
        break;
    default:
        status = fastreg_statistics_of(list, n, options, rows, &together);
    }
    int changed = flags != fetestexcept(FE_ALL_EXCEPT) || mode != fegetround();
#ifdef __SSE2__
    changed |= mxcsr != _mm_getcsr();
#endif
    (void)fesetenv(FE_DFL_ENV);
    if (changed)
        report("floating-point environment", operation, name, &o, count, arrays);
    if (status != FASTREG_OK)
        report(fastreg_status_text(status), operation, name, &o, count, arrays);
    if ((operation <= 1 || operation == 3) && !same(v, true_value(&total, operation == 1, result)))
        report("number", operation, name, &o, count, arrays);
    for (int k = 0; k < count; ++k) {
        described *const a = &arrays[k];
        const size_t item = item_sizes[a->dtype];
        if (list[k].gradient && list[k].gradient == list[k].data) {
            for (size_t i = 0; i < a->n; ++i)
                memcpy(element_at(a->before + (a->x - a->memory), a, a->strides, i),
                       element_at(a->out_wanted + (a->out - a->out_memory), a, a->out_strides, i),
                       item);
        } else if (memcmp(a->out_memory, a->out_wanted, a->out_room) != 0)
            report("element", operation, name, &o, count, arrays);
        if (memcmp(a->memory, a->before, a->room) != 0)
            report("element, or a changed input,", operation, name, &o, count, arrays);
        if (operation == 5) {
            const fastreg_statistics *const r = &rows[k], *const t = &each[k].counts;
            weighted one[2];
            memset(one, 0, sizeof one);
            weigh(&one[0], &each[k], 1.0, 0.0);
            weigh(&one[1], &each[k], 0.0, 1.0);
            if (r->n != t->n || r->zeros != t->zeros || r->subnormals != t->subnormals ||
                r->nans != t->nans || r->infs != t->infs ||
                !same(r->max_abs, t->nans ? NAN : t->max_abs))
                report("count", operation, name, &o, count, arrays);
            if (!same(r->sum_abs, true_value(&one[0], 0, FASTREG_F64)) ||
                !same(r->sum_squares, true_value(&one[1], 0, FASTREG_F64)) ||
                !same(r->norm, true_value(&one[1], 1, FASTREG_F64)))
                report("sum", operation, name, &o, count, arrays);
        }
        free(a->memory), free(a->before), free(a->out_memory), free(a->out_wanted);
    }
    if (operation == 5) {
        weighted all[2];
        memset(all, 0, sizeof all);
        for (int k = 0; k < count; ++k) {
            weigh(&all[0], &each[k], 1.0, 0.0);
            weigh(&all[1], &each[k], 0.0, 1.0);
        }
        if (!same(together.sum_abs, true_value(&all[0], 0, FASTREG_F64)) ||
            !same(together.sum_squares, true_value(&all[1], 0, FASTREG_F64)) ||
            !same(together.norm, true_value(&all[1], 1, FASTREG_F64)))
            report("total", operation, name, &o, count, arrays);
    }
    return 0;
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return run_case(data, size); }
#else
int main(int argc, char **argv)
{
    uint8_t data[600];
    if (argc != 4) {
        (void)fprintf(stderr, "usage: fuzz LEVEL CASES SEED\n");
        return 3;
    }
    forced_level = argv[1];
    /* Calls without options are of this level, too. */
    if (setenv("FASTREG_ISA", argv[1], 1) != 0)
        return 3;
    random_state = strtoull(argv[3], NULL, 10);
    const unsigned long long cases = strtoull(argv[2], NULL, 10);
    for (unsigned long long i = 0; i < cases; ++i) {
        /* Short inputs leave the rest to the mixing of the index; long ones are raw bits. */
        const size_t n = 24 + (size_t)(next() % 4 ? next() % 60 : next() % (sizeof data - 24));
        for (size_t k = 0; k < n; ++k)
            data[k] = (uint8_t)(next() >> 56);
        run_case(data, n);
    }
    printf("%llu\n", cases);
    return 0;
}
#endif
