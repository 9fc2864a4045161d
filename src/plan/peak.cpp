#include "src/plan/peak.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/copy.h"
#include "kernels/matmul.h"
#include "src/base/arena.h"
#include "src/base/philox.h"
#include "src/device/transfer.h"
#include "src/plan/fma_peak.h"
#include "src/plan/gpu_peak.h"

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

double measure_matmul_peak(Stream& stream, Dtype dtype) {
    const int64_t n = stream.on_gpu() ? (dtype == Dtype::bf16 ? 64 : 32) * gpu::device_info().multiprocessors : 1024;
    Arena arena("peak measurement");
    Tensor a, b, c;
    arena.add(a, "a", dtype, {n, n}), arena.add(b, "b", dtype, {n, n}), arena.add(c, "c", dtype, {n, n});
    arena.allocate(stream.memory());
    constexpr size_t period = 16381;  // a prime: no two rows alike
    std::vector<float> numbers(period);
    for (size_t i = 0; i < period; i++) numbers[i] = static_cast<float>(Random{}.bits(0, i)[0]) * 0x1p-32f - 0.5f;
    for (const Tensor& operand : {a, b}) {
        HostCopy copy(operand, stream);
        float* to = copy.tensor().as<float>();
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n * n; i++) to[i] = numbers[static_cast<size_t>(i + 7 * (operand.data == b.data)) % period];
        copy.upload();
    }
    const int together = stream.on_gpu() ? 10 : 1;  // so that the launch of one hides behind the work of another
    const double seconds = quickest(std::chrono::milliseconds(300), [&] {
        for (int i = 0; i < together; i++) linear_forward(c, a, b, {}, stream);
        stream.synchronize();
    });
    const double size = static_cast<double>(n);
    return together * 2.0 * size * size * size / seconds;
}

Ceiling measure_ceiling(Stream& stream, Dtype dtype, int threads) {
    const double measured = measure_matmul_peak(stream, dtype);
    const std::string products = "matrix products by " + gemm_engine_name(stream.device(), dtype);
    if (!stream.on_gpu()) return {measured, format("%d threads, %s: %.0f GFLOP/s measured", threads, products.c_str(), measured / 1e9)};
    const gpu::DeviceInfo& device = gpu::device_info();
    const double known = gpu_peak(device.name, dtype);
    std::string text =
        format("%s (sm_%d, %d multiprocessors, driver for CUDA %s), %s, %s: %.3g TFLOP/s measured", device.name.c_str(),
               device.compute_capability, device.multiprocessors, device.driver.c_str(), name_of(dtype), products.c_str(), measured / 1e12);
    text += known > 0 ? format(", %.3g on paper (mfu is told against that)", known / 1e12) : ", peak on paper unknown";
    return {known > 0 ? known : measured, text};
}

double measure_fma_peak() {
    double flops = 0;
    const double seconds = quickest(std::chrono::milliseconds(200), [&] { flops = fma_burst(cpu::best_simd()); });
    return flops / seconds;
}

static double measure_device_bandwidth(Stream& stream) {
    const int64_t n = gpu::device_info().l2_bytes;  // f32 elements: four times the cache
    Arena arena("bandwidth measurement");
    Tensor a, b;
    arena.add(a, "a", Dtype::f32, {n}), arena.add(b, "b", Dtype::f32, {n});
    arena.allocate(stream.memory());
    constexpr int together = 10;
    const double seconds = quickest(std::chrono::milliseconds(300), [&] {
        for (int i = 0; i < together; i++) copy(a, b, stream);
        stream.synchronize();
    });
    return together * 2.0 * static_cast<double>(a.bytes()) / seconds;
}

double measure_bandwidth(Stream& stream) {
    if (stream.on_gpu()) return measure_device_bandwidth(stream);
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
