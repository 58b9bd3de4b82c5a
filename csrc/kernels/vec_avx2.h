/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The vocabulary for AVX2 with FMA and F16C. See vec_generic.h for the words.
 */
typedef __m256d vd;
enum { VL = 4, CHAINS = 8 };
#define FR_VEC_FMA        1
#define FR_VEC_ACCUMULATE 1
#define FR_VEC_HALVES     1

FR_INLINE vd vd_set(double v) { return _mm256_set1_pd(v); }
FR_INLINE vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
FR_INLINE vd vd_sub(vd a, vd b) { return _mm256_sub_pd(a, b); }
FR_INLINE vd vd_mul(vd a, vd b) { return _mm256_mul_pd(a, b); }
FR_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
FR_INLINE vd vd_fms(vd a, vd b, vd c) { return _mm256_fmsub_pd(a, b, c); }
FR_INLINE vd vd_abs(vd a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
FR_INLINE void vd_put(double *p, vd a) { _mm256_storeu_pd(p, a); }

FR_INLINE vd vd_flip_sign(vd a, vd by)
{
    return _mm256_xor_pd(a, _mm256_and_pd(by, _mm256_set1_pd(-0.0)));
}
FR_INLINE vd vd_where_zero(vd x, vd yes, vd no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(x, _mm256_setzero_pd(), _CMP_EQ_OQ));
}
FR_INLINE vd vd_where_nan(vd x, vd yes, vd no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(x, x, _CMP_UNORD_Q));
}
FR_INLINE vd vd_where_less(vd a, vd b, vd yes, vd no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
FR_INLINE vd vd_max(vd a, vd b) { return _mm256_max_pd(a, b); }
FR_INLINE vd vd_min(vd a, vd b) { return _mm256_min_pd(a, b); }
FR_INLINE vd vd_div(vd a, vd b) { return _mm256_div_pd(a, b); }
/* Of the bits less one: those of 0 become a NaN, which min passes over; a power of two loses its
 * last place, and one binade with it, which is allowed. */
FR_INLINE vd vd_least(vd a, vd least)
{
    const __m256i lowered = _mm256_add_epi64(_mm256_castpd_si256(a), _mm256_set1_epi64x(-1));
    return _mm256_min_pd(_mm256_castsi256_pd(lowered), least);
}

FR_INLINE vd vd_load_f64(const void *p) { return _mm256_loadu_pd((const double *)p); }
FR_INLINE vd vd_load_f32(const void *p) { return _mm256_cvtps_pd(_mm_loadu_ps((const float *)p)); }
FR_INLINE vd vd_load_f16(const void *p)
{
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)p)));
}
FR_INLINE vd vd_load_bf16(const void *p)
{
    const __m128i h = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(h, 16)));
}

typedef __m256 vs;
enum { SL = 8 };
FR_INLINE vs vs_set(float v) { return _mm256_set1_ps(v); }
FR_INLINE vs vs_add(vs a, vs b) { return _mm256_add_ps(a, b); }
FR_INLINE vs vs_abs(vs a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FR_INLINE void vs_put(float *p, vs a) { _mm256_storeu_ps(p, a); }
FR_INLINE vs vs_add_square(vs sum, vs a) { return _mm256_fmadd_ps(a, a, sum); }
FR_INLINE vs vs_mul(vs a, vs b) { return _mm256_mul_ps(a, b); }
FR_INLINE vs vs_fma(vs a, vs b, vs c) { return _mm256_fmadd_ps(a, b, c); }
FR_INLINE vs vs_flip_sign(vs a, vs by)
{
    return _mm256_xor_ps(a, _mm256_and_ps(by, _mm256_set1_ps(-0.0f)));
}
FR_INLINE vs vs_where_zero(vs x, vs yes, vs no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ));
}
FR_INLINE vs vs_where_less(vs a, vs b, vs yes, vs no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

typedef __m256i vh;
FR_INLINE vh vh_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
FR_INLINE void vh_store(void *p, vh y) { _mm256_storeu_si256((__m256i *)p, y); }
FR_INLINE vh vh_set(unsigned v) { return _mm256_set1_epi16((short)v); }
FR_INLINE vh vh_abs(vh y) { return _mm256_and_si256(y, vh_set(0x7fff)); }
FR_INLINE vh vh_sub(vh a, vh b) { return _mm256_sub_epi16(a, b); }
FR_INLINE vh vh_min(vh a, vh b) { return _mm256_min_epu16(a, b); }
FR_INLINE void vs_widen(vs a, vd *low, vd *high)
{
    *low = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    *high = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
}
FR_INLINE void vh_stream(void *p, vh y) { _mm256_stream_si256((__m256i *)p, y); }
FR_INLINE void vh_unpack_f16(vh y, vs *a, vs *b)
{
    *a = _mm256_cvtph_ps(_mm256_castsi256_si128(y));
    *b = _mm256_cvtph_ps(_mm256_extracti128_si256(y, 1));
}
FR_INLINE void vh_unpack_bf16(vh y, vs *a, vs *b)
{
    *a = _mm256_castsi256_ps(_mm256_slli_epi32(y, 16));
    *b = _mm256_castsi256_ps(_mm256_and_si256(y, _mm256_set1_epi32((int)0xffff0000)));
}
FR_INLINE vh fr_round_f16(vs a, vs b)
{
    const __m128i low = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
    const __m128i high = _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
FR_INLINE __m256i fr_round_bits_bf16(vs a)
{
    const __m256i b = _mm256_castps_si256(a), one = _mm256_set1_epi32(1);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(b, 16), one);
    return _mm256_add_epi32(b, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
}
FR_INLINE vh fr_round_bf16(vs a, vs b)
{
    const __m256i odd = _mm256_and_si256(fr_round_bits_bf16(b), _mm256_set1_epi32((int)0xffff0000));
    return _mm256_or_si256(_mm256_srli_epi32(fr_round_bits_bf16(a), 16), odd);
}
FR_INLINE vs fr_canonical_vs(vs a)
{
    const vs nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_blendv_ps(a, nan, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
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
    const vs below = _mm256_set1_ps(1.0f - 0x1p-22f), above = _mm256_set1_ps(1.0f + 0x1p-22f);
    const vh low = fr_round_f16(_mm256_mul_ps(a, below), _mm256_mul_ps(b, below));
    const vh high = fr_round_f16(_mm256_mul_ps(a, above), _mm256_mul_ps(b, above));
    const vh magnitude = _mm256_and_si256(low, _mm256_set1_epi16(0x7fff));
    const vh nan = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(0x7c00));
    const vh doubtful = _mm256_or_si256(_mm256_xor_si256(low, high), nan);
    *y = low;
    return _mm256_testz_si256(doubtful, doubtful);
}
/* 2^-23 (1 + 2^-24) of a normal float is at most two of its last places: 5 from a tie is far
 * enough. */
FR_INLINE __m256i fr_is_doubtful_bf16(vs a)
{
    const __m256i b = _mm256_castps_si256(a), low16 = _mm256_set1_epi32(0xffff);
    const __m256i magnitude = _mm256_and_si256(b, _mm256_set1_epi32(0x7fffffff));
    const __m256i past =
        _mm256_and_si256(_mm256_sub_epi32(b, _mm256_set1_epi32(0x8000 - 5)), low16);
    const __m256i tie = _mm256_cmpgt_epi32(_mm256_set1_epi32(11), past);
    const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
    const __m256i subnormal =
        _mm256_and_si256(below, _mm256_cmpgt_epi32(magnitude, _mm256_setzero_si256()));
    return _mm256_or_si256(_mm256_or_si256(tie, nan), subnormal);
}
FR_INLINE int vs_round_bf16(vs a, vs b, vh *y)
{
    const __m256i doubtful = _mm256_or_si256(fr_is_doubtful_bf16(a), fr_is_doubtful_bf16(b));
    *y = fr_round_bf16(a, b);
    return _mm256_testz_si256(doubtful, doubtful);
}

/* Four 64-bit lane masks as four 32-bit ones. */
FR_INLINE __m128i fr_narrow_mask(__m256d m)
{
    const __m128 low = _mm_castpd_ps(_mm256_castpd256_pd128(m));
    const __m128 high = _mm_castpd_ps(_mm256_extractf128_pd(m, 1));
    return _mm_castps_si128(_mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
}

/* f64 to f32 with the sticky bit kept in the last place (round to odd). */
FR_INLINE __m128i fr_odd_f32(vd a)
{
    const __m128 f = _mm256_cvtpd_ps(a);
    const vd back = _mm256_cvtps_pd(f);
    const __m128i b = _mm_castps_si128(f), one = _mm_set1_epi32(1);
    const __m128i inexact = fr_narrow_mask(_mm256_cmp_pd(a, back, _CMP_NEQ_OQ));
    const __m128i grow = fr_narrow_mask(_mm256_cmp_pd(vd_abs(a), vd_abs(back), _CMP_GT_OQ));
    /* +1 where the value grew past f, -1 where it fell short, 0 where f is exact or odd. */
    const __m128i step = _mm_or_si128(_mm_andnot_si128(grow, _mm_set1_epi32(-1)), one);
    const __m128i even = _mm_cmpeq_epi32(_mm_and_si128(b, one), _mm_setzero_si128());
    return _mm_add_epi32(b, _mm_and_si128(step, _mm_and_si128(inexact, even)));
}
FR_INLINE __m128 fr_canonical_f32(__m128 f)
{
    const __m128 nan = _mm_castsi128_ps(_mm_set1_epi32(0x7fc00000));
    return _mm_blendv_ps(f, nan, _mm_cmpunord_ps(f, f));
}
FR_INLINE vd vd_pack_f64(vd a)
{
    return vd_where_nan(a, _mm256_castsi256_pd(_mm256_set1_epi64x(0x7ff8000000000000)), a);
}
FR_INLINE __m128 vd_pack_f32(vd a) { return fr_canonical_f32(_mm256_cvtpd_ps(a)); }
FR_INLINE __m128i fr_f16_from_f32(__m128 f)
{
    return _mm_cvtps_ph(fr_canonical_f32(f), _MM_FROUND_TO_NEAREST_INT);
}
FR_INLINE __m128i fr_bf16_from_f32(__m128 f)
{
    const __m128i b = _mm_castps_si128(fr_canonical_f32(f)), one = _mm_set1_epi32(1);
    const __m128i last = _mm_and_si128(_mm_srli_epi32(b, 16), one);
    const __m128i r = _mm_add_epi32(b, _mm_add_epi32(last, _mm_set1_epi32(0x7fff)));
    return _mm_packus_epi32(_mm_srli_epi32(r, 16), _mm_setzero_si128());
}
FR_INLINE __m128 fr_f32_from_f16(__m128i h) { return _mm_cvtph_ps(h); }
FR_INLINE __m128 fr_f32_from_bf16(__m128i h)
{
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(h), 16));
}
FR_INLINE __m128i vd_pack_f16(vd a) { return fr_f16_from_f32(_mm_castsi128_ps(fr_odd_f32(a))); }
FR_INLINE __m128i vd_pack_bf16(vd a) { return fr_bf16_from_f32(_mm_castsi128_ps(fr_odd_f32(a))); }
FR_INLINE void vd_store_f64(void *p, vd a) { _mm256_storeu_pd((double *)p, vd_pack_f64(a)); }
FR_INLINE void vd_store_f32(void *p, vd a) { _mm_storeu_ps((float *)p, vd_pack_f32(a)); }
FR_INLINE void vd_store_f16(void *p, vd a) { _mm_storel_epi64((__m128i *)p, vd_pack_f16(a)); }
FR_INLINE void vd_store_bf16(void *p, vd a) { _mm_storel_epi64((__m128i *)p, vd_pack_bf16(a)); }
FR_INLINE void vd_stream_f64(void *p, vd a) { _mm256_stream_pd((double *)p, vd_pack_f64(a)); }
FR_INLINE void vd_stream_f32(void *p, vd a) { _mm_stream_ps((float *)p, vd_pack_f32(a)); }
FR_INLINE void vd_stream_f16(void *p, vd a)
{
    _mm_stream_si64((long long *)p, _mm_cvtsi128_si64(vd_pack_f16(a)));
}
FR_INLINE void vd_stream_bf16(void *p, vd a)
{
    _mm_stream_si64((long long *)p, _mm_cvtsi128_si64(vd_pack_bf16(a)));
}

/* In the elements' own type, and halves in f32: their sum rounded to f32 and then to T is what the
 * exact sum rounds to, since 24 >= 2 * 11 + 2 (Figueroa 1995). */
FR_INLINE void vd_accumulate_f64(void *p, vd a)
{
    vd_store_f64(p, _mm256_add_pd(_mm256_loadu_pd((const double *)p), a));
}
FR_INLINE void vd_accumulate_f32(void *p, vd a)
{
    const __m128 sum = _mm_add_ps(_mm_loadu_ps((const float *)p), _mm256_cvtpd_ps(a));
    _mm_storeu_ps((float *)p, fr_canonical_f32(sum));
}
FR_INLINE void vd_accumulate_f16(void *p, vd a)
{
    const __m128 out = fr_f32_from_f16(_mm_loadl_epi64((const __m128i *)p));
    const __m128 sum = _mm_add_ps(out, fr_f32_from_f16(vd_pack_f16(a)));
    _mm_storel_epi64((__m128i *)p, fr_f16_from_f32(sum));
}
FR_INLINE void vd_accumulate_bf16(void *p, vd a)
{
    const __m128 out = fr_f32_from_bf16(_mm_loadl_epi64((const __m128i *)p));
    const __m128 sum = _mm_add_ps(out, fr_f32_from_bf16(vd_pack_bf16(a)));
    _mm_storel_epi64((__m128i *)p, fr_bf16_from_f32(sum));
}
