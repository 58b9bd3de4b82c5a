/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Statistics of each array of a list and of all together, from one pass.
 */
#include "call.h"
#include "machine.h"
#include "parallel.h"

/* From here an array is shared between threads; smaller ones are done whole, by one thread each. */
enum { SHARED_ARRAY_ELEMENTS = 1 << 17 };
/* How often a list of small arrays asks the caller's poll; a row costs as much as so many elements. */
enum { ELEMENTS_PER_POLL = 1 << 16, ELEMENTS_PER_ROW = 512 };

typedef struct {
    const fr_job *list;
    fastreg_statistics *rows;
    double factor;
    atomic_int stopped;
    atomic_flag lock;
    fr_found found; /* of all arrays */
} fr_survey_job;

/* The sums and the root that the first pass could not decide, from integers. */
static FR_NOINLINE void count_exactly(fr_survey_job *survey, const fastreg_array *arrays,
                                      size_t count, int threads, int which, double *sum,
                                      double *root)
{
    fr_total total;
    memset(&total, 0, sizeof total);
    for (size_t k = 0; k < count; ++k) {
        fastreg_array a = arrays[k];
        a.l1 = which == 0, a.l2 = which == 1;
        fr_job job = {.arrays = &a,
                      .count = 1,
                      .elements = fr_elements(&a),
                      .kernels = survey->list->kernels,
                      .tier = 2,
                      .value = 1,
                      .total = &total};
        atomic_init(&job.stopped, 0);
        fr_call_run(&job, threads);
    }
    *sum = fr_total_round(&total, &fr_format_f64);
    if (root)
        *root = fr_total_round_sqrt(&total, &fr_format_f64);
}

/* One sum, and its root if `root` is not NULL. */
static void decide(fr_survey_job *survey, const fastreg_array *arrays, size_t count, int threads,
                   const fr_found *found, int which, double *sum, double *root)
{
    if (FR_UNLIKELY(found->nan || found->inf)) {
        *sum = found->nan ? FR_NAN : FR_INFINITY;
        if (root)
            *root = *sum;
        return;
    }
    const fr_sum s = found->moment[which];
    if (FR_LIKELY(!found->unbounded && fr_sum_decide(&s, &fr_format_f64, survey->factor, sum))) {
        if (!root)
            return;
        const fr_sum r = fr_sum_sqrt(s, fr_sqrt(s.high));
        if (FR_LIKELY(fr_sum_decide(&r, &fr_format_f64, survey->factor, root)))
            return;
    }
    count_exactly(survey, arrays, count, threads, which, sum, root);
}

static void fill(fr_survey_job *survey, const fastreg_array *arrays, size_t count, int threads,
                 const fr_found *found, uint64_t n, fastreg_statistics *row)
{
    row->n = n;
    decide(survey, arrays, count, threads, found, 0, &row->sum_abs, NULL);
    decide(survey, arrays, count, threads, found, 1, &row->sum_squares, &row->norm);
    row->max_abs = found->survey.nans ? FR_NAN : found->survey.largest;
    row->zeros = found->survey.zeros;
    row->subnormals = found->survey.subnormals;
    row->nans = found->survey.nans;
    row->infs = found->survey.infs;
}

/* Row k, and its share of the total. job: with the anchors of the rows before. */
static void survey_row(fr_survey_job *survey, fr_job *job, size_t k, int threads, int here,
                       fr_found *total)
{
    const fastreg_array *const given = &survey->list->arrays[k];
    fastreg_array a = *given;
    a.l1 = a.l2 = 1.0;
    job->arrays = &a;
    job->count = 1;
    job->elements = fr_elements(&a);
    if (threads > 1)
        fr_call_run(job, threads);
    else
        fr_pass_survey(job, &a, here);
    if (FR_UNLIKELY(fr_is_stopped(job))) {
        atomic_store(&survey->stopped, 1);
        return;
    }
    fill(survey, given, 1, threads, &job->found, job->elements, &survey->rows[k]);
    fr_found_add(total, &job->found);
}

static fr_job job_of(const fr_survey_job *survey)
{
    fr_job job = {.kernels = survey->list->kernels,
                  .tier = 1,
                  .value = 1,
                  .survey = 1,
                  .poll = survey->list->poll,
                  .poll_context = survey->list->poll_context};
    atomic_init(&job.stopped, 0);
    return job;
}

/* The small arrays that begin in share i. */
static void survey_share(void *survey_, int i, int shares, int here)
{
    fr_survey_job *const survey = survey_;
    const fr_job *const list = survey->list;
    const uint64_t each = list->elements / (uint64_t)shares + 1;
    const uint64_t low = each * (uint64_t)i, high = low + each;
    const fr_environment saved = fr_environment_enter();
    fr_found total;
    memset(&total, 0, sizeof total);
    fr_job job = job_of(survey);
    uint64_t at = 0, since_poll = 0;
    for (size_t k = 0; k < list->count && at < high; ++k) {
        const uint64_t n = fr_elements(&list->arrays[k]);
        if (n < SHARED_ARRAY_ELEMENTS && at >= low) {
            if (FR_UNLIKELY((since_poll += n + ELEMENTS_PER_ROW) > ELEMENTS_PER_POLL)) {
                since_poll = 0;
                if (here && list->poll && list->poll(list->poll_context))
                    atomic_store(&survey->stopped, 1);
                if (atomic_load(&survey->stopped))
                    break;
            }
            survey_row(survey, &job, k, 1, here, &total);
        }
        at += n;
    }
    while (atomic_flag_test_and_set_explicit(&survey->lock, memory_order_acquire))
        ;
    fr_found_add(&survey->found, &total);
    atomic_flag_clear_explicit(&survey->lock, memory_order_release);
    fr_environment_leave(saved);
}

static void survey_all(fr_survey_job *survey, int threads, fastreg_statistics *total)
{
    const fr_job *const list = survey->list;
    fr_job job = job_of(survey);
    for (size_t k = 0; k < list->count && !atomic_load(&survey->stopped); ++k)
        if (fr_elements(&list->arrays[k]) >= SHARED_ARRAY_ELEMENTS)
            survey_row(survey, &job, k, threads, 1, &survey->found);
    fr_parallel_run(threads, survey_share, survey);
    if (total && !atomic_load(&survey->stopped))
        fill(survey, list->arrays, list->count, threads, &survey->found, list->elements, total);
}

fastreg_status fastreg_statistics_of(const fastreg_array *arrays, size_t count,
                              const fastreg_options *options, fastreg_statistics *rows,
                              fastreg_statistics *total)
{
    static const fastreg_options defaults = {0};
    const fastreg_options *const o = options ? options : &defaults;
    fr_job list = {.arrays = arrays, .count = count, .value = 1};
    fr_survey_job survey = {.list = &list, .rows = rows};
    int threads = 1;
    if (count && !rows)
        return FASTREG_NULL_POINTER;
    const fr_environment saved = fr_environment_enter();
    const fastreg_status s = fr_call_prepare(&list, o, &fr_format_f64, &threads);
    if (s == FASTREG_OK) {
        survey.factor = o->error_factor != 0.0 ? o->error_factor : 1.0;
        atomic_init(&survey.stopped, 0);
        atomic_flag_clear(&survey.lock);
        survey_all(&survey, threads, total);
    }
    fr_environment_leave(saved);
    return s == FASTREG_OK && atomic_load(&survey.stopped) ? FASTREG_INTERRUPTED : s;
}
