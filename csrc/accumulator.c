/* SPDX-License-Identifier: BSD-3-Clause */
#include "accumulator.h"

_Static_assert(sizeof(fr_accumulator) <= sizeof(fastreg_accumulator), "room for what it holds");

/* A total of weight 1 is a moment that begins so many limbs further up. */
#define FR_MOMENT_IN_TOTAL ((FR_SQUARE_BASE - FR_TOTAL_BASE) / 64)
_Static_assert((FR_SQUARE_BASE - FR_TOTAL_BASE) % 64 == 0, "whole limbs");
_Static_assert(FR_MOMENT_IN_TOTAL + 70 <= FR_TOTAL_LIMBS, "all of a moment");

static void merge_moment(fr_moment *to, const uint64_t *limb)
{
    for (int i = 0; i < 70; ++i)
        if (limb[i])
            fr_limb_add(&to->limb[i], limb[i]);
}

/* Returns 0 if stopped; then nothing has been added. */
static int add_exactly(fr_accumulator *to, fr_request *r)
{
    static const double weights[2][2] = {{1.0, 0.0}, {0.0, 1.0}};
    fr_total total[2];
    r->operation = FR_VALUE;
    r->tier = 2;
    memset(total, 0, sizeof total);
    for (int which = 0; which < 2; ++which) {
        fr_progress p;
        r->weights = weights[which];
        fr_progress_begin(&p, r, &total[which]);
        fr_pass(&p);
        if (fr_is_stopped(&p))
            return 0;
    }
    for (int which = 0; which < 2; ++which)
        merge_moment(&to->exactly[which], total[which].limb + FR_MOMENT_IN_TOTAL);
    to->exact_n += r->elements;
    return 1;
}

static int add(fr_accumulator *to, fr_request *r)
{
    static const double both[2] = {1.0, 1.0};
    fr_progress p;
    r->tier = 1;
    r->weights = both;
    fr_progress_begin(&p, r, NULL);
    fr_pass(&p);
    if (fr_is_stopped(&p))
        return 0;
    fr_found_add(&to->found, &p.found);
    to->n += r->elements;
    return 1;
}

fastreg_status fr_accumulate(fr_accumulator *to, const fr_request *request, int exactly)
{
    fr_request r = *request;
    r.narrow = 0;
    return (exactly ? add_exactly(to, &r) : add(to, &r)) ? FASTREG_OK : FASTREG_INTERRUPTED;
}

void fr_accumulator_merge(fr_accumulator *to, const fr_accumulator *from)
{
    fr_found_add(&to->found, &from->found);
    to->n += from->n;
    to->exact_n += from->exact_n;
    for (int which = 0; which < 2; ++which)
        merge_moment(&to->exactly[which], from->exactly[which].limb);
}

int fr_accumulator_value(const fr_accumulator *a, double l1, double l2, const fr_rounding *how,
                         double *value)
{
    const double weights[2] = {l1, l2};
    fr_sum sum = {0.0, 0.0, 0.0};
    fr_total total;
    const int exact = a->exact_n == a->n;
    if (l1 == 0.0 && l2 == 0.0) {
        *value = 0.0;
        return 1;
    }
    if (exact)
        memset(&total, 0, sizeof total);
    for (int which = 0; which < 2; ++which) {
        if (weights[which] == 0.0)
            continue;
        fr_sum_add(&sum, fr_sum_weighted(weights[which], a->found.moment[which]));
        if (exact)
            for (int i = 0; i < 70; ++i) {
                const int64_t d[2] = {(int64_t)(a->exactly[which].limb[i] & FR_DIGIT_MASK),
                                      (int64_t)(a->exactly[which].limb[i] >> 32)};
                fr_total_add(&total, weights[which], d, 2, FR_SQUARE_BASE + 64 * i);
            }
    }
    return fr_decide(&a->found, &sum, exact ? &total : NULL, how, value);
}

int fr_accumulator_statistics(const fr_accumulator *a, fastreg_statistics *s)
{
    const fr_rounding plain = {&fr_format_f64, 0, 1.0}, rooted = {&fr_format_f64, 1, 1.0};
    const fr_counts *const c = &a->found.counts;
    if (!fr_accumulator_value(a, 1.0, 0.0, &plain, &s->sum_abs) ||
        !fr_accumulator_value(a, 0.0, 1.0, &plain, &s->sum_squares) ||
        !fr_accumulator_value(a, 0.0, 1.0, &rooted, &s->norm))
        return 0;
    s->n = a->n;
    s->max_abs = c->nans ? FR_NAN : c->largest;
    s->zeros = c->zeros;
    s->subnormals = c->subnormals;
    s->nans = c->nans;
    s->infs = c->infs;
    return 1;
}
