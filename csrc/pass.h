/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One pass over a list of arrays: what is asked of it, how far it is, and what it found.
 */
#ifndef FR_PASS_H
#define FR_PASS_H

#include "exact/limbs.h"
#include "exact_chunk.h"
#include "pool.h"

#include <stdatomic.h>

typedef enum { FR_VALUE, FR_GRADIENT, FR_BOTH, FR_PROX, FR_STATISTICS, FR_STATE } fr_operation;

/* A request: constant while a pass works on it. What each operation reads beside the arrays:
 *
 *                 tier       narrow       weights  store                         numbers
 *   FR_VALUE      0, 1, 2    with tier 0  may be   -                             -
 *   FR_GRADIENT   -          -            -        fresh, streamed, accumulated  scale
 *   FR_BOTH       0, 1       with tier 0  -        the same                      scale
 *   FR_PROX       -          -            -        fresh                         step, flush
 *   FR_STATISTICS 1          -            -        -                             -
 *   FR_STATE      -          -            -        -                             -
 *
 * f64 arrays are summed by tier 1 where the request says 0. A prox does not stream its stores: it
 * is limited by its division. */
typedef struct {
    const fastreg_array *arrays;
    size_t count;
    uint64_t elements;
    const fr_kernels *kernels;
    fr_operation operation;
    int tier;              /* 0: plain lanes, 1: anchored lanes, 2: integers */
    int narrow;            /* a result of at most 11 bits, for which the narrow lanes may do */
    const double *weights; /* l1 and l2 in place of every array's own, NULL for these */
    int store;             /* FR_STORE_*: how gradients reach memory */
    double scale;          /* the upstream factor of gradients */
    double step;           /* of a proximal step */
    int flush;             /* turn subnormal results of a proximal step into 0 */
    int threads;
    fr_pool pool;
    int (*poll)(void *);
    void *poll_context;
} fr_request;

/* Does a gradient take the place of the data that it comes from? */
FR_INLINE int fr_overwrites(const fr_request *r)
{
    for (size_t k = 0; k < r->count; ++k)
        if (r->arrays[k].gradient && r->arrays[k].gradient == r->arrays[k].data)
            return 1;
    return 0;
}

FR_INLINE int fr_sums(fr_operation o) { return o != FR_GRADIENT && o != FR_PROX; }
FR_INLINE int fr_writes(fr_operation o) { return o == FR_GRADIENT || o == FR_BOTH || o == FR_PROX; }

/* What a thread found in its share; merged by addition. */
typedef struct {
    fr_sum sum;       /* weighted; tiers 0 and 1 */
    int nan, inf;     /* met in the data */
    int unbounded;    /* a chunk that tier 1 cannot bound: numbers near the ends of f64's range */
    int abandoned;    /* a share was left there: nothing is known of the rest of it */
    fr_sum moment[2]; /* statistics: of |x| and x*x, without weights */
    fr_counts counts; /* statistics */
} fr_found;

FR_INLINE void fr_found_add(fr_found *to, const fr_found *f)
{
    fr_sum_add(&to->sum, f->sum);
    fr_sum_add(&to->moment[0], f->moment[0]);
    fr_sum_add(&to->moment[1], f->moment[1]);
    to->counts.largest = FR_MAX(to->counts.largest, f->counts.largest);
    to->counts.zeros += f->counts.zeros;
    to->counts.subnormals += f->counts.subnormals;
    to->counts.nans += f->counts.nans;
    to->counts.infs += f->counts.infs;
    to->nan |= f->nan;
    to->inf |= f->inf;
    to->unbounded |= f->unbounded;
    to->abandoned |= f->abandoned;
}

/* How far a request is. */
typedef struct {
    const fr_request *request;
    atomic_int stopped; /* the caller's poll asked to stop, or forked: what was found is not all */
    atomic_flag lock;   /* of found, total and exact */
    fr_found found;
    fr_total *total;  /* tier 2: the exact sum, zero before the first pass */
    fr_exact *exact;  /* FR_STATE: what the arrays hold, zero before the pass */
    double anchor[2]; /* tier 1's first guesses, 0 for none; its last after a pass of one share */
} fr_progress;

/* Begin with nothing found and no guesses. total: NULL but for tier 2. */
FR_HIDDEN void fr_progress_begin(fr_progress *p, const fr_request *request, fr_total *total);

FR_INLINE int fr_is_stopped(fr_progress *p)
{
    return atomic_load_explicit(&p->stopped, memory_order_relaxed);
}

/* Do the whole request, on as many threads as it says; p->found is what this pass found. */
FR_HIDDEN void fr_pass(fr_progress *p);

/* The same on this thread alone. here: it is the thread that called fastreg, the only one that may
 * ask the caller's poll. */
FR_HIDDEN void fr_pass_alone(fr_progress *p, int here);

/* Kernel row of the terms with a non-zero weight, -1 if there is none. */
FR_INLINE int fr_penalty_of(double l1, double l2)
{
    return l1 != 0.0 || l2 != 0.0 ? FR_TERMS(l1 != 0.0, l2 != 0.0) : -1;
}

#endif
