/* SPDX-License-Identifier: BSD-3-Clause */
#include "fastreg.h"

#include <stdio.h>

int main(void)
{
    /* The squares of i / 1024 for i < 100000: n (n + 1) (2 n + 1) / 6 / 2^20 with n = 99999. */
    static float x[100000];
    const ptrdiff_t n = 100000;
    for (int i = 0; i < n; ++i)
        x[i] = (float)i / 1024;
    fastreg_array a = {.data = x, .shape = &n, .ndim = 1, .dtype = FASTREG_F32, .l2 = 1.0};
    double value;
    const fastreg_status status = fastreg_value(&a, 1, FASTREG_F64, NULL, &value);
    if (status != FASTREG_OK)
        return fprintf(stderr, "%s\n", fastreg_status_text(status)), 1;
    printf("%.17g\n", value);
    return value == 333328333350000.0 / 1048576 ? 0 : 1;
}
