/* SPDX-License-Identifier: BSD-3-Clause
 *
 * States against exact sums: random arrays of any types in random parts, merged in random ways, by
 * adding, by digits and by bytes; taken apart again; and bytes and digits that somebody has changed.
 *
 *     states LEVEL CASES SEED     prints the number of cases
 */
#include "harness.h"
#include "truth.h"

enum { MOST_PARTS = 9, MOST = 400 };

/* Elements of any bits; near one in half of the cases, so that sums carry. */
static void fill_random(unsigned char *to, int dtype, size_t n)
{
    const size_t size = item_sizes[dtype];
    const int kind = (int)(next() % 4), infinities = dtype < FLOAT_TYPES && next() % 8 == 0;
    for (size_t i = 0; i < n; ++i) {
        uint64_t bits = next();
        if (dtype == FASTREG_BOOL)
            bits &= 1;
        else if (dtype < FLOAT_TYPES && kind) {
            const int stored = formats[dtype].precision - 1;
            const uint64_t sign = bits & UINT64_C(1) << (formats[dtype].width - 1);
            const uint64_t fraction = bits & ((UINT64_C(1) << stored) - 1);
            const uint64_t field = kind == 1   ? (uint64_t)formats[dtype].highest
                                   : kind == 2 ? next() % 3
                                               : (uint64_t)(2 * formats[dtype].highest);
            bits = sign | field << stored | fraction;
        }
        if (next() % 8 == 0)
            bits = 0;
        else if (infinities && next() % 16 == 0)
            bits = encode(dtype, next() % 2 ? INFINITY : -INFINITY);
        put_bits(to + i * size, size, bits);
    }
}

/* The 64 bits of a carried number from an exponent on, which is a multiple of 32. */
static uint64_t limb_of(const big *b, int exponent)
{
    const int at = (exponent - LOWEST) / 32;
    return b->digit[at] | b->digit[at + 1] << 32;
}

/* Every field of a state from exact sums. */
static void same(const fastreg_state *s, sums *truth, unsigned long long positive)
{
    big_carry(&truth->absolute);
    big_carry(&truth->squares);
    HOLDS(s->n == truth->counts.n && s->zeros == truth->counts.zeros);
    HOLDS(s->nans == truth->counts.nans);
    HOLDS(s->positive_infinities == positive);
    HOLDS(s->negative_infinities == truth->counts.infs - positive);
    for (int i = 0; i < FASTREG_STATE_SQUARES; ++i)
        HOLDS(s->squares[i] == limb_of(&truth->squares, 64 * i - 2176));
    for (int i = 0; i < FASTREG_STATE_ABSOLUTES; ++i)
        HOLDS(s->absolutes[i] == limb_of(&truth->absolute, 64 * i - 1088));
}

static int equal(const fastreg_state *a, const fastreg_state *b)
{
    fastreg_state x = *a, y = *b;
    x.layout = y.layout = 0;
    return memcmp(&x, &y, sizeof x) == 0;
}

/* What bytes and digits with a bit changed give: a refusal, or a state that is written alike. */
static void spoil(const fastreg_state *s)
{
    unsigned char bytes[FASTREG_STATE_BYTES_WIDE], again[FASTREG_STATE_BYTES_WIDE];
    const size_t nbytes = fastreg_state_nbytes(s);
    fastreg_state read;
    double v;
    const double w[1] = {0x1p1000};
    HOLDS(fastreg_state_save(s, bytes, nbytes) == FASTREG_OK);
    HOLDS(fastreg_state_load(&read, bytes, nbytes) == FASTREG_OK && equal(&read, s));
    bytes[next() % nbytes] ^= (unsigned char)(1 << next() % 8);
    fastreg_state kept = read;
    if (fastreg_state_load(&read, bytes, nbytes) == FASTREG_OK) {
        HOLDS(fastreg_state_nbytes(&read) == nbytes);
        HOLDS(fastreg_state_save(&read, again, nbytes) == FASTREG_OK);
        HOLDS(memcmp(bytes, again, nbytes) == 0);
        (void)fastreg_state_value(&read, w, w, 1, FASTREG_F64, &v);
        (void)fastreg_state_add(&read, &read);
        (void)fastreg_state_subtract(&read, s);
    } else
        HOLDS(memcmp(&kept, &read, sizeof read) == 0);
    for (size_t i = 0; i < nbytes; ++i)
        bytes[i] = (unsigned char)next();
    HOLDS(fastreg_state_load(&read, bytes, nbytes) == FASTREG_BAD_STATE);
    memcpy(&kept, s, sizeof kept);
    ((unsigned char *)&kept)[next() % sizeof kept] ^= (unsigned char)(1 << next() % 8);
    (void)fastreg_state_add(&kept, s);
    (void)fastreg_state_subtract(&kept, s);
    (void)fastreg_state_norm(&kept, w, w, 1, FASTREG_F32, &v);
    long long digits[FASTREG_DIGITS64_WIDE];
    HOLDS(fastreg_state_digits64(s, digits, FASTREG_DIGITS64_WIDE) == FASTREG_OK);
    digits[next() % FASTREG_DIGITS64_WIDE] ^= (long long)(UINT64_C(1) << next() % 64);
    (void)fastreg_state_from_digits64(&read, digits, FASTREG_DIGITS64_WIDE);
}

static void one_case(const fastreg_options *o)
{
    static unsigned char data[MOST_PARTS][MOST * 8];
    static sums truth, of_parts[MOST_PARTS];
    unsigned long long positive = 0;
    const int parts = 1 + (int)(next() % MOST_PARTS);
    fastreg_state state[MOST_PARTS], whole = {0}, merged = {0};
    fastreg_array arrays[MOST_PARTS];
    ptrdiff_t extent[MOST_PARTS];
    weighted w;
    double l1[MOST_PARTS], l2[MOST_PARTS], v;
    int any_wide = 0;
    memset(&truth, 0, sizeof truth);
    memset(&w, 0, sizeof w);
    memset(of_parts, 0, sizeof of_parts);
    memset(state, 0, sizeof state);
    for (int k = 0; k < parts; ++k) {
        const int dtype = (int)(next() % DTYPES);
        const size_t n = (size_t)(next() % 3 ? next() % 20 : next() % MOST);
        extent[k] = (ptrdiff_t)n;
        any_wide |= dtype == FASTREG_F64;
        fill_random(data[k], dtype, n);
        arrays[k] = (fastreg_array){
            .data = data[k], .shape = &extent[k], .ndim = 1, .dtype = (fastreg_dtype)dtype};
        for (size_t i = 0; i < n; ++i) {
            const uint64_t bits = get_bits(data[k] + i * item_sizes[dtype], item_sizes[dtype]);
            feed(&truth, dtype, bits);
            feed(&of_parts[k], dtype, bits);
            if (dtype < FLOAT_TYPES) {
                const double x = decode(dtype, bits);
                positive += isinf(x) && x > 0.0;
            }
        }
        HOLDS(fastreg_state_fill(&state[k], &arrays[k], 1, o) == FASTREG_OK);
        l1[k] = next() % 3 ? ldexp((double)(next() >> 11), (int)(next() % 200) - 150) : 0.0;
        l2[k] = next() % 3 ? ldexp((double)(next() >> 11), (int)(next() % 200) - 150) : 0.0;
        weigh(&w, &of_parts[k], l1[k], l2[k]);
    }
    HOLDS(fastreg_state_fill(&whole, arrays, (size_t)parts, o) == FASTREG_OK);
    same(&whole, &truth, positive);

    /* Merged in a random order, in three forms. */
    int order[MOST_PARTS];
    for (int k = 0; k < parts; ++k) {
        const int other = (int)(next() % (uint64_t)(k + 1));
        order[k] = order[other];
        order[other] = k;
    }
    for (int k = 0; k < parts; ++k)
        HOLDS(fastreg_state_add(&merged, &state[order[k]]) == FASTREG_OK);
    HOLDS(memcmp(&merged, &whole, sizeof whole) == 0);
    const size_t count64 = any_wide ? FASTREG_DIGITS64_WIDE : FASTREG_DIGITS64_NARROW;
    const size_t count32 = any_wide ? FASTREG_DIGITS32_WIDE : FASTREG_DIGITS32_NARROW;
    long long sum64[FASTREG_DIGITS64_WIDE] = {0}, one64[FASTREG_DIGITS64_WIDE];
    int sum32[FASTREG_DIGITS32_WIDE] = {0}, one32[FASTREG_DIGITS32_WIDE];
    for (int k = 0; k < parts; ++k) {
        HOLDS(fastreg_state_digits64(&state[k], one64, count64) == FASTREG_OK);
        HOLDS(fastreg_state_digits32(&state[k], one32, count32) == FASTREG_OK);
        for (size_t i = 0; i < count64; ++i)
            sum64[i] += one64[i];
        for (size_t i = 0; i < count32; ++i)
            sum32[i] += one32[i];
    }
    HOLDS(fastreg_state_from_digits64(&merged, sum64, count64) == FASTREG_OK);
    HOLDS(memcmp(&merged, &whole, sizeof whole) == 0);
    memset(&merged, 0, sizeof merged);
    HOLDS(fastreg_state_from_digits32(&merged, sum32, count32) == FASTREG_OK);
    HOLDS(memcmp(&merged, &whole, sizeof whole) == 0);

    /* Taken apart, in another order. */
    for (int k = 0; k < parts; ++k)
        HOLDS(fastreg_state_subtract(&merged, &state[k]) == FASTREG_OK);
    const fastreg_state empty = {0};
    HOLDS(equal(&merged, &empty));

    /* Answers. */
    for (int format = 0; format < FLOAT_TYPES; ++format)
        for (int root = 0; root < 2; ++root) {
            HOLDS((root ? fastreg_state_norm : fastreg_state_value)(
                      state, l1, l2, (size_t)parts, (fastreg_dtype)format, &v) == FASTREG_OK);
            const double wanted = true_value(&w, root, format);
            HOLDS(isnan(wanted) ? isnan(v) : v == wanted);
        }
    spoil(&whole);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    const long cases = strtol(argv[2], NULL, 10);
    random_state = strtoull(argv[3], NULL, 10);
    for (long i = 0; i < cases; ++i) {
        const fastreg_options o = {
            .level = argv[1], .threads = 1 + (int)(next() % 4), .bytes_per_thread = 64};
        one_case(&o);
    }
    printf("%ld\n", cases);
    return 0;
}
