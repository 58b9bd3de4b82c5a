/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public functions of values, gradients and proximal steps, and the short way for small arrays.
 */
#include "call.h"
#include "dispatch.h"
#include "machine.h"

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
        !fr_weight_is_good(a->l1) || !fr_weight_is_good(a->l2) ||
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
    if (!fr_sum_decide(&total, fr_format_of(result), 1.0, &v))
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
    return fr_call(&job, options, result, root, value);
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
    return fr_call(&job, options, FASTREG_F64, 0, NULL);
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
    return fr_call(&job, options, result, 0, value);
}

fastreg_status fastreg_prox(const fastreg_array *arrays, size_t count, double step, int flush,
                            const fastreg_options *options)
{
    fr_job job = {
        .arrays = arrays, .count = count, .gradient = 1, .prox = 1, .flush = flush, .scale = step};
    return fr_call(&job, options, FASTREG_F64, 0, NULL);
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
    }
    return "unknown status";
}
