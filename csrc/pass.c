/* SPDX-License-Identifier: BSD-3-Clause */
#include "pass.h"
#include "machine.h"
#include "threads.h"
#include "walk.h"

/* A chunk is what one kernel call handles. Longer: fewer folds; shorter: a tighter error bound and,
 * where sums and gradient take a loop each, x still in L1 when its gradient is taken. Folding costs
 * about 25 ns: 2 % of 8192 elements in L2. Reading x for the value while the lines of its gradient
 * before are streamed out wants shorter ones still (64 Mi f32, one thread: 33 GB/s with 1024, 28
 * with 2048). */
enum {
    CHUNK = 8192,
    CHUNK_WITH_GRADIENT = 2048,
    CHUNK_STREAMED = 1024,
    ELEMENTS_PER_POLL = 1 << 16
};

/* No cache line may be split between streamed chunks: writing half of it past the cache and half
 * through it costs 300 ns, and NumPy's large arrays begin 16 bytes into a line. */
enum { LINE = 64 };

/* What a gradient without terms is taken at: a slope of +0 times 0 is +0. */
static const double zeros[CHUNK_WITH_GRADIENT];

typedef struct {
    fr_progress *progress;
    const fr_request *request;
    int here; /* on the thread that called fastreg */
    size_t since_poll;
    double anchor[2];
    fr_found found;
    /* Of the array at hand. A kernel that it does not need is NULL. */
    double l1, l2;
    int penalty; /* which sums are wanted, -1: none */
    int anchored;
    fr_sum moment[2]; /* of |x| and x*x */
    const fr_float_kernels *kernels;
    fr_gradient_kernel *gradient;
    fr_both_kernel *both; /* sums and gradient in one loop */
    fr_prox_kernel *prox;
    fr_statistics_kernel *statistics;
    fr_slope slope;
    fr_shrinkage shrinkage;
    int vanishes; /* both weights are 0: the gradient is 0 whatever x holds */
} fr_state;

/* The chunk that no bound covers: NaN, inf, or only large? */
static void look_for_specials(fr_state *s, const void *x, size_t n, int type)
{
    fr_sum absolute[2];
    s->kernels->plain[FR_PENALTY_l1](x, n, absolute);
    if (absolute[0].high != absolute[0].high) {
        s->found.nan = 1;
        return;
    }
    s->found.unbounded = 1;
    if (absolute[0].high < FR_INFINITY)
        return;
    /* A sum that overflowed, or an infinity. Only f64 can overflow f64 sums. */
    int inf = type != FR_FLOAT_f64;
    for (size_t i = 0; i < n && !inf; ++i) {
        double v;
        memcpy(&v, (const char *)x + i * sizeof v, sizeof v);
        inf = v - v != 0.0;
    }
    s->found.inf |= inf;
}

/* both: with the gradient, into g. */
FR_INLINE void add_chunk(fr_state *s, const void *x, void *g, size_t n, int type, int both)
{
    fr_sum sum[2];
    if (both) {
        if (FR_UNLIKELY(!s->both(x, g, n, s->anchor, sum, &s->slope))) {
            look_for_specials(s, x, n, type);
            return;
        }
    } else if (s->anchored) {
        if (FR_UNLIKELY(!(s->statistics
                              ? s->statistics(x, n, s->anchor, sum, &s->found.counts)
                              : s->kernels->anchored[s->penalty](x, n, s->anchor, sum)))) {
            look_for_specials(s, x, n, type);
            return;
        }
    } else
        (s->request->narrow ? s->kernels->narrow : s->kernels->plain)[s->penalty](x, n, sum);
    for (int which = 0; which < 2; ++which) {
        if (s->penalty != FR_PENALTY_l1l2 && s->penalty != which)
            continue;
        if (FR_LIKELY(sum[which].high < FR_INFINITY))
            fr_sum_add(&s->moment[which], sum[which]);
        else if (sum[which].high != sum[which].high)
            s->found.nan = 1;
        else
            s->found.inf = 1;
    }
}

/* Should the pass end here? Asked once per chunk; the caller's poll only now and then. */
FR_INLINE int stopped(fr_state *s, size_t n)
{
    if (FR_LIKELY((s->since_poll += n) < ELEMENTS_PER_POLL))
        return 0;
    s->since_poll = 0;
    const fr_request *const r = s->request;
    if (s->here && r->poll && r->poll(r->poll_context))
        atomic_store_explicit(&s->progress->stopped, 1, memory_order_relaxed);
    return fr_is_stopped(s->progress);
}

/* A chunk without a bound leaves a value to the exact tier: is the rest not worth reading? */
FR_INLINE int is_hopeless(fr_state *s)
{
    if (FR_LIKELY(!s->found.unbounded) || s->request->operation != FR_VALUE)
        return 0;
    s->found.abandoned = 1;
    return 1;
}

FR_INLINE void do_chunk(fr_state *s, const void *x, void *g, size_t n, int type)
{
    const int both = s->both && !(s->request->store == FR_STORE_streamed && (uintptr_t)g % LINE);
    if (s->penalty >= 0)
        add_chunk(s, x, g, n, type, both);
    if (both)
        return;
    if (s->gradient)
        s->gradient(s->vanishes ? zeros : x, g, n, &s->slope);
    else if (s->prox)
        s->prox(x, g, n, &s->shrinkage);
}

/* 64-bit integers have more bits than a double: their sums are tier 2's. */
static void add_wide_integers(fr_state *s, const void *x, size_t n, fastreg_dtype dtype)
{
    s->found.unbounded = 1;
    for (size_t i = 0; i < n && s->statistics; ++i) {
        const uint64_t m = fr_magnitude(x, i, dtype);
        s->found.counts.zeros += m == 0;
        s->found.counts.largest = FR_MAX(s->found.counts.largest, (double)m);
    }
}

/* Strided arrays, short rows and integers. Apart, because of the buffers on its stack. */
static FR_NOINLINE int walk_array(fr_state *s, const fastreg_array *a, size_t first, size_t n)
{
    fr_walk w;
    const int writes = s->gradient || s->prox;
    const size_t chunk = writes ? CHUNK_WITH_GRADIENT : CHUNK;
    fr_walk_start(&w, a, first, n, writes, s->request->store == FR_STORE_accumulated);
    while (fr_walk_next(&w, chunk)) {
        if (FR_UNLIKELY(w.type < 0))
            add_wide_integers(s, w.x, w.n, w.dtype);
        else
            do_chunk(s, w.x, w.g, w.n, w.type);
        if (FR_UNLIKELY(is_hopeless(s) || stopped(s, w.n)))
            return 0;
    }
    return 1;
}

static size_t chunk_of_gradient(const fr_state *s)
{
    if (s->gradient && s->vanishes)
        return CHUNK_WITH_GRADIENT;
    if (s->both || s->penalty < 0)
        return CHUNK;
    return s->request->store == FR_STORE_streamed ? CHUNK_STREAMED : CHUNK_WITH_GRADIENT;
}

/* Choose the kernels for an array. Returns 0 if there is nothing to do. */
static int choose_kernels(fr_state *s, const fastreg_array *a)
{
    const fr_request *const r = s->request;
    const fr_operation operation = r->operation;
    const int type = fr_kernel_type(a->dtype), writes = fr_writes(operation) && a->gradient;
    s->l1 = r->weights ? r->weights[0] : a->l1;
    s->l2 = r->weights ? r->weights[1] : a->l2;
    const int penalty = fr_penalty_of(s->l1, s->l2);
    s->penalty = fr_sums(operation) ? penalty : -1;
    if (s->penalty < 0 && !writes)
        return 0;
    /* Squares of f64 are exact in anchored lanes only. */
    const int first_tier = type == FR_FLOAT_f64;
    s->anchored = r->tier >= 1 || first_tier;
    s->kernels = r->kernels->of[type < 0 ? FR_FLOAT_f64 : type];
    s->statistics = operation == FR_STATISTICS ? s->kernels->statistics : NULL;
    s->gradient = NULL;
    s->both = NULL;
    s->prox = NULL;
    if (writes && operation == FR_PROX) {
        s->prox = s->kernels->prox;
        s->shrinkage.threshold = r->step * s->l1;
        s->shrinkage.divisor = 1.0 + fr_twice(s->l2, r->step);
        s->shrinkage.flush = r->flush;
    } else if (writes) {
        s->vanishes = penalty < 0;
        /* Weights of -0 have no sign that a gradient could show. */
        s->slope = s->vanishes ? fr_slope_of(0.0, 0.0, 1.0) : fr_slope_of(s->l1, s->l2, r->scale);
        s->gradient = s->kernels->gradient[r->store];
        /* The one loop for both sums as the first tier of its type does. */
        if (s->penalty >= 0 && s->anchored == first_tier)
            s->both = s->kernels->both[s->penalty][r->store];
    }
    return 1;
}

/* Add the weighted sums of an array to what was found. */
static void add_weighted(fr_state *s)
{
    if (s->statistics) {
        fr_sum_add(&s->found.moment[0], s->moment[0]);
        fr_sum_add(&s->found.moment[1], s->moment[1]);
    } else if (s->penalty >= 0) {
        if (s->penalty != FR_PENALTY_l2)
            fr_sum_add(&s->found.sum, fr_sum_weighted(s->l1, s->moment[0]));
        if (s->penalty != FR_PENALTY_l1)
            fr_sum_add(&s->found.sum, fr_sum_weighted(s->l2, s->moment[1]));
    }
}

/* Elements [first, first + n) of one array; 0 if the pass was stopped, or there is no use going
 * on. */
static int pass_array(fr_state *s, const fastreg_array *a, size_t first, size_t n)
{
    if (!choose_kernels(s, a))
        return 1;
    const int writes = s->gradient || s->prox;
    /* The anchors of the array before stay as guesses: a list's arrays are often alike. */
    s->moment[0] = s->moment[1] = (fr_sum){0.0, 0.0, 0.0};
    if (fr_is_float(a->dtype) && fr_is_dense(a, writes)) {
        const size_t item = fr_itemsize(a->dtype), end = first + n;
        const size_t chunk = writes ? chunk_of_gradient(s) : CHUNK;
        for (size_t i = first, m; i < end; i += m) {
            m = FR_MIN(chunk, end - i);
            if (s->gradient && s->request->store == FR_STORE_streamed && m == chunk)
                m -= (uintptr_t)((char *)a->gradient + (i + m) * item) % LINE / item;
            do_chunk(s, (const char *)a->data + i * item,
                     writes ? (char *)a->gradient + i * item : NULL, m, (int)a->dtype);
            if (FR_UNLIKELY(is_hopeless(s) || stopped(s, m)))
                return 0;
        }
    } else if (!walk_array(s, a, first, n))
        return 0;
    add_weighted(s);
    return 1;
}

/* The exact tier: the integers of the arrays of one pair of weights, and the total of all. */
typedef struct {
    fr_digits digits;
    double l1, l2;
    fr_exact_guess guess;
    fr_exact_counts counts;
    fr_total total;
} fr_exact_sums;

static void begin_weights(fr_exact_sums *e, double l1, double l2)
{
    memset(&e->digits, 0, sizeof e->digits);
    e->l1 = l1, e->l2 = l2;
}

static FR_NOINLINE int exact_array(fr_state *s, const fastreg_array *a, size_t first, size_t n,
                                   fr_exact_sums *e)
{
    const double *const weights = s->request->weights;
    const double l1 = weights ? weights[0] : a->l1, l2 = weights ? weights[1] : a->l2;
    const int penalty = fr_penalty_of(l1, l2);
    fr_walk w;
    if (penalty < 0)
        return 1;
    if (l1 != e->l1 || l2 != e->l2) {
        fr_total_add_weighted(&e->total, e->l1, e->l2, &e->digits);
        begin_weights(e, l1, l2);
    }
    fr_walk_start(&w, a, first, n, 0, 0);
    while (fr_walk_next(&w, CHUNK)) {
        fr_exact_chunk(s->request->kernels, w.x, w.n, w.type, a->dtype, penalty, &e->guess,
                       &e->digits, &e->counts);
        if (FR_UNLIKELY(stopped(s, w.n)))
            return 0;
    }
    return 1;
}

/* Arrays of the list that meet elements [low, high), one after another. */
static void pass_list(fr_state *s, uint64_t low, uint64_t high, fr_exact_sums *exact)
{
    const fr_request *const r = s->request;
    uint64_t at = 0;
    for (size_t k = 0; k < r->count && at < high; ++k) {
        const fastreg_array *const a = &r->arrays[k];
        const uint64_t n = fr_elements(a), end = at + n;
        if (n && end > low) {
            const uint64_t first = low > at ? low - at : 0;
            const uint64_t m = FR_MIN(end, high) - at - first;
            if (!(exact ? exact_array(s, a, first, m, exact) : pass_array(s, a, first, m)))
                return;
        }
        at = end;
    }
}

static void merge(fr_progress *p, const fr_found *f, const fr_total *total)
{
    fr_threads_lock(&p->lock);
    fr_found_add(&p->found, f);
    if (total)
        fr_total_merge(p->total, total);
    fr_threads_unlock(&p->lock);
}

static FR_NOINLINE void exact_share(fr_state *s, uint64_t low, uint64_t high)
{
    fr_exact_sums e;
    begin_weights(&e, 0.0, 0.0);
    memset(&e.total, 0, sizeof e.total);
    memset(&e.counts, 0, sizeof e.counts);
    memset(&e.guess, 0, sizeof e.guess);
    pass_list(s, low, high, &e);
    fr_total_add_weighted(&e.total, e.l1, e.l2, &e.digits);
    s->found.nan = e.counts.nans != 0;
    s->found.inf = e.counts.positive_infinities || e.counts.negative_infinities;
    merge(s->progress, &s->found, &e.total);
}

/* What the elements [low, high) hold. They are few digits, and merged once for each share. */
static FR_NOINLINE void state_share(fr_state *s, uint64_t low, uint64_t high)
{
    const fr_request *const r = s->request;
    fr_progress *const p = s->progress;
    fr_exact exact;
    fr_exact_guess guess = {{0.0, 0.0}, 0, 0};
    uint64_t at = 0;
    memset(&exact, 0, sizeof exact);
    for (size_t k = 0; k < r->count && at < high; ++k) {
        const fastreg_array *const a = &r->arrays[k];
        const uint64_t n = fr_elements(a), end = at + n;
        if (n && end > low) {
            const uint64_t first = low > at ? low - at : 0;
            fr_walk w;
            fr_walk_start(&w, a, first, FR_MIN(end, high) - at - first, 0, 0);
            while (fr_walk_next(&w, CHUNK)) {
                fr_exact_chunk(r->kernels, w.x, w.n, w.type, w.dtype, FR_PENALTY_l1l2, &guess,
                               &exact.digits, &exact.counts);
                if (FR_UNLIKELY(stopped(s, w.n)))
                    return;
            }
        }
        at = end;
    }
    (void)fr_digits_carry(&exact.digits);
    fr_threads_lock(&p->lock);
    fr_exact_merge(p->exact, &exact);
    fr_threads_unlock(&p->lock);
}

/* Share i of `shares`. here: on the thread that called fastreg. */
static void pass_share(void *progress, int i, int shares, int here)
{
    fr_progress *const p = progress;
    const fr_request *const r = p->request;
    /* Shares are ranges of elements, cut at multiples of 64 so that streamed lines stay whole. */
    const uint64_t each = (r->elements / (uint64_t)shares + 63) & ~UINT64_C(63);
    const uint64_t low = FR_MIN(each * (uint64_t)i, r->elements);
    const uint64_t high = i == shares - 1 ? r->elements : FR_MIN(low + each, r->elements);
    fr_state s;
    if (FR_UNLIKELY(fr_is_stopped(p)))
        return;
    s.progress = p;
    s.request = r;
    s.here = here;
    s.since_poll = 0;
    s.anchor[0] = p->anchor[0], s.anchor[1] = p->anchor[1];
    memset(&s.found, 0, sizeof s.found);
    if (p->exact)
        state_share(&s, low, high);
    else if (p->total)
        exact_share(&s, low, high);
    else {
        pass_list(&s, low, high, NULL);
        merge(p, &s.found, NULL);
    }
    if (shares == 1)
        p->anchor[0] = s.anchor[0], p->anchor[1] = s.anchor[1];
    if (r->store == FR_STORE_streamed)
        fr_stream_end();
}

void fr_progress_begin(fr_progress *p, const fr_request *request, fr_total *total)
{
    p->request = request;
    p->total = total;
    p->exact = NULL;
    p->anchor[0] = p->anchor[1] = 0.0;
    atomic_init(&p->stopped, 0);
    atomic_flag_clear(&p->lock);
}

/* Nothing found, nothing done. Returns 0 if what has been written cannot be written again: where it
 * was added to what stood there, or has replaced what it came from. */
static int restart_pass(void *progress)
{
    fr_progress *const p = progress;
    const fr_request *const r = p->request;
    memset(&p->found, 0, sizeof p->found);
    if (p->total)
        memset(p->total, 0, sizeof *p->total);
    if (p->exact)
        memset(p->exact, 0, sizeof *p->exact);
    return !fr_writes(r->operation) || (r->store != FR_STORE_accumulated && !fr_overwrites(r));
}

void fr_pass(fr_progress *p)
{
    memset(&p->found, 0, sizeof p->found);
    if (!fr_pool_run(&p->request->pool, p->request->threads, pass_share, restart_pass, p))
        atomic_store(&p->stopped, 1);
}

void fr_pass_alone(fr_progress *p, int here)
{
    memset(&p->found, 0, sizeof p->found);
    pass_share(p, 0, 1, here);
}
