/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The handlers run serially, on the thread of XLA's pool that calls them: XLA runs independent operations
 * side by side on its own threads, and a second pool under the first oversubscribes the processors. */
#include "_xla.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fastreg.h"

static fr_xla_error *fail(const fr_xla_call *call, int code, const char *text)
{
    fr_xla_error_create_args args = {sizeof args, NULL, text, code};
    return call->api->error_create(&args);
}

/* Answer XLA's question about the version that this handler was written for. Returns whether there was one. */
static int answer_metadata(const fr_xla_call *call)
{
    fr_xla_extension *e = call->extension_start;
    if (e == NULL || e->type != FR_XLA_METADATA)
        return 0;
    fr_xla_metadata *m = ((fr_xla_metadata_extension *)e)->metadata;
    m->api_version.major_version = FR_XLA_MAJOR;
    m->api_version.minor_version = FR_XLA_MINOR;
    return 1;
}

/* Whether the structs of the caller are those declared in the header. Each size is checked before anything
 * behind it is read, since a longer struct moves what follows. */
static int layout_matches(const fr_xla_call *call)
{
    return call->struct_size >= sizeof(fr_xla_call) &&
           call->api->struct_size >= sizeof(fr_xla_api) &&
           call->args.struct_size == sizeof(fr_xla_buffers) &&
           call->rets.struct_size == sizeof(fr_xla_buffers) &&
           call->attrs.struct_size == sizeof(fr_xla_attributes);
}

static int element_type(int xla, fastreg_dtype *dtype)
{
    switch (xla) {
    case FR_XLA_F16:
        *dtype = FASTREG_F16;
        return 1;
    case FR_XLA_BF16:
        *dtype = FASTREG_BF16;
        return 1;
    case FR_XLA_F32:
        *dtype = FASTREG_F32;
        return 1;
    case FR_XLA_F64:
        *dtype = FASTREG_F64;
        return 1;
    case FR_XLA_PRED:
        *dtype = FASTREG_BOOL;
        return 1;
    case FR_XLA_S8:
        *dtype = FASTREG_I8;
        return 1;
    case FR_XLA_U8:
        *dtype = FASTREG_U8;
        return 1;
    case FR_XLA_S16:
        *dtype = FASTREG_I16;
        return 1;
    case FR_XLA_U16:
        *dtype = FASTREG_U16;
        return 1;
    case FR_XLA_S32:
        *dtype = FASTREG_I32;
        return 1;
    case FR_XLA_U32:
        *dtype = FASTREG_U32;
        return 1;
    case FR_XLA_S64:
        *dtype = FASTREG_I64;
        return 1;
    case FR_XLA_U64:
        *dtype = FASTREG_U64;
        return 1;
    default:
        return 0;
    }
}

static size_t element_size(fastreg_dtype dtype)
{
    switch (dtype) {
    case FASTREG_BOOL:
    case FASTREG_I8:
    case FASTREG_U8:
        return 1;
    case FASTREG_F16:
    case FASTREG_BF16:
    case FASTREG_I16:
    case FASTREG_U16:
        return 2;
    case FASTREG_F64:
    case FASTREG_I64:
    case FASTREG_U64:
        return 8;
    default:
        return 4;
    }
}

static int64_t count(const fr_xla_buffer *b)
{
    int64_t n = 1;
    for (int64_t d = 0; d < b->rank; d++)
        n *= b->dims[d];
    return n;
}

/* The element at p of a float type, exactly. */
static double element(fastreg_dtype dtype, const void *p)
{
    uint16_t h;
    uint32_t w;
    float f;
    double v;
    switch (dtype) {
    case FASTREG_F64:
        memcpy(&v, p, 8);
        return v;
    case FASTREG_F32:
        memcpy(&f, p, 4);
        return (double)f;
    case FASTREG_BF16:
        memcpy(&h, p, 2);
        w = (uint32_t)h << 16;
        memcpy(&f, &w, 4);
        return (double)f;
    default:
        memcpy(&h, p, 2);
        int exponent = h >> 10 & 31;
        double m = h & 1023;
        v = exponent == 31  ? (m != 0.0 ? (double)NAN : (double)INFINITY)
            : exponent == 0 ? ldexp(m, -24)
                            : ldexp(m + 1024.0, exponent - 25);
        return h >> 15 ? -v : v;
    }
}

static int scalar_attribute(const fr_xla_call *call, const char *name, double *value)
{
    for (int64_t i = 0; i < call->attrs.size; i++) {
        const fr_xla_span *s = call->attrs.names[i];
        if (s->len != strlen(name) || memcmp(s->ptr, name, s->len) != 0)
            continue;
        const fr_xla_scalar *a = call->attrs.attrs[i];
        if (call->attrs.types[i] != FR_XLA_ATTR_SCALAR || a->dtype != FR_XLA_F64)
            return 0;
        memcpy(value, a->value, sizeof *value);
        return 1;
    }
    return 0;
}

/* What both handlers need: x, the other buffers, the weights and the rows. NULL if all is well. */
typedef struct {
    fastreg_array row; /* of x; data is that of the first row */
    ptrdiff_t n;       /* elements of a row */
    int64_t rows;
    size_t bytes; /* of a row */
} job;

static fr_xla_error *prepare(const fr_xla_call *call, int64_t arguments, int batch_of_result,
                             job *j)
{
    if (!layout_matches(call)) {
        char text[160];
        snprintf(text, sizeof text,
                 "expected XLA FFI structs of version %d.%d; received version %d.%d with other "
                 "sizes; update "
                 "fastreg or use fastreg.jax.route(\"ops\")",
                 FR_XLA_MAJOR, FR_XLA_MINOR, call->api->api_version.major_version,
                 call->api->api_version.minor_version);
        return fail(call, FR_XLA_UNIMPLEMENTED, text);
    }
    if (call->args.size != arguments || call->rets.size != 1 ||
        call->rets.types[0] != FR_XLA_RET_BUFFER)
        return fail(call, FR_XLA_INVALID_ARGUMENT, "expected the arguments of fastreg.jax");
    for (int64_t i = 0; i < arguments; i++)
        if (call->args.types[i] != FR_XLA_ARG_BUFFER)
            return fail(call, FR_XLA_INVALID_ARGUMENT, "expected buffers as arguments");
    const fr_xla_buffer *x = call->args.items[0];
    const fr_xla_buffer *batch = batch_of_result ? call->rets.items[0] : call->args.items[1];
    memset(j, 0, sizeof *j);
    if (x->struct_size < sizeof *x || !element_type(x->dtype, &j->row.dtype))
        return fail(call, FR_XLA_INVALID_ARGUMENT,
                    "expected elements of a float, integer or bool type");
    if (!scalar_attribute(call, "l1", &j->row.l1) || !scalar_attribute(call, "l2", &j->row.l2))
        return fail(call, FR_XLA_INVALID_ARGUMENT, "expected attributes l1 and l2 of type f64");
    int64_t all = count(x);
    j->rows = count(batch);
    j->n = j->rows > 0 ? (ptrdiff_t)(all / j->rows) : 0;
    if (j->rows > 0 && all % j->rows != 0)
        return fail(call, FR_XLA_INVALID_ARGUMENT, "expected x to be a whole number of rows");
    j->bytes = (size_t)j->n * element_size(j->row.dtype);
    j->row.data = x->data;
    j->row.shape = &j->n;
    j->row.ndim = 1;
    return NULL;
}

fr_xla_error *fr_xla_value(fr_xla_call *call)
{
    if (answer_metadata(call))
        return NULL;
    job j;
    fr_xla_error *error = prepare(call, 1, 1, &j);
    if (error != NULL)
        return error;
    const fr_xla_buffer *out = call->rets.items[0];
    fastreg_dtype result;
    if (!element_type(out->dtype, &result))
        return fail(call, FR_XLA_INVALID_ARGUMENT, "expected a result of a float type");
    const fastreg_options options = {.threads = 1};
    char *to = out->data;
    for (int64_t i = 0; i < j.rows; i++) {
        double value;
        fastreg_status status = fastreg_value(&j.row, 1, result, &options, &value);
        if (status == FASTREG_OK)
            status = fastreg_pack(result, value, to);
        if (status != FASTREG_OK)
            return fail(call, FR_XLA_INVALID_ARGUMENT, fastreg_status_text(status));
        j.row.data = (const char *)j.row.data + j.bytes;
        to += element_size(result);
    }
    return NULL;
}

/* A row's gradient where the upstream factor is infinite or NaN: that factor times the slope. */
static void spread(fastreg_dtype dtype, char *g, ptrdiff_t n, double u)
{
    size_t size = element_size(dtype);
    for (ptrdiff_t i = 0; i < n; i++, g += size)
        fastreg_pack(dtype, element(dtype, g) * u, g);
}

fr_xla_error *fr_xla_gradient(fr_xla_call *call)
{
    if (answer_metadata(call))
        return NULL;
    job j;
    fr_xla_error *error = prepare(call, 2, 0, &j);
    if (error != NULL)
        return error;
    const fr_xla_buffer *u = call->args.items[1], *out = call->rets.items[0];
    fastreg_dtype scale_type, result;
    if (!element_type(u->dtype, &scale_type) || scale_type > FASTREG_F64 ||
        !element_type(out->dtype, &result) || result != j.row.dtype || result > FASTREG_F64)
        return fail(call, FR_XLA_INVALID_ARGUMENT,
                    "expected x, u and the gradient to be of float types");
    const fastreg_options options = {.threads = 1};
    const char *scales = u->data;
    j.row.gradient = out->data;
    for (int64_t i = 0; i < j.rows; i++) {
        double scale = element(scale_type, scales);
        if (j.row.l1 == 0.0 && j.row.l2 == 0.0) {
            memset(j.row.gradient, 0, j.bytes);
        } else {
            fastreg_status status =
                fastreg_gradient(&j.row, 1, isfinite(scale) ? scale : 1.0, 0, &options);
            if (status != FASTREG_OK)
                return fail(call, FR_XLA_INVALID_ARGUMENT, fastreg_status_text(status));
            if (!isfinite(scale))
                spread(result, j.row.gradient, j.n, scale);
        }
        j.row.data = (const char *)j.row.data + j.bytes;
        j.row.gradient = (char *)j.row.gradient + j.bytes;
        scales += element_size(scale_type);
    }
    return NULL;
}
