/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sums with bounds that go from process to process: merged as pairs, or exactly, as digits.
 */
#include "dtype.h"
#include "exact/digits.h"
#include "exact/limbs.h"
#include "machine.h"
#include "state.h"

enum { CODE = 3, N = 2, NAN_AT = 4, INF_AT, UNBOUNDED_AT, MIDDLE };
enum { ERROR_AT = MIDDLE + FR_ABSOLUTE_DIGITS };
_Static_assert(ERROR_AT + FR_ABSOLUTE_DIGITS == FASTREG_SUM_DIGITS64, "all digits");

/* A number that is finite and not negative, and a pair as the sums make them, which the bounds of
 * further additions and of roots rest on: fr_sum_weighted leaves |low| a little above 2^-52 high. */
static int is_sound(const fastreg_sum *s)
{
    const double low = s->low < 0.0 ? -s->low : s->low;
    return s->high >= 0.0 && s->high + s->error < FR_INFINITY && s->error >= 0.0 &&
           low * 0x1p52 <= s->high * (1.0 + 0x1p-40);
}

fastreg_status fastreg_sum_merge(fastreg_sum *to, const fastreg_sum *from)
{
    if (!to || !from)
        return FASTREG_NULL_POINTER;
    if (to->n > (unsigned long long)INT64_MAX || from->n > (unsigned long long)INT64_MAX - to->n)
        return FASTREG_BAD_SHAPE;
    const fr_environment saved = fr_environment_enter();
    fr_sum s = {to->high, to->low, to->error}, t = {from->high, from->low, from->error};
    FR_PIN(s);
    FR_PIN(t);
    int sound = is_sound(to) && is_sound(from);
    if (sound)
        fr_sum_add(&s, t);
    FR_PIN(s);
    FR_PIN(sound);
    const fastreg_sum merged = {s.high,
                                s.low,
                                s.error,
                                to->n + from->n,
                                to->nan | from->nan,
                                to->inf | from->inf,
                                to->unbounded | from->unbounded | !sound,
                                0};
    fr_environment_leave(saved);
    *to = merged;
    return FASTREG_OK;
}

static fastreg_status decide(const fastreg_sum *sum, fastreg_dtype result, int root, double *value)
{
    const fr_format *const format = fr_format_of(result);
    if (!sum || !value)
        return FASTREG_NULL_POINTER;
    if (!format)
        return FASTREG_BAD_DTYPE;
    if (sum->nan || sum->inf) {
        *value = sum->nan ? FR_NAN : FR_INFINITY;
        return FASTREG_OK;
    }
    const fr_environment saved = fr_environment_enter();
    fr_sum s = {sum->high, sum->low, sum->error};
    double v = 0.0;
    FR_PIN(s);
    /* The root's bound asks for an error of at most half the sum. */
    int decided = !sum->unbounded && is_sound(sum) &&
                  (!root || s.error <= 0.5 * s.high || (s.high == 0.0 && s.error == 0.0));
    if (decided) {
        if (root)
            s = fr_sum_sqrt(s, fr_sqrt(s.high));
        decided = fr_sum_decide(&s, format, 1.0, &v);
    }
    FR_PIN(v);
    FR_PIN(decided);
    fr_environment_leave(saved);
    if (!decided)
        return FASTREG_UNDECIDED;
    *value = v;
    return FASTREG_OK;
}

fastreg_status fastreg_sum_value(const fastreg_sum *sum, fastreg_dtype result, double *value)
{
    return decide(sum, result, 0, value);
}

fastreg_status fastreg_sum_norm(const fastreg_sum *sum, fastreg_dtype result, double *value)
{
    return decide(sum, result, 1, value);
}

/* -- Digits ------------------------------------------------------------------------------------ */

fastreg_status fastreg_sum_digits64(const fastreg_sum *sum, long long *digits)
{
    int64_t middle[FR_ABSOLUTE_DIGITS] = {0}, error[FR_ABSOLUTE_DIGITS] = {0};
    if (!sum || !digits)
        return FASTREG_NULL_POINTER;
    if (sum->n > (unsigned long long)INT64_MAX)
        return FASTREG_BAD_SHAPE;
    const fr_environment saved = fr_environment_enter();
    int sound = is_sound(sum);
    FR_PIN(sound);
    fr_environment_leave(saved);
    const int nan = sum->nan != 0, inf = sum->inf != 0, unbounded = sum->unbounded || !sound;
    if (!nan && !inf && !unbounded) {
        fr_digits_add_double(middle, sum->high, -FR_ABSOLUTE_BASE);
        fr_digits_add_double(middle, sum->low, -FR_ABSOLUTE_BASE);
        fr_digits_add_double(error, sum->error, -FR_ABSOLUTE_BASE);
        (void)fr_digits_carry_one(middle, FR_ABSOLUTE_DIGITS);
        (void)fr_digits_carry_one(error, FR_ABSOLUTE_DIGITS);
    }
    digits[0] = 1;
    digits[1] = CODE;
    digits[N] = (long long)(sum->n & FR_DIGIT_MASK);
    digits[N + 1] = (long long)(sum->n >> FR_DIGIT_BITS);
    digits[NAN_AT] = nan;
    digits[INF_AT] = inf;
    digits[UNBOUNDED_AT] = unbounded;
    for (int i = 0; i < FR_ABSOLUTE_DIGITS; ++i) {
        digits[MIDDLE + i] = middle[i];
        digits[ERROR_AT + i] = error[i];
    }
    return FASTREG_OK;
}

/* A total of canonical digits. */
static fr_total total_of(const int64_t *digit)
{
    fr_total t;
    memset(&t, 0, sizeof t);
    for (int i = 0; i < FR_ABSOLUTE_DIGITS; ++i)
        if (digit[i])
            fr_limbs_add(t.limb, (uint64_t)digit[i],
                         (unsigned)(FR_ABSOLUTE_BASE + FR_DIGIT_BITS * i - FR_TOTAL_BASE));
    return t;
}

fastreg_status fastreg_digits64_decide(const long long *digits, int root, fastreg_dtype result,
                                       double *value)
{
    const fr_format *const format = fr_format_of(result);
    int64_t below[FR_ABSOLUTE_DIGITS], above[FR_ABSOLUTE_DIGITS];
    if (!digits || !value)
        return FASTREG_NULL_POINTER;
    if (!format)
        return FASTREG_BAD_DTYPE;
    const long long parts = digits[0];
    if (parts < 0 || parts > (INT64_C(1) << 31) || digits[1] != CODE * parts)
        return FASTREG_BAD_STATE;
    for (int i = N; i < FASTREG_SUM_DIGITS64; ++i) {
        const int is_flag = i >= NAN_AT && i <= UNBOUNDED_AT;
        if (digits[i] < 0 || digits[i] > parts * (is_flag ? 1 : (long long)FR_DIGIT_MASK))
            return FASTREG_BAD_STATE;
    }
    if (digits[NAN_AT] || digits[INF_AT]) {
        *value = digits[NAN_AT] ? FR_NAN : FR_INFINITY;
        return FASTREG_OK;
    }
    if (digits[UNBOUNDED_AT])
        return FASTREG_UNDECIDED;
    for (int i = 0; i < FR_ABSOLUTE_DIGITS; ++i) {
        /* Sums of two digits may need one bit more than there is: carried first. */
        below[i] = digits[MIDDLE + i];
        above[i] = digits[ERROR_AT + i];
    }
    if (!fr_digits_carry_one(below, FR_ABSOLUTE_DIGITS) ||
        !fr_digits_carry_one(above, FR_ABSOLUTE_DIGITS))
        return FASTREG_BAD_STATE;
    for (int i = 0; i < FR_ABSOLUTE_DIGITS; ++i) {
        const int64_t middle = below[i], error = above[i];
        below[i] = middle - error;
        above[i] = middle + error;
    }
    if (!fr_digits_carry_one(below, FR_ABSOLUTE_DIGITS))
        memset(below, 0, sizeof below); /* nothing lies below zero */
    if (!fr_digits_carry_one(above, FR_ABSOLUTE_DIGITS))
        return FASTREG_BAD_STATE;
    const fr_environment saved = fr_environment_enter();
    fr_total low = total_of(below), high = total_of(above);
    FR_PIN(low);
    FR_PIN(high);
    double v = fr_total_rounded(&high, format, root);
    int decided = fr_bits(v) == fr_bits(fr_total_rounded(&low, format, root));
    FR_PIN(v);
    FR_PIN(decided);
    fr_environment_leave(saved);
    if (!decided)
        return FASTREG_UNDECIDED;
    *value = v;
    return FASTREG_OK;
}
