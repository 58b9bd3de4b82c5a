/* SPDX-License-Identifier: BSD-3-Clause */
#include "tiers.h"
#include "machine.h"

int fr_decide(const fr_found *found, const fr_sum *sum, const fr_total *total,
              const fr_rounding *how, double *value)
{
    if (FR_UNLIKELY(found->nan || (found->inf && !found->abandoned))) {
        *value = found->nan ? FR_NAN : FR_INFINITY;
        return 1;
    }
    if (total) {
        *value = how->root ? fr_total_round_sqrt(total, how->format)
                           : fr_total_round(total, how->format);
        return 1;
    }
    if (found->unbounded)
        return 0;
    const fr_sum s = how->root ? fr_sum_sqrt(*sum, fr_sqrt(sum->high)) : *sum;
    return fr_sum_decide(&s, how->format, how->factor, value);
}

/* Tier 2, with its integers on the stack. It always decides. */
static FR_NOINLINE void climb_to_the_top(fr_progress *p, const fr_rounding *how, double *value)
{
    fr_total total;
    memset(&total, 0, sizeof total);
    p->total = &total;
    fr_pass(p);
    (void)fr_decide(&p->found, &p->found.sum, &total, how, value);
    p->total = NULL;
}

fastreg_status fr_climb(fr_request *r, const fr_rounding *how, double *value, int *tier)
{
    /* Gradients come along with the first pass, unless that pass cannot write them, or would write
     * over data that a later one may have to read. */
    const int owed = r->operation == FR_BOTH && (r->tier >= 2 || fr_overwrites(r));
    double v = 0.0;
    fr_progress p;
    fr_progress_begin(&p, r, NULL);
    if (owed)
        r->operation = FR_VALUE;
    for (int decided = 0; !decided && !fr_is_stopped(&p);) {
        if (r->tier >= 2) {
            climb_to_the_top(&p, how, &v);
            break;
        }
        fr_pass(&p);
        decided = fr_decide(&p.found, &p.found.sum, NULL, how, &v);
        r->operation = FR_VALUE;
        /* Tier 1 takes as long as the exact tier, which always decides. */
        if (!decided && !r->narrow)
            r->tier = 2;
        r->narrow = 0;
    }
    if (owed && !fr_is_stopped(&p)) {
        r->operation = FR_GRADIENT;
        fr_pass(&p);
    }
    if (FR_UNLIKELY(fr_is_stopped(&p)))
        return FASTREG_INTERRUPTED;
    *value = v;
    *tier = r->tier;
    return FASTREG_OK;
}
