/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Calls back into Python, or into fastreg, from within an OpenMP region of its own; for test_process.py.
 * Run as a program it also forks from within such regions.
 */
#include <omp.h>

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
