/* SPDX-License-Identifier: BSD-3-Clause */
/* What every CPU of the architecture has: SSE2, NEON, or plain C; under -march, what the host's
 * flags ask for. */
#include "../kernels/kernels.h"
#include "../exact/fma.h"
#define FR_LEVEL      baseline
#define FR_LEVEL_NAME "baseline"
#if defined(__x86_64__)
#    include <emmintrin.h>
#    define FR_VECTOR "vec_sse2.h"
#elif defined(__aarch64__)
#    include <arm_neon.h>
#    define FR_VECTOR "vec_neon.h"
#else
#    define FR_VECTOR "vec_generic.h"
#endif
#include "../kernels/instantiate.inc"
