/* SPDX-License-Identifier: BSD-3-Clause */
#include "exact_chunk.h"

static double element(const unsigned char *p, int type)
{
    switch (type) {
#define X(name, storage, constant)                                                                 \
    case FR_FLOAT_##name:                                                                          \
        return fr_element_##name(p);
        FR_FLOATS(X)
#undef X
    default:
        return 0.0;
    }
}

static size_t size_of(int type)
{
    static const unsigned char sizes[] = {
#define X(name, storage, constant) [FR_FLOAT_##name] = sizeof(storage),
        FR_FLOATS(X)
#undef X
    };
    return sizes[type];
}

/* Finite elements of at most `largest`, one at a time: the last resort. */
static void add_single(const unsigned char *x, size_t n, int type, double largest, fr_digits *d)
{
    fr_digits_reserve(d, 2 * n);
    for (size_t i = 0; i < n; ++i) {
        int exponent;
        const double v = element(x + i * size_of(type), type), magnitude = v < 0.0 ? -v : v;
        if (magnitude <= largest) {
            const uint64_t m = fr_split(magnitude, &exponent);
            fr_digits_add_element(d, m, exponent);
        }
    }
}

/* Count what is special. Returns the largest finite |x|. */
static double count_specials(const fr_float_kernels *kernels, const unsigned char *x, size_t n,
                             int type, fr_exact_counts *c)
{
    fr_counts found = {0};
    const double largest = kernels->look(x, n, &found);
    c->nans += found.nans;
    for (size_t i = 0; i < n && found.infs; ++i) {
        const double v = element(x + i * size_of(type), type);
        c->positive_infinities += v == FR_INFINITY;
        c->negative_infinities += v == -FR_INFINITY;
    }
    return largest;
}

/* A block that is not exact as it is: in ranges, largest first. */
static FR_NOINLINE void add_in_ranges(const fr_float_kernels *kernels, const unsigned char *x,
                                      size_t n, int type, fr_digits *d, fr_exact_counts *c)
{
    uint64_t bits = 0;
    c->zeros += kernels->scan(x, n, &bits);
    double largest = element((const unsigned char *)&bits, type);
    if (FR_UNLIKELY(!(largest < FR_INFINITY)))
        largest = count_specials(kernels, x, n, type, c);
    ++c->swept;
    for (int ranges = 0; largest > 0.0; ++ranges) {
        int exponent;
        const uint64_t m = fr_split(largest, &exponent);
        if (ranges == FR_MOST_RANGES) {
            add_single(x, n, type, largest, d);
            ++c->single;
            return;
        }
        largest = kernels->range(x, n, exponent + fr_width(m), d);
    }
}

/* How many blocks to sweep in ranges at once after so many misses in a row: blocks of an array are
 * often alike, and a lone miss says nothing. */
static unsigned skips_after(unsigned misses)
{
    return misses < 2 ? 0 : misses < 6 ? 1u << (misses - 2) : 16;
}

/* Integers of 64 bits have more than any float. */
static void add_integers(const unsigned char *x, size_t n, fastreg_dtype dtype, fr_digits *d,
                         fr_exact_counts *c)
{
    fr_digits_reserve(d, 2 * n);
    for (size_t i = 0; i < n; ++i) {
        const uint64_t m = fr_magnitude(x, i, dtype);
        c->zeros += m == 0;
        fr_digits_add_element(d, m, 0);
    }
}

void fr_exact_chunk(const fr_kernels *kernels, const void *x, size_t n, int type,
                    fastreg_dtype dtype, int penalty, fr_exact_guess *guess, fr_digits *d,
                    fr_exact_counts *c)
{
    const unsigned char *p = x;
    if (type < 0) {
        add_integers(p, n, dtype, d, c);
        return;
    }
    const fr_float_kernels *const k = kernels->of[type];
    const size_t block = type == FR_FLOAT_f64 ? FR_BLOCK_F64 : FR_BLOCK, item = size_of(type);
    for (size_t m; n; n -= m, p += m * item) {
        m = FR_MIN(block, n);
        ++c->blocks;
        if (FR_UNLIKELY(guess->skips)) {
            --guess->skips;
            add_in_ranges(k, p, m, type, d, c);
        } else if (FR_LIKELY(k->exact[penalty](p, m, guess->anchor, d, &c->zeros)))
            guess->misses = 0;
        else {
            guess->skips = skips_after(++guess->misses);
            add_in_ranges(k, p, m, type, d, c);
        }
    }
}
