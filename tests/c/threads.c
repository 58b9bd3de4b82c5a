/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Callers side by side, each with a team of its own: on one shared array, on their own, on outputs
 * next to one another, while settings change. For thread sanitizers, and right by itself: prints
 * "good".
 */
#include "truth.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { CALLERS = 4, ELEMENTS = 30000 };

static float shared[ELEMENTS], outputs[CALLERS][ELEMENTS];
static double wanted_value, wanted_norm;
static int rounds;

static fastreg_array array_of(int caller)
{
    static const ptrdiff_t n = ELEMENTS;
    const fastreg_array a = {.data = shared,
                             .gradient = outputs[caller],
                             .shape = &n,
                             .ndim = 1,
                             .dtype = FASTREG_F32,
                             .l1 = 0.1,
                             .l2 = 0.3};
    return a;
}

static int never(void *context) { return *(const int *)context < 0; }

static void *call(void *caller_)
{
    const int caller = *(const int *)caller_;
    for (int i = 0; i < rounds; ++i)
        for (size_t level = 0;; ++level) {
            int available = 0;
            const char *const name = fastreg_level_name(level, &available);
            if (!name)
                break;
            if (!available)
                continue;
            const fastreg_array a = array_of(caller);
            fastreg_statistics row;
            double v, norm, both;
            const fastreg_options o = {.level = i % 2 ? NULL : name,
                                       .threads = 1 + (i + caller) % 3,
                                       .bytes_per_thread = 4096,
                                       .first_tier = i % 3,
                                       .error_factor = i % 5 == 4 ? 1e300 : 0.0,
                                       .poll = never,
                                       .poll_context = &rounds};
            if (fastreg_value(&a, 1, FASTREG_F32, &o, &v) ||
                fastreg_norm(&a, 1, FASTREG_F64, &o, &norm) ||
                fastreg_value_and_gradient(&a, 1, 1.0, 0, FASTREG_F32, &o, &both) ||
                fastreg_gradient(&a, 1, -1.0, 1, &o) ||
                fastreg_statistics_of(&a, 1, &o, &row, NULL) ||
                fastreg_set_thread_num_threads(i % 3, NULL) || fastreg_set_num_threads(i % 4, NULL))
                exit(2);
            for (int k = 0; k < ELEMENTS; ++k)
                if (outputs[caller][k] != 0.0f)
                    exit(3);
            if (v != wanted_value || both != wanted_value || norm != wanted_norm || row.norm == 0.0)
                exit(4);
        }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[CALLERS];
    int numbers[CALLERS];
    rounds = argc > 1 ? atoi(argv[1]) : 10;
    for (int k = 0; k < ELEMENTS; ++k)
        shared[k] = (float)((k * 2654435761u >> 8) % 2001) / 1000.0f - 1.0f;
    /* The first calls of all at once: nothing has been chosen or asked yet. */
    const fastreg_options exact = {.first_tier = 2, .level = "baseline"};
    const fastreg_array a = array_of(0);
    if (fastreg_value(&a, 1, FASTREG_F32, &exact, &wanted_value) ||
        fastreg_norm(&a, 1, FASTREG_F64, &exact, &wanted_norm))
        return 5;
    for (int i = 0; i < CALLERS; ++i) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, call, &numbers[i]))
            return 6;
    }
    for (int i = 0; i < CALLERS; ++i)
        (void)pthread_join(threads[i], NULL);
    printf("good\n");
    return 0;
}
