/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The handlers run serially, on the thread of XLA's pool that calls them: XLA runs independent operations
 * side by side on its own threads, and a second pool under the first oversubscribes the processors. */
#include "_xla.h"

#include <stdio.h>
#include <stdlib.h>
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

/* The fastreg type of one of XLA's; 0 if there is none. */
static int element_type(int xla, fastreg_dtype *dtype)
{
    static const struct {
        int known;
        fastreg_dtype dtype;
    } types[] = {
        [FR_XLA_PRED] = {1, FASTREG_BOOL}, [FR_XLA_S8] = {1, FASTREG_I8},
        [FR_XLA_S16] = {1, FASTREG_I16},   [FR_XLA_S32] = {1, FASTREG_I32},
        [FR_XLA_S64] = {1, FASTREG_I64},   [FR_XLA_U8] = {1, FASTREG_U8},
        [FR_XLA_U16] = {1, FASTREG_U16},   [FR_XLA_U32] = {1, FASTREG_U32},
        [FR_XLA_U64] = {1, FASTREG_U64},   [FR_XLA_F16] = {1, FASTREG_F16},
        [FR_XLA_F32] = {1, FASTREG_F32},   [FR_XLA_F64] = {1, FASTREG_F64},
        [FR_XLA_BF16] = {1, FASTREG_BF16},
    };
    if (xla < 0 || (size_t)xla >= sizeof types / sizeof types[0] || !types[xla].known)
        return 0;
    *dtype = types[xla].dtype;
    return 1;
}

/* The f64 array of `size` elements that an attribute holds; NULL if it holds anything else. */
static const char *weights(const fr_xla_call *call, const char *name, int64_t size)
{
    for (int64_t i = 0; i < call->attrs.size; i++) {
        const fr_xla_span *s = call->attrs.names[i];
        if (s->len != strlen(name) || memcmp(s->ptr, name, s->len) != 0)
            continue;
        const fr_xla_array *a = call->attrs.attrs[i];
        if (call->attrs.types[i] != FR_XLA_ATTR_ARRAY || a->dtype != FR_XLA_F64 ||
            a->size != (size_t)size)
            return NULL;
        return a->data;
    }
    return NULL;
}

/* What both handlers need: the list of arrays as it stands at one position of the batch, and the
 * batch itself. */
enum { FEW = 64 };

typedef struct {
    const fr_xla_call *call;
    fastreg_array *arrays; /* room for the list, or for the first FEW */
    ptrdiff_t *sizes;      /* elements of each array at one position */
    int64_t count;
    const int64_t *batch; /* `rank` leading extents of the results */
    int64_t rank, rows;
    fastreg_array few_arrays[FEW];
    ptrdiff_t few_sizes[FEW];
} job;

static void release(job *j)
{
    if (j->arrays != j->few_arrays)
        free(j->arrays);
}

/* Which of a buffer's own rows stands at row i of the batch: an extent of 1 serves for all. */
static int64_t own_row(const job *j, const fr_xla_buffer *b, int64_t i)
{
    int64_t row = 0, step = 1;
    for (int64_t d = j->rank; d-- > 0; i /= j->batch[d])
        if (b->dims[d] != 1) {
            row += i % j->batch[d] * step;
            step *= b->dims[d];
        }
    return row;
}

static int fits_batch(const job *j, const fr_xla_buffer *b)
{
    if (b->struct_size < sizeof *b || b->rank < j->rank)
        return 0;
    for (int64_t d = 0; d < j->rank; d++)
        if (b->dims[d] != 1 && b->dims[d] != j->batch[d])
            return 0;
    return 1;
}

static int64_t extent(const fr_xla_buffer *b, int64_t from, int64_t to)
{
    int64_t n = 1;
    for (int64_t d = from; d < to; d++)
        n *= b->dims[d];
    return n;
}

/* Check the frame and fill the job. The first `count` arguments are the arrays, `others` follow. */
static fr_xla_error *prepare(job *j, const fr_xla_call *call, int64_t others)
{
    j->call = call;
    j->arrays = j->few_arrays;
    j->sizes = j->few_sizes;
    if (!layout_matches(call)) {
        char text[160];
        snprintf(text, sizeof text,
                 "expected XLA FFI structs of version %d.%d; received version %d.%d with other "
                 "sizes; update fastreg or use fastreg.jax.route(\"native\")",
                 FR_XLA_MAJOR, FR_XLA_MINOR, call->api->api_version.major_version,
                 call->api->api_version.minor_version);
        return fail(call, FR_XLA_UNIMPLEMENTED, text);
    }
    j->count = call->args.size - others;
    if (j->count < 1 || call->rets.size != (others ? j->count : 1))
        return fail(call, FR_XLA_INVALID_ARGUMENT, "expected the arguments of fastreg.jax");
    for (int64_t i = 0; i < call->args.size; i++)
        if (call->args.types[i] != FR_XLA_ARG_BUFFER)
            return fail(call, FR_XLA_INVALID_ARGUMENT, "expected buffers as arguments");
    for (int64_t i = 0; i < call->rets.size; i++)
        if (call->rets.types[i] != FR_XLA_RET_BUFFER)
            return fail(call, FR_XLA_INVALID_ARGUMENT, "expected buffers as results");
    const char *l1 = weights(call, "l1", j->count), *l2 = weights(call, "l2", j->count);
    if (l1 == NULL || l2 == NULL)
        return fail(call, FR_XLA_INVALID_ARGUMENT,
                    "expected attributes l1 and l2: arrays of f64, one element for each array");
    const fr_xla_buffer *first = call->rets.items[0];
    j->batch = first->dims;
    j->rank = others ? ((const fr_xla_buffer *)call->args.items[j->count])->rank : first->rank;
    if (first->struct_size < sizeof *first || first->rank < j->rank)
        return fail(call, FR_XLA_INVALID_ARGUMENT, "expected results of the batch's rank");
    j->rows = extent(first, 0, j->rank);
    if (j->count > FEW) {
        j->arrays = malloc((size_t)j->count * (sizeof *j->arrays + sizeof *j->sizes));
        if (j->arrays == NULL) {
            j->arrays = j->few_arrays;
            return fail(call, FR_XLA_RESOURCE_EXHAUSTED, "no memory for the list of arrays");
        }
        j->sizes = (ptrdiff_t *)(void *)(j->arrays + j->count);
    }
    memset(j->arrays, 0, (size_t)j->count * sizeof *j->arrays);
    for (int64_t k = 0; k < j->count; k++) {
        const fr_xla_buffer *x = call->args.items[k];
        fastreg_array *a = &j->arrays[k];
        if (!fits_batch(j, x) || !element_type(x->dtype, &a->dtype))
            return fail(call, FR_XLA_INVALID_ARGUMENT,
                        "expected arrays of a float, integer or bool type, with the batch's axes");
        j->sizes[k] = (ptrdiff_t)extent(x, j->rank, x->rank);
        a->data = x->data;
        a->shape = &j->sizes[k];
        a->ndim = 1;
        memcpy(&a->l1, l1 + (size_t)k * sizeof a->l1, sizeof a->l1);
        memcpy(&a->l2, l2 + (size_t)k * sizeof a->l2, sizeof a->l2);
    }
    return NULL;
}

/* Bytes of array k at one position of the batch. */
static size_t row_bytes(const job *j, int64_t k)
{
    return (size_t)j->sizes[k] * fastreg_itemsize(j->arrays[k].dtype);
}

/* Let the list stand at row i of the batch. */
static void move_to(job *j, int64_t i)
{
    for (int64_t k = 0; k < j->count && i > 0; k++) {
        const fr_xla_buffer *x = j->call->args.items[k];
        j->arrays[k].data = (const char *)x->data + (size_t)own_row(j, x, i) * row_bytes(j, k);
    }
}

static const fastreg_options serial = {.threads = 1};

static fr_xla_error *values(job *j)
{
    const fr_xla_buffer *out = j->call->rets.items[0];
    fastreg_dtype result;
    if (!element_type(out->dtype, &result) || result > FASTREG_F64)
        return fail(j->call, FR_XLA_INVALID_ARGUMENT, "expected a result of a float type");
    char *to = out->data;
    for (int64_t i = 0; i < j->rows; i++, to += fastreg_itemsize(result)) {
        double value;
        move_to(j, i);
        fastreg_status status = fastreg_value(j->arrays, (size_t)j->count, result, &serial, &value);
        if (status == FASTREG_OK)
            status = fastreg_pack(result, value, to);
        if (status != FASTREG_OK)
            return fail(j->call, FR_XLA_INVALID_ARGUMENT, fastreg_status_text(status));
    }
    return NULL;
}

fr_xla_error *fr_xla_value(fr_xla_call *call)
{
    if (answer_metadata(call))
        return NULL;
    job j;
    fr_xla_error *error = prepare(&j, call, 0);
    if (error == NULL)
        error = values(&j);
    release(&j);
    return error;
}

/* Whether result k is the gradient of array k at every position of the batch. */
static int is_gradient(const job *j, int64_t k)
{
    const fr_xla_buffer *x = j->call->args.items[k], *g = j->call->rets.items[k];
    if (g->struct_size < sizeof *g || g->dtype != x->dtype || g->rank != x->rank ||
        j->arrays[k].dtype > FASTREG_F64)
        return 0;
    for (int64_t d = 0; d < g->rank; d++)
        if (g->dims[d] != (d < j->rank ? j->batch[d] : x->dims[d]))
            return 0;
    return 1;
}

static fr_xla_error *gradients(job *j)
{
    const fr_xla_buffer *u = j->call->args.items[j->count];
    fastreg_dtype type = FASTREG_F64; /* compilers do not see that it is set if `good` */
    int good = fits_batch(j, u) && element_type(u->dtype, &type) && type <= FASTREG_F64;
    for (int64_t k = 0; k < j->count && good; k++)
        good = is_gradient(j, k);
    if (!good)
        return fail(j->call, FR_XLA_INVALID_ARGUMENT,
                    "expected u, the arrays and as many gradients, of float types");
    for (int64_t i = 0; i < j->rows; i++) {
        const char *const factors = u->data;
        double scale;
        fastreg_status status =
            fastreg_unpack(type, factors + (size_t)own_row(j, u, i) * fastreg_itemsize(type), &scale);
        move_to(j, i);
        for (int64_t k = 0; k < j->count; k++) {
            const fr_xla_buffer *g = j->call->rets.items[k];
            const size_t bytes = row_bytes(j, k);
            if (bytes != 0)
                j->arrays[k].gradient = (char *)g->data + (size_t)i * bytes;
        }
        if (status == FASTREG_OK)
            status = fastreg_gradient(j->arrays, (size_t)j->count, scale, 0, &serial);
        if (status != FASTREG_OK)
            return fail(j->call, FR_XLA_INVALID_ARGUMENT, fastreg_status_text(status));
    }
    return NULL;
}

fr_xla_error *fr_xla_gradient(fr_xla_call *call)
{
    if (answer_metadata(call))
        return NULL;
    job j;
    fr_xla_error *error = prepare(&j, call, 1);
    if (error == NULL)
        error = gradients(&j);
    release(&j);
    return error;
}
