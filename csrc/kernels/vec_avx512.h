/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The vocabulary for AVX-512 (F, VL, DQ, BW) with FMA and F16C. See vec_generic.h for the words.
 */
typedef __m512d vd;
enum { VL = 8, CHAINS = 8 };
#define FR_VEC_FMA        1
#define FR_VEC_ACCUMULATE 1
#define FR_VEC_HALVES     1

FR_INLINE vd vd_set(double v) { return _mm512_set1_pd(v); }
FR_INLINE vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
FR_INLINE vd vd_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
FR_INLINE vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
FR_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
FR_INLINE vd vd_fms(vd a, vd b, vd c) { return _mm512_fmsub_pd(a, b, c); }
FR_INLINE vd vd_abs(vd a) { return _mm512_abs_pd(a); }
FR_INLINE void vd_put(double *p, vd a) { _mm512_storeu_pd(p, a); }

FR_INLINE vd vd_flip_sign(vd a, vd by)
{
    return _mm512_xor_pd(a, _mm512_and_pd(by, _mm512_set1_pd(-0.0)));
}
FR_INLINE vd vd_where_zero(vd x, vd yes, vd no)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x, _mm512_setzero_pd(), _CMP_EQ_OQ), no, yes);
}
FR_INLINE vd vd_where_nan(vd x, vd yes, vd no)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x, x, _CMP_UNORD_Q), no, yes);
}
FR_INLINE vd vd_where_less(vd a, vd b, vd yes, vd no)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), no, yes);
}
FR_INLINE vd vd_max(vd a, vd b) { return _mm512_max_pd(a, b); }
FR_INLINE vd vd_min(vd a, vd b) { return _mm512_min_pd(a, b); }
FR_INLINE vd vd_div(vd a, vd b) { return _mm512_div_pd(a, b); }
FR_INLINE vd vd_least(vd a, vd least)
{
    const __m512i b = _mm512_castpd_si512(a);
    return _mm512_mask_min_pd(least, _mm512_test_epi64_mask(b, b), a, least);
}

FR_INLINE vd vd_load_f64(const void *p) { return _mm512_loadu_pd(p); }
FR_INLINE vd vd_load_f32(const void *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps((const float *)p));
}
FR_INLINE vd vd_load_f16(const void *p)
{
    return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)));
}
FR_INLINE vd vd_load_bf16(const void *p)
{
    const __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(h, 16)));
}

typedef __m512 vs;
enum { SL = 16 };
FR_INLINE vs vs_set(float v) { return _mm512_set1_ps(v); }
FR_INLINE vs vs_add(vs a, vs b) { return _mm512_add_ps(a, b); }
FR_INLINE vs vs_abs(vs a) { return _mm512_abs_ps(a); }
FR_INLINE void vs_put(float *p, vs a) { _mm512_storeu_ps(p, a); }
FR_INLINE vs vs_add_square(vs sum, vs a) { return _mm512_fmadd_ps(a, a, sum); }
FR_INLINE vs vs_mul(vs a, vs b) { return _mm512_mul_ps(a, b); }
FR_INLINE vs vs_fma(vs a, vs b, vs c) { return _mm512_fmadd_ps(a, b, c); }
FR_INLINE vs vs_flip_sign(vs a, vs by)
{
    return _mm512_xor_ps(a, _mm512_and_ps(by, _mm512_set1_ps(-0.0f)));
}
FR_INLINE vs vs_where_zero(vs x, vs yes, vs no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ), no, yes);
}
FR_INLINE vs vs_where_less(vs a, vs b, vs yes, vs no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}

typedef __m512i vh;
FR_INLINE vh vh_load(const void *p) { return _mm512_loadu_si512(p); }
FR_INLINE void vh_store(void *p, vh y) { _mm512_storeu_si512(p, y); }
FR_INLINE vh vh_set(unsigned v) { return _mm512_set1_epi16((short)v); }
FR_INLINE vh vh_abs(vh y) { return _mm512_and_si512(y, vh_set(0x7fff)); }
FR_INLINE vh vh_sub(vh a, vh b) { return _mm512_sub_epi16(a, b); }
FR_INLINE vh vh_min(vh a, vh b) { return _mm512_min_epu16(a, b); }
FR_INLINE void vs_widen(vs a, vd *low, vd *high)
{
    *low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    *high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}
FR_INLINE void vh_stream(void *p, vh y) { _mm512_stream_si512((__m512i *)p, y); }
FR_INLINE void vh_unpack_f16(vh y, vs *a, vs *b)
{
    *a = _mm512_cvtph_ps(_mm512_castsi512_si256(y));
    *b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(y, 1));
}
FR_INLINE void vh_unpack_bf16(vh y, vs *a, vs *b)
{
    *a = _mm512_castsi512_ps(_mm512_slli_epi32(y, 16));
    *b = _mm512_castsi512_ps(_mm512_and_si512(y, _mm512_set1_epi32((int)0xffff0000)));
}
FR_INLINE vh fr_round_f16(vs a, vs b)
{
    const __m256i low = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
    const __m256i high = _mm512_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
FR_INLINE __m512i fr_round_bits_bf16(vs a)
{
    const __m512i b = _mm512_castps_si512(a), one = _mm512_set1_epi32(1);
    const __m512i last = _mm512_and_si512(_mm512_srli_epi32(b, 16), one);
    return _mm512_add_epi32(b, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
}
FR_INLINE vh fr_round_bf16(vs a, vs b)
{
    const __m512i odd = _mm512_and_si512(fr_round_bits_bf16(b), _mm512_set1_epi32((int)0xffff0000));
    return _mm512_or_si512(_mm512_srli_epi32(fr_round_bits_bf16(a), 16), odd);
}
FR_INLINE vs fr_canonical_vs(vs a)
{
    const vs nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000));
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a, nan);
}
FR_INLINE vh vh_pack_f16(vs a, vs b)
{
    return fr_round_f16(fr_canonical_vs(a), fr_canonical_vs(b));
}
FR_INLINE vh vh_pack_bf16(vs a, vs b)
{
    return fr_round_bf16(fr_canonical_vs(a), fr_canonical_vs(b));
}
/* Factors 1 -+ 2^-22 leave room for their own rounding, 2^-24. Rounding is monotonic: if both ends
 * agree, so does all between. */
FR_INLINE int vs_round_f16(vs a, vs b, vh *y)
{
    const vs below = _mm512_set1_ps(1.0f - 0x1p-22f), above = _mm512_set1_ps(1.0f + 0x1p-22f);
    const vh low = fr_round_f16(_mm512_mul_ps(a, below), _mm512_mul_ps(b, below));
    const vh high = fr_round_f16(_mm512_mul_ps(a, above), _mm512_mul_ps(b, above));
    const vh magnitude = _mm512_and_si512(low, _mm512_set1_epi16(0x7fff));
    *y = low;
    return !(_mm512_cmpneq_epi16_mask(low, high) |
             _mm512_cmpgt_epi16_mask(magnitude, _mm512_set1_epi16(0x7c00)));
}
/* 2^-23 (1 + 2^-24) of a normal float is at most two of its last places: 5 from a tie is far
 * enough. */
FR_INLINE __mmask16 fr_is_doubtful_bf16(vs a)
{
    const __m512i low16 = _mm512_set1_epi32(0xffff), start = _mm512_set1_epi32(0x8000 - 5);
    const __m512i past = _mm512_sub_epi32(_mm512_castps_si512(a), start);
    enum { QUIET_NAN = 0x01, SUBNORMAL = 0x20, SIGNALING_NAN = 0x80 };
    return _mm512_cmple_epu32_mask(_mm512_and_si512(past, low16), _mm512_set1_epi32(10)) |
           _mm512_fpclass_ps_mask(a, QUIET_NAN | SUBNORMAL | SIGNALING_NAN);
}
FR_INLINE int vs_round_bf16(vs a, vs b, vh *y)
{
    *y = fr_round_bf16(a, b);
    return !(fr_is_doubtful_bf16(a) | fr_is_doubtful_bf16(b));
}

/* f64 to f32 with the sticky bit kept in the last place (round to odd). */
FR_INLINE __m256i fr_odd_f32(vd a)
{
    const __m256 f = _mm512_cvtpd_ps(a);
    const vd back = _mm512_cvtps_pd(f);
    const __m256i b = _mm256_castps_si256(f);
    const __mmask8 even = _mm256_testn_epi32_mask(b, _mm256_set1_epi32(1));
    const __mmask8 inexact = _mm512_cmp_pd_mask(a, back, _CMP_NEQ_OQ) & even;
    const __mmask8 grow = _mm512_cmp_pd_mask(_mm512_abs_pd(a), _mm512_abs_pd(back), _CMP_GT_OQ);
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i up = _mm256_mask_add_epi32(b, inexact & grow, b, one);
    return _mm256_mask_sub_epi32(up, (__mmask8)(inexact & ~grow), up, one);
}
FR_INLINE __m256 fr_canonical_f32(__m256 f)
{
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_mask_blend_ps(_mm256_cmp_ps_mask(f, f, _CMP_UNORD_Q), f, nan);
}
FR_INLINE vd vd_pack_f64(vd a)
{
    return vd_where_nan(a, _mm512_castsi512_pd(_mm512_set1_epi64(0x7ff8000000000000)), a);
}
FR_INLINE __m256 vd_pack_f32(vd a) { return fr_canonical_f32(_mm512_cvtpd_ps(a)); }
FR_INLINE __m128i fr_f16_from_f32(__m256 f)
{
    return _mm256_cvtps_ph(fr_canonical_f32(f), _MM_FROUND_TO_NEAREST_INT);
}
FR_INLINE __m128i fr_bf16_from_f32(__m256 f)
{
    const __m256i b = _mm256_castps_si256(fr_canonical_f32(f)), one = _mm256_set1_epi32(1);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(b, 16), one);
    const __m256i r = _mm256_add_epi32(b, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    return _mm256_cvtepi32_epi16(_mm256_srli_epi32(r, 16));
}
FR_INLINE __m256 fr_f32_from_f16(__m128i h) { return _mm256_cvtph_ps(h); }
FR_INLINE __m256 fr_f32_from_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
FR_INLINE __m128i vd_pack_f16(vd a) { return fr_f16_from_f32(_mm256_castsi256_ps(fr_odd_f32(a))); }
FR_INLINE __m128i vd_pack_bf16(vd a)
{
    return fr_bf16_from_f32(_mm256_castsi256_ps(fr_odd_f32(a)));
}
FR_INLINE void vd_store_f64(void *p, vd a) { _mm512_storeu_pd(p, vd_pack_f64(a)); }
FR_INLINE void vd_store_f32(void *p, vd a) { _mm256_storeu_ps((float *)p, vd_pack_f32(a)); }
FR_INLINE void vd_store_f16(void *p, vd a) { _mm_storeu_si128((__m128i *)p, vd_pack_f16(a)); }
FR_INLINE void vd_store_bf16(void *p, vd a) { _mm_storeu_si128((__m128i *)p, vd_pack_bf16(a)); }
FR_INLINE void vd_stream_f64(void *p, vd a) { _mm512_stream_pd((double *)p, vd_pack_f64(a)); }
FR_INLINE void vd_stream_f32(void *p, vd a) { _mm256_stream_ps((float *)p, vd_pack_f32(a)); }
FR_INLINE void vd_stream_f16(void *p, vd a) { _mm_stream_si128((__m128i *)p, vd_pack_f16(a)); }
FR_INLINE void vd_stream_bf16(void *p, vd a) { _mm_stream_si128((__m128i *)p, vd_pack_bf16(a)); }

/* In the elements' own type, and halves in f32: their sum rounded to f32 and then to T is what the
 * exact sum rounds to, since 24 >= 2 * 11 + 1 (Figueroa 1995).
 * proofs: DoubleRounding.f16_through_f32, DoubleRounding.bf16_through_f32 */
FR_INLINE void vd_accumulate_f64(void *p, vd a)
{
    vd_store_f64(p, _mm512_add_pd(_mm512_loadu_pd(p), a));
}
FR_INLINE void vd_accumulate_f32(void *p, vd a)
{
    const __m256 sum = _mm256_add_ps(_mm256_loadu_ps((const float *)p), _mm512_cvtpd_ps(a));
    _mm256_storeu_ps((float *)p, fr_canonical_f32(sum));
}
FR_INLINE void vd_accumulate_f16(void *p, vd a)
{
    const __m256 out = fr_f32_from_f16(_mm_loadu_si128((const __m128i *)p));
    const __m256 sum = _mm256_add_ps(out, fr_f32_from_f16(vd_pack_f16(a)));
    _mm_storeu_si128((__m128i *)p, fr_f16_from_f32(sum));
}
FR_INLINE void vd_accumulate_bf16(void *p, vd a)
{
    const __m256 out = fr_f32_from_bf16(_mm_loadu_si128((const __m128i *)p));
    const __m256 sum = _mm256_add_ps(out, fr_f32_from_bf16(vd_pack_bf16(a)));
    _mm_storeu_si128((__m128i *)p, fr_bf16_from_f32(sum));
}
