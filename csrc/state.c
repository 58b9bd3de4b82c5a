/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public functions of states but those that read arrays: adding, taking away, rounding.
 */
#include "state.h"
#include "dtype.h"
#include "machine.h"

typedef unsigned long long limb;

void fr_state_of(fastreg_state *to, fr_exact *found, uint64_t n, int32_t layout)
{
    (void)fr_digits_carry(&found->digits);
    memset(to, 0, sizeof *to);
    to->n = n;
    to->zeros = found->counts.zeros;
    to->nans = found->counts.nans;
    to->positive_infinities = found->counts.positive_infinities;
    to->negative_infinities = found->counts.negative_infinities;
    to->layout = layout;
    for (int i = 0; i < FASTREG_STATE_SQUARES; ++i)
        to->squares[i] = (limb)found->digits.square[2 * i] | (limb)found->digits.square[2 * i + 1]
                                                                 << 32;
    for (int i = 0; i < FASTREG_STATE_ABSOLUTES; ++i)
        to->absolutes[i] =
            (limb)found->digits.absolute[2 * i] | (limb)found->digits.absolute[2 * i + 1] << 32;
}

/* -- What arrays can give ---------------------------------------------------------------------- */

static int all_zero(const limb *l, int count)
{
    limb any = 0;
    for (int i = 0; i < count; ++i)
        any |= l[i];
    return any == 0;
}

/* Can `count` limbs be a sum of m > 0 terms, each a multiple of 2^unit that is not 0 and is below
 * the last limb's lowest bit? unit: 0 ... 63, as a bit of the first limb. */
static int is_sum(const limb *l, int count, int unit, limb m)
{
    if (l[0] & ((UINT64_C(1) << unit) - 1) || l[count - 1] >= m)
        return 0;
    /* At least m units; what lies above 64 bits of them is more than any m. */
    const limb units = l[0] >> unit | l[1] << (64 - unit);
    return units >= m || l[1] >> unit || !all_zero(l + 2, count - 2);
}

_Static_assert(FR_SQUARE_BASE + 64 * (FASTREG_STATE_SQUARES - 1) == 2048, "above all squares");
_Static_assert(FR_ABSOLUTE_BASE + 64 * (FASTREG_STATE_ABSOLUTES - 1) == 1024, "above all elements");

/* With n < 2^63, sums that these bounds allow leave the last bit of their limbs unused, so two of
 * them add without a carry. */
int fr_state_is_good(const fastreg_state *s)
{
    const limb most = s->n;
    limb m = most;
    if (most > (limb)INT64_MAX || s->layout > FASTREG_WIDE)
        return 0;
    const limb counts[] = {s->zeros, s->nans, s->positive_infinities, s->negative_infinities};
    for (int i = 0; i < 4; ++i) {
        if (counts[i] > m)
            return 0;
        m -= counts[i];
    }
    if (m == 0)
        return all_zero(s->squares, FASTREG_STATE_SQUARES) &&
               all_zero(s->absolutes, FASTREG_STATE_ABSOLUTES);
    return is_sum(s->squares, FASTREG_STATE_SQUARES, -2148 - FR_SQUARE_BASE, m) &&
           is_sum(s->absolutes, FASTREG_STATE_ABSOLUTES, -1074 - FR_ABSOLUTE_BASE, m);
}

static int is_within(const limb *l, int count, int first, int limbs)
{
    return all_zero(l, first) && all_zero(l + first + limbs, count - first - limbs);
}

int fr_state_is_narrow(const fastreg_state *s)
{
    return is_within(s->squares, FASTREG_STATE_SQUARES, FR_NARROW_SQUARE, FR_NARROW_SQUARES) &&
           is_within(s->absolutes, FASTREG_STATE_ABSOLUTES, FR_NARROW_ABSOLUTE,
                     FR_NARROW_ABSOLUTES);
}

/* -- Adding and taking away -------------------------------------------------------------------- */

static void add_limbs(limb *to, const limb *from, int count)
{
    fr_u128 sum = 0;
    for (int i = 0; i < count; ++i) {
        sum += (fr_u128)to[i] + from[i];
        to[i] = (limb)sum;
        sum >>= 64;
    }
}

/* Returns what was borrowed from above. */
static int subtract_limbs(limb *to, const limb *from, int count)
{
    limb borrow = 0;
    for (int i = 0; i < count; ++i) {
        const fr_u128 difference = (fr_u128)to[i] - from[i] - borrow;
        to[i] = (limb)difference;
        borrow = (limb)(difference >> 64) & 1;
    }
    return (int)borrow;
}

fastreg_status fastreg_state_add(fastreg_state *to, const fastreg_state *from)
{
    if (!to || !from)
        return FASTREG_NULL_POINTER;
    if (!fr_state_is_good(to) || !fr_state_is_good(from))
        return FASTREG_BAD_STATE;
    if (from->n > (limb)INT64_MAX - to->n)
        return FASTREG_BAD_SHAPE;
    fastreg_state sum = *to;
    sum.n += from->n;
    sum.zeros += from->zeros;
    sum.nans += from->nans;
    sum.positive_infinities += from->positive_infinities;
    sum.negative_infinities += from->negative_infinities;
    sum.layout = FR_MAX(sum.layout, from->layout);
    add_limbs(sum.squares, from->squares, FASTREG_STATE_SQUARES);
    add_limbs(sum.absolutes, from->absolutes, FASTREG_STATE_ABSOLUTES);
    *to = sum;
    return FASTREG_OK;
}

fastreg_status fastreg_state_subtract(fastreg_state *to, const fastreg_state *from)
{
    if (!to || !from)
        return FASTREG_NULL_POINTER;
    if (!fr_state_is_good(to) || !fr_state_is_good(from))
        return FASTREG_BAD_STATE;
    fastreg_state rest = *to;
    limb *const counts[] = {&rest.n, &rest.zeros, &rest.nans, &rest.positive_infinities,
                            &rest.negative_infinities};
    const limb less[] = {from->n, from->zeros, from->nans, from->positive_infinities,
                         from->negative_infinities};
    for (int i = 0; i < 5; ++i) {
        if (less[i] > *counts[i])
            return FASTREG_BELOW_ZERO;
        *counts[i] -= less[i];
    }
    if (subtract_limbs(rest.squares, from->squares, FASTREG_STATE_SQUARES) ||
        subtract_limbs(rest.absolutes, from->absolutes, FASTREG_STATE_ABSOLUTES) ||
        !fr_state_is_good(&rest))
        return FASTREG_BELOW_ZERO;
    *to = rest;
    return FASTREG_OK;
}

/* -- Rounding ---------------------------------------------------------------------------------- */

/* total += weight * limbs, the weight finite and > 0. */
static void add_weighted(fr_total *total, double weight, const limb *l, int count, int base)
{
    int e;
    const uint64_t m = fr_split(weight, &e);
    for (int i = 0; i < count; ++i)
        if (l[i])
            fr_limbs_add(total->limb, (fr_u128)m * l[i],
                         (unsigned)(base + 64 * i + e - FR_TOTAL_BASE));
}

static fastreg_status value_of(const fastreg_state *states, const double *l1, const double *l2,
                               size_t count, fastreg_dtype result, int root, double *value)
{
    const fr_format *const format = fr_format_of(result);
    int nan = 0, inf = 0;
    fr_total total;
    if (!value || (count && !states))
        return FASTREG_NULL_POINTER;
    if (!format)
        return FASTREG_BAD_DTYPE;
    memset(&total, 0, sizeof total);
    for (size_t k = 0; k < count; ++k) {
        const fastreg_state *const s = &states[k];
        const double w1 = l1 ? l1[k] : 0.0, w2 = l2 ? l2[k] : 0.0;
        if (!fr_is_good_number(w1) || !fr_is_good_number(w2))
            return FASTREG_BAD_WEIGHT;
        if (!fr_state_is_good(s))
            return FASTREG_BAD_STATE;
        /* By their bits: where denormals count as zero, a weight of 1e-310 would. */
        const int has1 = fr_bits(w1) << 1 != 0, has2 = fr_bits(w2) << 1 != 0;
        if (!has1 && !has2)
            continue;
        nan |= s->nans != 0;
        inf |= (s->positive_infinities | s->negative_infinities) != 0;
        if (has1)
            add_weighted(&total, w1, s->absolutes, FASTREG_STATE_ABSOLUTES, FR_ABSOLUTE_BASE);
        if (has2)
            add_weighted(&total, w2, s->squares, FASTREG_STATE_SQUARES, FR_SQUARE_BASE);
    }
    const fr_environment saved = fr_environment_enter();
    FR_PIN(total);
    double rounded = fr_total_rounded(&total, format, root);
    FR_PIN(rounded);
    fr_environment_leave(saved);
    *value = nan ? FR_NAN : inf ? FR_INFINITY : rounded;
    return FASTREG_OK;
}

fastreg_status fastreg_state_value(const fastreg_state *states, const double *l1, const double *l2,
                                   size_t count, fastreg_dtype result, double *value)
{
    return value_of(states, l1, l2, count, result, 0, value);
}

fastreg_status fastreg_state_norm(const fastreg_state *states, const double *l1, const double *l2,
                                  size_t count, fastreg_dtype result, double *value)
{
    return value_of(states, l1, l2, count, result, 1, value);
}
