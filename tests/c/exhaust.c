/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All there is, one by one.
 *
 *     exhaust pairs LEVEL [STEP]      sum of squares and norm of every pair of f16 magnitudes, to
 *                                     f16. Sign and order are left out: 2^32 pairs are 2^29
 *     exhaust gradients LEVEL [STEP]  every f32 through each gradient kernel and each shape of
 *                                     penalty, by itself and along with the value
 *
 * With STEP only each STEP-th. Prints the number of results, or the first wrong one (status 1). The
 * judges are 128-bit integers, and the C library's fma.
 */
#include "../../csrc/fastreg.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__extension__ typedef unsigned __int128 u128;

static const char *level;

/* |x| of finite f16 bits in units of 2^-24, below 2^40. */
static uint64_t units(unsigned bits)
{
    const unsigned field = bits >> 10, fraction = bits & 1023;
    return field ? (uint64_t)(1024 + fraction) << (field - 1) : fraction;
}

/* The nearest f16 magnitude of n * 2^(-24 - down), ties to even; 0x7c00 and more is infinite. */
static unsigned to_f16(u128 n, int down)
{
    int shift = down, width = 0;
    for (u128 m = n >> down; m; m >>= 1)
        ++width;
    /* Eleven bits stay, or those above 2^-24. */
    shift += width > 11 ? width - 11 : 0;
    u128 q = n >> shift;
    const u128 rest = n & (((u128)1 << shift) - 1), half = shift ? (u128)1 << (shift - 1) : 0;
    if (shift && (rest > half || (rest == half && q % 2)))
        ++q;
    const unsigned bits = width > 11 ? (unsigned)(width - 11) * 1024 + (unsigned)q : (unsigned)q;
    return bits < 0x7c00 ? bits : 0x7c00;
}

static unsigned f16_bits(double v)
{
    uint16_t h;
    fastreg_pack(FASTREG_F16, v, &h);
    return h;
}

static unsigned long long pairs(unsigned step)
{
    unsigned long long results = 0;
    const ptrdiff_t two = 2;
    const fastreg_options options = {.level = level};
    for (unsigned a = 0; a < 0x7c00; a += step)
        for (unsigned b = a; b < 0x7c00; ++b) {
            const uint16_t x[2] = {(uint16_t)(b & 1 ? a | 0x8000 : a), (uint16_t)b};
            const fastreg_array array = {
                .data = x, .shape = &two, .ndim = 1, .dtype = FASTREG_F16, .l2 = 1.0};
            const u128 sum = (u128)units(a) * units(a) + (u128)units(b) * units(b);
            double v, root;
            if (fastreg_value(&array, 1, FASTREG_F16, &options, &v) ||
                fastreg_norm(&array, 1, FASTREG_F16, &options, &root))
                exit(2);
            const unsigned want = to_f16(sum, 24);
            /* A root is right if the number lies between the squares of the midpoints beside it. */
            const unsigned r = f16_bits(root);
            const u128 mine = r < 0x7c00 ? units(r) : (u128)1 << 40;
            const u128 above = r < 0x7bff ? units(r + 1) : (u128)1 << 40,
                       below = r ? units(r - 1) : 0;
            const u128 low = mine + below, high = mine + above; /* twice the midpoints */
            const int odd = r & 1;
            const int fits =
                (r == 0 || (odd ? low * low < 4 * sum : low * low <= 4 * sum)) &&
                (r >= 0x7c00 || (odd ? 4 * sum < high * high : 4 * sum <= high * high));
            if (f16_bits(v) != want || !fits) {
                printf("%04x %04x: got %04x for %04x, root %04x\n", x[0], x[1], f16_bits(v), want,
                       r);
                exit(1);
            }
            results += 2;
        }
    return results;
}

static unsigned long long gradients(unsigned step)
{
    /* 64 MiB: large enough for stores past the cache when it is written in one call. */
    enum { BLOCK = 1 << 24, PIECE = 1 << 12 };
    /* Both terms; the slope alone; the step alone; nothing; a slope that overflows and one that
     * vanishes. */
    static const double weights[][2] = {{0.3, 0.7}, {0.0, 0.1},    {0.9, 0.0},
                                        {0.0, 0.0}, {1e-46, 3e38}, {0.1, 2e-39}};
    enum { SHAPES = sizeof weights / sizeof weights[0] };
    static float x[BLOCK], out[BLOCK], with_value[BLOCK], old[BLOCK];
    unsigned long long results = 0;
    const fastreg_options options = {.level = level};
    for (int i = 0; i < BLOCK; ++i)
        old[i] = (float)(1 + i % 7) * 0.1f;
    for (uint64_t first = 0; first < UINT64_C(1) << 32; first += (uint64_t)BLOCK * step)
        for (int w = 0; w < SHAPES; ++w)
            for (int store = 0; store < 3; ++store) {
                const double l1 = weights[w][0], l2 = weights[w][1],
                             scale = store == 1 ? -1.5 : 1.0;
                const int accumulate = store == 2;
                for (uint32_t i = 0; i < BLOCK; ++i) {
                    const uint32_t bits = (uint32_t)first + i;
                    memcpy(&x[i], &bits, sizeof bits);
                }
                memcpy(out, old, sizeof out);
                memcpy(with_value, old, sizeof old);
                const ptrdiff_t n = store == 1 ? BLOCK : PIECE;
                for (ptrdiff_t at = 0; at < BLOCK; at += n) {
                    fastreg_array a = {.data = x + at,
                                       .gradient = out + at,
                                       .shape = &n,
                                       .ndim = 1,
                                       .dtype = FASTREG_F32,
                                       .l1 = l1,
                                       .l2 = l2};
                    if (fastreg_gradient(&a, 1, scale, accumulate, &options))
                        exit(2);
                    double value;
                    a.gradient = with_value + at;
                    if (fastreg_value_and_gradient(&a, 1, scale, accumulate, FASTREG_F32, &options,
                                                   &value))
                        exit(2);
                }
                if (memcmp(out, with_value, sizeof out) != 0) {
                    printf("from %08" PRIx64 ", weights %d, store %d: others with the value\n",
                           first, w, store);
                    exit(1);
                }
                const double slope = 2.0 * l2 * scale, jump = l1 * scale;
                for (int i = 0; i < BLOCK; ++i) {
                    const double v = (double)x[i], sign = v > 0.0    ? 1.0
                                                          : v < 0.0  ? -1.0
                                                          : isnan(v) ? v
                                                                     : 0.0;
                    /* A weight of 0 removes its term. */
                    float want = l1 == 0.0 && l2 == 0.0 ? 0.0f
                                 : l2 == 0.0            ? (float)(jump * sign)
                                 : l1 == 0.0            ? (float)(slope * v)
                                                        : (float)fma(slope, v, jump * sign);
                    if (accumulate)
                        want = old[i] + want;
                    uint32_t got_bits, bits;
                    memcpy(&got_bits, &out[i], sizeof bits);
                    memcpy(&bits, &want, sizeof bits);
                    if (got_bits != (isnan(want) ? 0x7fc00000 : bits)) {
                        printf("%a, weights %d, store %d: got %a for %a\n", v, w, store,
                               (double)out[i], (double)want);
                        exit(1);
                    }
                }
                results += BLOCK;
            }
    return results;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        (void)fprintf(stderr, "usage: exhaust pairs|gradients LEVEL [STEP]\n");
        return 3;
    }
    level = argv[2];
    const unsigned step = argc > 3 ? (unsigned)atoi(argv[3]) : 1;
    printf("%llu\n", strcmp(argv[1], "pairs") == 0 ? pairs(step) : gradients(step));
    return 0;
}
