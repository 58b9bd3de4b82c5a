/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Near-ties: arrays whose exact result lies on the midpoint between two numbers of the result type,
 * one unit of the last bit of the exact sum beside it, or beside it by a term some 2^-100 smaller.
 * Whoever rounds twice, or drops a bit, misrounds about half of them. The right answer is known by
 * construction.
 *
 *     ties LEVEL CASES SEED    CASES for each operation, element type and result type; prints one
 *                              line for each: cases, misroundings. Status 1 if there is any
 *                              misrounding
 */
#include "harness.h"
#include "truth.h"

#include <stdio.h>
#include <stdlib.h>

__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 i128;

enum { MOST = 3000 };

static unsigned below(unsigned n) { return (unsigned)(next() >> 33) % n; }

static int width(u128 n)
{
    const uint64_t high = (uint64_t)(n >> 64);
    int w = high ? 64 : 0;
    for (uint64_t m = high ? high : (uint64_t)n; m; m >>= 1)
        ++w;
    return w;
}

static u128 root_floor(u128 n)
{
    const double d = sqrt((double)(uint64_t)(n >> 64) * 0x1p64 + (double)(uint64_t)n);
    uint64_t r64 = (uint64_t)d;
    if (r64 > 1) { /* one step of Newton's, from 52 bits to all */
        const i128 rest = (i128)(n - (u128)r64 * r64);
        r64 = (uint64_t)((i128)r64 + (int64_t)((double)rest / (2.0 * d)));
    }
    u128 r = r64;
    while (r * r > n)
        --r;
    while ((r + 1) * (r + 1) <= n)
        ++r;
    return r;
}

/* The most significant `bits` bits of n. */
static u128 truncated(u128 n, int bits)
{
    const int extra = width(n) - bits;
    return extra > 0 ? n >> extra << extra : n;
}

/* Integers of at most `bits` bits, below 2^most, whose squares (power 2) or themselves add up to n.
 * The first ones are any that fit, so that all cases differ; the rest the largest that fit. Returns
 * how many, 0 if there is no room. */
static int split(u128 n, int power, int bits, int most, u128 *parts)
{
    int count = 0;
    /* In one case of 256 many, so that the errors of ordinary additions have where to grow. */
    const int random = below(256) ? (int)below(4) : (int)below(2000);
    const uint64_t alike = below(2) ? next() : 0;
    while (n) {
        if (count == random + 200)
            return 0;
        u128 r = power == 2 ? root_floor(n) : n;
        if (count < random && r > 64)
            r = 1 + (alike && count
                         ? parts[0] - 1
                         : next() %
                               (uint64_t)(r > UINT64_MAX ? UINT64_MAX : r / (random > 4 ? 32 : 1)));
        if (power == 2 ? r * r > n : r > n)
            r = power == 2 ? root_floor(n) : n;
        if (width(r) > most)
            r = ((u128)1 << most) - 1;
        r = truncated(r, bits);
        parts[count++] = r;
        n -= power == 2 ? r * r : r;
    }
    return count;
}

typedef struct {
    unsigned char bytes[MOST * 8];
    ptrdiff_t n;
} array;

/* Append m * 2^e; 0 if the type does not have it. */
static int append(array *a, int dtype, u128 m, int e)
{
    const double v = ldexp((double)(uint64_t)m, e);
    if (m >> 64 || m == 0 || e < formats[dtype].lowest || e + width(m) > formats[dtype].highest ||
        width(truncated(m, formats[dtype].precision) ^ m))
        return 0;
    put_bits(a->bytes + (size_t)a->n * item_sizes[dtype], item_sizes[dtype],
             encode(dtype, next() & 1 ? v : -v));
    ++a->n;
    return 1;
}

/* Exchange elements at random: the last ones would otherwise be the small ones. */
static void shuffle(array *a, int dtype)
{
    const size_t item = item_sizes[dtype];
    for (ptrdiff_t i = a->n - 1; i > 0; --i) {
        unsigned char *const p = a->bytes + (size_t)i * item;
        unsigned char *const q = a->bytes + below((unsigned)i + 1) * item;
        const uint64_t x = get_bits(p, item), y = get_bits(q, item);
        put_bits(p, item, y), put_bits(q, item, x);
    }
}

enum { SUM_SQUARES, SUM_ABS, L2_LOSS, NORM, VALUE, OPERATIONS };
static const char *const names[OPERATIONS] = {"sum_squares", "sum_abs", "l2_loss", "norm", "value"};
static const char *const types[FLOAT_TYPES] = {"f16", "bf16", "f32", "f64"};

static const char *level;
static unsigned long long tiers[3];

/* One case; 0 if these draws make none, 1 if right, -1 if wrong. */
static int one_case(int operation, int dtype, int result)
{
    const int p = formats[result].precision, q = formats[dtype].precision;
    const int power = operation == SUM_ABS ? 1 : 2;
    const uint64_t m = (UINT64_C(1) << (p - 1)) | (next() >> (65 - p));
    int d = (int)below(3) - 1, count;
    /* The midpoint has k bits below the last one of the result. */
    int k = 1 + (int)below(operation == NORM ? 3 : (unsigned)(116 - p > 60 ? 60 : 116 - p));
    u128 n = (u128)(2 * m + 1) << (k - 1), parts[MOST];
    int unit = k; /* the result is m * 2^unit, in units of the elements' integer sum */
    if (operation == NORM) {
        /* (2 m + 1)^2 in units of the square of half a unit, times 4^(k - 1). */
        if (2 * (p + k) > 118)
            return 0;
        n *= n;
    }
    n = d < 0 ? n - 1 : d > 0 ? n + 1 : n;
    /* Elements are integers times 2^j. They must fit between the smallest and the largest of the
     * type. */
    const int span = formats[dtype].highest - formats[dtype].lowest - 1;
    int j = formats[dtype].lowest + (int)below((unsigned)(span > 60 ? 60 : span / 2 + 1));
    const int bits = operation == NORM ? (width(n) + 1) / 2 : width(n);
    if (span > 100) {
        /* Anywhere in the result's range that is not far from one. */
        const int low = formats[result].lowest + 2 * p, high = formats[result].highest;
        const int from = low < -60 ? -60 : low, to = high > 60 ? 60 : high;
        j = (from + (int)below((unsigned)(to - from + 1)) - bits) / (operation == NORM ? 1 : power);
    }
    /* The sum must round to a normal number of the result's range. */
    const int top = bits + (operation == NORM ? 1 : power) * j;
    if (top > formats[result].highest || top - p < formats[result].lowest + p)
        return 0;
    const int most = formats[dtype].highest - j;
    static array a, b;
    a.n = b.n = 0;
    double l1 = power == 1 ? 1.0 : 0.0, l2 = power == 1 ? 0.0 : operation == L2_LOSS ? 0.5 : 1.0;
    if (most < 1)
        return 0;
    if (operation == VALUE) {
        /* A few elements under odd weights, and an array of squares that brings the total to n. */
        const unsigned w1 = 1 + below(255), w2 = 1 + below(255);
        u128 rest = n;
        for (int i = (int)below(4); i > 0; --i) {
            const u128 r = (1 + next() % 0xffff) & ((UINT64_C(1) << (q < most ? q : most)) - 1);
            if (r && r * w1 + r * r * w2 <= rest && append(&b, dtype, r, j))
                rest -= r * w1 + r * r * w2;
        }
        /* l1 |x| = w1 4^j r for x = r 2^j. */
        l1 = ldexp(w1, j), l2 = w2;
        n = rest;
    }
    count = split(n, power, q, most, parts);
    if (!count && n)
        return 0;
    for (int i = 0; i < count; ++i)
        if (!append(&a, dtype, parts[i], j))
            return 0;
    const int tail = (operation == VALUE || d == 0) && below(2) ? 1 + (int)below(150) : 0;
    if (tail && d == 0 && j - tail >= formats[dtype].lowest && append(&a, dtype, 1, j - tail))
        d = 1;
    shuffle(&a, dtype);
    if (d < 0 && operation != VALUE && below(16) == 0) {
        /* Fill the missing unit but for its last bit, far below: a long run of ones. Then perhaps
         * that bit too, which carries through all of them. */
        const int t = 1 + (int)below(70);
        if (j - t >= formats[dtype].lowest) {
            for (int i = 1; i <= t; ++i)
                for (int copies = power == 2 ? 3 : 1; copies; --copies)
                    if (!append(&a, dtype, 1, j - i))
                        return 0;
            if (below(2)) {
                if (!append(&a, dtype, 1, j - t))
                    return 0;
                d = 0;
            }
        }
    }
    const double up = d > 0 || (d == 0 && (m & 1));
    double want = ldexp((double)m + up, unit + power * j - (operation == L2_LOSS));
    if (operation == NORM)
        want = ldexp((double)m + up, k + j);
    if (want > ldexp(2.0 - ldexp(1.0, 1 - p), formats[result].highest))
        want = INFINITY;
    fastreg_array list[2] = {
        {.data = a.bytes, .shape = &a.n, .ndim = 1, .dtype = (fastreg_dtype)dtype},
        {.data = b.bytes, .shape = &b.n, .ndim = 1, .dtype = (fastreg_dtype)dtype}};
    list[0].l1 = operation == VALUE ? 0.0 : l1, list[0].l2 = operation == VALUE ? 1.0 : l2;
    list[1].l1 = l1, list[1].l2 = l2;
    int tier = 0;
    const fastreg_options o = {.level = level, .tier = &tier};
    double v = -1.0;
    const fastreg_status s = (operation == NORM ? fastreg_norm : fastreg_value)(
        list, operation == VALUE ? 2 : 1, (fastreg_dtype)result, &o, &v);
    ++tiers[tier];
    return s == FASTREG_OK && v == want ? 1 : -1;
}

/* f64 factors whose product is one unit of its last bit below a midpoint, which is 2^-k of it: an
 * addend of about that unit decides by bits that lie far below both. */
static void far_apart(double *x, double *slope, double *step)
{
    for (;;) {
        const int k = 24 + (int)below(29);
        const uint64_t a = UINT64_C(1) << 52 | next() >> 12 | 1, unit = UINT64_C(1) << k;
        uint64_t inverse = a; /* of a modulo 2^64, by Newton's iteration */
        for (int i = 0; i < 6; ++i)
            inverse *= 2 - a * inverse;
        const uint64_t b = ((0 - inverse) & (unit - 1)) | unit;
        const u128 product = (u128)a * b + 1;
        const u128 midpoint = product >> k;
        if (width(midpoint) != 54 || !(midpoint & 1))
            continue;
        *x = (double)a, *slope = (double)b;
        *step = 1.0 + ldexp(below(2) ? 1.0 : -0.5, -(int)below(53));
        return;
    }
}

/* A gradient whose exact product is a midpoint, or next to one, and a step that decides; and
 * outputs that the sum with what was there brings to a midpoint. */
static int one_gradient(int dtype)
{
    const int p = formats[dtype].precision, half = (p + 1) / 2;
    const uint64_t most = (UINT64_C(1) << half) - 1;
    const uint64_t a = (next() & most) | 1 | UINT64_C(1) << (half - 1),
                   b = (next() & most) | 1 | UINT64_C(1) << (half - 1);
    double x = narrow(dtype, ldexp((double)a, -half)), l2 = ldexp((double)b, -half);
    double l1 = below(3) ? ldexp(1.0, -(int)below(120)) : 0.0;
    const double scale = next() & 1 ? 1.0 : -1.0;
    if (dtype == FASTREG_F64 && below(2)) {
        far_apart(&x, &l2, &l1);
        l2 /= 2.0;
    }
    x = next() & 1 ? x : -x;
    const size_t item = item_sizes[dtype];
    unsigned char in[20 * 8], out[20 * 8];
    const ptrdiff_t n = 1 + (ptrdiff_t)below(20);
    const int accumulate = (int)below(2);
    uint64_t old[20];
    const double near = narrow(dtype, 2.0 * l2 * scale * x);
    for (ptrdiff_t i = 0; i < n; ++i) {
        put_bits(in + (size_t)i * item, item, encode(dtype, i % 2 ? -x : x));
        /* A few bits above or below the gradient: half of the sums lie between two numbers. */
        old[i] = encode(dtype, narrow(dtype, ldexp(near, (int)below(12) - 6)));
        put_bits(out + (size_t)i * item, item, old[i]);
    }
    const fastreg_array array = {.data = in,
                                 .gradient = out,
                                 .shape = &n,
                                 .ndim = 1,
                                 .dtype = (fastreg_dtype)dtype,
                                 .l1 = l1,
                                 .l2 = l2};
    const fastreg_options o = {.level = level};
    if (fastreg_gradient(&array, 1, scale, accumulate, &o) != FASTREG_OK)
        return 0;
    for (ptrdiff_t i = 0; i < n; ++i)
        if (get_bits(out + (size_t)i * item, item) !=
            true_gradient(dtype, get_bits(in + (size_t)i * item, item), l1, l2, scale,
                          accumulate ? &old[i] : NULL))
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        (void)fprintf(stderr, "usage: ties LEVEL CASES SEED\n");
        return 3;
    }
    level = argv[1];
    const unsigned long long wanted = strtoull(argv[2], NULL, 10);
    unsigned long long all = 0, all_wrong = 0;
    for (int operation = 0; operation < OPERATIONS; ++operation)
        for (int dtype = 0; dtype < FLOAT_TYPES; ++dtype)
            for (int result = 0; result < FLOAT_TYPES; ++result) {
                unsigned long long cases = 0, wrong = 0, tries = 0;
                random_state = strtoull(argv[3], NULL, 10) * 1000 +
                               (uint64_t)(operation * 16 + dtype * 4 + result);
                /* Some combinations have none: the f16 numbers span 40 bits, a midpoint of f64 has
                 * 54. */
                const unsigned long long enough = wanted < 1000 ? 100 * wanted : 100000;
                for (; cases < wanted && (cases || tries < enough); ++tries) {
                    const int r = one_case(operation, dtype, result);
                    cases += r != 0;
                    wrong += r < 0;
                }
                printf("%s %s %s %llu %llu\n", names[operation], types[dtype], types[result], cases,
                       wrong);
                all += cases, all_wrong += wrong;
            }
    for (int dtype = 0; dtype < FLOAT_TYPES; ++dtype) {
        unsigned long long wrong = 0;
        random_state = strtoull(argv[3], NULL, 10) * 1000 + 500 + (uint64_t)dtype;
        for (unsigned long long i = 0; i < wanted; ++i)
            wrong += !one_gradient(dtype);
        printf("gradient %s %s %llu %llu\n", types[dtype], types[dtype], wanted, wrong);
        all += wanted, all_wrong += wrong;
    }
    printf("all %llu %llu, decided by tiers %llu %llu %llu\n", all, all_wrong, tiers[0], tiers[1],
           tiers[2]);
    return all_wrong != 0;
}
