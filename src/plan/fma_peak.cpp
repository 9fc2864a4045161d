#include "src/plan/fma_peak.h"

#include <omp.h>

namespace traincu {

namespace {

constexpr int64_t steps = 500000;
constexpr int chains = 12;  // independent sums: more than a multiply-add's latency times the number of multipliers

template <int W>
struct Vector {
    typedef float Register __attribute__((vector_size(W * 4)));
};

// chains * W multiply-adds per step. `seed` is unknown to the compiler, so that nothing is computed beforehand.
template <int W>
[[gnu::always_inline]] inline float multiply_add(float seed) {
    using Register = typename Vector<W>::Register;
    Register sum[chains], factor = seed - Register{}, term = factor * 0.5f;
    for (int i = 0; i < chains; i++) sum[i] = factor + static_cast<float>(i);
    for (int64_t step = 0; step < steps; step++)
#pragma GCC unroll 16
        for (int i = 0; i < chains; i++) sum[i] = sum[i] * factor + term;
    Register total = {};
    for (int i = 0; i < chains; i++) total += sum[i];
    float result = 0;
    for (int i = 0; i < W; i++) result += total[i];
    return result;
}

float multiply_add_portable(float seed) { return multiply_add<4>(seed); }
#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] float multiply_add_avx2(float seed) { return multiply_add<8>(seed); }
[[gnu::target("avx512f")]] float multiply_add_avx512(float seed) { return multiply_add<16>(seed); }
#endif

}  // namespace

double fma_burst(cpu::Simd simd) {
    float (*burst)(float) = multiply_add_portable;
    int width = 4;
#if defined(__x86_64__)
    if (simd == cpu::Simd::avx2) burst = multiply_add_avx2, width = 8;
    if (simd == cpu::Simd::avx512) burst = multiply_add_avx512, width = 16;
#endif
#pragma omp parallel
    {
        volatile float seed = 0.5f;
        volatile float result = burst(seed);
        (void)result;
    }
    return 2.0 * chains * width * static_cast<double>(steps) * omp_get_max_threads();
}

}  // namespace traincu
