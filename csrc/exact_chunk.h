/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The exact sums of a run of elements of one kernel type, as integers.
 */
#ifndef FR_EXACT_CHUNK_H
#define FR_EXACT_CHUNK_H

#include "dtype.h"
#include "exact/digits.h"

/* What a run holds beside finite numbers other than 0, and how it was summed: for tests and
 * benchmarks. */
typedef struct {
    uint64_t zeros, nans, positive_infinities, negative_infinities;
    uint64_t blocks; /* blocks swept at all */
    uint64_t swept;  /* of these, in ranges */
    uint64_t single; /* and at last element by element */
} fr_exact_counts;

FR_INLINE void fr_exact_counts_add(fr_exact_counts *to, const fr_exact_counts *c)
{
    to->zeros += c->zeros;
    to->nans += c->nans;
    to->positive_infinities += c->positive_infinities;
    to->negative_infinities += c->negative_infinities;
    to->blocks += c->blocks;
    to->swept += c->swept;
    to->single += c->single;
}

/* Sums and counts of elements; zero is empty. */
typedef struct {
    fr_digits digits;
    fr_exact_counts counts;
} fr_exact;

/* Add all that another one has; its digits are canonical. */
static inline void fr_exact_merge(fr_exact *to, const fr_exact *from)
{
    fr_digits_merge(&to->digits, &from->digits);
    fr_exact_counts_add(&to->counts, &from->counts);
}

/* What the blocks before were like, {0} at first. */
typedef struct {
    double anchor[2];
    unsigned misses; /* blocks in a row that had to be swept in ranges */
    unsigned skips;  /* blocks that are not worth trying otherwise */
} fr_exact_guess;

/* Add [x, x + n) to the integers, at least the sums of `penalty`, and what it holds to *c; its zeros
 * if the penalty is l1l2. type: of kernels, -1 for 64-bit integers. */
FR_HIDDEN void fr_exact_chunk(const fr_kernels *kernels, const void *x, size_t n, int type,
                              fastreg_dtype dtype, int penalty, fr_exact_guess *guess, fr_digits *d,
                              fr_exact_counts *c);

#endif
