/* SPDX-License-Identifier: BSD-3-Clause */
#include "call.h"
#include "dispatch.h"
#include "machine.h"
#include "parallel.h"
#include "walk.h"

#define X(name, type, constant)                                                                    \
    _Static_assert((int)(constant) == (int)FR_FLOAT_##name,                                        \
                   "float dtypes are their kernels' indices");
FR_FLOATS(X)
#undef X

const fr_format *fr_format_of(fastreg_dtype dtype)
{
    switch (dtype) {
#define X(name, type, constant)                                                                    \
    case constant:                                                                                 \
        return &fr_format_##name;
        FR_FLOATS(X)
#undef X
    default:
        return NULL;
    }
}

/* Check one array; *n receives its number of elements. */
static fastreg_status check_array(const fastreg_array *a, int gradient, uint64_t *n)
{
    if (fastreg_itemsize(a->dtype) == 0)
        return FASTREG_BAD_DTYPE;
    if (!fr_weight_is_good(a->l1) || !fr_weight_is_good(a->l2))
        return FASTREG_BAD_WEIGHT;
    if (a->ndim < 0 || a->ndim > FASTREG_MAX_NDIM)
        return FASTREG_BAD_SHAPE;
    if (a->ndim > 0 && !a->shape)
        return FASTREG_NULL_POINTER;
    uint64_t elements = 1;
    for (int d = 0; d < a->ndim; ++d)
        if (a->shape[d] < 0)
            return FASTREG_BAD_SHAPE;
        else if (a->shape[d] == 0)
            elements = 0;
    for (int d = 0; d < a->ndim && elements; ++d) {
        if (elements > (uint64_t)INT64_MAX / (uint64_t)a->shape[d])
            return FASTREG_BAD_SHAPE;
        elements *= (uint64_t)a->shape[d];
    }
    if (elements && !a->data)
        return FASTREG_NULL_POINTER;
    if (gradient && a->gradient && a->dtype >= FASTREG_BOOL)
        return FASTREG_BAD_DTYPE;
    *n = elements;
    return FASTREG_OK;
}

fastreg_status fr_call_prepare(fr_job *job, const fastreg_options *o, const fr_format *format,
                               int *threads)
{
    uint64_t nbytes = 0, written = 0;
    int wide = 0;
    if (job->count && !job->arrays)
        return FASTREG_NULL_POINTER;
    if (job->value && !format)
        return FASTREG_BAD_DTYPE;
    if (job->prox && !(job->scale >= 0.0 && job->scale < FR_INFINITY))
        return FASTREG_BAD_SCALE;
    if (o->threads < 0)
        return FASTREG_BAD_THREADS;
    job->elements = 0;
    for (size_t k = 0; k < job->count; ++k) {
        const fastreg_array *const a = &job->arrays[k];
        uint64_t n = 0;
        const fastreg_status s = check_array(a, job->gradient, &n);
        if (s != FASTREG_OK)
            return s;
        if (n > (uint64_t)INT64_MAX - job->elements)
            return FASTREG_BAD_SHAPE;
        job->elements += n;
        nbytes += n * fastreg_itemsize(a->dtype);
        if (job->gradient && a->gradient)
            written += n * fastreg_itemsize(a->dtype);
        wide |= fr_kernel_type(a->dtype) == FR_FLOAT_f64;
    }
    job->kernels = fr_dispatch(o->level);
    if (!job->kernels)
        return FASTREG_BAD_LEVEL;
    job->streamed = written && !job->accumulate && written >= fr_parallel_stream_threshold();
    /* Tier 0 has 44 bits: too few for an f64 result, and f64 squares are not exact there. */
    job->tier = FR_MAX(o->first_tier, wide || (format && format->precision > 24));
    job->narrow = job->tier == 0 && format && format->precision <= 11;
    job->poll = o->poll;
    job->poll_context = o->poll_context;
    atomic_init(&job->stopped, 0);
    *threads = fr_parallel_threads(nbytes + written, o->threads, o->bytes_per_thread);
    return FASTREG_OK;
}

int fr_call_decide(const fr_job *job, int root, double factor, const fr_format *format,
                   double *value)
{
    if (job->found.nan) {
        *value = FR_NAN;
        return 1;
    }
    if (job->found.inf) {
        *value = FR_INFINITY;
        return 1;
    }
    if (job->tier == 2) {
        *value =
            root ? fr_total_round_sqrt(job->total, format) : fr_total_round(job->total, format);
        return 1;
    }
    if (job->found.unbounded)
        return 0;
    fr_sum s = job->found.sum;
    if (root)
        s = fr_sum_sqrt(s, fr_sqrt(s.high));
    return fr_sum_decide(&s, format, factor, value);
}

void fr_call_run(fr_job *job, int threads)
{
    memset(&job->found, 0, sizeof job->found);
    atomic_flag_clear(&job->lock);
    fr_parallel_run(threads, fr_pass, job);
}

/* Tier 2, with its integers on the stack. */
static FR_NOINLINE int run_exact(fr_job *job, int threads, int root, const fr_format *format,
                                 double *value)
{
    fr_total total;
    memset(&total, 0, sizeof total);
    job->total = &total;
    fr_call_run(job, threads);
    return fr_is_stopped(job) || fr_call_decide(job, root, 1.0, format, value);
}

/* Would writing a gradient change data that a later tier may have to read again? */
static int gradient_overwrites(const fr_job *job)
{
    for (size_t k = 0; k < job->count; ++k)
        if (job->arrays[k].gradient && job->arrays[k].gradient == job->arrays[k].data)
            return 1;
    return 0;
}

static FR_NOINLINE fastreg_status call_in_default_environment(fr_job *job, const fastreg_options *o,
                                                              fastreg_dtype result, int root,
                                                              double *value)
{
    const fr_format *const format = job->value ? fr_format_of(result) : NULL;
    const double factor = o->error_factor != 0.0 ? o->error_factor : 1.0;
    int threads = 1;
    double v = 0.0;
    const fastreg_status s = fr_call_prepare(job, o, format, &threads);
    if (s != FASTREG_OK)
        return s;
    int owed = job->gradient;
    if (job->value) {
        /* Gradients come along with the first pass, unless that pass cannot write them. */
        job->gradient = owed && job->tier < 2 && !gradient_overwrites(job);
        for (int decided = 0; !decided;) {
            if (job->tier < 2) {
                fr_call_run(job, threads);
                decided = fr_is_stopped(job) || fr_call_decide(job, root, factor, format, &v);
            } else
                decided = run_exact(job, threads, root, format, &v);
            owed = owed && !job->gradient;
            job->gradient = 0;
            if (!decided && !job->narrow)
                ++job->tier;
            job->narrow = 0;
        }
    }
    const int tier = job->tier;
    if (owed && !fr_is_stopped(job)) {
        job->value = 0;
        job->gradient = 1;
        job->tier = 0;
        fr_call_run(job, threads);
    }
    if (FR_UNLIKELY(fr_is_stopped(job)))
        return FASTREG_INTERRUPTED;
    if (value) {
        *value = v;
        if (o->tier)
            *o->tier = tier;
    }
    return FASTREG_OK;
}

fastreg_status fr_call(fr_job *job, const fastreg_options *o, fastreg_dtype result, int root,
                       double *value)
{
    static const fastreg_options defaults = {0};
    if (job->value && !value)
        return FASTREG_NULL_POINTER;
    const fr_environment saved = fr_environment_enter();
    const fastreg_status s =
        call_in_default_environment(job, o ? o : &defaults, result, root, value);
    fr_environment_leave(saved);
    return s;
}
