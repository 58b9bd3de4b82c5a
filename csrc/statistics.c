/* SPDX-License-Identifier: BSD-3-Clause */
#include "statistics.h"
#include "threads.h"
#include "tiers.h"

/* From here an array is shared between threads; smaller ones are done whole, by one thread each. */
enum { SHARED_ARRAY_ELEMENTS = 1 << 17 };
/* How often a list of small arrays asks the caller's poll; a row costs as much as so many
 * elements. */
enum { ELEMENTS_PER_QUESTION = 1 << 16, ELEMENTS_PER_ROW = 512 };

/* Sums of |x|, of x*x, and of both. */
static const double absolute[2] = {1.0, 0.0}, square[2] = {0.0, 1.0}, both[2] = {1.0, 1.0};

typedef struct {
    const fr_request *request;
    fastreg_statistics *rows;
    double factor;
    atomic_int stopped;
    atomic_flag lock;
    fr_found found; /* of all arrays */
    fr_found large; /* of those that were shared */
} fr_table;

/* Some of the arrays, and how they are to be done. */
typedef struct {
    const fastreg_array *arrays;
    size_t count;
    uint64_t elements;
    int threads; /* 1: this one */
    int here;    /* on the thread that called fastreg */
} fr_part;

static fr_request request_of(const fr_table *table, const fr_part *part)
{
    fr_request r = *table->request;
    r.arrays = part->arrays;
    r.count = part->count;
    r.elements = part->elements;
    r.threads = part->threads;
    return r;
}

/* Run a pass. Returns 0 if it was stopped, which ends all the others. */
static int run(fr_table *table, fr_progress *p, const fr_part *part)
{
    if (part->threads > 1)
        fr_pass(p);
    else
        fr_pass_alone(p, part->here);
    if (FR_LIKELY(!fr_is_stopped(p)))
        return 1;
    atomic_store(&table->stopped, 1);
    return 0;
}

/* The sum, and its root if `root` is not NULL, that tier 1 could not decide. Returns 0 if
 * stopped. */
static FR_NOINLINE int decide_exactly(fr_table *table, const fr_part *part, const double *weights,
                                      double *sum, double *root)
{
    const fr_rounding plain = {&fr_format_f64, 0, 1.0}, rooted = {&fr_format_f64, 1, 1.0};
    fr_request r = request_of(table, part);
    fr_total total;
    fr_progress p;
    memset(&total, 0, sizeof total);
    r.operation = FR_VALUE;
    r.tier = 2;
    r.weights = weights;
    fr_progress_begin(&p, &r, &total);
    if (!run(table, &p, part))
        return 0;
    (void)fr_decide(&p.found, NULL, &total, &plain, sum);
    if (root)
        (void)fr_decide(&p.found, NULL, &total, &rooted, root);
    return 1;
}

/* One row from what its pass found. Returns 0 if stopped. */
static int fill(fr_table *table, const fr_part *part, const fr_found *found,
                fastreg_statistics *row)
{
    const fr_rounding plain = {&fr_format_f64, 0, table->factor},
                      rooted = {&fr_format_f64, 1, table->factor};
    fastreg_statistics s;
    if (FR_UNLIKELY(!fr_decide(found, &found->moment[0], NULL, &plain, &s.sum_abs)) &&
        !decide_exactly(table, part, absolute, &s.sum_abs, NULL))
        return 0;
    if (FR_UNLIKELY(!fr_decide(found, &found->moment[1], NULL, &plain, &s.sum_squares) ||
                    !fr_decide(found, &found->moment[1], NULL, &rooted, &s.norm)) &&
        !decide_exactly(table, part, square, &s.sum_squares, &s.norm))
        return 0;
    s.n = part->elements;
    s.max_abs = found->counts.nans ? FR_NAN : found->counts.largest;
    s.zeros = found->counts.zeros;
    s.subnormals = found->counts.subnormals;
    s.nans = found->counts.nans;
    s.infs = found->counts.infs;
    *row = s;
    return 1;
}

/* Row k, and its share of the total. anchor: guesses from the rows before. Returns 0 if stopped. */
static int add_row(fr_table *table, size_t k, int threads, int here, double anchor[2],
                   fr_found *total)
{
    const fastreg_array *const a = &table->request->arrays[k];
    const fr_part part = {a, 1, fr_elements(a), threads, here};
    const fr_request r = request_of(table, &part);
    fr_progress p;
    fr_progress_begin(&p, &r, NULL);
    p.anchor[0] = anchor[0], p.anchor[1] = anchor[1];
    if (!run(table, &p, &part) || !fill(table, &part, &p.found, &table->rows[k]))
        return 0;
    anchor[0] = p.anchor[0], anchor[1] = p.anchor[1];
    fr_found_add(total, &p.found);
    return 1;
}

/* The small arrays that begin in share i. */
static void add_share(void *table_, int i, int shares, int here)
{
    fr_table *const table = table_;
    const fr_request *const r = table->request;
    const uint64_t each = r->elements / (uint64_t)shares + 1;
    const uint64_t low = each * (uint64_t)i, high = low + each;
    double anchor[2] = {0.0, 0.0};
    fr_found total;
    memset(&total, 0, sizeof total);
    uint64_t at = 0, since_poll = 0;
    for (size_t k = 0; k < r->count && at < high; ++k) {
        const uint64_t n = fr_elements(&r->arrays[k]);
        if (n < SHARED_ARRAY_ELEMENTS && at >= low) {
            if (FR_UNLIKELY((since_poll += n + ELEMENTS_PER_ROW) > ELEMENTS_PER_QUESTION)) {
                since_poll = 0;
                if (here && r->poll && r->poll(r->poll_context))
                    atomic_store(&table->stopped, 1);
                if (atomic_load(&table->stopped))
                    break;
            }
            if (!add_row(table, k, 1, here, anchor, &total))
                break;
        }
        at += n;
    }
    fr_threads_lock(&table->lock);
    fr_found_add(&table->found, &total);
    fr_threads_unlock(&table->lock);
}

static int restart_shares(void *table_)
{
    fr_table *const table = table_;
    table->found = table->large;
    return 1;
}

fastreg_status fr_statistics(const fr_request *request, double factor, fastreg_statistics *rows,
                             fastreg_statistics *total)
{
    fr_request r = *request;
    r.tier = 1;
    r.narrow = 0;
    r.weights = both;
    fr_table table = {.request = &r, .rows = rows, .factor = factor};
    double anchor[2] = {0.0, 0.0};
    atomic_init(&table.stopped, 0);
    atomic_flag_clear(&table.lock);
    for (size_t k = 0; k < r.count && !atomic_load(&table.stopped); ++k)
        if (fr_elements(&r.arrays[k]) >= SHARED_ARRAY_ELEMENTS)
            (void)add_row(&table, k, r.threads, 1, anchor, &table.found);
    table.large = table.found;
    if (!atomic_load(&table.stopped))
        (void)fr_pool_run(&r.pool, r.threads, add_share, restart_shares, &table);
    const fr_part all = {r.arrays, r.count, r.elements, r.threads, 1};
    if (total && !atomic_load(&table.stopped))
        (void)fill(&table, &all, &table.found, total);
    return atomic_load(&table.stopped) ? FASTREG_INTERRUPTED : FASTREG_OK;
}
