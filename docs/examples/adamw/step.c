/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One AdamW step of a CPU optimiser: the gradients' norm and whether they are finite come from one
 * pass, and decoupled decay is the proximal step of the penalty.
 */
#include "fastreg.h"

#include <math.h>
#include <stdio.h>

enum { N = 4096 };

int main(void)
{
    static float weights[N], gradients[N], first[N], second[N];
    const ptrdiff_t n = N;
    const double rate = 1e-3, decay = 0.25, most = 1.0;
    for (int i = 0; i < N; ++i)
        weights[i] = 2.0f, gradients[i] = i % 2 ? 0.5f : -0.5f;

    fastreg_statistics of;
    const fastreg_array g = {.data = gradients, .shape = &n, .ndim = 1, .dtype = FASTREG_F32};
    if (fastreg_statistics_of(&g, 1, NULL, &of, NULL) != FASTREG_OK || of.nans || of.infs)
        return puts("not finite: this step is left out"), 1;
    if (of.norm != 32.0) /* sqrt(4096 / 4) */
        return 1;
    const float factor = of.norm > most ? (float)(most / of.norm) : 1.0f;

    /* w <- w / (1 + 2 step l2), in place: decay that no rounding makes depend on the machine. */
    fastreg_array w = {.data = weights, .gradient = weights, .shape = &n, .ndim = 1};
    w.dtype = FASTREG_F32, w.l2 = decay / 2;
    if (fastreg_prox(&w, 1, rate, 0, NULL) != FASTREG_OK ||
        weights[0] != (float)(2.0 / (1.0 + rate * decay)))
        return 1;

    for (int i = 0; i < N; ++i) {
        const float d = gradients[i] * factor;
        first[i] = 0.9f * first[i] + 0.1f * d;
        second[i] = 0.999f * second[i] + 0.001f * d * d;
        weights[i] -= (float)rate * (first[i] / 0.1f) / (sqrtf(second[i] / 0.001f) + 1e-8f);
    }
    printf("norm %g, weights %.9g %.9g\n", of.norm, (double)weights[0], (double)weights[1]);
    return 0;
}
