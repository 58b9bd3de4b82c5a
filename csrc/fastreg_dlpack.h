/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A DLTensor as an array of fastreg. Include dlpack/dlpack.h first, or anything that declares its
 * types: torch, TVM, JAX and NumPy bring their own.
 */
#ifndef FASTREG_DLPACK_H
#define FASTREG_DLPACK_H

#include "fastreg.h"

/* What an array points to: it must live as long as the array. */
typedef struct {
    ptrdiff_t shape[FASTREG_MAX_NDIM], strides[FASTREG_MAX_NDIM];
} fastreg_extents;

/* dtype of fastreg for one of DLPack; -1 if there is none. */
static inline fastreg_dtype fastreg_dtype_of_dlpack(DLDataType type)
{
    if (type.lanes != 1)
        return -1;
    switch ((int)type.code) {
    case 0: /* kDLInt */
        return type.bits == 8    ? FASTREG_I8
               : type.bits == 16 ? FASTREG_I16
               : type.bits == 32 ? FASTREG_I32
               : type.bits == 64 ? FASTREG_I64
                                 : -1;
    case 1: /* kDLUInt */
        return type.bits == 8    ? FASTREG_U8
               : type.bits == 16 ? FASTREG_U16
               : type.bits == 32 ? FASTREG_U32
               : type.bits == 64 ? FASTREG_U64
                                 : -1;
    case 2: /* kDLFloat */
        return type.bits == 16   ? FASTREG_F16
               : type.bits == 32 ? FASTREG_F32
               : type.bits == 64 ? FASTREG_F64
                                 : -1;
    case 4: /* kDLBfloat */
        return type.bits == 16 ? FASTREG_BF16 : -1;
    case 6: /* kDLBool */
        return type.bits == 8 ? FASTREG_BOOL : -1;
    default:
        return -1;
    }
}

/* Fill *a, but for weights and gradient, from a tensor: dtype, extents, strides from elements to
 * bytes, byte_offset. Nothing is kept of the tensor but its address.
 *
 * FASTREG_BAD_DTYPE   an element type without a counterpart (complex, packed, float8)
 * FASTREG_BAD_DEVICE  memory that the processor cannot read
 * FASTREG_BAD_SHAPE   more than 64 dimensions, or a stride or extent that is too large */
static inline fastreg_status fastreg_from_dlpack(const DLTensor *t, fastreg_array *a,
                                                 fastreg_extents *extents)
{
    const fastreg_dtype dtype = fastreg_dtype_of_dlpack(t->dtype);
    const int64_t item = t->dtype.bits / 8;
    const int device = (int)t->device.device_type;
    int d;
    if (dtype < 0)
        return FASTREG_BAD_DTYPE;
    if (device != 1 && device != 3 && device != 11 && device != 13) /* CPU; pinned or managed */
        return FASTREG_BAD_DEVICE;
    if (t->ndim < 0 || t->ndim > FASTREG_MAX_NDIM)
        return FASTREG_BAD_SHAPE;
    for (d = 0; d < t->ndim; ++d) {
        if (t->shape[d] < 0 || t->shape[d] > PTRDIFF_MAX)
            return FASTREG_BAD_SHAPE;
        extents->shape[d] = (ptrdiff_t)t->shape[d];
        if (t->strides) {
            if (t->strides[d] > PTRDIFF_MAX / item || t->strides[d] < -(PTRDIFF_MAX / item))
                return FASTREG_BAD_SHAPE;
            extents->strides[d] = (ptrdiff_t)(t->strides[d] * item);
        }
    }
    a->data = t->data ? (const char *)t->data + t->byte_offset : NULL;
    a->gradient = NULL;
    a->shape = extents->shape;
    a->strides = t->strides ? extents->strides : NULL;
    a->gradient_strides = NULL;
    a->ndim = t->ndim;
    a->dtype = dtype;
    a->l1 = a->l2 = 0.0;
    return FASTREG_OK;
}

#endif
