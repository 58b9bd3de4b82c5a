/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The vocabulary in plain C: the reference for the others, and the kernels of a CPU that has none.
 *
 * vd                         a vector of VL doubles; kernels keep CHAINS of them to hide latency
 * FR_VEC_FMA                 1 if vd_fma and vd_fms round once for any operands. If 0, vd_fma is
 *                            used only where the product is exact or an estimate wanted, and
 *                            vd_fma_exact for the rest; there is no vd_fms, but
 *                            vd_square_error(x, p), the error of p = RN(x*x)
 * vd_set/add/sub/mul/fma/fms/div/abs/put   what they say; fms is a*b - c; put stores VL doubles
 * vd_flip_sign(a, by)        a with its sign flipped where `by` is negative
 * vd_where_zero(x, yes, no)  per lane: x == 0 ? yes : no
 * vd_where_nan(x, yes, no)   per lane: x is NaN ? yes : no
 * vd_where_less(a, b, yes, no)   per lane: a < b ? yes : no (no for NaN)
 * vd_max(a, b)               per lane: a > b ? a : b, so b if either is NaN
 * vd_min(a, b)               per lane: a < b ? a : b, so b if either is NaN
 * vd_least(a, least)         per lane, a >= 0: the smaller, but `least` where a is 0 or NaN; or a
 *                            number up to one binade below a
 * vd_load_T(p)               VL elements of type T from any address, widened exactly
 * vd_store_T(p, a)           narrowed to T in one rounding to nearest, ties to even; any NaN
 *                            becomes the canonical one
 * vd_accumulate_T(p, a)      what is at p plus a rounded to T, rounded to T, stored at p. A
 *                            vocabulary that has its own defines FR_VEC_ACCUMULATE as 1
 * vd_stream_T(p, a)          vd_store_T past the cache; p is aligned to VL elements
 *
 * vs                         a vector of SL floats, for half precision alone
 * vs_set/add/abs/put         what they say; put stores SL floats
 * vs_add_square(sum, a)      sum + a*a, rounded once if a*a is a float
 * vs_load_T(p, &a, &b)       2 SL elements of a half precision, widened exactly, in any order
 *
 * A vocabulary that defines FR_VEC_HALVES as 1, which needs FR_VEC_FMA = 1, has these instead of
 * vs_load_T, for gradients in f32 lanes, and for exact sums:
 *
 * vs_mul, vs_fma, vs_flip_sign, vs_where_zero, vs_where_less   as their namesakes
 * vh                         2 SL elements of a half precision; vh_load, vh_store, and vh_stream to
 *                            2 SL aligned ones
 * vh_set, vh_sub, vh_min     of its bits as unsigned integers of 16 bits; vh_abs without signs
 * vs_widen(a, &b, &c)        two vd, in any order
 * vh_unpack_T(y, &a, &b)     widened exactly, in any order
 * vh_pack_T(a, b)            back in that order, rounded once; any NaN becomes the canonical one
 * vs_round_T(a, b, &y)       1 if all numbers within a factor 1 +- 2^-23 (1 + 2^-24) of each of a
 *                            and b round to y, and none is NaN, or is not a normal float where T
 *                            has subnormals as small; else 0, and y is unspecified
 */
typedef double vd;
enum { VL = 1, CHAINS = 8 };
#define FR_VEC_FMA 0

FR_INLINE vd vd_set(double v) { return v; }
FR_INLINE vd vd_add(vd a, vd b) { return a + b; }
FR_INLINE vd vd_sub(vd a, vd b) { return a - b; }
FR_INLINE vd vd_fma(vd a, vd b, vd c) { return a * b + c; }
FR_INLINE vd vd_abs(vd a) { return fr_from_bits(fr_bits(a) & (UINT64_MAX >> 1)); }
FR_INLINE void vd_put(double *p, vd a) { *p = a; }
FR_INLINE vd vd_flip_sign(vd a, vd by)
{
    return fr_from_bits(fr_bits(a) ^ (fr_bits(by) & ~(UINT64_MAX >> 1)));
}
FR_INLINE vd vd_where_zero(vd x, vd yes, vd no) { return x == 0.0 ? yes : no; }
FR_INLINE vd vd_where_nan(vd x, vd yes, vd no) { return x != x ? yes : no; }
FR_INLINE vd vd_where_less(vd a, vd b, vd yes, vd no) { return a < b ? yes : no; }
FR_INLINE vd vd_max(vd a, vd b) { return a > b ? a : b; }
FR_INLINE vd vd_min(vd a, vd b) { return a < b ? a : b; }
FR_INLINE vd vd_div(vd a, vd b) { return a / b; }
FR_INLINE vd vd_least(vd a, vd least) { return a != 0.0 && a < least ? a : least; }
FR_INLINE vd vd_square_error(vd x, vd square) { return fr_product_error(x, x, square); }
FR_INLINE vd vd_mul(vd a, vd b) { return a * b; }
FR_INLINE vd vd_fma_exact(vd a, vd b, vd c) { return fr_fma(a, b, c); }

FR_INLINE vd vd_load_f64(const void *p)
{
    double v;
    memcpy(&v, p, sizeof v);
    return v;
}
FR_INLINE vd vd_load_f32(const void *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return (double)v;
}
FR_INLINE uint16_t fr_load_u16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}
FR_INLINE vd vd_load_f16(const void *p) { return fr_f16_to_f64(fr_load_u16(p)); }
FR_INLINE vd vd_load_bf16(const void *p) { return fr_bf16_to_f64(fr_load_u16(p)); }

typedef float vs;
enum { SL = 1 };
FR_INLINE vs vs_set(float v) { return v; }
FR_INLINE vs vs_add(vs a, vs b) { return a + b; }
FR_INLINE vs vs_abs(vs a) { return a < 0.0f ? -a : a; }
FR_INLINE void vs_put(float *p, vs a) { *p = a; }
FR_INLINE vs vs_add_square(vs sum, vs a) { return sum + a * a; }
FR_INLINE void vs_load_f16(const void *p, vs *a, vs *b)
{
    *a = (float)vd_load_f16(p);
    *b = (float)vd_load_f16((const char *)p + sizeof(uint16_t));
}
FR_INLINE void vs_load_bf16(const void *p, vs *a, vs *b)
{
    *a = (float)vd_load_bf16(p);
    *b = (float)vd_load_bf16((const char *)p + sizeof(uint16_t));
}
FR_INLINE vd fr_canonical(vd a) { return a != a ? FR_NAN : a; }
FR_INLINE void vd_store_f64(void *p, vd a)
{
    a = fr_canonical(a);
    memcpy(p, &a, sizeof a);
}
FR_INLINE void vd_store_f32(void *p, vd a)
{
    const float v = (float)fr_canonical(a);
    memcpy(p, &v, sizeof v);
}
FR_INLINE void vd_store_f16(void *p, vd a)
{
    const uint16_t h = fr_f64_to_f16(a);
    memcpy(p, &h, sizeof h);
}
FR_INLINE void vd_store_bf16(void *p, vd a)
{
    const uint16_t h = fr_f64_to_bf16(a);
    memcpy(p, &h, sizeof h);
}
FR_INLINE void vd_stream_f64(void *p, vd a) { vd_store_f64(p, a); }
FR_INLINE void vd_stream_f32(void *p, vd a) { vd_store_f32(p, a); }
FR_INLINE void vd_stream_f16(void *p, vd a) { vd_store_f16(p, a); }
FR_INLINE void vd_stream_bf16(void *p, vd a) { vd_store_bf16(p, a); }
