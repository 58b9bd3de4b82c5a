/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fastreg's kernels as handlers of XLA's foreign function interface, for the CPU. */
#ifndef FASTREG_XLA_H
#define FASTREG_XLA_H

#include <stddef.h>
#include <stdint.h>

/* XLA's FFI is a plain C interface whose structs carry their own sizes. These are the few of them that
 * the handlers touch, declared here so that building needs no jaxlib; names drop XLA's prefix. A test
 * compares every size and offset with jaxlib's header, and the handlers compare the sizes they are given
 * before they read further. */
enum { FR_XLA_MAJOR = 0, FR_XLA_MINOR = 3 };

enum { FR_XLA_METADATA = 1, FR_XLA_ARG_BUFFER = 1, FR_XLA_RET_BUFFER = 1, FR_XLA_ATTR_ARRAY = 1 };
enum { FR_XLA_INVALID_ARGUMENT = 3, FR_XLA_RESOURCE_EXHAUSTED = 8, FR_XLA_UNIMPLEMENTED = 12 };

enum {
    FR_XLA_PRED = 1,
    FR_XLA_S8 = 2,
    FR_XLA_S16 = 3,
    FR_XLA_S32 = 4,
    FR_XLA_S64 = 5,
    FR_XLA_U8 = 6,
    FR_XLA_U16 = 7,
    FR_XLA_U32 = 8,
    FR_XLA_U64 = 9,
    FR_XLA_F16 = 10,
    FR_XLA_F32 = 11,
    FR_XLA_F64 = 12,
    FR_XLA_BF16 = 16
};

typedef struct fr_xla_extension {
    size_t struct_size;
    int type;
    struct fr_xla_extension *next;
} fr_xla_extension;

typedef struct {
    size_t struct_size;
    fr_xla_extension *extension_start;
    int major_version;
    int minor_version;
} fr_xla_version;

typedef struct {
    size_t struct_size;
    fr_xla_version api_version;
    uint32_t traits;
    int64_t state_type_id;
} fr_xla_metadata;

typedef struct {
    fr_xla_extension extension_base;
    fr_xla_metadata *metadata;
} fr_xla_metadata_extension;

typedef struct fr_xla_error fr_xla_error;

typedef struct {
    size_t struct_size;
    fr_xla_extension *extension_start;
    const char *message;
    int errc;
} fr_xla_error_create_args;

typedef struct {
    size_t struct_size;
    fr_xla_extension *extension_start;
    fr_xla_version api_version;
    const void *internal_api;
    fr_xla_error *(*error_create)(fr_xla_error_create_args *args);
} fr_xla_api; /* the beginning of XLA's struct */

typedef struct {
    size_t struct_size;
    fr_xla_extension *extension_start;
    int dtype;
    void *data;
    int64_t rank;
    int64_t *dims;
} fr_xla_buffer;

typedef struct {
    const char *ptr;
    size_t len;
} fr_xla_span;

typedef struct {
    int dtype;
    size_t size;
    void *data;
} fr_xla_array;

typedef struct {
    size_t struct_size;
    fr_xla_extension *extension_start;
    int64_t size;
    int *types;
    void **items;
} fr_xla_buffers; /* XLA's Args and Rets */

typedef struct {
    size_t struct_size;
    fr_xla_extension *extension_start;
    int64_t size;
    int *types;
    fr_xla_span **names;
    void **attrs;
} fr_xla_attributes;

typedef struct {
    size_t struct_size;
    fr_xla_extension *extension_start;
    const fr_xla_api *api;
    void *ctx;
    int stage;
    fr_xla_buffers args;
    fr_xla_buffers rets;
    fr_xla_attributes attrs;
} fr_xla_call;

/* A list of arrays [batch..., inner...], of any mix of types, -> penalties [batch...]: for each
 * position of the batch the sum over the list, exact and rounded once to the result's type. The
 * attributes l1 and l2 are arrays of f64, one element for each array. A leading extent of 1 stands
 * for the same at every position. */
fr_xla_error *fr_xla_value(fr_xla_call *call);

/* A list of float arrays [batch..., inner...] and u [batch...] -> their gradients, times u; the
 * same attributes. u's rank is the batch's, and every result has the batch's full extents. */
fr_xla_error *fr_xla_gradient(fr_xla_call *call);

#endif
