/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One digest of every kernel's results on fixed data. Every compiler, optimisation, processor, byte
 * order, ISA level, thread count and alignment must print the same lines.
 *
 *     golden [LEVEL]      prints the FNV-1a digest of all result bits, and the number of results;
 *                         and the same of the bytes of states, and of their digits
 */
#include "../../csrc/fastreg.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 3000, OFFSETS = 3 };

static uint64_t digest = UINT64_C(0xcbf29ce484222325), results;

static void add(uint64_t bits)
{
    for (int i = 0; i < 64; i += 8)
        digest = (digest ^ (bits >> i & 255)) * UINT64_C(0x100000001b3);
    ++results;
}

static uint64_t next_random(void)
{
    static uint64_t s = UINT64_C(0x9e3779b97f4a7c15);
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s;
}

/* Elements as integers of their width, so that the data is the same in either byte order. */
static void put(unsigned char *to, size_t i, int width, uint64_t bits)
{
    if (width == 2) {
        const uint16_t v = (uint16_t)bits;
        memcpy(to + 2 * i, &v, 2);
    } else if (width == 4) {
        const uint32_t v = (uint32_t)bits;
        memcpy(to + 4 * i, &v, 4);
    } else
        memcpy(to + 8 * i, &bits, 8);
}

static uint64_t get(const unsigned char *from, size_t i, int width)
{
    uint16_t h;
    uint32_t w;
    uint64_t d;
    if (width == 2)
        return memcpy(&h, from + 2 * i, 2), h;
    if (width == 4)
        return memcpy(&w, from + 4 * i, 4), w;
    return memcpy(&d, from + 8 * i, 8), d;
}

/* The forms of a state that leave the process, in a digest of their own. */
static uint64_t state_digest = UINT64_C(0xcbf29ce484222325), states;

static void fail(const char *what, fastreg_status s);

static void add_byte(unsigned byte)
{
    state_digest = (state_digest ^ (byte & 255)) * UINT64_C(0x100000001b3);
}

static void add_state(const fastreg_state *s)
{
    unsigned char bytes[FASTREG_STATE_BYTES_WIDE];
    long long digits[FASTREG_DIGITS64_WIDE];
    int small[FASTREG_DIGITS32_WIDE];
    const size_t nbytes = fastreg_state_nbytes(s);
    if (fastreg_state_save(s, bytes, nbytes) != FASTREG_OK ||
        fastreg_state_digits64(s, digits, FASTREG_DIGITS64_WIDE) != FASTREG_OK ||
        fastreg_state_digits32(s, small, FASTREG_DIGITS32_WIDE) != FASTREG_OK)
        fail("forms of a state", FASTREG_BAD_STATE);
    for (size_t i = 0; i < nbytes; ++i)
        add_byte(bytes[i]);
    for (int i = 0; i < FASTREG_DIGITS64_WIDE; ++i)
        for (int shift = 0; shift < 64; shift += 8)
            add_byte((unsigned)((unsigned long long)digits[i] >> shift));
    for (int i = 0; i < FASTREG_DIGITS32_WIDE; ++i)
        for (int shift = 0; shift < 32; shift += 8)
            add_byte((unsigned)small[i] >> shift);
    ++states;
}

static void add_double(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    add(bits);
}

static void fail(const char *what, fastreg_status s)
{
    fprintf(stderr, "golden: %s: %s\n", what, fastreg_status_text(s));
    exit(1);
}

/* Kinds of data: near one in size; every bit pattern there is, NaN and inf with it; small range;
 * zeros and infinities beside numbers near one. */
static uint64_t element(int dtype, int kind)
{
    static const int width[] = {16, 16, 32, 64}, fraction[] = {10, 7, 23, 52};
    static const int bias[] = {15, 127, 127, 1023};
    uint64_t r = next_random();
    if (width[dtype] < 64)
        r &= (UINT64_C(1) << width[dtype]) - 1;
    if (kind == 1)
        return r;
    if (kind == 3 && (r & 3) == 0)
        return (r >> (width[dtype] - 1)) << (width[dtype] - 1) |
               (r & 4 ? (UINT64_C(2) * (uint64_t)bias[dtype] + 1) << fraction[dtype] : 0);
    const uint64_t low = r & ((UINT64_C(1) << fraction[dtype]) - 1);
    const uint64_t exponent = (uint64_t)bias[dtype] - (kind == 2 ? 10 : r >> 3 & 3);
    return (r >> (width[dtype] - 1)) << (width[dtype] - 1) | exponent << fraction[dtype] | low;
}

int main(int argc, char **argv)
{
    static unsigned char x[MOST * 8 + 64], g[MOST * 8 + 64];
    static const int widths[] = {2, 2, 4, 8};
    static const double weights[][2] = {
        {0.0, 1.0}, {1.0, 0.0}, {0.3, 0.01}, {1e-30, 1e-20}, {0.0, 0.0}};
    static const double scales[] = {-0.7, 1.0, INFINITY, NAN};
    static const size_t lengths[] = {0, 1, 2, 3, 5, 8, 17, 31, 64, 65, 127, 500, 1025, 2999};
    for (int dtype = 0; dtype < 4; ++dtype)
        for (int kind = 0; kind < 4; ++kind)
            for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; ++k) {
                const int width = widths[dtype];
                unsigned char *const at = x + (k % OFFSETS) * 3;
                unsigned char *const to = g + (k % OFFSETS) * 5;
                ptrdiff_t n = (ptrdiff_t)lengths[k], step = 2 * width;
                for (size_t i = 0; i < lengths[k]; ++i)
                    put(at, i, width, element(dtype, kind));
                fastreg_array a = {.data = at, .gradient = to, .shape = &n, .ndim = 1};
                a.dtype = (fastreg_dtype)dtype;
                for (int w = 0; w < 5; ++w)
                    for (int tier = 0; tier < 3; ++tier) {
                        const fastreg_options o = {.level = argc > 1 ? argv[1] : NULL,
                                                   .first_tier = tier,
                                                   .threads = 1 + tier,
                                                   .bytes_per_thread = 64};
                        a.l1 = weights[w][0], a.l2 = weights[w][1];
                        for (int result = 0; result < 4; ++result) {
                            double v = -1.0;
                            fastreg_status s = fastreg_value(&a, 1, (fastreg_dtype)result, &o, &v);
                            if (s != FASTREG_OK)
                                fail("value", s);
                            add_double(v);
                            if ((s = fastreg_norm(&a, 1, (fastreg_dtype)result, &o, &v)) !=
                                FASTREG_OK)
                                fail("norm", s);
                            add_double(v);
                        }
                        /* Infinite and NaN factors among those of the last kind. */
                        for (int how = 0; how < (kind == 3 ? 8 : 2); ++how) {
                            const fastreg_status s =
                                fastreg_gradient(&a, 1, scales[how / 2], how % 2, &o);
                            if (s != FASTREG_OK)
                                fail("gradient", s);
                            for (size_t i = 0; i < lengths[k]; ++i)
                                add(get(to, i, width));
                        }
                        if (fastreg_prox(&a, 1, 0.25, tier & 1, &o) != FASTREG_OK)
                            fail("prox", FASTREG_BAD_SCALE);
                        for (size_t i = 0; i < lengths[k]; ++i)
                            add(get(to, i, width));
                        fastreg_statistics row;
                        if (fastreg_statistics_of(&a, 1, &o, &row, NULL) != FASTREG_OK)
                            fail("statistics", FASTREG_BAD_SHAPE);
                        add_double(row.sum_abs), add_double(row.sum_squares), add_double(row.norm);
                        add_double(row.max_abs), add(row.zeros), add(row.subnormals);
                        add(row.nans), add(row.infs);
                        /* Every other element, backwards. */
                        fastreg_array b = a;
                        ptrdiff_t half = n / 2;
                        const ptrdiff_t back = -step;
                        b.shape = &half, b.strides = &back, b.gradient = NULL;
                        b.data = half ? at + (half - 1) * step : at;
                        double v = -1.0;
                        if (fastreg_value(&b, 1, FASTREG_F64, &o, &v) != FASTREG_OK)
                            fail("strided value", FASTREG_BAD_SHAPE);
                        add_double(v);
                        fastreg_state state = {0};
                        for (int both = 0; both < 2; ++both)
                            if (fastreg_state_fill(&state, both ? &b : &a, 1, &o) != FASTREG_OK)
                                fail("state", FASTREG_BAD_STATE);
                        add_state(&state);
                    }
            }
    printf("%016llx of %llu results\n", (unsigned long long)digest, (unsigned long long)results);
    printf("%016llx of %llu states\n", (unsigned long long)state_digest,
           (unsigned long long)states);
    return 0;
}
