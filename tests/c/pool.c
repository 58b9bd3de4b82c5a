/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The caller's own threads: for every number of shares, and for pools that drop, repeat and reorder
 * calls, all functions give the bits of one thread.
 */
#include "../../csrc/fastreg.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 300001, ARRAYS = 3, MOST = 64 };

#define HOLDS(c) ((c) ? (void)0 : (fprintf(stderr, "line %d: %s\n", __LINE__, #c), exit(1)))

typedef struct {
    void (*body)(void *, int);
    void *work;
    int first, step, shares;
} job;

static void *work_off(void *job_)
{
    const job *const j = job_;
    for (int i = j->first; i < j->shares; i += j->step)
        j->body(j->work, i);
    return NULL;
}

/* Two threads, of which the caller is none. */
static void on_two_threads(void *pool, int shares, void (*body)(void *, int), void *work)
{
    pthread_t thread[2];
    job jobs[2];
    ++*(int *)pool;
    for (int t = 0; t < 2; ++t) {
        jobs[t] = (job){body, work, t, 2, shares};
        HOLDS(pthread_create(&thread[t], NULL, work_off, &jobs[t]) == 0);
    }
    for (int t = 0; t < 2; ++t)
        HOLDS(pthread_join(thread[t], NULL) == 0);
}

static void backwards(void *pool, int shares, void (*body)(void *, int), void *work)
{
    ++*(int *)pool;
    for (int i = shares; i-- > 0;)
        body(work, i);
}

static void drops_some(void *pool, int shares, void (*body)(void *, int), void *work)
{
    ++*(int *)pool;
    for (int i = 0; i < shares / 2; ++i)
        body(work, i);
}

static void repeats_all(void *pool, int shares, void (*body)(void *, int), void *work)
{
    ++*(int *)pool;
    for (int i = 0; i < 3 * shares; ++i)
        body(work, i % shares);
}

static float data[N], gradient[2][N];
static double wide[N / 3], wide_gradient[2][N / 3];
static unsigned char small[1000];

/* Everything that a call answers, as bytes. */
typedef struct {
    double value, norm, both;
    fastreg_statistics rows[ARRAYS], total;
    double exact;
} answers;

static void ask(fastreg_array *a, const fastreg_options *o, int which, answers *to)
{
    memset(to, 0, sizeof *to);
    a[0].gradient = gradient[which], a[1].gradient = wide_gradient[which];
    HOLDS(fastreg_value(a, ARRAYS, FASTREG_F64, o, &to->value) == FASTREG_OK);
    HOLDS(fastreg_norm(a, ARRAYS, FASTREG_F32, o, &to->norm) == FASTREG_OK);
    HOLDS(fastreg_gradient(a, ARRAYS, 0.7, 0, o) == FASTREG_OK);
    HOLDS(fastreg_value_and_gradient(a, ARRAYS, 0.3, 1, FASTREG_F64, o, &to->both) == FASTREG_OK);
    HOLDS(fastreg_statistics_of(a, ARRAYS, o, to->rows, &to->total) == FASTREG_OK);
    const double weights[2] = {0.5, 0.25};
    fastreg_state sum;
    memset(&sum, 0, sizeof sum);
    HOLDS(fastreg_state_fill(&sum, a, ARRAYS, o) == FASTREG_OK);
    HOLDS(fastreg_state_value(&sum, &weights[0], &weights[1], 1, FASTREG_F64, &to->exact) ==
          FASTREG_OK);
}

int main(void)
{
    static const ptrdiff_t lengths[ARRAYS] = {N, N / 3, 1000};
    static const int shares[] = {1, 2, 3, 7, MOST};
    void (*const pools[])(void *, int, void (*)(void *, int), void *) = {on_two_threads, backwards,
                                                                         drops_some, repeats_all};
    unsigned long long r = 1;
    for (int i = 0; i < N; ++i) {
        r = r * 6364136223846793005ull + 1442695040888963407ull;
        data[i] = (float)(int)(r >> 33) * 0x1p-30f - 1.0f;
        if (i < N / 3)
            wide[i] = (double)(r >> 11) * 0x1p-52 - 1.0;
        if (i < 1000)
            small[i] = (unsigned char)(r >> 40);
    }
    fastreg_array a[ARRAYS] = {{.data = data, .dtype = FASTREG_F32, .l1 = 0.5, .l2 = 0.25},
                               {.data = wide, .dtype = FASTREG_F64, .l1 = 0.125, .l2 = 3.0},
                               {.data = small, .dtype = FASTREG_U8, .l1 = 1e-3, .l2 = 1.0}};
    for (int k = 0; k < ARRAYS; ++k)
        a[k].ndim = 1, a[k].shape = &lengths[k];
    for (int tier = 0; tier < 3; ++tier) {
        const fastreg_options alone = {.threads = 1, .first_tier = tier};
        answers wanted, got;
        ask(a, &alone, 0, &wanted);
        for (size_t p = 0; p < sizeof pools / sizeof pools[0]; ++p)
            for (size_t s = 0; s < sizeof shares / sizeof shares[0]; ++s) {
                int calls = 0;
                const fastreg_options o = {.size = sizeof o,
                                           .threads = shares[s],
                                           .bytes_per_thread = 64,
                                           .first_tier = tier,
                                           .run = pools[p],
                                           .pool = &calls};
                memset(gradient[1], -1, sizeof gradient[1]);
                memset(wide_gradient[1], -1, sizeof wide_gradient[1]);
                ask(a, &o, 1, &got);
                HOLDS(memcmp(&got, &wanted, sizeof got) == 0);
                HOLDS(memcmp(gradient[1], gradient[0], sizeof gradient[0]) == 0);
                HOLDS(memcmp(wide_gradient[1], wide_gradient[0], sizeof wide_gradient[0]) == 0);
                HOLDS(shares[s] == 1 ? calls == 0 : calls >= 6);
            }
    }
    /* Options of other versions. */
    struct {
        fastreg_options known;
        int unknown;
    } later = {.known = {.size = sizeof later}};
    double v;
    HOLDS(fastreg_value(a, 1, FASTREG_F32, &later.known, &v) == FASTREG_OK);
    later.unknown = 1;
    HOLDS(fastreg_value(a, 1, FASTREG_F32, &later.known, &v) == FASTREG_BAD_OPTIONS);
    later.known.size = sizeof later.known - 1;
    HOLDS(fastreg_value(a, 1, FASTREG_F32, &later.known, &v) == FASTREG_BAD_OPTIONS);
    HOLDS(fastreg_abi() == FASTREG_ABI && strcmp(fastreg_version(), FASTREG_VERSION) == 0);
    return 0;
}
