/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reads and sets the floating-point environment of the calling thread, for test_environment.py.
 */
#include <fenv.h>
#include <xmmintrin.h>

static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};

/* Control and status: MXCSR in the low 32 bits, then the x87 control and status words. */
unsigned long long environment(void)
{
    unsigned short control, status;
    __asm__ volatile("fnstcw %0" : "=m"(control));
    __asm__ volatile("fnstsw %0" : "=m"(status));
    return _mm_getcsr() | (unsigned long long)control << 32 | (unsigned long long)status << 48;
}

/* mode 0 to 3; flush: FTZ and DAZ; flags: sticky exceptions that are raised. Returns what was
 * set. */
unsigned long long set_environment(int mode, int flush, unsigned flags)
{
    fesetround(modes[mode]);
    _mm_setcsr((_mm_getcsr() & ~0x803fu) | (flush ? 0x8040u : 0u) | flags);
    return environment();
}

void reset_environment(void) { fesetenv(FE_DFL_ENV); }

/* The tag word of the x87 registers: 0xffff if all are empty. */
unsigned tags(void)
{
    unsigned char image[28];
    __asm__ volatile("fnstenv %0\n\tfldenv %0" : "=m"(image));
    return image[8] | (unsigned)image[9] << 8;
}
