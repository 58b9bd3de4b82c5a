/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Exact answers for the drivers of this folder, by schoolbook arithmetic on digits of 32 bits:
 * nothing here is shared with csrc/, and no method is either. Slow and short. Included once by each
 * driver.
 *
 * A `big` is a number >= 0 with 32-bit digits in 64-bit cells, so that many additions need one
 * carry.
 */
#ifndef TRUTH_H
#define TRUTH_H

#include "../../csrc/fastreg.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* From below (2^-1074)^3 to above (2^1024)^3 times 2^63. */
enum { LOWEST = -3264, DIGITS = 208, DTYPES = 13, FLOAT_TYPES = 4 };

typedef struct {
    uint64_t digit[DIGITS];
    int from, to; /* only these may be other than 0 */
} big;

static const struct {
    int width, precision, lowest, highest;
} formats[FLOAT_TYPES] = {
    {16, 11, -24, 15}, {16, 8, -133, 127}, {32, 24, -149, 127}, {64, 53, -1074, 1023}};

static const size_t item_sizes[DTYPES] = {2, 2, 4, 8, 1, 1, 1, 2, 2, 4, 4, 8, 8};

static inline void big_add(big *b, uint64_t v, int exponent)
{
    const int at = (exponent - LOWEST) / 32, shift = (exponent - LOWEST) % 32;
    const uint64_t low = (v & 0xffffffff) << shift, high = (v >> 32) << shift;
    b->from = b->to && b->from < at ? b->from : at;
    b->to = b->to > at + 3 ? b->to : at + 3;
    b->digit[at] += low & 0xffffffff;
    b->digit[at + 1] += (low >> 32) + (high & 0xffffffff);
    b->digit[at + 2] += high >> 32;
}

static inline void big_carry(big *b)
{
    uint64_t carry = 0;
    for (int i = b->from; i < b->to || carry; ++i) {
        carry += b->digit[i];
        b->digit[i] = carry & 0xffffffff;
        carry >>= 32;
        b->to = b->to > i + 1 ? b->to : i + 1;
    }
}

/* to += a * m * 2^e; a has been carried. */
static inline void big_add_product(big *to, const big *a, uint64_t m, int e)
{
    for (int i = a->from; i < a->to; ++i)
        if (a->digit[i]) {
            big_add(to, a->digit[i] * (m & 0xffffffff), LOWEST + 32 * i + e);
            big_add(to, a->digit[i] * (m >> 32), LOWEST + 32 * i + e + 32);
        }
    big_carry(to);
}

static inline int big_compare(const big *a, const big *b)
{
    for (int i = (a->to > b->to ? a->to : b->to) - 1; i >= 0; --i)
        if (a->digit[i] != b->digit[i])
            return a->digit[i] > b->digit[i] ? 1 : -1;
    return 0;
}

/* a - b for a >= b, both carried. */
static inline void big_subtract(big *a, const big *b)
{
    uint64_t borrow = 0;
    a->from = b->from < a->from ? b->from : a->from;
    for (int i = b->from; i < a->to; ++i) {
        const uint64_t take = b->digit[i] + borrow;
        borrow = a->digit[i] < take;
        a->digit[i] = (a->digit[i] + (borrow << 32)) - take;
    }
}

/* Exponent of the highest bit; LOWEST - 1 for zero. */
static inline int big_top(const big *b)
{
    for (int i = b->to - 1; i >= b->from; --i)
        if (b->digit[i]) {
            int bit = 31;
            while (!(b->digit[i] >> bit & 1))
                --bit;
            return LOWEST + 32 * i + bit;
        }
    return LOWEST - 1;
}

static inline unsigned big_bit(const big *b, int exponent)
{
    const int at = exponent - LOWEST;
    return at < 0 ? 0 : (unsigned)(b->digit[at / 32] >> at % 32 & 1);
}

static inline int big_any_below(const big *b, int exponent)
{
    const int at = exponent - LOWEST;
    if (at <= 0)
        return 0;
    for (int i = b->from; i < at / 32; ++i)
        if (b->digit[i])
            return 1;
    return (b->digit[at / 32] & ((UINT64_C(1) << at % 32) - 1)) != 0;
}

/* q * 2^unit, or inf where the format ends. */
static inline double finish(uint64_t q, int unit, int format)
{
    const double v = ldexp((double)q, unit);
    return v >= ldexp(1.0, formats[format].highest) * 2.0 ? INFINITY : v;
}

/* A carried number rounded to nearest, ties to even. */
static inline double big_round(const big *b, int format)
{
    const int top = big_top(b);
    if (top < LOWEST)
        return 0.0;
    int unit = top - formats[format].precision + 1;
    if (unit < formats[format].lowest)
        unit = formats[format].lowest;
    uint64_t q = 0;
    for (int e = top; e >= unit; --e)
        q = 2 * q + big_bit(b, e);
    if (big_bit(b, unit - 1) && (big_any_below(b, unit - 1) || q % 2))
        ++q;
    return top > formats[format].highest ? INFINITY : finish(q, unit, format);
}

/* How a carried number compares with (odd * 2^exponent)^2, odd below 2^56. */
static inline int big_compare_square(const big *b, uint64_t odd, int exponent)
{
    big square = {{0}, 0, 0};
    const uint64_t low = odd & 0xffffffff, high = odd >> 32;
    big_add(&square, low * low, 2 * exponent);
    big_add(&square, low * high, 2 * exponent + 33);
    big_add(&square, high * high, 2 * exponent + 64);
    big_carry(&square);
    return big_compare(b, &square);
}

/* The root of a carried number, rounded: start from a guess and walk to the right side of both
 * midpoints. */
static inline double big_round_root(const big *b, int format)
{
    const int top = big_top(b);
    if (top < LOWEST)
        return 0.0;
    const int even = top - (top & 1) - 60; /* top & 1 is right for negative numbers as well */
    double lead = 0.0;
    for (int e = top; e >= even; --e)
        lead = 2.0 * lead + big_bit(b, e);
    const double root = sqrt(lead); /* times 2^(even / 2) */
    int unit = (even + 60) / 2 - formats[format].precision + 1;
    if (unit < formats[format].lowest)
        unit = formats[format].lowest;
    uint64_t q = (uint64_t)ldexp(root, even / 2 - unit);
    while (big_compare_square(b, 2 * q + 1, unit - 1) > 0)
        ++q;
    while (q && big_compare_square(b, 2 * q - 1, unit - 1) < 0)
        --q;
    if (big_compare_square(b, 2 * q + 1, unit - 1) == 0)
        q += q % 2;
    else if (q && big_compare_square(b, 2 * q - 1, unit - 1) == 0)
        q -= q % 2;
    return finish(q, unit, format);
}

/* m * 2^e = |v|, exactly. */
static inline uint64_t take_apart(double v, int *e)
{
    const double m = frexp(fabs(v), e);
    *e -= 53;
    uint64_t whole = (uint64_t)ldexp(m, 53);
    while (whole && *e < -1074) { /* a subnormal has fewer bits */
        whole >>= 1;
        ++*e;
    }
    return whole;
}

static inline void big_add_double(big *b, double v)
{
    int e;
    const uint64_t m = take_apart(v, &e);
    if (m)
        big_add(b, m, e);
}

static inline void big_add_square(big *b, uint64_t m, int e)
{
    const uint64_t low = m & 0xffffffff, high = m >> 32;
    big_add(b, low * low, 2 * e);
    big_add(b, low * high, 2 * e + 33);
    big_add(b, high * high, 2 * e + 64);
}

/* -- Elements ---------------------------------------------------------------------------------- */

/* The number with these bits. */
static inline double decode(int format, uint64_t bits)
{
    const int stored = formats[format].precision - 1;
    const uint64_t fraction = bits & ((UINT64_C(1) << stored) - 1);
    const int field = (int)(bits >> stored) & ((1 << (formats[format].width - stored - 1)) - 1);
    const double sign = bits >> (formats[format].width - 1) & 1 ? -1.0 : 1.0;
    if (field == 2 * formats[format].highest + 1)
        return fraction ? NAN : sign * INFINITY;
    if (field == 0)
        return sign * ldexp((double)fraction, formats[format].lowest);
    return sign *
           ldexp((double)(fraction | UINT64_C(1) << stored), formats[format].lowest + field - 1);
}

/* The bits of a number that the format has; any NaN becomes the positive quiet one without
 * payload. */
static inline uint64_t encode(int format, double v)
{
    const int stored = formats[format].precision - 1;
    const uint64_t all = (uint64_t)(2 * formats[format].highest + 1) << stored;
    if (isnan(v))
        return all | UINT64_C(1) << (stored - 1);
    const uint64_t sign = (uint64_t)(signbit(v) != 0) << (formats[format].width - 1);
    v = fabs(v);
    if (isinf(v))
        return sign | all;
    int unit;
    (void)frexp(v, &unit); /* v < 2^unit */
    unit -= stored + 1;
    if (v == 0.0 || unit < formats[format].lowest)
        unit = formats[format].lowest;
    const uint64_t m = (uint64_t)ldexp(v, -unit);
    /* The leading bit of a normal number adds one to the exponent field. */
    return sign | (((uint64_t)(unit - formats[format].lowest) << stored) + m);
}

static inline uint64_t get_bits(const void *p, size_t size)
{
    uint8_t b;
    uint16_t h;
    uint32_t w;
    uint64_t d;
    switch (size) {
    case 1:
        return memcpy(&b, p, 1), b;
    case 2:
        return memcpy(&h, p, 2), h;
    case 4:
        return memcpy(&w, p, 4), w;
    default:
        return memcpy(&d, p, 8), d;
    }
}

static inline void put_bits(void *p, size_t size, uint64_t bits)
{
    const uint8_t b = (uint8_t)bits;
    const uint16_t h = (uint16_t)bits;
    const uint32_t w = (uint32_t)bits;
    memcpy(p,
           size == 1   ? (const void *)&b
           : size == 2 ? (const void *)&h
           : size == 4 ? (const void *)&w
                       : &bits,
           size);
}

/* |x| of an integer type from its bits. */
static inline uint64_t integer_magnitude(int dtype, uint64_t bits)
{
    const unsigned width = 8 * (unsigned)item_sizes[dtype];
    if (dtype == FASTREG_BOOL)
        return bits != 0;
    const int is_signed =
        dtype == FASTREG_I8 || dtype == FASTREG_I16 || dtype == FASTREG_I32 || dtype == FASTREG_I64;
    if (is_signed && bits >> (width - 1))
        return width == 64 ? ~bits + 1 : (UINT64_C(1) << width) - bits;
    return bits;
}

/* A finite double of any sign rounded once to a format. */
static inline double narrow(int format, double v)
{
    big b = {{0}, 0, 0};
    if (isnan(v) || isinf(v) || v == 0.0)
        return v;
    big_add_double(&b, v);
    big_carry(&b);
    return copysign(big_round(&b, format), v);
}

/* -- Results ----------------------------------------------------------------------------------- */

/* The exact sums of what is fed to it. */
typedef struct {
    big absolute, squares;
    int nan, inf;
    fastreg_statistics counts;
} sums;

static inline void feed(sums *s, int dtype, uint64_t bits)
{
    ++s->counts.n;
    if (dtype >= FASTREG_BOOL) {
        const uint64_t m = integer_magnitude(dtype, bits);
        big_add(&s->absolute, m, 0);
        big_add_square(&s->squares, m, 0);
        s->counts.zeros += m == 0;
        s->counts.max_abs = fmax(s->counts.max_abs, (double)m);
    } else {
        const double v = fabs(decode(dtype, bits));
        int e;
        if (isnan(v)) {
            s->nan = 1;
            ++s->counts.nans;
            return;
        }
        s->counts.max_abs = fmax(s->counts.max_abs, v);
        if (isinf(v)) {
            s->inf = 1;
            ++s->counts.infs;
            return;
        }
        s->counts.zeros += v == 0.0;
        s->counts.subnormals +=
            v > 0.0 && v < ldexp(1.0, formats[dtype].lowest + formats[dtype].precision - 1);
        const uint64_t m = take_apart(v, &e);
        if (m) {
            big_add(&s->absolute, m, e);
            big_add_square(&s->squares, m, e);
        }
    }
    /* Cells have room for 2^30 additions. */
    if (s->counts.n % (1 << 20) == 0) {
        big_carry(&s->absolute);
        big_carry(&s->squares);
    }
}

/* The weighted total of a list of sums. */
typedef struct {
    big total;
    int nan, inf;
} weighted;

static inline void weigh(weighted *w, sums *s, double l1, double l2)
{
    int e;
    if (l1 == 0.0 && l2 == 0.0)
        return;
    w->nan |= s->nan;
    w->inf |= s->inf;
    big_carry(&s->absolute);
    big_carry(&s->squares);
    if (l1 != 0.0) {
        const uint64_t m = take_apart(l1, &e);
        big_add_product(&w->total, &s->absolute, m, e);
    }
    if (l2 != 0.0) {
        const uint64_t m = take_apart(l2, &e);
        big_add_product(&w->total, &s->squares, m, e);
    }
}

static inline double true_value(const weighted *w, int root, int format)
{
    if (w->nan)
        return NAN;
    if (w->inf)
        return INFINITY;
    return root ? big_round_root(&w->total, format) : big_round(&w->total, format);
}

/* RN(a + b) of two signed exact numbers that are not both zero. */
static inline double rounded_sum(big *a, int a_negative, big *b, int b_negative, int format)
{
    if (a_negative == b_negative) {
        for (int i = b->from; i < b->to; ++i)
            a->digit[i] += b->digit[i];
        a->from = b->from < a->from ? b->from : a->from;
        a->to = b->to > a->to ? b->to : a->to;
        big_carry(a);
    } else {
        if (big_compare(a, b) < 0) {
            big *const t = a;
            a = b, b = t;
            a_negative = b_negative;
        }
        big_subtract(a, b);
        if (big_top(a) < LOWEST)
            return 0.0;
    }
    const double v = big_round(a, format);
    return a_negative ? -v : v;
}

/* RN(a * b + c) in f64. */
static inline double true_fma(double a, double b, double c)
{
    big product = {{0}, 0, 0}, addend = {{0}, 0, 0};
    int ea, eb;
    if (!isfinite(a) || !isfinite(b) || !isfinite(c) || a == 0.0 || b == 0.0)
        return a * b + c;
    const uint64_t ma = take_apart(a, &ea), mb = take_apart(b, &eb);
    const uint64_t low = mb & 0xffffffff, high = mb >> 32;
    big_add(&product, (ma & 0xffffffff) * low, ea + eb);
    big_add(&product, (ma >> 32) * low, ea + eb + 32);
    big_add(&product, (ma & 0xffffffff) * high, ea + eb + 32);
    big_add(&product, (ma >> 32) * high, ea + eb + 64);
    big_carry(&product);
    big_add_double(&addend, c);
    big_carry(&addend);
    return rounded_sum(&product, signbit(a) != signbit(b), &addend, signbit(c) != 0, FASTREG_F64);
}

/* 2 * a * b rounded to f64 once, although 2 * a or 2 * b alone may be too large. */
static inline double twice(double a, double b) { return a > fabs(b) ? a * (2.0 * b) : 2.0 * a * b; }

/* Bits of the gradient of one element; with `before`, of what was there plus it. */
static inline uint64_t true_gradient(int dtype, uint64_t bits, double l1, double l2, double scale,
                                     const uint64_t *before)
{
    const double x = decode(dtype, bits), sign = (double)((x > 0.0) - (x < 0.0));
    const double slope = twice(l2, scale), jump = isnan(x) ? x : l1 * scale * sign;
    const double g = l1 == 0.0 && l2 == 0.0 ? 0.0
                     : l2 == 0.0            ? narrow(dtype, jump)
                     : l1 == 0.0            ? narrow(dtype, slope * x)
                                            : narrow(dtype, true_fma(slope, x, jump));
    if (!before)
        return encode(dtype, g);
    const double old = decode(dtype, *before);
    if (!isfinite(old) || !isfinite(g) || (old == 0.0 && g == 0.0))
        return encode(dtype, old + g);
    big a = {{0}, 0, 0}, b = {{0}, 0, 0};
    big_add_double(&a, old);
    big_add_double(&b, g);
    big_carry(&a);
    big_carry(&b);
    return encode(dtype, rounded_sum(&a, signbit(old) != 0, &b, signbit(g) != 0, dtype));
}

/* Bits of the proximal step of one element. */
static inline uint64_t true_prox(int dtype, uint64_t bits, double l1, double l2, double step,
                                 int flush)
{
    const double x = decode(dtype, bits);
    if (isnan(x))
        return encode(dtype, x);
    const double t = fabs(x) - step * l1;
    if (t <= 0.0) /* an infinite threshold makes NaN of an infinity */
        return 0;
    const double r = narrow(dtype, t / (1.0 + twice(l2, step)));
    const double normal = ldexp(1.0, formats[dtype].lowest + formats[dtype].precision - 1);
    return r == 0.0 || (flush && r < normal) ? 0 : encode(dtype, copysign(r, x));
}

#endif
