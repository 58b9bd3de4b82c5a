/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The registry: names only. Every table and declaration of csrc/ unfolds from these lists.
 */
#ifndef FR_REGISTRY_H
#define FR_REGISTRY_H

/* Element types that have kernels: name, storage type, name of the public constant. */
#define FR_FLOATS(X)                                                                               \
    X(f16, uint16_t, FASTREG_F16)                                                                  \
    X(bf16, uint16_t, FASTREG_BF16)                                                                \
    X(f32, float, FASTREG_F32)                                                                     \
    X(f64, double, FASTREG_F64)

/* Element types that are converted to f64 chunk by chunk; the last two need more than 53 bits. */
#define FR_INTEGERS(X)                                                                             \
    X(b8, uint8_t, FASTREG_BOOL)                                                                   \
    X(i8, int8_t, FASTREG_I8)                                                                      \
    X(u8, uint8_t, FASTREG_U8)                                                                     \
    X(i16, int16_t, FASTREG_I16)                                                                   \
    X(u16, uint16_t, FASTREG_U16)                                                                  \
    X(i32, int32_t, FASTREG_I32)                                                                   \
    X(u32, uint32_t, FASTREG_U32)                                                                  \
    X(i64, int64_t, FASTREG_I64)                                                                   \
    X(u64, uint64_t, FASTREG_U64)

/* The sums a penalty is made of. l1: sum of |x|; l2: sum of x*x; l1l2: both in one pass. */
#define FR_PENALTIES(X)                                                                            \
    X(l1, 1, 0)                                                                                    \
    X(l2, 0, 1)                                                                                    \
    X(l1l2, 1, 1)

/* The same with one more argument for X: one list inside another cannot share a name. */
#define FR_PENALTIES_WITH(X, more)                                                                 \
    X(l1, 1, 0, more)                                                                              \
    X(l2, 0, 1, more)                                                                              \
    X(l1l2, 1, 1, more)

/* How a gradient reaches memory: ordinary stores, stores past the cache, or added to what is
 * there. */
#define FR_STORES(X)                                                                               \
    X(fresh)                                                                                       \
    X(streamed)                                                                                    \
    X(accumulated)

/* ISA levels, slowest first; a level exists where its unit defines a table. FASTREG_BASELINE_ONLY
 * leaves out all but the first: a third of the size. */
#if defined(__x86_64__) && !defined(FASTREG_BASELINE_ONLY)
#    define FR_X86_LEVELS
#endif
#ifdef FR_X86_LEVELS
#    define FR_LEVELS(X)                                                                           \
        X(baseline)                                                                                \
        X(x86_v3)                                                                                  \
        X(x86_v4)
#else
#    define FR_LEVELS(X) X(baseline)
#endif

#endif
