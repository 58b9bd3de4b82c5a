/* SPDX-License-Identifier: BSD-3-Clause
 *
 * FR_TARGET("features") compiles what follows in this file for those features: no compiler flags.
 */
#ifndef FR_TARGET_H
#define FR_TARGET_H

#include <immintrin.h>

#define FR_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#    define FR_TARGET(features)                                                                    \
        FR_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#    define FR_TARGET_END _Pragma("clang attribute pop")
#else
#    define FR_TARGET(features) FR_PRAGMA(GCC target(features))
#    define FR_TARGET_END
#endif

#endif
