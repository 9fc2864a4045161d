#include "src/plan/peak.h"

#include <algorithm>
#include <chrono>

#include "kernels/matmul.h"
#include "src/base/arena.h"
#include "src/base/philox.h"

namespace traincu {

double measure_matmul_peak(Stream& stream) {
    using Clock = std::chrono::steady_clock;
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
    double best = 1e9;
    const auto begin = Clock::now();
    for (int i = 0; i < 3 || (i < 100 && Clock::now() - begin < std::chrono::milliseconds(300)); i++) {
        const auto start = Clock::now();
        linear_forward(c, a, b, {}, stream);
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return 2.0 * n * n * n / best;
}

}  // namespace traincu
