/* SPDX-License-Identifier: BSD-3-Clause */
/* AVX2, FMA and F16C: Haswell, Zen, and what came after. */
#include "../kernels/kernels.h"
#ifdef FR_X86_LEVELS
#    include "../kernels/target.h"
#    define FR_LEVEL      x86_v3
#    define FR_LEVEL_NAME "x86_v3"
#    define FR_VECTOR     "vec_avx2.h"
FR_TARGET("avx2,fma,f16c")
#    include "../kernels/instantiate.inc"
FR_TARGET_END
#endif
