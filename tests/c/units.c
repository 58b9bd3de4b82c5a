/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What lies below the interface, each by itself, judged by truth.h: what no call can reach (a
 * window below all digits, an exact cancellation) or would hide (a bound that is too small, a bound
 * that is too large, the table that the dispatcher replaces on this processor). Prints "good", or
 * the first line that does not hold.
 *
 *     units -         csrc/exact: rounding, integers, pairs with bounds, fr_fma
 *     units LEVEL     every kernel of that level's table, as compiled
 */
#include "harness.h"
#include "truth.h"

#include "exact/fma.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>

static int below(int n) { return (int)((next() >> 33) % (unsigned)n); }
static int between(int low, int high) { return low + below(high - low + 1); }

/* A double of either sign with this exponent. */
static double random_double(int exponent)
{
    const double v = ldexp(1.0 + (double)(next() >> 12) * 0x1p-52, exponent);
    return next() & 1 ? v : -v;
}

static int same(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static const fr_format *const all_formats[FLOAT_TYPES] = {&fr_format_f16, &fr_format_bf16,
                                                          &fr_format_f32, &fr_format_f64};

/* -- Numbers that are differences -------------------------------------------------------------- */

/* positive - negative, both carried when they are asked. */
typedef struct {
    big positive, negative;
} signed_big;

static void put(signed_big *b, double v)
{
    big_add_double(v < 0.0 ? &b->negative : &b->positive, v);
}

static void settle(signed_big *b)
{
    big_carry(&b->positive);
    big_carry(&b->negative);
}

/* |a - b| for settled b. */
static big distance(const big *a, const signed_big *b)
{
    big left = *a, right = b->positive;
    for (int i = b->negative.from; i < b->negative.to; ++i)
        left.digit[i] += b->negative.digit[i];
    if (b->negative.to) {
        left.from = left.to && left.from < b->negative.from ? left.from : b->negative.from;
        left.to = left.to > b->negative.to ? left.to : b->negative.to;
    }
    big_carry(&left);
    if (big_compare(&left, &right) < 0) {
        const big t = left;
        left = right, right = t;
    }
    if (right.to)
        big_subtract(&left, &right);
    return left;
}

/* Does the exact number lie within the bound of the pair? Bounds are rounded themselves when they
 * are added: their sources are stated twice as large for that, which `more` stands for. */
static int within_more(const big *exact, const fr_sum *s, double more)
{
    signed_big pair;
    big bound = {{0}, 0, 0};
    memset(&pair, 0, sizeof pair);
    put(&pair, s->high), put(&pair, s->low);
    settle(&pair);
    big_add_double(&bound, s->error * more);
    big_carry(&bound);
    const big d = distance(exact, &pair);
    return s->high >= 0.0 && s->error >= 0.0 && big_compare(&d, &bound) <= 0;
}

static int within(const big *exact, const fr_sum *s) { return within_more(exact, s, 1.0); }

/* The value of a signed_big that is not negative. */
static big value_of(const signed_big *b)
{
    big v = b->positive;
    HOLDS(big_compare(&b->positive, &b->negative) >= 0);
    if (b->negative.to)
        big_subtract(&v, &b->negative);
    return v;
}

/* -- exact/formats.h --------------------------------------------------------------------------- */

static void check_rounding(void)
{
    for (int i = 0; i < 200000; ++i) {
        const int format = below(FLOAT_TYPES), precision = formats[format].precision;
        const int lowest = formats[format].lowest, highest = formats[format].highest;
        /* Few bits, a run of ones, a midpoint, any. */
        const int bits = between(1, 64), kind = below(4);
        uint64_t m = next() >> (64 - bits);
        if (kind == 1)
            m = UINT64_MAX >> (64 - bits);
        else if (kind == 2)
            m = m >> (bits / 2) << (bits / 2);
        else if (kind == 3 && bits > precision + 1)
            m = (m >> (bits - precision) << 1 | 1) << (bits - precision - 1);
        const int wide = big_top(&(big){{m & 0xffffffff, m >> 32}, 0, 2}) - LOWEST + 1;
        /* Anywhere, or near an end of the format. */
        const int top = below(2)   ? between(lowest - 70, lowest + 70)
                        : below(2) ? between(highest - 2, highest + 2)
                                   : between(lowest, highest);
        const int e = top - wide + 1;
        const int sticky = below(2) && (wide >= precision + 2 || top < lowest - 1);
        big exact = {{0}, 0, 0};
        big_add(&exact, m, e);
        if (sticky)
            big_add(&exact, 1 + (next() >> 63), e - 40);
        big_carry(&exact);
        HOLDS(same(fr_round_integer(m, e, sticky, all_formats[format]), big_round(&exact, format)));
    }
    HOLDS(same(fr_round_integer(0, 0, 0, &fr_format_f32), 0.0));
    for (int format = 0; format < FLOAT_TYPES; ++format) {
        const fr_format *const f = all_formats[format];
        HOLDS(f->tiny == ldexp(1.0, formats[format].lowest));
        HOLDS(f->normal == ldexp(1.0, formats[format].lowest + formats[format].precision - 1));
        for (int i = 0; i < 20000; ++i) {
            const int e = below(2) ? between(-1080, 1023)
                                   : between(formats[format].lowest - 3, formats[format].highest);
            const double v = random_double(e);
            HOLDS(same(fr_round_double(v, f), narrow(format, v)));
        }
        const double specials[] = {0.0, -0.0, INFINITY, -INFINITY, 5e-324, -5e-324, 0x1.fp1023};
        for (int i = 0; i < 7; ++i)
            HOLDS(same(fr_round_double(specials[i], f), narrow(format, specials[i])));
        HOLDS(fr_bits(fr_round_double(-NAN, f)) == UINT64_C(0x7ff8000000000000));
    }
    for (unsigned h = 0; h < 65536; ++h) {
        HOLDS(same(fr_f16_to_f64((uint16_t)h), decode(FASTREG_F16, h)));
        HOLDS(same(fr_bf16_to_f64((uint16_t)h), decode(FASTREG_BF16, h)));
        for (int k = -1; k <= 1; ++k) {
            const double f16 = decode(FASTREG_F16, h), bf16 = decode(FASTREG_BF16, h),
                         next16 = decode(FASTREG_F16, h + 1), nextb = decode(FASTREG_BF16, h + 1);
            const double a = k ? nextafter((f16 + next16) / 2.0, k * INFINITY) : (f16 + next16) / 2;
            const double b = k ? nextafter((bf16 + nextb) / 2.0, k * INFINITY) : (bf16 + nextb) / 2;
            HOLDS(fr_f64_to_f16(a) == encode(FASTREG_F16, narrow(FASTREG_F16, a)));
            HOLDS(fr_f64_to_bf16(b) == encode(FASTREG_BF16, narrow(FASTREG_BF16, b)));
        }
        HOLDS(fr_f64_to_f16(decode(FASTREG_F16, h)) == encode(FASTREG_F16, decode(FASTREG_F16, h)));
    }
    unsigned char bytes[9] = {0xff, 0x34, 0x42, 0x7f, 0x3f, 0x11, 0x22, 0x33, 0x44};
    HOLDS(fr_element_f16(bytes + 1) == decode(FASTREG_F16, get_bits(bytes + 1, 2)));
    HOLDS(fr_element_bf16(bytes + 1) == decode(FASTREG_BF16, get_bits(bytes + 1, 2)));
    HOLDS(fr_element_f32(bytes + 1) == decode(FASTREG_F32, get_bits(bytes + 1, 4)));
    HOLDS(fr_element_f64(bytes + 1) == decode(FASTREG_F64, get_bits(bytes + 1, 8)));
    for (int k = -1022; k <= 1023; ++k)
        HOLDS(fr_pow2(k) == ldexp(1.0, k));
    for (int w = 0; w < 64; ++w)
        HOLDS(fr_width(UINT64_C(1) << w) == w + 1 && fr_width(UINT64_MAX >> w) == 64 - w);
    HOLDS(fr_width(0) == 0);
}

/* -- exact/limbs.h: the same base as truth.h's digits, which makes them comparable ------------- */

static int equal_digits(const fr_total *t, const big *b)
{
    for (int i = 0; i < 2 * FR_TOTAL_LIMBS; ++i) {
        const uint64_t digit = t->limb[i / 2] >> 32 * (i % 2) & 0xffffffff;
        if (digit != (i < DIGITS ? b->digit[i] : 0))
            return 0;
    }
    return 1;
}

static void check_total(const fr_total *t, const big *exact)
{
    HOLDS(equal_digits(t, exact));
    HOLDS(fr_total_top(t) == big_top(exact) - LOWEST);
    for (int format = 0; format < FLOAT_TYPES; ++format) {
        HOLDS(same(fr_total_round(t, all_formats[format]), big_round(exact, format)));
        HOLDS(same(fr_total_round_sqrt(t, all_formats[format]), big_round_root(exact, format)));
    }
}

static void check_limbs(void)
{
    _Static_assert(FR_TOTAL_BASE == LOWEST, "limbs and digits begin alike");
    _Static_assert(2 * FR_TOTAL_LIMBS == DIGITS, "limbs and digits end alike");
    static const double weights[] = {
        1.0, 0.1, 3.0, 5e-324, 0x1p-1022, 0x1.8p1023, 0x1.fffffffffffffp1023};
    for (int i = 0; i < 400; ++i) {
        fr_digits d;
        fr_total total, other;
        memset(&d, 0, sizeof d);
        memset(&total, 0, sizeof total), memset(&other, 0, sizeof other);
        big a = {{0}, 0, 0}, s = {{0}, 0, 0}, exact = {{0}, 0, 0};
        const double l1 = weights[below(7)], l2 = i % 5 ? weights[below(7)] : 1.0;
        const int centre = between(-1074, 1023), count = between(0, 30), which = below(4);
        for (int k = 0; k < count; ++k) {
            int e;
            if (i % 4 == 3) { /* integers */
                const uint64_t m = next() >> below(64);
                fr_digits_add_element(&d, m, 0);
                big_add(&a, m, 0), big_add_square(&s, m, 0);
                continue;
            }
            const int at = centre + between(-40, 40);
            const double v = below(9) ? random_double(at < -1074  ? -1074
                                                      : at > 1023 ? 1023
                                                                  : at)
                                      : 0;
            const uint64_t m = take_apart(v, &e);
            fr_digits_add_element(&d, m, e);
            if (m)
                big_add(&a, m, e), big_add_square(&s, m, e);
        }
        big_carry(&a), big_carry(&s);
        int e;
        uint64_t m = take_apart(l1, &e);
        fr_total_add_weighted(&total, which != 1 ? l1 : 0.0, 0.0, &d);
        if (which != 1)
            big_add_product(&exact, &a, m, e);
        check_total(&total, &exact);
        m = take_apart(l2, &e);
        fr_total_add_weighted(&other, 0.0, which != 2 ? l2 : 0.0, &d);
        if (which != 2)
            big_add_product(&exact, &s, m, e);
        fr_total_merge(&total, &other);
        check_total(&total, &exact);
    }
    /* A carry that runs through all limbs, by either way of adding. */
    for (int way = 0; way < 2; ++way) {
        fr_total ones, one;
        memset(&ones, 0xff, sizeof ones), memset(&one, 0, sizeof one);
        ones.limb[FR_TOTAL_LIMBS - 1] = 0;
        one.limb[0] = 1;
        if (way)
            fr_total_merge(&ones, &one);
        else
            fr_limbs_add(ones.limb, 1, 0);
        HOLDS(ones.limb[FR_TOTAL_LIMBS - 1] == 1 && fr_total_top(&ones) == 64 * 103);
        HOLDS(!fr_total_any_below(&ones, 64 * 103));
    }
    /* Every position: single bits, and windows over random ones. */
    fr_total random;
    for (int i = 0; i < FR_TOTAL_LIMBS; ++i)
        random.limb[i] = next();
    for (int position = -200; position < 64 * FR_TOTAL_LIMBS; ++position) {
        uint64_t window = 0;
        for (int k = 63; k >= 0; --k) {
            const int at = position + k;
            const int inside = at >= 0 && at < 64 * FR_TOTAL_LIMBS;
            window = window << 1 | (inside ? random.limb[at / 64] >> at % 64 & 1 : 0);
        }
        HOLDS(fr_total_window(&random, position) == window);
        fr_total single;
        memset(&single, 0, sizeof single);
        HOLDS(!fr_total_any_below(&single, position) && fr_total_top(&single) == -1);
        if (position < 0)
            continue;
        single.limb[position / 64] = UINT64_C(1) << position % 64;
        HOLDS(fr_total_top(&single) == position);
        HOLDS(!fr_total_any_below(&single, position) && !fr_total_any_below(&single, 0));
        HOLDS(position + 1 == 64 * FR_TOTAL_LIMBS || fr_total_any_below(&single, position + 1));
        HOLDS(!fr_total_any_below(&single, position - 100));
        /* Below every format, and above: 2^(base + position) and its root. */
        const double v = fr_total_round(&single, &fr_format_f64),
                     root = fr_total_round_sqrt(&single, &fr_format_f64);
        HOLDS(same(v, ldexp(1.0, LOWEST + position)));
        if (position % 2 == 0)
            HOLDS(same(root, ldexp(1.0, (LOWEST + position) / 2)));
    }
    /* Ones beside the number are not its own. */
    struct {
        uint64_t low[4];
        fr_total total;
        uint64_t high[4];
    } framed;
    memset(&framed, 0xff, sizeof framed);
    memset(&framed.total, 0, sizeof framed.total);
    for (int position = -250; position < 64 * FR_TOTAL_LIMBS; ++position) {
        HOLDS(!fr_total_any_below(&framed.total, position));
        HOLDS(fr_total_window(&framed.total, position) == 0);
    }
    HOLDS(fr_total_top(&framed.total) == -1 &&
          fr_total_round(&framed.total, &fr_format_f64) == 0.0);
    HOLDS(fr_total_round_sqrt(&framed.total, &fr_format_f64) == 0.0);
    HOLDS(fr_total_limb(&random, -1) == 0 && fr_total_limb(&random, FR_TOTAL_LIMBS) == 0);
    HOLDS(fr_total_limb(&random, 0) == random.limb[0]);
    HOLDS(fr_total_limb(&random, FR_TOTAL_LIMBS - 1) == random.limb[FR_TOTAL_LIMBS - 1]);
}

/* -- exact/fma.h ------------------------------------------------------------------------------- */

static void check_one_fma(double a, double b, double c)
{
    HOLDS(same(fr_fma(a, b, c), true_fma(a, b, c)));
}

static void check_fma(void)
{
    static const double odd[] = {0.0,
                                 -0.0,
                                 1.0,
                                 -1.0,
                                 INFINITY,
                                 -INFINITY,
                                 NAN,
                                 5e-324,
                                 -5e-324,
                                 0x1p-1022,
                                 0x1.fffffffffffffp1023,
                                 0x1p-537,
                                 0x1p600};
    enum { ODD = sizeof odd / sizeof odd[0] };
    for (int i = 0; i < ODD * ODD * ODD; ++i)
        check_one_fma(odd[i % ODD], odd[i / ODD % ODD], odd[i / ODD / ODD]);
    for (int i = 0; i < 60000; ++i) {
        /* Products anywhere, addends from far above to far below them. */
        const int ea = between(-1074, 1023), sum = between(-1130, 1023), apart = between(-150, 150);
        int eb = sum - ea, ec = sum + apart;
        eb = eb < -1074 ? -1074 : eb > 1023 ? 1023 : eb;
        ec = ec < -1074 ? -1074 : ec > 1023 ? 1023 : ec;
        const double a = random_double(ea), b = random_double(eb);
        check_one_fma(a, b, random_double(ec));
        check_one_fma(a, b, 0.0);
        /* What the rounded product leaves, and its neighbours: nearly all of it cancels. */
        const double p = a * b;
        if (isfinite(p)) {
            check_one_fma(a, b, -p);
            check_one_fma(a, b, nextafter(-p, i % 2 ? 0.0 : INFINITY));
        }
        /* Few bits: exact ties, and exact cancellation. */
        const double x = (double)between(1, 1 << 20), y = (double)between(1, 1 << 20);
        check_one_fma(x, y, -x * y);
        check_one_fma(ldexp(x, 40), ldexp(y, -20), ldexp((double)between(-9, 9), between(-70, 60)));
        HOLDS(!signbit(fr_fma(x, -y, x * y)));
    }
    /* A midpoint and one bit more or less, as far below it as a product's bits reach and
     * farther. */
    for (int k = 1; k <= 52; ++k)
        for (int sign = -1; sign <= 1; sign += 2)
            for (int even = 0; even < 2; ++even)
                for (int scale = -1000; scale <= 900; scale += 190) {
                    const double c = ldexp(even ? 1.0 : 1.0 + 0x1p-52, scale);
                    check_one_fma(1.0 + sign * ldexp(1.0, -k), ldexp(1.0, scale - 53), c);
                    check_one_fma(1.0 + sign * ldexp(1.0, -k), -ldexp(1.0, scale - 54), c);
                    check_one_fma(c, 1.0 + 0x1p-52, sign * ldexp(1.0, scale - 52 - 2 * k));
                }
}

/* -- exact/twofold.h --------------------------------------------------------------------------- */

/* A pair with a bound. */
static fr_sum random_sum(int exponent)
{
    fr_sum s = {fabs(random_double(exponent)), 0.0, 0.0};
    if (below(4))
        s.low = random_double(exponent - between(53, 90));
    if (below(4))
        s.error = fabs(random_double(exponent - between(44, 110)));
    if (below(20) == 0)
        s.high = s.low = s.error = 0.0;
    return s;
}

/* One end of the interval, or its middle. */
static big end_of(const fr_sum *s, int which)
{
    signed_big b;
    memset(&b, 0, sizeof b);
    put(&b, s->high), put(&b, s->low);
    if (which)
        put(&b, which * s->error);
    settle(&b);
    return value_of(&b);
}

static big product(const big *a, const big *b)
{
    big p = {{0}, 0, 0};
    for (int i = b->from; i < b->to; ++i)
        if (b->digit[i])
            big_add_product(&p, a, b->digit[i], LOWEST + 32 * i);
    return p;
}

/* fr_sum_decide may say yes only if both ends round alike, and must if even a little more does. */
static void check_decide(const fr_sum *s)
{
    for (int format = 0; format < FLOAT_TYPES; ++format) {
        const big low = end_of(s, -1), high = end_of(s, 1);
        const double a = big_round(&low, format), b = big_round(&high, format);
        double v = -1.0;
        const int decided = fr_sum_decide(s, all_formats[format], 1.0, &v);
        HOLDS(!decided || (same(a, v) && same(b, v)));
        fr_sum more = *s;
        more.error = s->error * 1.01 + (format == FASTREG_F64 ? fabs(s->low) : s->high) * 0x1.1p-50;
        if (more.error > s->high / 2)
            continue;
        const big lower = end_of(&more, -1), upper = end_of(&more, 1);
        if (same(big_round(&lower, format), big_round(&upper, format)) && b < INFINITY)
            HOLDS(decided);
        /* A factor is one of the bound. */
        if (s->error > 0.0 && a != b)
            HOLDS(!fr_sum_decide(s, all_formats[format], 2.0, &v));
        HOLDS(s->error == 0.0 || s->high < all_formats[format]->normal ||
              !fr_sum_decide(s, all_formats[format], 0x1p60, &v));
    }
}

static void check_pairs(void)
{
    for (int i = 0; i < 30000; ++i) {
        const int e = between(-700, 700);
        const fr_sum s = random_sum(e), t = random_sum(e + between(-120, 120));
        /* A sum of two holds the sums of their ends. */
        fr_sum r = s;
        fr_sum_add(&r, t);
        HOLDS(fabs(r.low) <= r.high * 0x1p-52);
        HOLDS(r.error <= (s.error + t.error) * (1 + 0x1p-50) + r.high * 0x1p-100);
        for (int which = -1; which <= 1; ++which) {
            big a = end_of(&s, which);
            const big b = end_of(&t, which);
            for (int k = b.from; k < b.to; ++k)
                a.digit[k] += b.digit[k];
            if (b.to) {
                a.from = a.to && a.from < b.from ? a.from : b.from;
                a.to = a.to > b.to ? a.to : b.to;
            }
            big_carry(&a);
            HOLDS(which ? within_more(&a, &r, 1 + 0x1p-50) : within(&a, &r));
        }
        /* A weighted one holds the weighted ends. */
        const double w = below(8) ? fabs(random_double(between(-300, 250))) : 1.0;
        const fr_sum q = fr_sum_weighted(w, s);
        if (w == 1.0 || s.high == 0.0)
            HOLDS(memcmp(&q, &s, sizeof s) == 0);
        HOLDS(q.error <= w * s.error * (1 + 0x1p-50) + q.high * 0x1p-100 + 0x1p-1059);
        for (int which = -1; which <= 1; ++which) {
            int we;
            const uint64_t m = take_apart(w, &we);
            const big a = end_of(&s, which);
            big exact = {{0}, 0, 0};
            big_add_product(&exact, &a, m, we);
            HOLDS(which ? within_more(&exact, &q, 1 + 0x1p-50) : within(&exact, &q));
        }
        /* The root's ends lie around those of the number. */
        fr_sum u = random_sum(between(-500, 500));
        u.error = u.error > u.high * 0x1p-30 ? u.high * 0x1p-30 : u.error;
        const fr_sum root = fr_sum_sqrt(u, sqrt(u.high));
        HOLDS(u.high != 0.0 || memcmp(&root, &u, sizeof u) == 0);
        HOLDS(root.error <=
              u.error / (root.high > 0.0 ? root.high : 1.0) * 1.01 + root.high * 0x1p-98);
        if (i % 4 == 0) {
            const big low = end_of(&root, -1), high = end_of(&root, 1);
            const big low2 = product(&low, &low), high2 = product(&high, &high);
            const big below_u = end_of(&u, -1), above_u = end_of(&u, 1);
            HOLDS(big_compare(&low2, &below_u) <= 0 && big_compare(&above_u, &high2) <= 0);
        }
        check_decide(&s);
        /* Midpoints of each format, with an error that does or does not reach them. */
        const int format = below(FLOAT_TYPES), p = formats[format].precision;
        const int at = between(formats[format].lowest + p, formats[format].highest - 1);
        const uint64_t bits = UINT64_C(1) << p | next() >> (64 - p) | 1;
        fr_sum middle = {0.0, 0.0, 0.0};
        if (p == 53) {
            middle.high = ldexp((double)(bits >> 1), at - p + 1);
            middle.low = ldexp(1.0, at - p);
        } else
            middle.high = ldexp((double)bits, at - p);
        const double off = ldexp(middle.high, -between(60, 100));
        if (at - 200 > -1074 || off > 0x1p-1000) {
            middle.low += below(2) ? off : -off;
            middle.error = off * (below(2) ? 0.9 : 1.1);
            check_decide(&middle);
        }
    }
    const fr_sum infinite = {INFINITY, 0.0, 0.0}, bad = {NAN, 0.0, 0.0},
                 wide = {1.0, 0.0, INFINITY}, nothing = {0.0, 0.0, 0.0}, unsure = {0.0, 0.0, 1.0};
    double v = -1.0;
    HOLDS(!fr_sum_decide(&infinite, &fr_format_f64, 1.0, &v));
    HOLDS(!fr_sum_decide(&bad, &fr_format_f64, 1.0, &v));
    HOLDS(!fr_sum_decide(&wide, &fr_format_f64, 1.0, &v));
    for (int format = 0; format < FLOAT_TYPES; ++format) {
        HOLDS(fr_sum_decide(&nothing, all_formats[format], 1e300, &v) && same(v, 0.0));
        HOLDS(!fr_sum_decide(&unsure, all_formats[format], 1.0, &v));
        /* A factor without bounds decides nothing, or what is right. */
        HOLDS(!fr_sum_decide(&nothing, all_formats[format], INFINITY, &v) || same(v, 0.0));
    }
    for (int i = 0; i < 20000; ++i) {
        const double a = random_double(between(-480, 490)), b = random_double(between(-480, 490));
        HOLDS(same(fr_product_error(a, b, a * b), true_fma(a, b, -(a * b))));
        const fr_sum s = fr_two_sum(a, b);
        HOLDS(s.high == a + b && s.error == 0.0 &&
              same(s.low + 0.0, true_fma(1.0, a, 0.0) - a + s.low));
        signed_big left;
        memset(&left, 0, sizeof left);
        put(&left, a), put(&left, b), put(&left, -s.high), put(&left, -s.low);
        settle(&left);
        HOLDS(big_compare(&left.positive, &left.negative) == 0);
    }
}

/* -- The kernels of one table ------------------------------------------------------------------ */

enum { MOST = 8192, KINDS = 9 };
static _Alignas(64) unsigned char elements[MOST * 8 + 64], outputs[MOST * 8 + 128],
    before[MOST * 8 + 128];
static const size_t lengths[] = {0,  1,  2,  3,  4,  5,  7,   8,   9,   15,  16,   17,   31,
                                 32, 33, 47, 63, 64, 65, 100, 127, 129, 255, 1000, 2047, 8192};
enum { LENGTHS = sizeof lengths / sizeof lengths[0] };

static uint64_t element(int dtype, int kind)
{
    const int stored = formats[dtype].precision - 1, bias = formats[dtype].highest;
    const uint64_t sign = (next() & 1) << (formats[dtype].width - 1);
    const uint64_t low = next() >> (64 - stored);
    int field;
    switch (kind) {
    case 0: /* near one */
        field = bias - 3 + below(6);
        break;
    case 1: /* squares that neither overflow nor underflow in f64 */
        field = dtype == FASTREG_F64 ? bias + between(-400, 400) : 1 + below(2 * bias);
        break;
    case 2: /* subnormal, and zeros */
        return below(3) ? sign | low : sign;
    case 3: /* the largest */
        field = 2 * bias - below(3);
        break;
    case 4:
        return sign;
    case 5: /* a little beside a lot */
        field = below(50) ? (bias > 20 ? bias - between(20, 60) : between(1, 8)) : bias + 3;
        break;
    case 6: /* equal numbers of all ones: roundings of one direction */
        return sign | (uint64_t)(bias - 1) << stored | ((UINT64_C(1) << stored) - 1);
    case 7: /* squares around the smallest f32 */
        field = bias > 75 ? bias - 75 + below(30) : 1 + below(4);
        break;
    default: /* with infinities */
        if (below(20) == 0)
            return sign | (uint64_t)(2 * bias + 1) << stored;
        field = bias;
    }
    return sign | (uint64_t)field << stored | low;
}

/* The sums of a kernel hold the exact ones, and not much else. */
static void check_sum(const sums *truth, int which, const fr_sum *s, double loosest)
{
    const big *const exact = which ? &truth->squares : &truth->absolute;
    if (truth->inf || s->high == INFINITY)
        return;
    HOLDS(within_more(exact, s, 0.5)); /* every bound is stated twice as large as it is proven */
    HOLDS(s->error <= s->high * loosest || s->error <= 0x1p-800);
}

static void check_kernels_on(const fr_float_kernels *k, int dtype, const unsigned char *x, size_t n,
                             int kind, double anchors[2])
{
    static sums truth;
    const size_t item = item_sizes[dtype];
    memset(&truth, 0, sizeof truth);
    for (size_t i = 0; i < n; ++i)
        feed(&truth, dtype, get_bits(x + i * item, item));
    big_carry(&truth.absolute), big_carry(&truth.squares);
    const double top = ldexp(1.0, big_top(&truth.squares) + 1);
    const int narrow_is_plain = dtype >= FASTREG_F32;
    for (int p = 0; p < FR_PENALTY_COUNT; ++p)
        for (int which = 0; which < 2; ++which) {
            if (p != FR_PENALTY_l1l2 && p != which)
                continue;
            fr_sum sum[2] = {{-1.0, 0.0, 0.0}, {-1.0, 0.0, 0.0}};
            k->plain[p](x, n, sum);
            HOLDS(sum[1 - which].high == -1.0 || p == FR_PENALTY_l1l2);
            if (truth.inf)
                HOLDS(sum[which].high == INFINITY);
            if (dtype != FASTREG_F64)
                check_sum(&truth, which, &sum[which], 0x1p-41);
            sum[0].high = sum[1].high = -1.0;
            k->narrow[p](x, n, sum);
            if (truth.inf)
                HOLDS(sum[which].high == INFINITY);
            if (dtype != FASTREG_F64)
                check_sum(&truth, which, &sum[which], narrow_is_plain ? 0x1p-41 : 0x1p-13);
            /* Without guesses, with those of the chunk before, and with bad ones. */
            for (int guess = 0; guess < 4; ++guess) {
                double fresh[2] = {0.0, 0.0};
                double *const anchor = guess == 1 ? anchors : fresh;
                if (guess >= 2)
                    fresh[0] = fresh[1] = guess == 2 ? 0x1p1001 : 0x1p-850;
                sum[0].high = sum[1].high = -1.0;
                if (k->anchored[p](x, n, anchor, sum)) {
                    HOLDS(!truth.inf);
                    check_sum(&truth, which, &sum[which], 0x1p-66);
                    /* Guesses that are good stay as they are, and small ones grow. */
                    HOLDS(anchor[which] == 0.0 || anchor[which] >= 0x1p-850);
                    double again[2] = {anchor[0], anchor[1]};
                    HOLDS(k->anchored[p](x, n, again, sum));
                    check_sum(&truth, which, &sum[which], 0x1p-66);
                } else {
                    HOLDS(truth.inf || top > 0x1p998 || kind == 3);
                    HOLDS(anchor[0] == 0.0 && anchor[1] == 0.0);
                    HOLDS(truth.inf || dtype == FASTREG_F64);
                }
            }
        }
    /* The kernel of statistics, and its counts. */
    for (int guess = 0; guess < 2; ++guess) {
        double fresh[2] = {0.0, 0.0};
        fr_sum sum[2];
        fr_counts s = {0.25, 3, 5, 7, 11};
        const int got = k->statistics(x, n, guess ? anchors : fresh, sum, &s);
        HOLDS(got || truth.inf || dtype == FASTREG_F64);
        for (int which = 0; got && which < 2; ++which)
            check_sum(&truth, which, &sum[which], 0x1p-66);
        HOLDS(s.largest == fmax(0.25, truth.counts.max_abs));
        HOLDS(s.zeros == 3 + truth.counts.zeros && s.subnormals == 5 + truth.counts.subnormals);
        HOLDS(s.nans == 7 && s.infs == 11 + truth.counts.infs);
    }
}

/* Rests as large as an anchor leaves them, of one sign, beside one number that the anchor suits:
 * what comes nearest to the bound of anchored sums. */
static void check_rests(const fr_float_kernels *k, int dtype)
{
    static sums truth;
    static const double patterns[] = {1.0, 1.0 - 0x1p-20, 1.0 - 0x1p-50, 0.75, 2.0 / 3.0, 0.51};
    enum { PATTERNS = sizeof patterns / sizeof patterns[0] };
    const size_t item = item_sizes[dtype];
    for (int which = 0; which < 2; ++which)
        for (int l = 1; l < LENGTHS; ++l)
            for (int p = 0; p <= PATTERNS; ++p) {
                const size_t n = lengths[l];
                memset(&truth, 0, sizeof truth);
                for (size_t i = 0; i < n; ++i) {
                    const double part =
                        p < PATTERNS ? patterns[p] : 0.5 + 0x1p-33 * (double)(next() >> 32);
                    const double term = i == n / 2 ? 0.375 : part * 0x1p-53;
                    const double v = which ? sqrt(term) : term;
                    HOLDS(fastreg_pack((fastreg_dtype)dtype, v, elements + i * item) == FASTREG_OK);
                    feed(&truth, dtype, get_bits(elements + i * item, item));
                }
                big_carry(&truth.absolute), big_carry(&truth.squares);
                double anchor[2] = {1.0, 1.0};
                fr_sum sum[2];
                fr_counts counts = {0.0, 0, 0, 0, 0};
                HOLDS(k->anchored[which](elements, n, anchor, sum));
                check_sum(&truth, which, &sum[which], 0x1p-66);
                anchor[0] = anchor[1] = 1.0;
                HOLDS(k->statistics(elements, n, anchor, sum, &counts));
                check_sum(&truth, which, &sum[which], 0x1p-66);
            }
}

/* Sums and gradient in one loop: the bits of the two. `outputs` holds the gradient's, `before` what
 * was. */
static void check_both_on(const fr_float_kernels *k, int dtype, const unsigned char *x, size_t n,
                          int penalty, int how, const fr_slope *slope, unsigned char *out)
{
    static unsigned char separate[sizeof outputs];
    fr_both_kernel *const both = k->both[penalty][how];
    if (!both)
        return;
    memcpy(separate, outputs, sizeof outputs);
    memcpy(outputs, before, sizeof outputs);
    fr_sum sum[2], wanted[2];
    memset(sum, 0, sizeof sum), memset(wanted, 0, sizeof wanted);
    double anchor[2] = {0.0, 0.0}, alone[2] = {0.0, 0.0};
    const int bounded = both(x, out, n, anchor, sum, slope);
    HOLDS(memcmp(outputs, separate, sizeof outputs) == 0);
    if (dtype == FASTREG_F64)
        HOLDS(bounded == k->anchored[penalty](x, n, alone, wanted));
    else {
        HOLDS(bounded);
        k->plain[penalty](x, n, wanted);
    }
    HOLDS(anchor[0] == alone[0] && anchor[1] == alone[1]);
    for (int which = 0; which < 2 && bounded; ++which)
        if (penalty == FR_PENALTY_l1l2 || penalty == which)
            HOLDS(sum[which].high != sum[which].high
                      ? wanted[which].high != wanted[which].high
                      : memcmp(&sum[which], &wanted[which], sizeof sum[which]) == 0);
}

static void check_stores_on(const fr_float_kernels *k, int dtype, const unsigned char *x, size_t n,
                            int slow)
{
    static const double shapes[][3] = {
        {0.3, 0.01, 1.0},     {0.0, 0.7, -0.7},   {0.4, 0.0, 1.5},       {1e-46, 3e38, -1.0},
        {3.0, 2e-39, 1.0},    {0.0, 5e-324, 1.0}, {1e300, 1e300, 1e300}, {0.5, 0.25, 0.0},
        {0.0, 0.5, -0.0},     {0.5, 0.0, 0.0},    {0.5, 0.25, INFINITY}, {0.0, 0.5, -INFINITY},
        {0.5, 0.0, INFINITY}, {0.5, 0.25, NAN},   {0.0, 0.5, NAN},       {0.5, 0.0, NAN},
        {0.0, 1.5e308, 0.5},  {0.0, 0.3, 1.5e308}};
    const size_t item = item_sizes[dtype];
    for (int shape = 0; shape < (int)(sizeof shapes / sizeof shapes[0]); ++shape) {
        const double l1 = shapes[shape][0], l2 = shapes[shape][1], scale = shapes[shape][2];
        const fr_slope slope = fr_slope_of(l1, l2, scale);
        if (slow && n > 70 && slope.terms == FR_PENALTY_l1l2)
            continue;
        for (int store = 0; store < FR_STORE_COUNT + 2; ++store) {
            /* Streamed stores from the start of a line, from within one, and from where none can
             * begin. */
            const size_t offset = store == FR_STORE_COUNT       ? 3 * item
                                  : store == FR_STORE_COUNT + 1 ? 1
                                                                : 0;
            const int how = store >= FR_STORE_COUNT ? FR_STORE_streamed : store;
            unsigned char *const out = outputs + 64 + offset;
            for (size_t i = 0; i < n; ++i)
                put_bits(out + i * item, item, element(dtype, below(3)));
            memset(outputs, 0xa5, 64 + offset), memset(out + n * item, 0xa5, 32);
            memcpy(before, outputs, sizeof before);
            k->gradient[how](x, out, n, &slope);
            HOLDS(memcmp(outputs, before, 64 + offset) == 0);
            HOLDS(memcmp(out + n * item, before + 64 + offset + n * item, 32) == 0);
            const size_t step = n > 300 ? n / 150 | 1 : 1;
            for (size_t i = 0; i < n; i += step) {
                const uint64_t old = get_bits(before + 64 + offset + i * item, item),
                               bits = get_bits(x + i * item, item),
                               got = get_bits(out + i * item, item);
                HOLDS(got == true_gradient(dtype, bits, l1, l2, scale,
                                           how == FR_STORE_accumulated ? &old : NULL));
            }
            if (how != FR_STORE_streamed || offset == 0)
                check_both_on(k, dtype, x, n, slope.terms, how, &slope, out);
        }
        if (!isfinite(scale))
            continue; /* a step is finite */
        const fr_shrinkage shrinkage = {fabs(scale) * l1, 1.0 + fr_twice(l2, fabs(scale)),
                                        shape & 1};
        unsigned char *const out = outputs + 64;
        memset(out + n * item, 0xa5, 32);
        k->prox(x, out, n, &shrinkage);
        for (size_t i = 0; i < n; i += n > 300 ? n / 150 | 1 : 1)
            HOLDS(get_bits(out + i * item, item) ==
                  true_prox(dtype, get_bits(x + i * item, item), l1, l2, fabs(scale), shape & 1));
        for (int i = 0; i < 32; ++i)
            HOLDS(out[n * item + (size_t)i] == 0xa5);
    }
}

static void check_table(const fr_kernels *table)
{
    for (int dtype = 0; dtype < FLOAT_TYPES; ++dtype) {
        double anchors[2] = {0.0, 0.0};
        if (dtype >= FASTREG_F32)
            check_rests(table->of[dtype], dtype);
        for (int kind = 0; kind < KINDS; ++kind)
            for (int l = 0; l < LENGTHS; ++l) {
                const size_t n = lengths[l], item = item_sizes[dtype];
                unsigned char *const x = elements + below(2) * (l % 8);
                for (size_t i = 0; i < n; ++i)
                    put_bits(x + i * item, item, element(dtype, kind));
                const fr_float_kernels *const k = table->of[dtype];
                check_kernels_on(k, dtype, x, n, kind, anchors);
                if (n < 130 || (n < 3000 && kind < 3))
                    check_stores_on(k, dtype, x, n, table->of[0] == fr_kernels_baseline.of[0]);
                if (kind >= KINDS - 1 && n) {
                    /* A NaN anywhere, of any sign and payload. */
                    const size_t at = (size_t)below((int)n);
                    const int stored = formats[dtype].precision - 1;
                    const uint64_t nan = (UINT64_MAX << stored | 1 | next() >> (64 - stored)) &
                                         (UINT64_MAX >> (64 - formats[dtype].width));
                    put_bits(x + at * item, item, nan);
                    for (int p = 0; p < FR_PENALTY_COUNT; ++p) {
                        const int which = p == FR_PENALTY_l2;
                        fr_sum sum[2];
                        double anchor[2] = {0.0, 4.0};
                        k->plain[p](x, n, sum);
                        HOLDS(isnan(sum[which].high));
                        k->narrow[p](x, n, sum);
                        HOLDS(isnan(sum[which].high));
                        HOLDS(!k->anchored[p](x, n, anchor, sum));
                        HOLDS(anchor[0] == 0.0 && anchor[1] == 0.0);
                    }
                    fr_counts s = {0.0, 0, 0, 0, 0};
                    fr_sum sum[2];
                    double anchor[2] = {0.0, 0.0};
                    HOLDS(!k->statistics(x, n, anchor, sum, &s) && s.nans == 1);
                    check_stores_on(k, dtype, x, n > 70 ? 70 : n, 0);
                }
            }
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "-") == 0) {
        check_rounding();
        check_limbs();
        check_fma();
        check_pairs();
        printf("good\n");
        return 0;
    }
    static const fr_kernels *const tables[] = {
#define X(level) &fr_kernels_##level,
        FR_LEVELS(X)
#undef X
    };
    int available = 0;
    for (size_t i = 0; argc == 2 && fastreg_level_name(i, &available); ++i)
        if (available && strcmp(tables[i]->name, argv[1]) == 0) {
            check_table(tables[i]);
            printf("good\n");
            return 0;
        }
    (void)fprintf(stderr, "usage: units -|LEVEL, a level that this machine has\n");
    return 3;
}
