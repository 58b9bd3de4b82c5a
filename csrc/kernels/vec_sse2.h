/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The vocabulary for SSE2, which every x86-64 CPU has. See vec_generic.h for the words.
 */
typedef __m128d vd;
enum { VL = 2, CHAINS = 8 };
#define FR_VEC_FMA 0

FR_INLINE vd vd_set(double v) { return _mm_set1_pd(v); }
FR_INLINE vd vd_add(vd a, vd b) { return _mm_add_pd(a, b); }
FR_INLINE vd vd_sub(vd a, vd b) { return _mm_sub_pd(a, b); }
FR_INLINE vd vd_mul(vd a, vd b) { return _mm_mul_pd(a, b); }
FR_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm_add_pd(_mm_mul_pd(a, b), c); }
FR_INLINE vd vd_abs(vd a) { return _mm_andnot_pd(_mm_set1_pd(-0.0), a); }
FR_INLINE void vd_put(double *p, vd a) { _mm_storeu_pd(p, a); }
FR_INLINE vd vd_flip_sign(vd a, vd by) { return _mm_xor_pd(a, _mm_and_pd(by, _mm_set1_pd(-0.0))); }
FR_INLINE vd fr_select(vd mask, vd yes, vd no)
{
    return _mm_or_pd(_mm_and_pd(mask, yes), _mm_andnot_pd(mask, no));
}
FR_INLINE vd vd_where_zero(vd x, vd yes, vd no)
{
    return fr_select(_mm_cmpeq_pd(x, _mm_setzero_pd()), yes, no);
}
FR_INLINE vd vd_where_nan(vd x, vd yes, vd no) { return fr_select(_mm_cmpunord_pd(x, x), yes, no); }
FR_INLINE vd vd_where_less(vd a, vd b, vd yes, vd no)
{
    return fr_select(_mm_cmplt_pd(a, b), yes, no);
}
FR_INLINE vd vd_max(vd a, vd b) { return _mm_max_pd(a, b); }
FR_INLINE vd vd_min(vd a, vd b) { return _mm_min_pd(a, b); }
FR_INLINE vd vd_div(vd a, vd b) { return _mm_div_pd(a, b); }
/* Of the bits less one: those of 0 become a NaN, which min passes over; a power of two loses its
 * last place, and one binade with it, which is allowed. */
FR_INLINE vd vd_least(vd a, vd least)
{
    const __m128i lowered = _mm_add_epi64(_mm_castpd_si128(a), _mm_set1_epi64x(-1));
    return _mm_min_pd(_mm_castsi128_pd(lowered), least);
}

/* Dekker's product error for x*x (see fr_product_error). */
FR_INLINE vd vd_square_error(vd x, vd square)
{
    const vd c = _mm_mul_pd(_mm_set1_pd(0x1.0000002p27), x);
    const vd high = _mm_sub_pd(c, _mm_sub_pd(c, x)), low = _mm_sub_pd(x, high);
    const vd cross = _mm_mul_pd(high, low);
    const vd rest =
        _mm_add_pd(_mm_sub_pd(_mm_mul_pd(high, high), square), _mm_add_pd(cross, cross));
    return _mm_add_pd(rest, _mm_mul_pd(low, low));
}
FR_INLINE vd vd_fma_exact(vd a, vd b, vd c)
{
    double x[2], y[2], z[2];
    _mm_storeu_pd(x, a);
    _mm_storeu_pd(y, b);
    _mm_storeu_pd(z, c);
    return _mm_set_pd(fr_fma(x[1], y[1], z[1]), fr_fma(x[0], y[0], z[0]));
}

FR_INLINE __m128i fr_load_two_u16(const void *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm_cvtsi32_si128(pair);
}
FR_INLINE vd vd_load_f64(const void *p) { return _mm_loadu_pd((const double *)p); }
FR_INLINE vd vd_load_f32(const void *p)
{
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p)));
}
FR_INLINE vd vd_load_bf16(const void *p)
{
    return _mm_cvtps_pd(
        _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), fr_load_two_u16(p))));
}
/* The fraction and exponent moved into place as an f32 are the value times 2^-112, subnormals too;
 * an exponent of all ones must become all ones again. */
FR_INLINE __m128 fr_f32_from_f16(__m128i h)
{
    const __m128i sign = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x8000)), 16);
    const __m128i magnitude = _mm_and_si128(h, _mm_set1_epi32(0x7fff));
    const __m128i special = _mm_and_si128(_mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7bff)),
                                          _mm_set1_epi32(0x7f800000));
    const __m128 scaled =
        _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(magnitude, 13)), _mm_set1_ps(0x1p112f));
    return _mm_or_ps(scaled, _mm_castsi128_ps(_mm_or_si128(sign, special)));
}
FR_INLINE vd vd_load_f16(const void *p)
{
    return _mm_cvtps_pd(
        fr_f32_from_f16(_mm_unpacklo_epi16(fr_load_two_u16(p), _mm_setzero_si128())));
}

typedef __m128 vs;
enum { SL = 4 };
FR_INLINE vs vs_set(float v) { return _mm_set1_ps(v); }
FR_INLINE vs vs_add(vs a, vs b) { return _mm_add_ps(a, b); }
FR_INLINE vs vs_abs(vs a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }
FR_INLINE void vs_put(float *p, vs a) { _mm_storeu_ps(p, a); }
FR_INLINE vs vs_add_square(vs sum, vs a) { return _mm_add_ps(_mm_mul_ps(a, a), sum); }
FR_INLINE void vs_load_f16(const void *p, vs *a, vs *b)
{
    const __m128i h = _mm_loadu_si128((const __m128i *)p);
    *a = fr_f32_from_f16(_mm_unpacklo_epi16(h, _mm_setzero_si128()));
    *b = fr_f32_from_f16(_mm_unpackhi_epi16(h, _mm_setzero_si128()));
}
FR_INLINE void vs_load_bf16(const void *p, vs *a, vs *b)
{
    const __m128i h = _mm_loadu_si128((const __m128i *)p);
    *a = _mm_castsi128_ps(_mm_slli_epi32(h, 16));
    *b = _mm_castsi128_ps(_mm_and_si128(h, _mm_set1_epi32((int)0xffff0000)));
}

FR_INLINE vd fr_canonical(vd a) { return vd_where_nan(a, _mm_set1_pd(FR_NAN), a); }
FR_INLINE void vd_store_f64(void *p, vd a) { _mm_storeu_pd((double *)p, fr_canonical(a)); }
FR_INLINE void vd_store_f32(void *p, vd a)
{
    _mm_storel_epi64((__m128i *)p, _mm_castps_si128(_mm_cvtpd_ps(fr_canonical(a))));
}
FR_INLINE void vd_store_f16(void *p, vd a)
{
    double v[2];
    _mm_storeu_pd(v, a);
    const uint16_t h[2] = {fr_f64_to_f16(v[0]), fr_f64_to_f16(v[1])};
    memcpy(p, h, sizeof h);
}
FR_INLINE void vd_store_bf16(void *p, vd a)
{
    double v[2];
    _mm_storeu_pd(v, a);
    const uint16_t h[2] = {fr_f64_to_bf16(v[0]), fr_f64_to_bf16(v[1])};
    memcpy(p, h, sizeof h);
}
FR_INLINE void vd_stream_f64(void *p, vd a) { _mm_stream_pd((double *)p, fr_canonical(a)); }
FR_INLINE void vd_stream_f32(void *p, vd a)
{
    _mm_stream_si64((long long *)p,
                    _mm_cvtsi128_si64(_mm_castps_si128(_mm_cvtpd_ps(fr_canonical(a)))));
}
FR_INLINE void vd_stream_f16(void *p, vd a) { vd_store_f16(p, a); }
FR_INLINE void vd_stream_bf16(void *p, vd a) { vd_store_bf16(p, a); }
