/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One pass over a list of arrays: the work of a call, shared between threads by element counts.
 */
#ifndef FR_PASS_H
#define FR_PASS_H

#include "exact/limbs.h"
#include "fastreg.h"
#include "kernels/kernels.h"

#include <stdatomic.h>

/* What a thread found in its share; merged by addition. */
typedef struct {
    fr_sum sum;       /* tiers 0 and 1 */
    int nan, inf;     /* met in the data */
    fr_sum moment[2]; /* of |x| and x*x, for a survey: no weights */
    fr_survey survey;
    int unbounded; /* a stretch that tier 1 cannot bound: numbers near the ends of f64's range */
} fr_found;

typedef struct {
    const fastreg_array *arrays;
    size_t count;
    uint64_t elements;
    const fr_kernels *kernels;
    int tier;   /* 0: plain lanes, 1: anchored lanes, 2: integers. f64 arrays need at least 1 */
    int narrow; /* in tier 0: a result of at most 11 bits, for which the narrow lanes may do */
    int value, gradient, accumulate, streamed, survey, prox, flush;
    double scale; /* of the gradient; the step of a prox */
    double
        anchor[2]; /* tier 1's first guesses, 0 for none; its last ones after a pass of one share */
    int (*poll)(void *);
    void *poll_context;
    atomic_int stopped;
    atomic_flag lock;
    fr_found found;
    fr_total *total; /* tier 2 */
} fr_job;

FR_INLINE void fr_found_add(fr_found *to, const fr_found *f)
{
    fr_sum_add(&to->sum, f->sum);
    fr_sum_add(&to->moment[0], f->moment[0]);
    fr_sum_add(&to->moment[1], f->moment[1]);
    to->survey.largest = FR_MAX(to->survey.largest, f->survey.largest);
    to->survey.zeros += f->survey.zeros;
    to->survey.subnormals += f->survey.subnormals;
    to->survey.nans += f->survey.nans;
    to->survey.infs += f->survey.infs;
    to->nan |= f->nan;
    to->inf |= f->inf;
    to->unbounded |= f->unbounded;
}

/* Elements of an array. */
FR_HIDDEN size_t fr_elements(const fastreg_array *a);

/* Kernel row of the terms with a non-zero weight, -1 if there is none. */
FR_INLINE int fr_penalty_of(const fastreg_array *a)
{
    return a->l1 != 0.0 ? (a->l2 != 0.0 ? FR_PENALTY_l1l2 : FR_PENALTY_l1)
                        : (a->l2 != 0.0 ? FR_PENALTY_l2 : -1);
}

/* Do share i of `shares`, and merge what was found into the job. here: on the thread that called fastreg,
 * which is the one that may ask the caller's poll. */
FR_HIDDEN void fr_pass(void *job, int i, int shares, int here);

/* All of one array on this thread, in the default environment, for a job that surveys: job->found is
 * what was found there alone. */
FR_HIDDEN void fr_pass_survey(fr_job *job, const fastreg_array *a, int here);

#endif
