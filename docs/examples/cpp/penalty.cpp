// SPDX-License-Identifier: BSD-3-Clause
#include "fastreg.h"

#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

// fastreg on this program's own threads: here a new one for each share.
static void run(void *, int shares, void (*body)(void *, int), void *work)
{
    std::vector<std::thread> threads;
    for (int share = 0; share < shares; ++share)
        threads.emplace_back(body, work, share);
    for (auto &thread : threads)
        thread.join();
}

int main()
{
    std::vector<double> x(1 << 20), g(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = i % 2 ? -3.0 : 4.0;
    const auto n = static_cast<std::ptrdiff_t>(x.size());
    fastreg_array a{};
    a.data = x.data(), a.gradient = g.data(), a.shape = &n, a.ndim = 1;
    a.dtype = FASTREG_F64, a.l1 = 1.0, a.l2 = 0.5;
    fastreg_options o{};
    o.size = sizeof o, o.threads = 4, o.run = run;
    double value = 0.0;
    const auto status = fastreg_value_and_gradient(&a, 1, 1.0, 0, FASTREG_F64, &o, &value);
    // 2^19 times (4 + 8) + (3 + 4.5); the gradient is x + sign(x).
    const bool good =
        status == FASTREG_OK && value == 19.5 * (1 << 19) && g[0] == 5.0 && g[1] == -4.0;
    std::printf("%.17g\n", value);
    return good ? 0 : 1;
}
