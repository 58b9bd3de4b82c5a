/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Walks any strided array in memory order and hands it out as contiguous runs of a type that
 * kernels take. Contiguous runs are handed out in place; the rest goes through a buffer of
 * STAGE elements on the stack, integers as f64. No array is ever copied whole.
 */
#ifndef FR_WALK_H
#define FR_WALK_H

#include "common.h"
#include "fastreg.h"

enum { FR_STAGE = 1024 };

/* A place in the array: one index per dimension, and the two addresses they amount to. */
typedef struct {
    ptrdiff_t index[FASTREG_MAX_NDIM];
    const char *x;
    char *g;
} fr_cursor;

typedef struct {
    /* The run: n elements of kernel type `type` at x, and where their gradient goes. */
    const void *x;
    void *g;
    size_t n;
    int type;
    /* -1 for 64-bit integers, which no kernel takes. */

    fastreg_dtype dtype;
    int ndim, direct, gradient, accumulate;
    size_t left, pending;
    ptrdiff_t shape[FASTREG_MAX_NDIM], xs[FASTREG_MAX_NDIM], gs[FASTREG_MAX_NDIM];
    fr_cursor read, write;
    _Alignas(64) unsigned char staged_x[FR_STAGE * 8];
    _Alignas(64) unsigned char staged_g[FR_STAGE * 8];
} fr_walk;

/* Start at element `first` (counted in the walk's own order, the same for every call) for
 * `count`. */
FR_HIDDEN void fr_walk_start(fr_walk *w, const fastreg_array *a, size_t first, size_t count,
                             int gradient, int accumulate);

/* Hand out the next run of at most `limit` elements, which is no less than FR_STAGE; 0 when there
 * is none. The gradient of the run before must have been written by then. */
FR_HIDDEN int fr_walk_next(fr_walk *w, size_t limit);

#endif
