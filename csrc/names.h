/* SPDX-License-Identifier: BSD-3-Clause
 *
 * FASTREG_PREFIX for what is hidden: names that several units share, of which a static library lets
 * a program have only one. tests/c/test_symbols.py knows if one is missing.
 */
#ifndef FR_NAMES_H
#define FR_NAMES_H

#ifdef FASTREG_PREFIX
#    define FR_NAME_(prefix, name)   prefix##name
#    define FR_NAME__(prefix, name)  FR_NAME_(prefix, name)
#    define FR_NAME(name)            FR_NAME__(FASTREG_PREFIX, name)
#    define fr_climb                 FR_NAME(fr_climb)
#    define fr_decide                FR_NAME(fr_decide)
#    define fr_dispatch              FR_NAME(fr_dispatch)
#    define fr_dispatch_is_strict    FR_NAME(fr_dispatch_is_strict)
#    define fr_dispatch_name         FR_NAME(fr_dispatch_name)
#    define fr_exact_chunk           FR_NAME(fr_exact_chunk)
#    define fr_host_can_bind         FR_NAME(fr_host_can_bind)
#    define fr_host_can_start        FR_NAME(fr_host_can_start)
#    define fr_host_has_stack        FR_NAME(fr_host_has_stack)
#    define fr_host_processors       FR_NAME(fr_host_processors)
#    define fr_host_stream_threshold FR_NAME(fr_host_stream_threshold)
#    define fr_kernels_baseline      FR_NAME(fr_kernels_baseline)
#    define fr_kernels_x86_v3        FR_NAME(fr_kernels_x86_v3)
#    define fr_kernels_x86_v3_f32    FR_NAME(fr_kernels_x86_v3_f32)
#    define fr_kernels_x86_v4        FR_NAME(fr_kernels_x86_v4)
#    define fr_kernels_x86_v4_bf16   FR_NAME(fr_kernels_x86_v4_bf16)
#    define fr_kernels_x86_v4_f16    FR_NAME(fr_kernels_x86_v4_f16)
#    define fr_kernels_x86_v4_f64    FR_NAME(fr_kernels_x86_v4_f64)
#    define fr_pass                  FR_NAME(fr_pass)
#    define fr_pass_alone            FR_NAME(fr_pass_alone)
#    define fr_pool_run              FR_NAME(fr_pool_run)
#    define fr_pool_shares           FR_NAME(fr_pool_shares)
#    define fr_progress_begin        FR_NAME(fr_progress_begin)
#    define fr_state_is_good         FR_NAME(fr_state_is_good)
#    define fr_state_is_narrow       FR_NAME(fr_state_is_narrow)
#    define fr_state_of              FR_NAME(fr_state_of)
#    define fr_statistics            FR_NAME(fr_statistics)
#    define fr_threads               FR_NAME(fr_threads)
#    define fr_threads_exist         FR_NAME(fr_threads_exist)
#    define fr_threads_for           FR_NAME(fr_threads_for)
#    define fr_threads_lock          FR_NAME(fr_threads_lock)
#    define fr_threads_run           FR_NAME(fr_threads_run)
#    define fr_threads_set           FR_NAME(fr_threads_set)
#    define fr_threads_set_own       FR_NAME(fr_threads_set_own)
#    define fr_threads_unlock        FR_NAME(fr_threads_unlock)
#    define fr_walk_next             FR_NAME(fr_walk_next)
#    define fr_walk_start            FR_NAME(fr_walk_start)
#endif

#endif
