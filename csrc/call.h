/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A call: check the arguments, run the pass, and climb the tiers until one decides.
 */
#ifndef FR_CALL_H
#define FR_CALL_H

#include "pass.h"

/* The format of a float type, NULL for others. */
FR_HIDDEN const fr_format *fr_format_of(fastreg_dtype dtype);

FR_INLINE int fr_weight_is_good(double w) { return w >= 0.0 && w < FR_INFINITY; }

FR_INLINE int fr_is_stopped(fr_job *job)
{
    return atomic_load_explicit(&job->stopped, memory_order_relaxed);
}

/* Check the arguments, fill the job from them, and say how many threads it deserves. */
FR_HIDDEN fastreg_status fr_call_prepare(fr_job *job, const fastreg_options *o,
                                         const fr_format *format, int *threads);

/* One pass; job->found is what it found. */
FR_HIDDEN void fr_call_run(fr_job *job, int threads);

/* The rounded value, or its root, if what a pass found decides it; else 0. */
FR_HIDDEN int fr_call_decide(const fr_job *job, int root, double factor, const fr_format *format,
                             double *value);

/* The whole call. value may be NULL if the job wants none. */
FR_HIDDEN fastreg_status fr_call(fr_job *job, const fastreg_options *o, fastreg_dtype result,
                                 int root, double *value);

#endif
