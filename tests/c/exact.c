/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The exact sums below the interface, judged by truth.h: blocks of any type and kind, and blocks
 * one unit inside and outside each condition of exact/blocks.h, where the count of blocks that are
 * swept again must be what the condition says. Prints "good", or the first line that does not hold.
 *
 *     exact LEVEL CASES SEED
 */
#include "harness.h"
#include "truth.h"

#include "dispatch.h"
#include "exact/limbs.h"
#include "exact_chunk.h"

static int below(int n) { return (int)((next() >> 33) % (unsigned)n); }
static int between(int low, int high) { return low + below(high - low + 1); }

enum { MOST = 9000 };

static const fr_kernels *kernels;
static uint64_t memory[MOST + 1];

static int is_float(int dtype) { return dtype < FLOAT_TYPES; }

/* Element i as the kernels read it: 64-bit integers as they are, smaller ones as doubles. */
static void write(int dtype, size_t i, double v)
{
    unsigned char *const at = (unsigned char *)memory + (size_t)i * item_sizes[dtype];
    HOLDS(fastreg_pack((fastreg_dtype)dtype, v, at) == FASTREG_OK);
}

static double read(int dtype, size_t i)
{
    const unsigned char *const at = (unsigned char *)memory + (size_t)i * item_sizes[dtype];
    double v;
    HOLDS(fastreg_unpack((fastreg_dtype)dtype, at, &v) == FASTREG_OK);
    return v;
}

/* -- Kinds of data ----------------------------------------------------------------------------- */

enum { NORMAL, WIDE, SPARSE, CONSTANT, WHOLE, BITS, TINY, HUGE, OUTLIER, ENDS, KINDS };

static double number(int exponent)
{
    const double v = ldexp(1.0 + (double)(next() >> 12) * 0x1p-52, exponent);
    return next() & 1 ? v : -v;
}

static void fill_block(int dtype, size_t n, int kind)
{
    const int lowest = formats[dtype].lowest, highest = formats[dtype].highest;
    const int centre = between(lowest + 20, highest - 4), spread = between(0, highest - lowest);
    const double constant = number(centre);
    for (size_t i = 0; i < n; ++i) {
        double v = 0.0;
        if (kind == NORMAL)
            v = number(centre - below(12) - (below(50) == 0) * below(20));
        else if (kind == WIDE)
            v = number(between(highest - spread, highest));
        else if (kind == SPARSE)
            v = below(10) ? 0.0 : number(centre - below(6));
        else if (kind == CONSTANT)
            v = constant;
        else if (kind == WHOLE)
            v = between(-9, 9);
        else if (kind == TINY)
            v = number(lowest + below(6));
        else if (kind == HUGE)
            v = number(highest - below(3));
        else if (kind == ENDS) /* nothing between 0 and infinity, or nearly */
            v = below(3) ? 0.0 : below(400) ? (below(2) ? INFINITY : -INFINITY) : 1.0;
        else if (kind == OUTLIER)
            v = number(i == n / 2 ? highest : lowest + below(40));
        if (kind == BITS) {
            const uint64_t b = next();
            memcpy((unsigned char *)memory + i * item_sizes[dtype], &b, item_sizes[dtype]);
        } else
            write(dtype, i, v);
    }
}

/* -- Judgement --------------------------------------------------------------------------------- */

static void check_digits(const int64_t *digit, int count, int base, big *exact)
{
    big_carry(exact);
    const int from = (base - LOWEST) / 32;
    for (int i = 0; i < DIGITS; ++i) {
        const int k = i - from;
        HOLDS((k >= 0 && k < count ? (uint64_t)digit[k] : 0) == exact->digit[i]);
    }
}

static fr_exact_counts check(int dtype, size_t n, int penalty, fr_digits *d, fr_exact_guess *guess)
{
    big absolute, square;
    fr_exact_counts found, counts = {0};
    memset(&found, 0, sizeof found);
    memset(&absolute, 0, sizeof absolute), memset(&square, 0, sizeof square);
    fr_exact_chunk(kernels, memory, n, is_float(dtype) ? dtype : -1, (fastreg_dtype)dtype, penalty,
                   guess, d, &found);
    HOLDS(fr_digits_carry(d));
    for (size_t i = 0; i < n; ++i) {
        uint64_t m;
        int e = 0;
        if (is_float(dtype)) {
            const double v = read(dtype, i);
            counts.zeros += v == 0.0;
            counts.nans += v != v;
            counts.positive_infinities += v == INFINITY;
            counts.negative_infinities += v == -INFINITY;
            if (v == 0.0 || v - v != 0.0)
                continue;
            m = (uint64_t)ldexp(frexp(fabs(v), &e), 53);
            e -= 53;
            while (e < -1074)
                m >>= 1, ++e;
        } else {
            m = memory[i];
            if (dtype == FASTREG_I64 && m >> 63)
                m = 0 - m;
            counts.zeros += m == 0;
        }
        big_add(&absolute, m, e);
        big_add(&square, (m & 0xffffffff) * (m & 0xffffffff), 2 * e);
        big_add(&square, (m >> 32) * (m & 0xffffffff), 2 * e + 33);
        big_add(&square, (m >> 32) * (m >> 32), 2 * e + 64);
    }
    if (penalty != FR_PENALTY_l2)
        check_digits(d->absolute, FR_ABSOLUTE_DIGITS, FR_ABSOLUTE_BASE, &absolute);
    if (penalty != FR_PENALTY_l1)
        check_digits(d->square, FR_SQUARE_DIGITS, FR_SQUARE_BASE, &square);
    HOLDS(found.nans == counts.nans);
    HOLDS(found.positive_infinities == counts.positive_infinities);
    HOLDS(found.negative_infinities == counts.negative_infinities);
    if (penalty == FR_PENALTY_l1l2)
        HOLDS(found.zeros == counts.zeros);
    return found;
}

static void check_random(int cases)
{
    static fr_digits d;
    fr_exact_guess guess = {{0.0, 0.0}, 0, 0};
    for (int i = 0; i < cases; ++i) {
        const int dtype = below(6), penalty = below(4) ? FR_PENALTY_l1l2 : below(FR_PENALTY_COUNT);
        const size_t n = (size_t)(below(3) ? between(1, 300) : between(1, MOST));
        memset(&d, 0, sizeof d);
        if (below(3)) /* guesses from whatever there was before are only guesses */
            memset(&guess, 0, sizeof guess);
        if (dtype < FLOAT_TYPES) {
            fill_block(dtype, n, below(KINDS));
            (void)check(dtype, n, penalty, &d, &guess);
            continue;
        }
        for (size_t k = 0; k < n; ++k)
            memory[k] = next() >> below(64);
        (void)check(dtype == FLOAT_TYPES ? FASTREG_I64 : FASTREG_U64, n, penalty, &d, &guess);
    }
}

/* -- Edges ------------------------------------------------------------------------------------- */

/* Lanes of the level's blocks: twice its doubles in a vector. */
static int lanes(const char *level)
{
#if defined(__x86_64__)
    return strcmp(level, "x86_v4") == 0 ? 16 : strcmp(level, "x86_v3") == 0 ? 8 : 4;
#elif defined(__aarch64__)
    return level ? 4 : 0;
#else
    return level ? 2 : 0;
#endif
}

static uint64_t swept(int dtype, size_t n, int penalty, double one, double others)
{
    static fr_digits d;
    fr_exact_guess guess = {{0.0, 0.0}, 0, 0};
    memset(&d, 0, sizeof d);
    for (size_t i = 0; i < n; ++i)
        write(dtype, i, i == n / 3 ? one : others);
    return check(dtype, n, penalty, &d, &guess).swept;
}

/* One element 1 and n - 1 of 1.5 * 2^k, which are too small to count in the sums. The anchor is 4
 * then, the least power of two above 2 (1 + 2^-20). */
static void check_edges(const char *level)
{
    for (int dtype = 0; dtype < FLOAT_TYPES; ++dtype) {
        const int p = formats[dtype].precision, f64 = p == 53;
        const size_t n = f64 ? FR_BLOCK_F64 : FR_BLOCK;
        const double m = (double)(n / (size_t)lanes(level) + 2);
        const int least = formats[dtype].lowest + p;
        /* (b) m 4 2^-106 <= u^2, and (d) 2 m D 2^-106 <= u^2, u = 2^(k - p + 1). */
        const double middle = 4.0 * 0x1p-53 * exp2(floor(log2(2.0 * (m + 2.0))) + 1.0);
        const double bound = f64 ? 2.0 * m * middle * 0x1p-106 : m * 4.0 * 0x1p-106;
        const int k = (int)ceil(log2(bound) / 2.0) + p - 1;
        if (k - 1 > least) {
            HOLDS(swept(dtype, n, FR_PENALTY_l2, 1.0, ldexp(1.5, k)) == 0);
            HOLDS(swept(dtype, n, FR_PENALTY_l2, 1.0, ldexp(1.5, k - 1)) == 1);
        }
        /* |x|: a lane that holds 1 is below 2^53 u, or of f64 m 4 2^-106 <= u. */
        const int j = f64 ? (int)ceil(log2(m * 4.0 * 0x1p-106)) + p - 1 : p - 1 - 53;
        if (j - 1 > least) {
            const int inside = f64 ? j : j + 1;
            HOLDS(swept(dtype, n, FR_PENALTY_l1, 1.0, ldexp(1.5, inside)) == 0);
            HOLDS(swept(dtype, n, FR_PENALTY_l1, 1.0, ldexp(1.5, inside - 1)) == 1);
        }
    }
    /* What is out of reach for f64 blocks as they are. */
    HOLDS(swept(FASTREG_F64, 100, FR_PENALTY_l1l2, 0x1p-399, 0x1p-399) == 0);
    HOLDS(swept(FASTREG_F64, 100, FR_PENALTY_l1l2, 0x1p-402, 0x1p-402) == 1);
    HOLDS(swept(FASTREG_F64, 100, FR_PENALTY_l1l2, 0x1p444, 0x1p440) == 0);
    HOLDS(swept(FASTREG_F64, 100, FR_PENALTY_l1l2, 0x1p452, 0x1p440) == 1);
}

/* A range takes what is in it, whatever stands at its ends. */
static void check_ranges(void)
{
    static fr_digits d;
    for (int dtype = 0; dtype < FLOAT_TYPES; ++dtype) {
        const fr_format *const f = fr_format_of((fastreg_dtype)dtype);
        for (int top = f->lowest + 1; top <= f->highest + 1; top += 1 + (dtype == 3) * below(30)) {
            const double over = ldexp(1.0, top > f->highest ? f->highest : top);
            const int n = between(1, 200);
            for (int i = 0; i < n; ++i) {
                const double v = ldexp(1.0 - 0x1p-9, top - 1 - below(40));
                write(dtype, (size_t)i, i % 7 == 6 && top <= f->highest ? over : v);
            }
            memset(&d, 0, sizeof d);
            const double rest = kernels->of[dtype]->range(memory, (size_t)n, top, &d);
            HOLDS(fr_digits_carry(&d));
            big absolute;
            memset(&absolute, 0, sizeof absolute);
            double largest = 0.0;
            for (int i = 0; i < n; ++i) {
                const double v = fabs(read(dtype, (size_t)i));
                int e;
                if (v >= ldexp(1.0, top) || v == 0.0)
                    continue;
                if (v > rest) {
                    uint64_t m = (uint64_t)ldexp(frexp(v, &e), 53);
                    for (e -= 53; e < -1074; ++e)
                        m >>= 1;
                    big_add(&absolute, m, e);
                } else
                    largest = v > largest ? v : largest;
            }
            HOLDS(largest == rest);
            check_digits(d.absolute, FR_ABSOLUTE_DIGITS, FR_ABSOLUTE_BASE, &absolute);
        }
    }
}

int main(int argc, char **argv)
{
    HOLDS(argc == 4);
    kernels = fr_dispatch(argv[1]);
    HOLDS(kernels);
    random_state = strtoull(argv[3], NULL, 10);
    check_edges(argv[1]);
    check_ranges();
    check_random(atoi(argv[2]));
    puts("good");
    return 0;
}
