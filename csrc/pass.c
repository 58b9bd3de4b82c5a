/* SPDX-License-Identifier: BSD-3-Clause */
#include "pass.h"
#include "machine.h"
#include "walk.h"

/* A stretch is what one kernel call handles. Longer: fewer folds; shorter: a tighter error bound and, where
 * sums and gradient take a loop each, x still in L1 when its gradient is taken. Folding costs about 25
 * ns: 2 % of 8192 elements in L2. Reading x for the value while the lines of its gradient before are
 * streamed out wants shorter ones still (64 Mi f32, one thread: 33 GB/s with 1024, 28 with 2048). */
enum {
    STRETCH = 8192,
    STRETCH_WITH_GRADIENT = 2048,
    STRETCH_STREAMED = 1024,
    ELEMENTS_PER_POLL = 1 << 16
};

/* No cache line may be split between streamed stretches: writing half of it past the cache and half
 * through it costs 300 ns, and NumPy's large arrays begin 16 bytes into a line. */
enum { LINE = 64 };

/* What a gradient without terms is taken at: a slope of 0 times 0 is +0. */
static const double zeros[STRETCH_WITH_GRADIENT];

size_t fr_elements(const fastreg_array *a)
{
    size_t n = 1;
    for (int d = 0; d < a->ndim; ++d)
        n *= (size_t)a->shape[d];
    return n;
}

/* |x[i]| of 64-bit integers. */
FR_INLINE uint64_t fr_magnitude(const void *x, size_t i, fastreg_dtype dtype)
{
    uint64_t m;
    memcpy(&m, (const char *)x + i * sizeof m, sizeof m);
    return dtype == FASTREG_I64 && m >> 63 ? 0 - m : m;
}

typedef struct {
    fr_job *job;
    const fr_float_kernels *kernels;
    fr_gradient_kernel *gradient;
    fr_both_kernel *both; /* NULL where sums and gradient take a loop each */
    fr_prox_kernel *prox;
    fr_survey_kernel *survey;
    fr_slope slope;
    fr_shrinkage shrinkage;
    int penalty, anchored;
    int vanishes; /* both weights are 0: the gradient is 0 whatever x holds */
    double anchor[2];
    fr_sum moment[2]; /* of |x| and x*x */
    fr_found found;
    size_t since_poll;
    int asks;
} fr_pass_state;

/* The stretch that no bound covers: NaN, inf, or only large? */
static void look_for_specials(fr_pass_state *s, const void *x, size_t n, int type)
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
FR_INLINE void add_stretch(fr_pass_state *s, const void *x, void *g, size_t n, int type, int both)
{
    fr_sum sum[2];
    if (both) {
        if (FR_UNLIKELY(!s->both(x, g, n, s->anchor, sum, &s->slope))) {
            look_for_specials(s, x, n, type);
            return;
        }
    } else if (s->anchored) {
        if (FR_UNLIKELY(!(s->survey ? s->survey(x, n, s->anchor, sum, &s->found.survey)
                                    : s->kernels->anchored[s->penalty](x, n, s->anchor, sum)))) {
            look_for_specials(s, x, n, type);
            return;
        }
    } else
        (s->job->narrow ? s->kernels->narrow : s->kernels->plain)[s->penalty](x, n, sum);
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

/* Should the pass end here? Asked once per stretch; the caller's poll only now and then. */
FR_INLINE int stopped(fr_pass_state *s, size_t n)
{
    if (FR_LIKELY((s->since_poll += n) < ELEMENTS_PER_POLL))
        return 0;
    s->since_poll = 0;
    if (s->asks && s->job->poll && s->job->poll(s->job->poll_context))
        atomic_store_explicit(&s->job->stopped, 1, memory_order_relaxed);
    return atomic_load_explicit(&s->job->stopped, memory_order_relaxed);
}

FR_INLINE void do_stretch(fr_pass_state *s, const void *x, void *g, size_t n, int type)
{
    const int both = s->both && !(s->job->streamed && (uintptr_t)g % LINE);
    if (s->penalty >= 0)
        add_stretch(s, x, g, n, type, both);
    if (both)
        return;
    if (s->gradient)
        s->gradient(s->vanishes ? zeros : x, g, n, &s->slope);
    else if (s->prox)
        s->prox(x, g, n, &s->shrinkage);
}

/* 64-bit integers have more bits than a double: their sums are tier 2's. */
static void add_wide_integers(fr_pass_state *s, const void *x, size_t n, fastreg_dtype dtype)
{
    s->found.unbounded = 1;
    for (size_t i = 0; i < n && s->survey; ++i) {
        const uint64_t m = fr_magnitude(x, i, dtype);
        s->found.survey.zeros += m == 0;
        s->found.survey.largest = FR_MAX(s->found.survey.largest, (double)m);
    }
}

/* Strided arrays, short rows and integers. Apart, because of the buffers on its stack. */
static FR_NOINLINE int walk_array(fr_pass_state *s, const fastreg_array *a, size_t first, size_t n)
{
    fr_walk w;
    const int writes = s->gradient || s->prox;
    const size_t stretch = writes ? STRETCH_WITH_GRADIENT : STRETCH;
    fr_walk_start(&w, a, first, n, writes, s->job->accumulate);
    while (fr_walk_next(&w, stretch)) {
        if (FR_UNLIKELY(w.type < 0))
            add_wide_integers(s, w.x, w.n, w.dtype);
        else
            do_stretch(s, w.x, w.g, w.n, w.type);
        if (FR_UNLIKELY(stopped(s, w.n)))
            return 0;
    }
    return 1;
}

static size_t stretch_of_gradient(const fr_pass_state *s)
{
    if (s->gradient && s->vanishes)
        return STRETCH_WITH_GRADIENT;
    if (s->both || !s->job->value)
        return STRETCH;
    return s->job->streamed ? STRETCH_STREAMED : STRETCH_WITH_GRADIENT;
}

/* Elements [first, first + n) of one array; 0 if the pass was stopped. */
static int pass_array(fr_pass_state *s, const fastreg_array *a, size_t first, size_t n)
{
    fr_job *const job = s->job;
    const int type = fr_kernel_type(a->dtype), gradient = job->gradient && a->gradient;
    s->penalty = job->value ? fr_penalty_of(a) : -1;
    if (s->penalty < 0 && !gradient)
        return 1;
    s->kernels = job->kernels->of[type < 0 ? FR_FLOAT_f64 : type];
    s->anchored = job->tier >= 1 || type == FR_FLOAT_f64;
    /* The anchors of the array before stay as guesses: a list's arrays are often alike. */
    s->moment[0] = s->moment[1] = (fr_sum){0.0, 0.0, 0.0};
    s->gradient = NULL;
    s->both = NULL;
    s->prox = gradient && job->prox ? s->kernels->prox : NULL;
    s->survey = job->survey ? s->kernels->survey : NULL;
    if (s->prox) {
        s->shrinkage.threshold = job->scale * a->l1;
        s->shrinkage.divisor = 1.0 + fr_twice(a->l2, job->scale);
        s->shrinkage.flush = job->flush;
    } else if (gradient) {
        const int store = job->accumulate ? FR_STORE_accumulated
                          : job->streamed ? FR_STORE_streamed
                                          : FR_STORE_fresh;
        s->gradient = s->kernels->gradient[store];
        s->vanishes = fr_penalty_of(a) < 0;
        s->slope = fr_slope_of(a->l1, a->l2, s->vanishes ? 1.0 : job->scale);
        if (s->penalty >= 0 && s->anchored == (type == FR_FLOAT_f64))
            s->both = s->kernels->both[s->penalty][store];
    }
    if (type >= 0 && a->dtype < FASTREG_BOOL && fr_is_dense(a, gradient)) {
        const size_t item = fastreg_itemsize(a->dtype), end = first + n;
        const size_t stretch = gradient ? stretch_of_gradient(s) : STRETCH;
        for (size_t i = first, m; i < end; i += m) {
            m = FR_MIN(stretch, end - i);
            if (gradient && job->streamed && m == stretch)
                m -= (uintptr_t)((char *)a->gradient + (i + m) * item) % LINE / item;
            do_stretch(s, (const char *)a->data + i * item,
                       gradient ? (char *)a->gradient + i * item : NULL, m, type);
            if (FR_UNLIKELY(stopped(s, m)))
                return 0;
        }
    } else if (!walk_array(s, a, first, n))
        return 0;
    if (s->survey) {
        fr_sum_add(&s->found.moment[0], s->moment[0]);
        fr_sum_add(&s->found.moment[1], s->moment[1]);
    } else if (s->penalty >= 0) {
        if (s->penalty != FR_PENALTY_l2)
            fr_sum_add(&s->found.sum, fr_sum_weighted(a->l1, s->moment[0]));
        if (s->penalty != FR_PENALTY_l1)
            fr_sum_add(&s->found.sum, fr_sum_weighted(a->l2, s->moment[1]));
    }
    return 1;
}

/* The exact tier, for one stretch of any kernel type. */
static void add_exactly(fr_found *found, fr_moment *absolute, fr_moment *square, const void *x,
                        size_t n, int type, fastreg_dtype dtype)
{
    const unsigned char *p = x;
    for (size_t i = 0; i < n; ++i) {
        double v = 0.0;
        if (type < 0) {
            fr_moment_add_integer(absolute, square, fr_magnitude(x, i, dtype));
            continue;
        }
        switch (type) {
#define X(name, element, constant)                                                                 \
    case FR_FLOAT_##name:                                                                          \
        v = fr_element_##name(p + i * sizeof(element));                                            \
        break;
            FR_FLOATS(X)
#undef X
        }
        if (FR_LIKELY(v - v == 0.0))
            fr_moment_add(absolute, square, v);
        else if (v != v)
            found->nan = 1;
        else
            found->inf = 1;
    }
}

static FR_NOINLINE int exact_array(fr_pass_state *s, const fastreg_array *a, size_t first, size_t n,
                                   fr_total *total)
{
    fr_walk w;
    fr_moment absolute, square;
    if (fr_penalty_of(a) < 0)
        return 1;
    memset(&absolute, 0, sizeof absolute);
    memset(&square, 0, sizeof square);
    fr_walk_start(&w, a, first, n, 0, 0);
    while (fr_walk_next(&w, STRETCH)) {
        add_exactly(&s->found, a->l1 != 0.0 ? &absolute : NULL, a->l2 != 0.0 ? &square : NULL, w.x,
                    w.n, w.type, a->dtype);
        if (FR_UNLIKELY(stopped(s, w.n)))
            return 0;
    }
    if (a->l1 != 0.0)
        fr_total_add(total, a->l1, &absolute);
    if (a->l2 != 0.0)
        fr_total_add(total, a->l2, &square);
    return 1;
}

/* The rest is set for each array. */
static void begin(fr_pass_state *s, fr_job *job, int here)
{
    s->job = job;
    memset(&s->found, 0, sizeof s->found);
    s->anchor[0] = job->anchor[0], s->anchor[1] = job->anchor[1];
    s->since_poll = 0;
    s->asks = here;
}

void fr_pass_survey(fr_job *job, const fastreg_array *a, int here)
{
    fr_pass_state s;
    begin(&s, job, here);
    if (job->elements)
        (void)pass_array(&s, a, 0, job->elements);
    job->anchor[0] = s.anchor[0], job->anchor[1] = s.anchor[1];
    job->found = s.found;
}

/* Arrays of the list that meet elements [low, high), one after another. */
static void pass_list(fr_pass_state *s, uint64_t low, uint64_t high, fr_total *total)
{
    const fr_job *const job = s->job;
    uint64_t at = 0;
    for (size_t k = 0; k < job->count && at < high; ++k) {
        const fastreg_array *const a = &job->arrays[k];
        const uint64_t n = fr_elements(a), end = at + n;
        if (n && end > low) {
            const uint64_t first = low > at ? low - at : 0;
            const uint64_t m = FR_MIN(end, high) - at - first;
            if (!(total ? exact_array(s, a, first, m, total) : pass_array(s, a, first, m)))
                return;
        }
        at = end;
    }
}

static void merge(fr_job *job, const fr_found *f, const fr_total *total)
{
    while (atomic_flag_test_and_set_explicit(&job->lock, memory_order_acquire))
        ;
    fr_found_add(&job->found, f);
    if (total)
        fr_total_merge(job->total, total);
    atomic_flag_clear_explicit(&job->lock, memory_order_release);
}

static FR_NOINLINE void exact_share(fr_pass_state *s, uint64_t low, uint64_t high)
{
    fr_total total;
    memset(&total, 0, sizeof total);
    pass_list(s, low, high, &total);
    merge(s->job, &s->found, &total);
}

void fr_pass(void *job_, int i, int shares, int here)
{
    fr_job *const job = job_;
    /* Shares are ranges of elements, cut at multiples of 64 so that streamed lines stay whole. */
    const uint64_t each = (job->elements / (uint64_t)shares + 63) & ~UINT64_C(63);
    const uint64_t low = FR_MIN(each * (uint64_t)i, job->elements);
    const uint64_t high = i == shares - 1 ? job->elements : FR_MIN(low + each, job->elements);
    fr_pass_state s;
    begin(&s, job, here);
    if (FR_UNLIKELY(atomic_load_explicit(&job->stopped, memory_order_relaxed)))
        return;
    const fr_environment saved = fr_environment_enter();
    if (job->tier < 2) {
        pass_list(&s, low, high, NULL);
        merge(job, &s.found, NULL);
    } else
        exact_share(&s, low, high);
    if (shares == 1)
        job->anchor[0] = s.anchor[0], job->anchor[1] = s.anchor[1];
    if (job->streamed)
        fr_stream_end();
    fr_environment_leave(saved);
}
