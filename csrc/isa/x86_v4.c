/* SPDX-License-Identifier: BSD-3-Clause */
/* AVX-512 F, VL, DQ and BW: Skylake-X, Zen 4, and what came after. */
#include "../kernels/kernels.h"
#ifdef FR_X86_LEVELS
#    include "../kernels/target.h"
#    define FR_LEVEL      x86_v4
#    define FR_LEVEL_NAME "x86_v4"
#    define FR_VECTOR     "vec_avx512.h"
FR_TARGET("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#    include "../kernels/instantiate.inc"
FR_TARGET_END
#endif
