/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All public functions. Arguments are checked here and nowhere else, and the floating-point
 * environment is entered here for the calling thread.
 */
#include "dispatch.h"
#include "host.h"
#include "machine.h"
#include "state.h"
#include "statistics.h"
#include "threads.h"
#include "tiers.h"

/* -- Arguments --------------------------------------------------------------------------------- */

/* Check one array; *n receives its number of elements. */
static fastreg_status check_array(const fastreg_array *a, int writes, uint64_t *n)
{
    if (fr_itemsize(a->dtype) == 0)
        return FASTREG_BAD_DTYPE;
    if (!fr_is_good_number(a->l1) || !fr_is_good_number(a->l2))
        return FASTREG_BAD_WEIGHT;
    if (a->ndim < 0 || a->ndim > FASTREG_MAX_NDIM)
        return FASTREG_BAD_SHAPE;
    if (a->ndim > 0 && !a->shape)
        return FASTREG_NULL_POINTER;
    uint64_t elements = 1;
    int empty = 0, too_many = 0;
    for (int d = 0; d < a->ndim; ++d) {
        const uint64_t extent = (uint64_t)a->shape[d];
        if (extent > (uint64_t)INT64_MAX)
            return FASTREG_BAD_SHAPE;
        empty |= extent == 0;
        /* The product of two numbers below 2^31 needs no division to be judged. */
        too_many |= (elements | extent) >> 31 && extent && elements > (uint64_t)INT64_MAX / extent;
        elements *= extent;
    }
    if (too_many && !empty)
        return FASTREG_BAD_SHAPE;
    if (elements && !a->data)
        return FASTREG_NULL_POINTER;
    if (writes && a->gradient && !fr_is_float(a->dtype))
        return FASTREG_BAD_DTYPE;
    *n = elements;
    return FASTREG_OK;
}

/* Options of another version: fields that are not known here must not be set. */
static int is_known(const fastreg_options *o)
{
    if (o->size < sizeof *o)
        return o->size == 0;
    const char *const p = (const char *)o;
    for (size_t i = sizeof *o; i < o->size; ++i)
        if (p[i])
            return 0;
    return 1;
}

static fr_request request(fr_operation operation, const fastreg_array *arrays, size_t count)
{
    const fr_request r = {.operation = operation,
                          .arrays = arrays,
                          .count = count,
                          .store = FR_STORE_fresh,
                          .scale = 1.0};
    return r;
}

/* Check the arguments, and complete a request whose arrays, operation and numbers are set. format:
 * of the result, NULL if there is none. */
static fastreg_status check(fr_request *r, const fastreg_options *o, const fr_format *format)
{
    const int writes = fr_writes(r->operation);
    uint64_t nbytes = 0, written = 0;
    int wide = 0;
    if (r->count && !r->arrays)
        return FASTREG_NULL_POINTER;
    if (fr_sums(r->operation) && !format)
        return FASTREG_BAD_DTYPE;
    if (!fr_is_good_number(r->step))
        return FASTREG_BAD_SCALE;
    if (!is_known(o))
        return FASTREG_BAD_OPTIONS;
    if (o->threads < 0)
        return FASTREG_BAD_THREADS;
    r->elements = 0;
    for (size_t k = 0; k < r->count; ++k) {
        const fastreg_array *const a = &r->arrays[k];
        uint64_t n = 0;
        const fastreg_status s = check_array(a, writes, &n);
        if (s != FASTREG_OK)
            return s;
        if (n > (uint64_t)INT64_MAX - r->elements)
            return FASTREG_BAD_SHAPE;
        r->elements += n;
        nbytes += n * fr_itemsize(a->dtype);
        if (writes && a->gradient)
            written += n * fr_itemsize(a->dtype);
        wide |= fr_kernel_type(a->dtype) == FR_FLOAT_f64;
    }
    r->kernels = fr_dispatch(o->level);
    if (!r->kernels)
        return fr_dispatch_is_strict() ? FASTREG_BAD_LEVEL : FASTREG_BAD_BUILD;
    if (written && r->operation != FR_PROX && r->store == FR_STORE_fresh &&
        written >= fr_host_stream_threshold())
        r->store = FR_STORE_streamed;
    /* Tier 0 has 44 bits: too few for an f64 result, and f64 squares are not exact there. */
    r->tier = FR_MAX(o->first_tier, wide || (format && format->precision > 24));
    r->narrow = r->tier == 0 && format && format->precision <= 11;
    r->poll = o->poll;
    r->poll_context = o->poll_context;
    r->pool = (fr_pool){o->run, o->pool};
    r->threads = (o->run ? fr_pool_shares : fr_threads_for)(nbytes + written, o->threads,
                                                            o->bytes_per_thread);
    return FASTREG_OK;
}

/* -- Calls ----------------------------------------------------------------------------------- */

static const fastreg_options *or_defaults(const fastreg_options *options)
{
    static const fastreg_options defaults = {0};
    return options ? options : &defaults;
}

/* Where the answers of a call go, NULL for those that it does not have. */
typedef struct {
    double *value;
    fastreg_statistics *rows, *total;
} fr_answer;

/* What follows once the arguments have been checked. */
static fastreg_status answer(fr_request *r, const fastreg_options *o, const fr_format *format,
                             int root, const fr_answer *to)
{
    const double factor = o->error_factor != 0.0 ? o->error_factor : 1.0;
    if (r->operation == FR_STATISTICS)
        return fr_statistics(r, factor, to->rows, to->total);
    if (!fr_sums(r->operation)) {
        fr_progress p;
        fr_progress_begin(&p, r, NULL);
        fr_pass(&p);
        return fr_is_stopped(&p) ? FASTREG_INTERRUPTED : FASTREG_OK;
    }
    const fr_rounding how = {format, root, factor};
    double v = 0.0;
    int tier = 0;
    const fastreg_status s = fr_climb(r, &how, &v, &tier);
    if (s == FASTREG_OK) {
        *to->value = v;
        if (o->tier)
            *o->tier = tier;
    }
    return s;
}

/* The call that a request and its other arguments make. Without sums there is no format. */
static fastreg_status call(fr_request *r, const fastreg_options *o, const fr_format *format,
                           int root, const fr_answer *to)
{
    const fastreg_status s = check(r, o, format);
    if (FR_UNLIKELY(s != FASTREG_OK))
        return s;
    const fr_environment saved = fr_environment_enter();
    const fastreg_status done = answer(r, o, format, root, to);
    fr_environment_leave(saved);
    return done;
}

/* -- Values, gradients, proximal steps, statistics -------------------------------------------- */

/* One dense array of at most SHORT elements, nothing forced: a single kernel call on this thread
 * decides nearly always. The general way would do the same with a request, shares and merge around
 * it, which is most of the time of a call this small (64 f32: 100 ns against 25). */
enum { SHORT = 2048 };

/* Returns 0 if the general way must do it. */
static int short_value(const fastreg_array *a, size_t n, const fastreg_options *o,
                       const fr_format *format, int root, double *value)
{
    const fr_kernels *const kernels = fr_dispatch(NULL);
    const int penalty = fr_penalty_of(a->l1, a->l2);
    if (!kernels || penalty < 0)
        return 0;
    const fr_float_kernels *const k = kernels->of[a->dtype];
    const int tier = a->dtype == FASTREG_F64 || format->precision > 24;
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
    if (!fr_sum_decide(&total, format, 1.0, &v))
        return 0;
    *value = v;
    if (o->tier)
        *o->tier = tier;
    return 1;
}

static fastreg_status value_of(const fastreg_array *arrays, size_t count, fastreg_dtype result,
                               const fastreg_options *options, int root, double *value)
{
    const fastreg_options *const o = or_defaults(options);
    const fr_format *const format = fr_format_of(result);
    uint64_t n;
    if (!value)
        return FASTREG_NULL_POINTER;
    if (FR_LIKELY(count == 1 && arrays && format && o->threads >= 0) && !o->size && !o->level &&
        !o->first_tier && fr_bits(o->error_factor) == 0 && !arrays->strides &&
        fr_is_float(arrays->dtype) && check_array(arrays, 0, &n) == FASTREG_OK && n - 1 < SHORT) {
        const fr_environment saved = fr_environment_enter();
        const int done = short_value(arrays, (size_t)n, o, format, root, value);
        fr_environment_leave(saved);
        if (FR_LIKELY(done))
            return FASTREG_OK;
    }
    const fr_answer to = {.value = value};
    fr_request r = request(FR_VALUE, arrays, count);
    return call(&r, o, format, root, &to);
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

static int store_of(int accumulate) { return accumulate ? FR_STORE_accumulated : FR_STORE_fresh; }

fastreg_status fastreg_gradient(const fastreg_array *arrays, size_t count, double scale,
                                int accumulate, const fastreg_options *options)
{
    fr_request r = request(FR_GRADIENT, arrays, count);
    r.store = store_of(accumulate);
    r.scale = scale;
    return call(&r, or_defaults(options), NULL, 0, NULL);
}

fastreg_status fastreg_value_and_gradient(const fastreg_array *arrays, size_t count, double scale,
                                          int accumulate, fastreg_dtype result,
                                          const fastreg_options *options, double *value)
{
    const fr_answer to = {.value = value};
    fr_request r = request(FR_BOTH, arrays, count);
    r.store = store_of(accumulate);
    r.scale = scale;
    if (!value)
        return FASTREG_NULL_POINTER;
    return call(&r, or_defaults(options), fr_format_of(result), 0, &to);
}

fastreg_status fastreg_prox(const fastreg_array *arrays, size_t count, double step, int flush,
                            const fastreg_options *options)
{
    fr_request r = request(FR_PROX, arrays, count);
    r.step = step;
    r.flush = flush;
    return call(&r, or_defaults(options), NULL, 0, NULL);
}

fastreg_status fastreg_statistics_of(const fastreg_array *arrays, size_t count,
                                     const fastreg_options *options, fastreg_statistics *rows,
                                     fastreg_statistics *total)
{
    const fr_answer to = {.rows = rows, .total = total};
    fr_request r = request(FR_STATISTICS, arrays, count);
    if (count && !rows)
        return FASTREG_NULL_POINTER;
    return call(&r, or_defaults(options), &fr_format_f64, 0, &to);
}

/* -- States and sums with bounds --------------------------------------------------------------- */

fastreg_status fastreg_state_fill(fastreg_state *to, const fastreg_array *arrays, size_t count,
                                  const fastreg_options *options)
{
    fr_request r = request(FR_STATE, arrays, count);
    fr_progress p;
    fr_exact exact;
    fastreg_state part;
    unsigned layout = FASTREG_NARROW;
    if (!to)
        return FASTREG_NULL_POINTER;
    const fastreg_status s = check(&r, or_defaults(options), &fr_format_f64);
    if (s != FASTREG_OK)
        return s;
    if (r.elements > (uint64_t)INT64_MAX - FR_MIN(to->n, (uint64_t)INT64_MAX))
        return FASTREG_BAD_SHAPE;
    for (size_t k = 0; k < count; ++k)
        if (arrays[k].dtype == FASTREG_F64)
            layout = FASTREG_WIDE;
    memset(&exact, 0, sizeof exact);
    fr_progress_begin(&p, &r, NULL);
    p.exact = &exact;
    const fr_environment saved = fr_environment_enter();
    fr_pass(&p);
    fr_environment_leave(saved);
    if (fr_is_stopped(&p))
        return FASTREG_INTERRUPTED;
    fr_state_of(&part, &exact, r.elements, count ? layout : 0);
    return fastreg_state_add(to, &part);
}

fastreg_status fastreg_enclose(const fastreg_array *arrays, size_t count,
                               const fastreg_options *options, fastreg_sum *sum)
{
    const fastreg_options *const o = or_defaults(options);
    fr_request r = request(FR_VALUE, arrays, count);
    fr_progress p;
    if (!sum)
        return FASTREG_NULL_POINTER;
    const fastreg_status s = check(&r, o, &fr_format_f64);
    if (s != FASTREG_OK)
        return s;
    r.tier = 1; /* its bound serves every type of result */
    fr_progress_begin(&p, &r, NULL);
    const fr_environment saved = fr_environment_enter();
    fr_pass(&p);
    const fr_sum found = p.found.sum;
    const double error = found.error * (o->error_factor != 0.0 ? o->error_factor : 1.0);
    const int bounded = !p.found.unbounded && found.high + error < FR_INFINITY;
    fastreg_sum whole = {bounded ? found.high : 0.0,
                         bounded ? found.low : 0.0,
                         bounded ? error : 0.0,
                         r.elements,
                         (unsigned)p.found.nan,
                         (unsigned)p.found.inf,
                         !bounded,
                         0};
    FR_PIN(whole);
    fr_environment_leave(saved);
    if (fr_is_stopped(&p))
        return FASTREG_INTERRUPTED;
    *sum = whole;
    return FASTREG_OK;
}

/* -- Elements ---------------------------------------------------------------------------------- */

size_t fastreg_itemsize(fastreg_dtype dtype) { return fr_itemsize(dtype); }

/* The f32 that equals `value`, if there is a normal one (or +0): moving bits needs no
 * environment. */
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

fastreg_status fastreg_unpack(fastreg_dtype dtype, const void *element, double *value)
{
    const fr_environment saved = fr_environment_enter();
    fastreg_status status = FASTREG_OK;
    double v = 0.0;
    switch (dtype) {
#define X(name, type, constant)                                                                    \
    case constant:                                                                                 \
        v = fr_element_##name(element);                                                            \
        break;
        FR_FLOATS(X)
#undef X
    default:
        status = FASTREG_BAD_DTYPE;
    }
    if (status == FASTREG_OK)
        *value = v == v ? v : FR_NAN;
    fr_environment_leave(saved);
    return status;
}

/* -- Statuses ---------------------------------------------------------------------------------- */

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
        return "expected a step that is finite and >= 0";
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
    case FASTREG_UNDECIDED:
        return "expected a sum whose bound leaves no choice; sum exactly, with a state";
    case FASTREG_BELOW_ZERO:
        return "expected a state that holds all that is taken from it";
    case FASTREG_BAD_STATE:
        return "expected a state, or a sum of digits of one layout and of no more states than they "
               "have room for";
    case FASTREG_NOT_NARROW:
        return "expected a state with room in the narrow layout; use the wide one";
    case FASTREG_BAD_BUILD:
        return "expected a build whose arithmetic follows IEEE 754; compile fastreg without "
               "fast-math "
               "flags and with -ffp-contract=off";
    case FASTREG_BAD_OPTIONS:
        return "expected options of this version; set size to 0 or sizeof(fastreg_options), and "
               "only "
               "fields that this library has";
    case FASTREG_BAD_DEVICE:
        return "expected memory that the processor can read; copy the array to it";
    }
    return "unknown status";
}

int32_t fastreg_abi(void) { return FASTREG_ABI; }

const char *fastreg_version(void) { return FASTREG_VERSION; }

/* -- What is in use ---------------------------------------------------------------------------- */

const char *fastreg_level(void)
{
    const fr_kernels *const k = fr_dispatch(NULL);
    return k ? k->name : NULL;
}

const char *fastreg_level_name(size_t i, int *available)
{
    int unasked;
    return fr_dispatch_name(i, available ? available : &unasked);
}

int fastreg_has_openmp(void) { return fr_threads_exist(); }

/* set: that of the process, or of this thread. */
static fastreg_status set_threads(int (*set)(int), int threads, int *previous)
{
    if (threads < 0)
        return FASTREG_BAD_THREADS;
    const int old = set(threads);
    if (previous)
        *previous = old;
    return FASTREG_OK;
}

fastreg_status fastreg_set_num_threads(int threads, int *previous)
{
    return set_threads(fr_threads_set, threads, previous);
}

fastreg_status fastreg_set_thread_num_threads(int threads, int *previous)
{
    return set_threads(fr_threads_set_own, threads, previous);
}

int fastreg_get_num_threads(void) { return fr_threads(); }
