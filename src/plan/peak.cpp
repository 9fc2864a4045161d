#include "src/plan/peak.h"

#include <algorithm>
#include <chrono>

#include "kernels/matmul.h"
#include "src/base/arena.h"
#include "src/base/philox.h"
#include "src/plan/fma_peak.h"

namespace traincu {

namespace {

using Clock = std::chrono::steady_clock;

// Seconds of the quickest of at least three calls, repeated for the time given.
template <class Work>
double quickest(std::chrono::milliseconds time, Work work) {
    double best = 1e9;
    const auto begin = Clock::now();
    for (int i = 0; i < 3 || (i < 100 && Clock::now() - begin < time); i++) {
        const auto start = Clock::now();
        work();
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}

}  // namespace

double measure_matmul_peak(Stream& stream) {
    constexpr int64_t n = 1024;
    Arena arena("peak measurement");
    Tensor a, b, c;
    arena.add(a, "a", Dtype::f32, {n, n}), arena.add(b, "b", Dtype::f32, {n, n}), arena.add(c, "c", Dtype::f32, {n, n});
    arena.allocate();
    Random random;
    for (int64_t i = 0; i < n * n; i++) {  // not zeros: some machines multiply those faster
        PhiloxBlock bits = random.bits(0, static_cast<uint64_t>(i));
        a.as<float>()[i] = static_cast<float>(bits[0]) * 0x1p-32f - 0.5f, b.as<float>()[i] = static_cast<float>(bits[1]) * 0x1p-32f - 0.5f;
    }
    const double seconds = quickest(std::chrono::milliseconds(300), [&] { linear_forward(c, a, b, {}, stream); });
    return 2.0 * n * n * n / seconds;
}

double measure_fma_peak() {
    double flops = 0;
    const double seconds = quickest(std::chrono::milliseconds(200), [&] { flops = fma_burst(cpu::best_simd()); });
    return flops / seconds;
}

double measure_bandwidth() {
    constexpr int64_t n = int64_t{16} << 20;
    Arena arena("bandwidth measurement");
    Tensor a, b, c;
    arena.add(a, "a", Dtype::f32, {n}), arena.add(b, "b", Dtype::f32, {n}), arena.add(c, "c", Dtype::f32, {n});
    arena.allocate();
    float *to = a.as<float>(), *left = b.as<float>(), *right = c.as<float>();
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] = left[i] = right[i] = 1.0f;  // the pages are there, near their thread
    const double seconds = quickest(std::chrono::milliseconds(300), [&] {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) to[i] = left[i] + 0.5f * right[i];
    });
    return 3.0 * static_cast<double>(a.bytes()) / seconds;
}

}  // namespace traincu
