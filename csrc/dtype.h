/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What an element type is: its size, the kernels that read it, its format; and what follows from
 * that for an array of it: how many elements, and whether they lie one after another.
 */
#ifndef FR_DTYPE_H
#define FR_DTYPE_H

#include "exact/formats.h"
#include "fastreg.h"
#include "kernels/kernels.h"

#define X(name, type, constant)                                                                    \
    _Static_assert((int)(constant) == (int)FR_FLOAT_##name,                                        \
                   "float dtypes are their kernels' indices");
FR_FLOATS(X)
#undef X

/* 1 for the types that have kernels, gradients and results. */
FR_INLINE int fr_is_float(fastreg_dtype dtype) { return (unsigned)dtype < FR_FLOAT_COUNT; }

/* Bytes per element, 0 for a dtype that does not exist. */
FR_INLINE size_t fr_itemsize(fastreg_dtype dtype)
{
    static const unsigned char sizes[] = {
#define X(name, type, constant) [constant] = sizeof(type),
        FR_FLOATS(X) FR_INTEGERS(X)
#undef X
    };
    return (unsigned)dtype < sizeof sizes ? sizes[dtype] : 0;
}

/* The kernel type of a dtype: its own, f64 for integers of up to 32 bits, -1 for 64-bit
 * integers. */
FR_INLINE int fr_kernel_type(fastreg_dtype dtype)
{
    if (fr_is_float(dtype))
        return (int)dtype;
    return dtype == FASTREG_I64 || dtype == FASTREG_U64 ? -1 : FR_FLOAT_f64;
}

/* |x[i]| of 64-bit integers. */
FR_INLINE uint64_t fr_magnitude(const void *x, size_t i, fastreg_dtype dtype)
{
    uint64_t m;
    memcpy(&m, (const char *)x + i * sizeof m, sizeof m);
    return dtype == FASTREG_I64 && m >> 63 ? 0 - m : m;
}

/* The format of a float type, NULL for others. */
FR_INLINE const fr_format *fr_format_of(fastreg_dtype dtype)
{
    static const fr_format *const formats[] = {
#define X(name, type, constant) [constant] = &fr_format_##name,
        FR_FLOATS(X)
#undef X
    };
    return fr_is_float(dtype) ? formats[dtype] : NULL;
}

/* Elements of an array whose shape has been checked. */
FR_INLINE size_t fr_elements(const fastreg_array *a)
{
    size_t n = 1;
    for (int d = 0; d < a->ndim; ++d)
        n *= (size_t)a->shape[d];
    return n;
}

static inline int fr_steps_are_dense(const fastreg_array *a, const ptrdiff_t *strides)
{
    ptrdiff_t step = (ptrdiff_t)fr_itemsize(a->dtype);
    if (!strides)
        return 1;
    for (int d = a->ndim - 1; d >= 0; --d) {
        if (a->shape[d] != 1 && strides[d] != step)
            return 0;
        step *= a->shape[d];
    }
    return 1;
}

/* 1 if the elements lie one after another in C order, in data and (if asked) gradient. */
static inline int fr_is_dense(const fastreg_array *a, int gradient)
{
    return fr_steps_are_dense(a, a->strides) &&
           (!gradient || fr_steps_are_dense(a, a->gradient_strides));
}

#endif
