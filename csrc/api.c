/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public functions: check the arguments, run the pass, and climb the tiers until one decides.
 */
#include "dispatch.h"
#include "machine.h"
#include "parallel.h"
#include "pass.h"
#include "walk.h"

#define X(name, type, constant)                                                                    \
    _Static_assert((int)(constant) == (int)FR_FLOAT_##name,                                        \
                   "float dtypes are their kernels' indices");
FR_FLOATS(X)
#undef X

static const fr_format *format_of(fastreg_dtype dtype)
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

static int weight_is_good(double w) { return w >= 0.0 && w < FR_INFINITY; }

/* Check one array; *n receives its number of elements. */
static fastreg_status check_array(const fastreg_array *a, int gradient, uint64_t *n)
{
    if (fr_itemsize(a->dtype) == 0)
        return FASTREG_BAD_DTYPE;
    if (!weight_is_good(a->l1) || !weight_is_good(a->l2))
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

/* Fill the job from the arguments, and say how many threads it deserves. */
static fastreg_status prepare(fr_job *job, const fastreg_options *o, const fr_format *format,
                              int *threads)
{
    uint64_t nbytes = 0, written = 0;
    int wide = 0;
    if (job->count && !job->arrays)
        return FASTREG_NULL_POINTER;
    if (job->value && !format)
        return FASTREG_BAD_DTYPE;
    if (!(job->scale - job->scale == 0.0) || (job->prox && job->scale < 0.0))
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
        nbytes += n * fr_itemsize(a->dtype);
        if (job->gradient && a->gradient)
            written += n * fr_itemsize(a->dtype);
        wide |= fr_kernel_type(a->dtype) == FR_FLOAT_f64;
    }
    job->kernels = fr_dispatch(o->level);
    if (!job->kernels)
        return FASTREG_BAD_LEVEL;
    job->streamed = written && !job->accumulate && written >= fr_parallel_stream_threshold();
    /* Tier 0 has 44 bits: too few for an f64 result, and f64 squares are not exact there. */
    job->tier = FR_MAX(o->first_tier, wide || (format && format->precision > 24));
    job->poll = o->poll;
    job->poll_context = o->poll_context;
    atomic_init(&job->stopped, 0);
    *threads = fr_parallel_threads(nbytes + written, o->threads, o->bytes_per_thread);
    return FASTREG_OK;
}

/* The rounded value if what was found decides it. */
static int decide(const fr_job *job, int root, double factor, const fr_format *format,
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

static void run(fr_job *job, int threads)
{
    memset(&job->found, 0, sizeof job->found);
    atomic_flag_clear(&job->lock);
    fr_parallel_run(threads, fr_pass, job);
}

static int is_stopped(fr_job *job)
{
    return atomic_load_explicit(&job->stopped, memory_order_relaxed);
}

/* Tier 2, with its integers on the stack. */
static FR_NOINLINE int run_exact(fr_job *job, int threads, int root, const fr_format *format,
                                 double *value)
{
    fr_total total;
    memset(&total, 0, sizeof total);
    job->total = &total;
    run(job, threads);
    return is_stopped(job) || decide(job, root, 1.0, format, value);
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
    const fr_format *const format = job->value ? format_of(result) : NULL;
    const double factor = o->error_factor != 0.0 ? o->error_factor : 1.0;
    int threads = 1;
    double v = 0.0;
    const fastreg_status s = prepare(job, o, format, &threads);
    if (s != FASTREG_OK)
        return s;
    int owed = job->gradient;
    if (job->value) {
        /* Gradients come along with the first pass, unless that pass cannot write them. */
        job->gradient = owed && job->tier < 2 && !gradient_overwrites(job);
        for (int decided = 0; !decided; job->tier += !decided) {
            if (job->tier < 2) {
                run(job, threads);
                decided = is_stopped(job) || decide(job, root, factor, format, &v);
            } else
                decided = run_exact(job, threads, root, format, &v);
            owed = owed && !job->gradient;
            job->gradient = 0;
        }
    }
    const int tier = job->tier;
    if (owed && !is_stopped(job)) {
        job->value = 0;
        job->gradient = 1;
        job->tier = 0;
        run(job, threads);
    }
    if (FR_UNLIKELY(is_stopped(job)))
        return FASTREG_INTERRUPTED;
    if (value) {
        *value = v;
        if (o->tier)
            *o->tier = tier;
    }
    return FASTREG_OK;
}

static fastreg_status call(fr_job *job, const fastreg_options *o, fastreg_dtype result, int root,
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

/* One dense array of at most SHORT elements, nothing forced: a single kernel call on this thread
 * decides nearly always. The general way would do the same with job, shares and merge around it,
 * which is most of the time of a call this small (64 f32: 100 ns against 35). Returns 0 to be
 * called there. */
enum { SHORT = 2048 };

static int short_value(const fastreg_array *a, const fastreg_options *o, fastreg_dtype result,
                       int root, double *value)
{
    if (a->strides || (unsigned)a->dtype > FASTREG_F64 || (unsigned)result > FASTREG_F64 ||
        !a->data || a->ndim < 0 || a->ndim > 4 || (a->ndim && !a->shape) ||
        !weight_is_good(a->l1) || !weight_is_good(a->l2) ||
        (o && (o->level || o->first_tier || o->error_factor != 0.0 || o->threads < 0)))
        return 0;
    size_t n = 1;
    for (int d = 0; d < a->ndim; ++d)
        if ((size_t)a->shape[d] > SHORT || (n *= (size_t)a->shape[d]) > SHORT)
            return 0;
    const fr_kernels *const kernels = fr_dispatch(NULL);
    const int penalty = fr_penalty_of(a);
    if (!kernels || penalty < 0)
        return 0;
    const fr_float_kernels *const k = kernels->of[a->dtype]; /* the float dtypes come first */
    const int tier = a->dtype == FASTREG_F64 || result == FASTREG_F64;
    fr_sum sum[2];
    double anchor[2] = {0.0, 0.0};
    if (!tier)
        k->plain[penalty](a->data, n, sum);
    else if (!k->anchored[penalty](a->data, n, anchor, sum))
        return 0;
    /* An infinite or NaN sum makes the total infinite or NaN, which is not decided here. */
    fr_sum total =
        penalty == FR_PENALTY_l1 ? fr_sum_weighted(a->l1, sum[0]) : fr_sum_weighted(a->l2, sum[1]);
    if (penalty == FR_PENALTY_l1l2)
        fr_sum_add(&total, fr_sum_weighted(a->l1, sum[0]));
    if (root)
        total = fr_sum_sqrt(total, fr_sqrt(total.high));
    double v;
    if (!fr_sum_decide(&total, format_of(result), 1.0, &v))
        return 0;
    *value = v;
    if (o && o->tier)
        *o->tier = tier;
    return 1;
}

static fastreg_status value_of(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                               const fastreg_options *options, int root, double *value)
{
    if (FR_LIKELY(count == 1 && arrays && value)) {
        const fr_environment saved = fr_environment_enter();
        const int done = short_value(arrays, options, result, root, value);
        fr_environment_leave(saved);
        if (done)
            return FASTREG_OK;
    }
    fr_job job = {.arrays = arrays, .count = count, .value = 1};
    return call(&job, options, result, root, value);
}

fastreg_status fastreg_value(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                             const fastreg_options *options, double *value)
{
    return value_of(arrays, count, result, options, 0, value);
}

fastreg_status fastreg_norm(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                            const fastreg_options *options, double *value)
{
    return value_of(arrays, count, result, options, 1, value);
}

fastreg_status fastreg_gradient(const fastreg_array *arrays, size_t count, double scale,
                                int accumulate, const fastreg_options *options)
{
    fr_job job = {
        .arrays = arrays, .count = count, .gradient = 1, .accumulate = accumulate, .scale = scale};
    return call(&job, options, FASTREG_F64, 0, NULL);
}

fastreg_status fastreg_value_and_gradient(const fastreg_array *arrays, size_t count, double scale,
                                          int accumulate, fastreg_dtype result,
                                          const fastreg_options *options, double *value)
{
    fr_job job = {.arrays = arrays,
                  .count = count,
                  .value = 1,
                  .gradient = 1,
                  .accumulate = accumulate,
                  .scale = scale};
    return call(&job, options, result, 0, value);
}

fastreg_status fastreg_prox(const fastreg_array *arrays, size_t count, double step, int flush,
                            const fastreg_options *options)
{
    fr_job job = {
        .arrays = arrays, .count = count, .gradient = 1, .prox = 1, .flush = flush, .scale = step};
    return call(&job, options, FASTREG_F64, 0, NULL);
}

/* A survey in progress: rows are done whole, small arrays by one thread each. */
typedef struct {
    const fr_job *list;
    fastreg_statistics *rows;
    atomic_int stopped;
} fr_survey_job;

/* From here an array is shared between threads. */
enum { SHARED_ARRAY_ELEMENTS = 1 << 17 };

static double decided_or_exact(const fastreg_array *a, const fr_job *job, const fr_sum *sum,
                               int root)
{
    const fastreg_options exact = {.first_tier = 2, .level = job->kernels->name};
    double v = 0.0;
    const fr_sum s = root ? fr_sum_sqrt(*sum, fr_sqrt(sum->high)) : *sum;
    if (job->found.nan)
        return FR_NAN;
    if (job->found.inf)
        return FR_INFINITY;
    if (job->found.unbounded || !fr_sum_decide(&s, &fr_format_f64, 1.0, &v))
        (void)(root ? fastreg_norm : fastreg_value)(a, 1, FASTREG_F64, &exact, &v);
    return v;
}

static void survey_row(fr_survey_job *survey, size_t k, int threads, int asks, double anchor[2])
{
    fastreg_array a = survey->list->arrays[k];
    a.l1 = a.l2 = 1.0;
    fr_job job = {.arrays = &a,
                  .count = 1,
                  .elements = fr_elements(&a),
                  .kernels = survey->list->kernels,
                  .tier = 1,
                  .value = 1,
                  .survey = 1,
                  .anchor = {anchor[0], anchor[1]},
                  .poll = asks ? survey->list->poll : NULL,
                  .poll_context = survey->list->poll_context};
    atomic_init(&job.stopped, 0);
    run(&job, threads);
    if (is_stopped(&job)) {
        atomic_store(&survey->stopped, 1);
        return;
    }
    anchor[0] = job.anchor[0], anchor[1] = job.anchor[1];
    const fr_survey *const found = &job.found.survey;
    fastreg_statistics *const row = &survey->rows[k];
    row->n = job.elements;
    row->max_abs = found->nans ? FR_NAN : found->largest;
    row->zeros = found->zeros;
    row->subnormals = found->subnormals;
    row->nans = found->nans;
    row->infs = found->infs;
    a.l1 = 0.0;
    row->norm = decided_or_exact(&a, &job, &job.found.moment[1], 1);
    row->sum_squares = decided_or_exact(&a, &job, &job.found.moment[1], 0);
    a.l1 = 1.0, a.l2 = 0.0;
    row->sum_abs = decided_or_exact(&a, &job, &job.found.moment[0], 0);
}

/* The small arrays that begin in share i. */
static void survey_share(void *survey_, int i, int shares, int here)
{
    fr_survey_job *const survey = survey_;
    const fr_job *const list = survey->list;
    const uint64_t each = list->elements / (uint64_t)shares + 1;
    const fr_environment saved = fr_environment_enter();
    double anchor[2] = {0.0, 0.0};
    uint64_t at = 0;
    for (size_t k = 0; k < list->count && !atomic_load(&survey->stopped); ++k) {
        const uint64_t n = fr_elements(&list->arrays[k]);
        if (n < SHARED_ARRAY_ELEMENTS && at / each == (uint64_t)i)
            survey_row(survey, k, 1, here, anchor);
        at += n;
    }
    fr_environment_leave(saved);
}

fastreg_status fastreg_survey(const fastreg_array *arrays, size_t count,
                              const fastreg_options *options, fastreg_statistics *rows)
{
    static const fastreg_options defaults = {0};
    fr_job job = {.arrays = arrays, .count = count, .value = 1};
    int threads = 1;
    if (count && !rows)
        return FASTREG_NULL_POINTER;
    const fr_environment saved = fr_environment_enter();
    const fastreg_status s = prepare(&job, options ? options : &defaults, &fr_format_f64, &threads);
    if (s == FASTREG_OK) {
        fr_survey_job survey = {.list = &job, .rows = rows};
        double anchor[2] = {0.0, 0.0};
        atomic_init(&survey.stopped, 0);
        for (size_t k = 0; k < count && !atomic_load(&survey.stopped); ++k)
            if (fr_elements(&arrays[k]) >= SHARED_ARRAY_ELEMENTS)
                survey_row(&survey, k, threads, 1, anchor);
        fr_parallel_run(threads, survey_share, &survey);
        fr_environment_leave(saved);
        return atomic_load(&survey.stopped) ? FASTREG_INTERRUPTED : FASTREG_OK;
    }
    fr_environment_leave(saved);
    return s;
}

/* The f32 that equals `value`, if there is a normal one (or +0): moving bits needs no environment. */
static int pack_normal_f32(double value, void *element)
{
    const uint64_t b = fr_bits(value), magnitude = b & (UINT64_MAX >> 1);
    const int normal = magnitude - fr_bits(0x1p-126) < fr_bits(0x1p128) - fr_bits(0x1p-126);
    if ((!normal && b != 0) || (b & ((1u << 29) - 1)))
        return 0;
    const uint32_t f = (uint32_t)(b >> 63 << 31) |
                       (normal ? (uint32_t)(magnitude >> 29) - (UINT32_C(896) << 23) : 0);
    memcpy(element, &f, sizeof f);
    return 1;
}

fastreg_status fastreg_pack(fastreg_dtype dtype, double value, void *element)
{
    if (dtype == FASTREG_F64) {
        memcpy(element, &value, sizeof value);
        return FASTREG_OK;
    }
    if (dtype == FASTREG_F32 && pack_normal_f32(value, element))
        return FASTREG_OK;
    const fr_environment saved = fr_environment_enter();
    fastreg_status status = FASTREG_OK;
    switch (dtype) {
    case FASTREG_F16: {
        const uint16_t h = fr_f64_to_f16(value);
        memcpy(element, &h, sizeof h);
        break;
    }
    case FASTREG_BF16: {
        const uint16_t h = fr_f64_to_bf16(value);
        memcpy(element, &h, sizeof h);
        break;
    }
    case FASTREG_F32: {
        const float f = (float)fr_round_double(value, &fr_format_f32);
        memcpy(element, &f, sizeof f);
        break;
    }
    default:
        status = FASTREG_BAD_DTYPE;
    }
    fr_environment_leave(saved);
    return status;
}

const char *fastreg_status_text(fastreg_status status)
{
    switch (status) {
    case FASTREG_OK:
        return "success";
    case FASTREG_BAD_DTYPE:
        return "expected a supported element type (gradients and results: f16, bf16, f32, f64)";
    case FASTREG_BAD_WEIGHT:
        return "expected weights that are finite and >= 0";
    case FASTREG_BAD_SCALE:
        return "expected a finite scale";
    case FASTREG_BAD_SHAPE:
        return "expected extents >= 0, at most 64 dimensions and at most 2^63 - 1 elements";
    case FASTREG_NULL_POINTER:
        return "expected a pointer, received NULL";
    case FASTREG_BAD_LEVEL:
        return "expected an ISA level that fastreg_level_name lists as available";
    case FASTREG_BAD_THREADS:
        return "expected a thread count >= 0";
    case FASTREG_INTERRUPTED:
        return "interrupted; gradients may be partly written";
    }
    return "unknown status";
}
