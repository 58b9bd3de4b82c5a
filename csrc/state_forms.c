/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The two forms in which a state leaves the process: digits, which add, and bytes, which compare.
 * docs/state-format.md is their description.
 */
#include "state.h"

typedef unsigned long long limb;

enum { COUNTS = 5, VERSION = 1 };

/* Which limbs a layout has. */
typedef struct {
    int square, squares, absolute, absolutes;
} fr_window;

static fr_window window_of(int32_t layout)
{
    static const fr_window narrow = {FR_NARROW_SQUARE, FR_NARROW_SQUARES, FR_NARROW_ABSOLUTE,
                                     FR_NARROW_ABSOLUTES},
                           wide = {0, FASTREG_STATE_SQUARES, 0, FASTREG_STATE_ABSOLUTES};
    return layout == FASTREG_NARROW ? narrow : wide;
}

static void get_counts(const fastreg_state *s, limb counts[COUNTS])
{
    counts[0] = s->n, counts[1] = s->zeros, counts[2] = s->nans;
    counts[3] = s->positive_infinities, counts[4] = s->negative_infinities;
}

static void set_counts(fastreg_state *s, const limb counts[COUNTS])
{
    s->n = counts[0], s->zeros = counts[1], s->nans = counts[2];
    s->positive_infinities = counts[3], s->negative_infinities = counts[4];
}

/* -- Digits ------------------------------------------------------------------------------------ */

/* So many states may be summed: their digits of 32 (16) bits then stay below 2^63 (2^31), as do
 * their number and twice that. */
#define MOST_64 ((limb)1 << 31)
#define MOST_32 (((limb)1 << 15) - 1)

/* Digits to be written, of either kind. */
typedef struct {
    long long *of64;
    int *of32;
} fr_vector;

static unsigned payload_of(const fr_vector *v) { return v->of64 ? 32 : 16; }

static size_t digits_of(int32_t layout, unsigned payload)
{
    const fr_window w = window_of(layout);
    return 2 + (size_t)(COUNTS + w.squares + w.absolutes) * (64 / payload);
}

/* The layout of so many digits, 0 if none has them. */
static int layout_of(size_t count, unsigned payload)
{
    return count == digits_of(FASTREG_NARROW, payload) ? FASTREG_NARROW
           : count == digits_of(FASTREG_WIDE, payload) ? FASTREG_WIDE
                                                       : 0;
}

static void put(const fr_vector *v, size_t i, limb digit)
{
    if (v->of64)
        v->of64[i] = (long long)digit;
    else
        v->of32[i] = (int)digit;
}

/* Write limbs from digit *at on. */
static void put_limbs(const fr_vector *v, size_t *at, const limb *l, int count)
{
    const unsigned payload = payload_of(v);
    for (int i = 0; i < count; ++i)
        for (unsigned shift = 0; shift < 64; shift += payload)
            put(v, (*at)++, l[i] >> shift & (((limb)1 << payload) - 1));
}

static fastreg_status to_digits(const fastreg_state *s, const fr_vector *v, size_t count)
{
    const int layout = layout_of(count, payload_of(v));
    limb counts[COUNTS];
    size_t at = 2;
    if (!layout)
        return FASTREG_BAD_SHAPE;
    if (!fr_state_is_good(s))
        return FASTREG_BAD_STATE;
    if (layout == FASTREG_NARROW && !fr_state_is_narrow(s))
        return FASTREG_NOT_NARROW;
    const fr_window w = window_of((int32_t)layout);
    get_counts(s, counts);
    put(v, 0, 1);
    put(v, 1, (limb)layout);
    put_limbs(v, &at, counts, COUNTS);
    put_limbs(v, &at, s->squares + w.square, w.squares);
    put_limbs(v, &at, s->absolutes + w.absolute, w.absolutes);
    return FASTREG_OK;
}

/* Digits to be read. A negative one becomes a large limb, which no sum of states has. */
typedef struct {
    const long long *of64;
    const int *of32;
    limb parts; /* how many states were summed */
} fr_summed;

static limb get(const fr_summed *v, size_t i)
{
    return (limb)(v->of64 ? v->of64[i] : (long long)v->of32[i]);
}

/* Read limbs from digit *at on; returns what is carried out of the last one, or 1 for a digit that
 * is more than so many states can give. */
static int get_limbs(const fr_summed *v, size_t *at, limb *l, int count)
{
    const unsigned payload = v->of64 ? 32 : 16;
    const limb most = v->parts * (((limb)1 << payload) - 1);
    fr_u128 sum = 0;
    for (int i = 0; i < count; ++i) {
        for (unsigned shift = 0; shift < 64; shift += payload) {
            const limb digit = get(v, (*at)++);
            if (digit > most)
                return 1;
            sum += (fr_u128)digit << shift;
        }
        l[i] = (limb)sum;
        sum >>= 64;
    }
    return sum != 0;
}

static fastreg_status from_digits(fastreg_state *to, fr_summed *v, limb most, size_t count)
{
    const int layout = layout_of(count, v->of64 ? 32 : 16);
    limb counts[COUNTS];
    size_t at = 2;
    fastreg_state s;
    if (!layout)
        return FASTREG_BAD_SHAPE;
    v->parts = get(v, 0);
    if (v->parts > most || get(v, 1) != v->parts * (limb)layout)
        return FASTREG_BAD_STATE;
    memset(&s, 0, sizeof s);
    const fr_window w = window_of((int32_t)layout);
    for (int i = 0; i < COUNTS; ++i)
        if (get_limbs(v, &at, &counts[i], 1))
            return FASTREG_BAD_STATE;
    if (get_limbs(v, &at, s.squares + w.square, w.squares) ||
        get_limbs(v, &at, s.absolutes + w.absolute, w.absolutes))
        return FASTREG_BAD_STATE;
    set_counts(&s, counts);
    s.layout = v->parts ? (limb)layout : 0;
    if (!fr_state_is_good(&s))
        return FASTREG_BAD_STATE;
    *to = s;
    return FASTREG_OK;
}

fastreg_status fastreg_state_digits64(const fastreg_state *state, long long *digits, size_t count)
{
    const fr_vector v = {digits, NULL};
    return state && digits ? to_digits(state, &v, count) : FASTREG_NULL_POINTER;
}

fastreg_status fastreg_state_digits32(const fastreg_state *state, int *digits, size_t count)
{
    const fr_vector v = {NULL, digits};
    return state && digits ? to_digits(state, &v, count) : FASTREG_NULL_POINTER;
}

fastreg_status fastreg_state_from_digits64(fastreg_state *to, const long long *digits, size_t count)
{
    fr_summed v = {digits, NULL, 0};
    return to && digits ? from_digits(to, &v, MOST_64, count) : FASTREG_NULL_POINTER;
}

fastreg_status fastreg_state_from_digits32(fastreg_state *to, const int *digits, size_t count)
{
    fr_summed v = {NULL, digits, 0};
    return to && digits ? from_digits(to, &v, MOST_32, count) : FASTREG_NULL_POINTER;
}

/* -- Bytes ------------------------------------------------------------------------------------- */

static unsigned char *put_bytes(unsigned char *to, limb v, int nbytes)
{
    for (int i = 0; i < nbytes; ++i)
        *to++ = (unsigned char)(v >> (8 * i));
    return to;
}

static limb get_bytes(const unsigned char **from, int nbytes)
{
    limb v = 0;
    for (int i = 0; i < nbytes; ++i)
        v |= (limb) * (*from)++ << (8 * i);
    return v;
}

static const unsigned char magic[4] = {'F', 'R', 'S', 'T'};

static int32_t layout_in_bytes(const fastreg_state *s)
{
    return fr_state_is_narrow(s) ? FASTREG_NARROW : FASTREG_WIDE;
}

size_t fastreg_state_nbytes(const fastreg_state *state)
{
    return state && layout_in_bytes(state) == FASTREG_WIDE ? FASTREG_STATE_BYTES_WIDE
                                                           : FASTREG_STATE_BYTES_NARROW;
}

fastreg_status fastreg_state_save(const fastreg_state *state, void *bytes, size_t nbytes)
{
    limb counts[COUNTS];
    unsigned char *p = bytes;
    if (!state || !bytes)
        return FASTREG_NULL_POINTER;
    if (!fr_state_is_good(state))
        return FASTREG_BAD_STATE;
    if (nbytes != fastreg_state_nbytes(state))
        return FASTREG_BAD_SHAPE;
    const int32_t layout = layout_in_bytes(state);
    const fr_window w = window_of(layout);
    get_counts(state, counts);
    memcpy(p, magic, sizeof magic);
    p = put_bytes(p + sizeof magic, VERSION, 2);
    p = put_bytes(p, layout, 2);
    for (int i = 0; i < COUNTS; ++i)
        p = put_bytes(p, counts[i], 8);
    for (int i = 0; i < w.squares; ++i)
        p = put_bytes(p, state->squares[w.square + i], 8);
    for (int i = 0; i < w.absolutes; ++i)
        p = put_bytes(p, state->absolutes[w.absolute + i], 8);
    return FASTREG_OK;
}

fastreg_status fastreg_state_load(fastreg_state *to, const void *bytes, size_t nbytes)
{
    const unsigned char *p = bytes;
    limb counts[COUNTS];
    fastreg_state s;
    if (!to || !bytes)
        return FASTREG_NULL_POINTER;
    if ((nbytes != FASTREG_STATE_BYTES_NARROW && nbytes != FASTREG_STATE_BYTES_WIDE) ||
        memcmp(p, magic, sizeof magic) != 0)
        return FASTREG_BAD_STATE;
    p += sizeof magic;
    const limb version = get_bytes(&p, 2), layout = get_bytes(&p, 2);
    if (version != VERSION ||
        layout != (nbytes == FASTREG_STATE_BYTES_NARROW ? FASTREG_NARROW : FASTREG_WIDE))
        return FASTREG_BAD_STATE;
    const fr_window w = window_of((int32_t)layout);
    memset(&s, 0, sizeof s);
    for (int i = 0; i < COUNTS; ++i)
        counts[i] = get_bytes(&p, 8);
    set_counts(&s, counts);
    for (int i = 0; i < w.squares; ++i)
        s.squares[w.square + i] = get_bytes(&p, 8);
    for (int i = 0; i < w.absolutes; ++i)
        s.absolutes[w.absolute + i] = get_bytes(&p, 8);
    s.layout = layout;
    if (!fr_state_is_good(&s) || layout_in_bytes(&s) != (int32_t)layout)
        return FASTREG_BAD_STATE;
    *to = s;
    return FASTREG_OK;
}
