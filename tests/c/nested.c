/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Another library with OpenMP regions of its own: calls back from within one (test_process.py), and
 * leaves workers in a floating-point environment of its liking (test_environment.py).
 */
#include <omp.h>

#if defined(__x86_64__)
#    include <xmmintrin.h>

/* Exchange the MXCSR of every thread of a region with mxcsr[i]. */
void exchange_environments(int threads, unsigned *mxcsr)
{
#    pragma omp parallel num_threads(threads)
    {
        const int i = omp_get_thread_num();
        const unsigned old = _mm_getcsr();
        _mm_setcsr(mxcsr[i]);
        mxcsr[i] = old;
    }
}
#endif

/* Run `body` on each of `threads` threads of a region; returns the size of the team. */
int in_parallel(int threads, void (*body)(int))
{
    int team = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        team = omp_get_num_threads();
        body(omp_get_thread_num());
    }
    return team;
}
