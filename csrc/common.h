/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Included first by every file: no step of the arithmetic may be contracted, reassociated or
 * assumed away, whatever the flags. Without this, gcc's default turns a*b+c into one rounding where
 * the CPU has an FMA, and the error-free transformations below stop being error-free. What a
 * compiler tells by macros is refused here, what it takes back by pragma is taken back here, and
 * strict.h asks the compiled code itself about the rest.
 */
#ifndef FR_COMMON_H
#define FR_COMMON_H

#define FASTREG_BUILDING /* for fastreg.h */

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) ||           \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#    error                                                                                         \
        "fastreg cannot be compiled with -ffast-math, -Ofast or a part of them: its results would not be exact; add -fno-fast-math for its files"
#endif

/* -1: unknown; 1: floats in f64, which is what gcc's s390 does under -std=c11 and harms no bound
 * there; 2: x87. */
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ < 0 || __FLT_EVAL_METHOD__ == 2 ||        \
                                     (__FLT_EVAL_METHOD__ == 1 && !defined(__s390__)))
#    error                                                                                         \
        "fastreg cannot be compiled for excess precision (x87): add -msse2 -mfpmath=sse for its files"
#endif

/* The rest of what gcc says of itself: -fsingle-precision-constant. */
#if defined(__GCC_IEC_559) && !defined(__clang__) && __GCC_IEC_559 == 0
#    error                                                                                         \
        "fastreg cannot be compiled with flags under which gcc departs from IEC 60559 (-fsingle-precision-constant): its results would not be exact"
#endif

#if defined(__clang__) && defined(__s390x__) && defined(__OPTIMIZE__)
#    error                                                                                         \
        "fastreg cannot be compiled by clang for s390x with optimisation: its results differ; use gcc"
#endif

#if !defined(__GNUC__) || !defined(__SIZEOF_INT128__)
#    error "fastreg needs gcc, clang or a compiler like them, and a processor of 64 bits"
#endif

#ifdef __clang__
/* In this order: `precise` permits contraction. */
#    pragma float_control(precise, on)
#    pragma STDC FP_CONTRACT OFF
#else
#    pragma GCC optimize("fp-contract=off")
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FR_INLINE   static inline __attribute__((always_inline))
#define FR_NOINLINE __attribute__((noinline))
#ifdef _WIN32
#    define FR_HIDDEN
#else
#    define FR_HIDDEN __attribute__((visibility("hidden")))
#endif
#define FR_LIKELY(c)   __builtin_expect(!!(c), 1)
#define FR_UNLIKELY(c) __builtin_expect(!!(c), 0)

#define FR_CAT_(a, b) a##b
#define FR_CAT(a, b)  FR_CAT_(a, b)

#include "names.h"

#define FR_MIN(a, b) ((a) < (b) ? (a) : (b))
#define FR_MAX(a, b) ((a) > (b) ? (a) : (b))

FR_INLINE uint64_t fr_bits(double v)
{
    uint64_t b;
    memcpy(&b, &v, sizeof b);
    return b;
}

FR_INLINE double fr_from_bits(uint64_t b)
{
    double v;
    memcpy(&v, &b, sizeof v);
    return v;
}

/* Weights and steps: finite and >= 0, -0 too. By their bits, for no floating-point environment may
 * have been entered yet, in which -5e-324 might pass for 0. */
FR_INLINE int fr_is_good_number(double w)
{
    return fr_bits(w) < UINT64_C(0x7ff0000000000000) || fr_bits(w) == UINT64_C(1) << 63;
}

/* 2^k for -1022 <= k <= 1023. */
FR_INLINE double fr_pow2(int k) { return fr_from_bits((uint64_t)(k + 1023) << 52); }

/* The one NaN that fastreg returns: quiet, positive, empty payload. */
#define FR_NAN      fr_from_bits(UINT64_C(0x7ff8000000000000))
#define FR_INFINITY fr_from_bits(UINT64_C(0x7ff0000000000000))

#endif
