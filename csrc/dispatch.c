/* SPDX-License-Identifier: BSD-3-Clause */
#include "dispatch.h"
#include "strict.h"

#include <stdatomic.h>
#include <stdlib.h>

#ifdef FR_X86_LEVELS
#    include <cpuid.h>

/* Bits of CPUID leaves 1 and 7 (Intel SDM 2A, CPUID), and of XCR0: which registers the system
 * saves. */
enum {
    LEAF1_FMA = 1 << 12,
    LEAF1_OSXSAVE = 1 << 27,
    LEAF1_AVX = 1 << 28,
    LEAF1_F16C = 1 << 29,
    LEAF7_AVX2 = 1 << 5,
    LEAF7_AVX512F = 1 << 16,
    LEAF7_AVX512DQ = 1 << 17,
    LEAF7_AVX512BW = 1 << 30,
    XCR0_AVX = 0x06,
    XCR0_AVX512 = 0xe6
};
#    define LEAF7_AVX512VL 0x80000000u

static int has_all(unsigned word, unsigned bits) { return (word & bits) == bits; }

/* How many levels above baseline the processor and the system support. */
static int ask_cpu(void)
{
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) ||
        !has_all(c, LEAF1_FMA | LEAF1_OSXSAVE | LEAF1_AVX | LEAF1_F16C))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!has_all(low, XCR0_AVX) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        !has_all(b, LEAF7_AVX2))
        return 0;
    const unsigned wanted = LEAF7_AVX512F | LEAF7_AVX512DQ | LEAF7_AVX512BW | LEAF7_AVX512VL;
    return has_all(low, XCR0_AVX512) && has_all(b, wanted) ? 2 : 1;
}
#else
static int ask_cpu(void) { return 0; }
#endif

/* Asked once: in a virtual machine CPUID traps and takes 20 us. */
static int cpu_levels(void)
{
    static atomic_int known; /* levels + 1 */
    int k = atomic_load_explicit(&known, memory_order_relaxed);
    if (!k) {
        k = ask_cpu() + 1;
        atomic_store_explicit(&known, k, memory_order_relaxed);
    }
    return k - 1;
}

static const fr_kernels *const tables[] = {
#define X(level) &fr_kernels_##level,
    FR_LEVELS(X)
#undef X
};
enum { LEVELS = sizeof tables / sizeof tables[0] };

#ifdef FR_X86_LEVELS
/* Zen 4 (AMD family 19h with AVX-512) takes 2 cycles to widen eight f32 in one 512-bit conversion
 * and 0.7 for four in a 256-bit one: f32 values in L2 reach 55 GB/s with the one and 80 with the
 * other. */
static int ask_whether_zen4(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || c != signature_AMD_ecx ||
        d != signature_AMD_edx || !__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    return (a >> 8 & 15) == 15 && (a >> 8 & 15) + (a >> 20 & 255) == 0x19;
}

extern FR_HIDDEN const fr_float_kernels fr_kernels_x86_v3_f32, fr_kernels_x86_v4_f16,
    fr_kernels_x86_v4_bf16, fr_kernels_x86_v4_f64;

/* x86_v4, with the f32 kernels of x86_v3. */
static const fr_kernels zen4 = {.name = "x86_v4",
                                .of = {[FR_FLOAT_f16] = &fr_kernels_x86_v4_f16,
                                       [FR_FLOAT_bf16] = &fr_kernels_x86_v4_bf16,
                                       [FR_FLOAT_f32] = &fr_kernels_x86_v3_f32,
                                       [FR_FLOAT_f64] = &fr_kernels_x86_v4_f64}};

static const fr_kernels *table(int i)
{
    static atomic_int known; /* 1: not Zen 4, 2: Zen 4 */
    if (tables[i] != &fr_kernels_x86_v4)
        return tables[i];
    int k = atomic_load_explicit(&known, memory_order_relaxed);
    if (!k) {
        k = 1 + ask_whether_zen4();
        atomic_store_explicit(&known, k, memory_order_relaxed);
    }
    return k == 2 ? &zen4 : tables[i];
}
#else
static const fr_kernels *table(int i) { return tables[i]; }
#endif

/* Do the kernels that every processor can run handle NaN, infinity and signed zero? Compilers that
 * take NaN for impossible show it where it is written, not where it is compared. */
static int kernels_are_strict(void)
{
    enum { N = 5 };
    /* f16: a negative NaN with a payload, inf, -0, 1, -2; what x, sign(x) and x + sign(x) / 4 are. */
    static const uint16_t x[N] = {0xfe01, 0x7c00, 0x8000, 0x3c00, 0xc000};
    static const struct {
        double l1, l2;
        uint16_t g[N];
    } known[] = {{0.0, 0.5, {0x7e00, 0x7c00, 0x8000, 0x3c00, 0xc000}},
                 {1.0, 0.0, {0x7e00, 0x3c00, 0x0000, 0x3c00, 0xbc00}},
                 {0.25, 0.5, {0x7e00, 0x7c00, 0x0000, 0x3d00, 0xc080}}};
    const fr_float_kernels *const k = fr_kernels_baseline.of[FR_FLOAT_f16];
    int strict = 1;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i) {
        const fr_slope slope = fr_slope_of(known[i].l1, known[i].l2, 1.0);
        uint16_t g[N];
        k->gradient[FR_STORE_fresh](x, g, N, &slope);
        strict &= memcmp(g, known[i].g, sizeof g) == 0;
    }
    return strict;
}

int fr_dispatch_is_strict(void)
{
    static atomic_int known; /* answer + 1 */
    int k = atomic_load_explicit(&known, memory_order_relaxed);
    if (!k) {
        const fr_environment saved = fr_environment_enter();
        k = 1 + (fr_is_strict() && kernels_are_strict());
        fr_environment_leave(saved);
        atomic_store_explicit(&known, k, memory_order_relaxed);
    }
    return k - 1;
}

static const fr_kernels *by_name(const char *name)
{
    if (!fr_dispatch_is_strict())
        return NULL;
    for (int i = 0; i <= cpu_levels() && i < LEVELS; ++i)
        if (strcmp(tables[i]->name, name) == 0)
            return table(i);
    return NULL;
}

static const fr_kernels *choose(void)
{
    const char *const wanted = getenv("FASTREG_ISA");
    if (wanted && *wanted)
        return by_name(wanted);
    if (!fr_dispatch_is_strict())
        return NULL;
    return table(FR_MIN(cpu_levels(), LEVELS - 1));
}

/* Two threads that meet here choose the same; the second store changes nothing. */
static _Atomic(const fr_kernels *) chosen;
static atomic_int has_chosen;

const fr_kernels *fr_dispatch(const char *name)
{
    if (FR_UNLIKELY(name != NULL))
        return by_name(name);
    if (FR_UNLIKELY(!atomic_load_explicit(&has_chosen, memory_order_acquire))) {
        atomic_store_explicit(&chosen, choose(), memory_order_relaxed);
        atomic_store_explicit(&has_chosen, 1, memory_order_release);
    }
    return atomic_load_explicit(&chosen, memory_order_relaxed);
}

const char *fr_dispatch_name(size_t i, int *available)
{
    if (i >= LEVELS)
        return NULL;
    *available = (int)i <= cpu_levels();
    return tables[i]->name;
}
