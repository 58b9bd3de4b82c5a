/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The vocabulary for aarch64 NEON. See vec_generic.h for the words.
 */
typedef float64x2_t vd;
enum { VL = 2, CHAINS = 8 };
#define FR_VEC_FMA 1

FR_INLINE vd vd_set(double v) { return vdupq_n_f64(v); }
FR_INLINE vd vd_add(vd a, vd b) { return vaddq_f64(a, b); }
FR_INLINE vd vd_sub(vd a, vd b) { return vsubq_f64(a, b); }
FR_INLINE vd vd_mul(vd a, vd b) { return vmulq_f64(a, b); }
FR_INLINE vd vd_fma(vd a, vd b, vd c) { return vfmaq_f64(c, a, b); }
FR_INLINE vd vd_fms(vd a, vd b, vd c) { return vfmaq_f64(vnegq_f64(c), a, b); }
FR_INLINE vd vd_abs(vd a) { return vabsq_f64(a); }
FR_INLINE void vd_put(double *p, vd a) { vst1q_f64(p, a); }

FR_INLINE vd vd_flip_sign(vd a, vd by)
{
    const uint64x2_t sign = vandq_u64(vreinterpretq_u64_f64(by), vdupq_n_u64(UINT64_C(1) << 63));
    return vreinterpretq_f64_u64(veorq_u64(vreinterpretq_u64_f64(a), sign));
}
FR_INLINE vd vd_where_zero(vd x, vd yes, vd no) { return vbslq_f64(vceqzq_f64(x), yes, no); }
FR_INLINE vd vd_where_nan(vd x, vd yes, vd no) { return vbslq_f64(vceqq_f64(x, x), no, yes); }
FR_INLINE vd vd_where_less(vd a, vd b, vd yes, vd no)
{
    return vbslq_f64(vcltq_f64(a, b), yes, no);
}
FR_INLINE vd vd_max(vd a, vd b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
FR_INLINE vd vd_min(vd a, vd b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
FR_INLINE vd vd_div(vd a, vd b) { return vdivq_f64(a, b); }
FR_INLINE vd vd_least(vd a, vd least)
{
    return vd_min(vd_where_zero(a, vd_set(FR_INFINITY), a), least);
}

FR_INLINE vd vd_load_f64(const void *p) { return vld1q_f64((const double *)p); }
FR_INLINE vd vd_load_f32(const void *p) { return vcvt_f64_f32(vld1_f32((const float *)p)); }
FR_INLINE uint16x4_t fr_load_two_u16(const void *p)
{
    uint32_t pair;
    memcpy(&pair, p, sizeof pair);
    return vreinterpret_u16_u32(vcreate_u32(pair));
}
FR_INLINE vd vd_load_f16(const void *p)
{
    return vcvt_f64_f32(vget_low_f32(vcvt_f32_f16(vreinterpret_f16_u16(fr_load_two_u16(p)))));
}
FR_INLINE vd vd_load_bf16(const void *p)
{
    return vcvt_f64_f32(vget_low_f32(vreinterpretq_f32_u32(vshll_n_u16(fr_load_two_u16(p), 16))));
}

typedef float32x4_t vs;
enum { SL = 4 };
FR_INLINE vs vs_set(float v) { return vdupq_n_f32(v); }
FR_INLINE vs vs_add(vs a, vs b) { return vaddq_f32(a, b); }
FR_INLINE vs vs_abs(vs a) { return vabsq_f32(a); }
FR_INLINE void vs_put(float *p, vs a) { vst1q_f32(p, a); }
FR_INLINE vs vs_add_square(vs sum, vs a) { return vfmaq_f32(sum, a, a); }
FR_INLINE void vs_load_f16(const void *p, vs *a, vs *b)
{
    const uint16x8_t h = vld1q_u16((const uint16_t *)p);
    *a = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h)));
    *b = vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(h)));
}
FR_INLINE void vs_load_bf16(const void *p, vs *a, vs *b)
{
    const uint16x8_t h = vld1q_u16((const uint16_t *)p);
    *a = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16));
    *b = vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h), 16));
}

/* vcvtx rounds to odd, so the second rounding is the only one that counts. */
FR_INLINE void fr_store_two_u16(void *p, uint16x4_t h)
{
    const uint32_t pair = vget_lane_u32(vreinterpret_u32_u16(h), 0);
    memcpy(p, &pair, sizeof pair);
}
FR_INLINE vd fr_canonical(vd a) { return vd_where_nan(a, vdupq_n_f64(FR_NAN), a); }
FR_INLINE void vd_store_f64(void *p, vd a) { vst1q_f64((double *)p, fr_canonical(a)); }
FR_INLINE void vd_store_f32(void *p, vd a) { vst1_f32((float *)p, vcvt_f32_f64(fr_canonical(a))); }
FR_INLINE void vd_store_f16(void *p, vd a)
{
    const float32x2_t odd = vcvtx_f32_f64(fr_canonical(a));
    fr_store_two_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(vcombine_f32(odd, odd))));
}
FR_INLINE void vd_store_bf16(void *p, vd a)
{
    const uint32x2_t b = vreinterpret_u32_f32(vcvtx_f32_f64(fr_canonical(a)));
    const uint32x2_t last = vand_u32(vshr_n_u32(b, 16), vdup_n_u32(1));
    const uint32x2_t r = vshr_n_u32(vadd_u32(b, vadd_u32(last, vdup_n_u32(0x7fff))), 16);
    fr_store_two_u16(p, vmovn_u32(vcombine_u32(r, r)));
}
FR_INLINE void vd_stream_f64(void *p, vd a) { vd_store_f64(p, a); }
FR_INLINE void vd_stream_f32(void *p, vd a) { vd_store_f32(p, a); }
FR_INLINE void vd_stream_f16(void *p, vd a) { vd_store_f16(p, a); }
FR_INLINE void vd_stream_bf16(void *p, vd a) { vd_store_bf16(p, a); }
