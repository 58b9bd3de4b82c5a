/* SPDX-License-Identifier: BSD-3-Clause */
#include "walk.h"
#include "dtype.h"

/* Rank of a dimension from outside to inside: broadcast dimensions first, then falling steps. Those
 * of x have been turned. */
static size_t outerness(const fr_walk *w, int d)
{
    const ptrdiff_t xs = w->xs[d], gs = w->gs[d];
    if (xs == 0)
        return SIZE_MAX;
    return (size_t)xs + (size_t)(gs < 0 ? -gs : gs);
}

static void swap_dimensions(fr_walk *w, int a, int b)
{
    const ptrdiff_t n = w->shape[a], x = w->xs[a], g = w->gs[a];
    w->shape[a] = w->shape[b], w->xs[a] = w->xs[b], w->gs[a] = w->gs[b];
    w->shape[b] = n, w->xs[b] = x, w->gs[b] = g;
}

/* Bring the dimensions into memory order and join those that continue one another. The sums do not
 * depend on the order of the elements, and a gradient goes where its element came from. */
static void arrange(fr_walk *w, const fastreg_array *a)
{
    const ptrdiff_t item = (ptrdiff_t)fr_itemsize(a->dtype);
    ptrdiff_t xstep = item, gstep = item;
    int nd = 0;
    for (int d = a->ndim - 1; d >= 0; --d) {
        const ptrdiff_t n = a->shape[d];
        const ptrdiff_t xs = a->strides ? a->strides[d] : xstep;
        const ptrdiff_t gs = !w->gradient          ? 0
                             : a->gradient_strides ? a->gradient_strides[d]
                                                   : gstep;
        xstep *= n, gstep *= n;
        if (n == 1)
            continue;
        w->shape[nd] = n, w->xs[nd] = xs, w->gs[nd] = gs;
        if (xs < 0) {
            /* Walk it from its other end. */
            w->read.x += xs * (n - 1), w->xs[nd] = -xs;
            w->read.g = w->gradient ? w->read.g + gs * (n - 1) : NULL, w->gs[nd] = -gs;
        }
        ++nd;
    }
    for (int i = 1; i < nd; ++i)
        for (int j = i; j > 0 && outerness(w, j - 1) < outerness(w, j); --j)
            swap_dimensions(w, j - 1, j);
    int last = 0;
    for (int d = 1; d < nd; ++d) {
        const ptrdiff_t n = w->shape[d];
        if (w->xs[last] == w->xs[d] * n && w->gs[last] == w->gs[d] * n)
            w->shape[last] *= n;
        else
            w->shape[++last] = n;
        w->xs[last] = w->xs[d], w->gs[last] = w->gs[d];
    }
    if (nd == 0)
        w->shape[0] = 1, w->xs[0] = w->gs[0] = item;
    w->ndim = nd == 0 ? 1 : last + 1;
}

/* Move by n elements along the innermost dimension, of which at least n remain. */
static void advance(const fr_walk *w, fr_cursor *c, ptrdiff_t n)
{
    int d = w->ndim - 1;
    c->index[d] += n;
    c->x += n * w->xs[d];
    c->g = w->gradient ? c->g + n * w->gs[d] : NULL;
    while (d > 0 && c->index[d] == w->shape[d]) {
        c->index[d] = 0;
        c->x += w->xs[d - 1] - w->shape[d] * w->xs[d];
        c->g = w->gradient ? c->g + (w->gs[d - 1] - w->shape[d] * w->gs[d]) : NULL;
        --d;
        ++c->index[d];
    }
}

static size_t row_left(const fr_walk *w, const fr_cursor *c)
{
    return (size_t)(w->shape[w->ndim - 1] - c->index[w->ndim - 1]);
}

void fr_walk_start(fr_walk *w, const fastreg_array *a, size_t first, size_t count, int gradient,
                   int accumulate)
{
    w->dtype = a->dtype;
    w->type = fr_kernel_type(a->dtype);
    w->gradient = gradient;
    w->accumulate = accumulate;
    w->left = count;
    w->pending = 0;
    w->read.x = a->data;
    w->read.g = a->gradient;
    arrange(w, a);
    const int inner = w->ndim - 1;
    const ptrdiff_t item = (ptrdiff_t)fr_itemsize(a->dtype);
    /* Rows shorter than half a buffer are worth collecting into one. */
    w->direct = w->xs[inner] == item && (!gradient || w->gs[inner] == item) &&
                (w->ndim == 1 || w->shape[inner] >= FR_STAGE / 2) && fr_is_float(a->dtype);
    for (int d = inner; d >= 0; --d) {
        const size_t n = (size_t)w->shape[d];
        const ptrdiff_t i = (ptrdiff_t)(d > 0 ? first % n : first);
        first /= n;
        w->read.index[d] = i;
        w->read.x += i * w->xs[d];
        w->read.g = gradient ? w->read.g + i * w->gs[d] : NULL;
    }
}

#define COPY(size, to_step, from_step)                                                             \
    for (size_t i = 0; i < n; ++i, to += (to_step), from += (from_step))                           \
    memcpy(to, from, size)

/* Every second element, as x[::2] and the parts of complex numbers have them: with the step a
 * constant, compilers load vectors and shuffle. */
#define COPY_SECOND(type)                                                                          \
    for (size_t i = 0; i < n; ++i) {                                                               \
        type v;                                                                                    \
        memcpy(&v, from + 2 * i * sizeof v, sizeof v);                                             \
        memcpy(to + i * sizeof v, &v, sizeof v);                                                   \
    }

static void gather_second(unsigned char *restrict to, const char *restrict from, size_t n,
                          size_t item)
{
    if (item == 8)
        COPY_SECOND(uint64_t)
    else if (item == 4)
        COPY_SECOND(uint32_t)
    else if (item == 2)
        COPY_SECOND(uint16_t)
    else
        COPY_SECOND(uint8_t)
}

static void gather(unsigned char *restrict to, const char *restrict from, size_t n, ptrdiff_t step,
                   size_t item)
{
    if (step == (ptrdiff_t)item)
        memcpy(to, from, n * item);
    else if (step == 2 * (ptrdiff_t)item)
        gather_second(to, from, n, item);
    else if (item == 8)
        COPY(8, 8, step);
    else if (item == 4)
        COPY(4, 4, step);
    else if (item == 2)
        COPY(2, 2, step);
    else
        COPY(1, 1, step);
}

static void scatter(char *to, const unsigned char *from, size_t n, ptrdiff_t step, size_t item)
{
    if (step == (ptrdiff_t)item)
        memcpy(to, from, n * item);
    else if (item == 8)
        COPY(8, step, 8);
    else if (item == 4)
        COPY(4, step, 4);
    else
        COPY(2, step, 2);
}

static void widen(double *to, const unsigned char *from, size_t n, fastreg_dtype dtype)
{
    switch (dtype) {
    case FASTREG_BOOL:
        for (size_t i = 0; i < n; ++i)
            to[i] = from[i] != 0;
        break;
#define X(name, type, constant)                                                                    \
    case constant:                                                                                 \
        for (size_t i = 0; i < n; ++i) {                                                           \
            type v;                                                                                \
            memcpy(&v, from + i * sizeof v, sizeof v);                                             \
            to[i] = (double)v;                                                                     \
        }                                                                                          \
        break;
        X(i8, int8_t, FASTREG_I8)
        X(u8, uint8_t, FASTREG_U8)
        X(i16, int16_t, FASTREG_I16)
        X(u16, uint16_t, FASTREG_U16)
        X(i32, int32_t, FASTREG_I32)
        X(u32, uint32_t, FASTREG_U32)
#undef X
    default:
        break;
    }
}

int fr_walk_next(fr_walk *w, size_t limit)
{
    const size_t item = fr_itemsize(w->dtype);
    const int inner = w->ndim - 1;
    while (w->pending) {
        const size_t n = FR_MIN(w->pending, row_left(w, &w->write));
        scatter(w->write.g, w->staged_g + (w->n - w->pending) * item, n, w->gs[inner], item);
        advance(w, &w->write, (ptrdiff_t)n);
        w->pending -= n;
    }
    if (w->left == 0)
        return 0;
    if (w->direct) {
        const size_t n = FR_MIN(FR_MIN(w->left, limit), row_left(w, &w->read));
        w->x = w->read.x, w->g = w->read.g, w->n = n;
        advance(w, &w->read, (ptrdiff_t)n);
        w->left -= n;
        return 1;
    }
    /* Integers are gathered beside the gradients, which they do not have, and widened from
     * there. */
    const int convert = w->type == FR_FLOAT_f64 && w->dtype != FASTREG_F64;
    unsigned char *const to = convert ? w->staged_g : w->staged_x;
    const size_t n = FR_MIN(w->left, (size_t)FR_STAGE);
    if (w->gradient)
        w->write = w->read;
    for (size_t done = 0; done < n;) {
        const size_t m = FR_MIN(n - done, row_left(w, &w->read));
        gather(to + done * item, w->read.x, m, w->xs[inner], item);
        if (w->gradient && w->accumulate)
            gather(w->staged_g + done * item, w->read.g, m, w->gs[inner], item);
        advance(w, &w->read, (ptrdiff_t)m);
        done += m;
    }
    if (convert)
        widen((double *)(void *)w->staged_x, w->staged_g, n, w->dtype);
    w->x = w->staged_x, w->g = w->staged_g, w->n = n;
    w->left -= n;
    w->pending = w->gradient ? n : 0;
    return 1;
}
