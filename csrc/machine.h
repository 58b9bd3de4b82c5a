/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What differs between processors outside the kernels: the floating-point environment, sqrt, and
 * the fence that makes streamed stores visible before any later store.
 */
#ifndef FR_MACHINE_H
#define FR_MACHINE_H

#include "common.h"

/* Arithmetic on v stays on its side of this. Where it stands in line between fr_environment_enter
 * and fr_environment_leave, and not behind a call, a compiler may move it out otherwise. */
#define FR_PIN(v) __asm__ volatile("" : "+m"(v) : : "memory")

#if defined(__x86_64__)

#    include <emmintrin.h>

/* MXCSR. Controls: DAZ (bit 6), exception masks (7-12), rounding (13-14), FTZ (15). */
typedef unsigned fr_environment;

FR_INLINE fr_environment fr_environment_enter(void)
{
    const unsigned saved = _mm_getcsr();
    if (FR_UNLIKELY((saved & 0xffc0) != 0x1f80))
        _mm_setcsr(0x1f80);
    return saved;
}

/* Put back the controls and the exception flags. Reading is cheap, writing is not. */
FR_INLINE void fr_environment_leave(fr_environment saved)
{
    if (FR_UNLIKELY(_mm_getcsr() != saved))
        _mm_setcsr(saved);
}

FR_INLINE double fr_sqrt(double v)
{
    return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_set_sd(v), _mm_set_sd(v)));
}

FR_INLINE void fr_stream_end(void) { _mm_sfence(); }

#elif defined(__aarch64__)

typedef struct {
    uint64_t control, status;
} fr_environment;

FR_INLINE fr_environment fr_environment_enter(void)
{
    fr_environment saved;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(saved.control), "=r"(saved.status));
    if (FR_UNLIKELY(saved.control != 0))
        __asm__ volatile("msr fpcr, %0" ::"r"(UINT64_C(0)) : "memory");
    return saved;
}

FR_INLINE void fr_environment_leave(fr_environment saved)
{
    uint64_t status;
    if (FR_UNLIKELY(saved.control != 0))
        __asm__ volatile("msr fpcr, %0" ::"r"(saved.control) : "memory");
    __asm__ volatile("mrs %0, fpsr" : "=r"(status));
    if (FR_UNLIKELY(status != saved.status))
        __asm__ volatile("msr fpsr, %0" ::"r"(saved.status) : "memory");
}

FR_INLINE double fr_sqrt(double v)
{
    double r;
    __asm__("fsqrt %d0, %d1" : "=w"(r) : "w"(v));
    return r;
}

FR_INLINE void fr_stream_end(void) {}

#else

#    include <fenv.h>
#    include <math.h>

typedef fenv_t fr_environment;

FR_INLINE fr_environment fr_environment_enter(void)
{
    fenv_t saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}

FR_INLINE void fr_environment_leave(fr_environment saved) { fesetenv(&saved); }

FR_INLINE double fr_sqrt(double v) { return sqrt(v); }

FR_INLINE void fr_stream_end(void) {}

#endif

#endif
