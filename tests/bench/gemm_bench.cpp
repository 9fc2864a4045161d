// How fast matrix products are, as a fraction of what this processor's multipliers can do, and beside oneDNN where it was built in.
//
//   g++ -std=c++20 -I. -O3 -march=x86-64-v3 -fopenmp -DTRAIN_HAS_ONEDNN -o /tmp/gemm_bench tests/bench/gemm_bench.cpp
//       kernels/gemm_cpu.cpp kernels/gemm_onednn.cpp src/plan/fma_peak.cpp src/base/error.cpp -ldnnl
//   OMP_WAIT_POLICY=passive /tmp/gemm_bench [wall] [f32 | f32xbf16 | f32xf16 | bf16]
//
// The last word is how activations and weights are stored: f32 (unless said), weights in fewer bits beside f32 activations, or both in
// bf16, where results of forward and dinp are rounded to bf16, too. Gradients of weights are f32.
//
// Every figure is the best of many repetitions, taken in turns, and the peak is measured among them: a busy machine then disturbs
// all columns alike. Time is the processor time that the threads were given, divided by their number, so that neighbours count
// little; with `wall` it is the clock on the wall, the right one on a machine of one's own: it also counts waiting for one another.
// The peak is a loop of multiply-adds on registers alone, on all threads at once.
#include <omp.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/gemm_cpu.h"
#include "kernels/widened_cpu.h"
#include "src/plan/fma_peak.h"

using namespace traincu;
using namespace traincu::cpu;

namespace {

bool wall_clock = false;
Dtype activation_type = Dtype::f32, weight_type = Dtype::f32;

double now() {
    timespec t;
    clock_gettime(wall_clock ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID, &t);
    double seconds = static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    return wall_clock ? seconds : seconds / omp_get_max_threads();
}

double seconds_of(const std::function<void()>& work) {
    double start = now();
    work();
    return now() - start;
}

// GFLOP/s of one burst on all threads.
double peak(Simd simd) {
    double flops = 0;
    const double seconds = seconds_of([&] { flops = fma_burst(simd); });
    return flops / seconds * 1e-9;
}

enum class Pass { forward, input, weight };

struct Row {
    const char* what;
    int64_t N, IC, OC;
};

struct Best {
    double own[3] = {}, onednn = 0, peak[3] = {};  // GFLOP/s; indexed by Simd
};

// A matrix (rows, cols) as it is stored.
struct Stored {
    Stored(Dtype dtype, int64_t count, float step) : type(dtype), numbers(static_cast<size_t>(count * size_of(dtype))) {
        dispatch_stored(type, [&]<class S>(S) {
            for (int64_t i = 0; i < count; i++)
                reinterpret_cast<S*>(numbers.data())[i] = stored<S>(static_cast<Real<S>>(step * static_cast<float>(i % 17 + 1)));
        });
    }
    Operand plain(int64_t cols) const { return {numbers.data(), type, cols, 1}; }
    Operand transposed(int64_t cols) const { return {numbers.data(), type, 1, cols}; }

    Dtype type;
    std::vector<std::byte> numbers;
};

Best measure(const Row& row, Pass pass) {
    const int64_t unit = 256;
    const int64_t N = row.N, IC = row.IC, OC = row.OC;
    Stored inp(activation_type, N * IC, 1e-3f), out(activation_type, N * OC, 3e-3f);
    const Stored weight(weight_type, OC * IC, 2e-3f);
    std::vector<float> dweight(static_cast<size_t>(pass == Pass::weight ? OC * IC : 0));
    auto product = [&](Gemm engine, Simd simd) {
        const GemmOptions options{.simd = simd}, units{.accumulate = true, .unit = unit, .simd = simd};
        auto activations = [&](int64_t cols, int64_t K, Operand a, Operand b, Stored& c) {
            if (c.type == Dtype::bf16)
                gemm_rounded(engine, N, cols, K, a, b, reinterpret_cast<bf16*>(c.numbers.data()), cols, options);
            else
                engine(N, cols, K, a, b, reinterpret_cast<float*>(c.numbers.data()), cols, options);
        };
        if (pass == Pass::forward) activations(OC, IC, inp.plain(IC), weight.transposed(IC), out);
        if (pass == Pass::input) activations(IC, OC, out.plain(OC), weight.plain(IC), inp);
        if (pass == Pass::weight) engine(OC, IC, N, out.transposed(OC), inp.plain(IC), dweight.data(), IC, units);
    };
    const double flops = 2.0 * static_cast<double>(N) * static_cast<double>(IC) * static_cast<double>(OC);
    Best best;
    double spent = 0;
    for (int round = 0; round < 400 && (round < 5 || spent < 1.5); round++) {
        for (Simd simd : {Simd::avx2, Simd::avx512}) {
            if (!has_simd(simd)) continue;
            size_t i = static_cast<size_t>(simd);
            double t = seconds_of([&] { product(gemm, simd); });
            best.own[i] = std::max(best.own[i], flops / t * 1e-9), spent += t;
            best.peak[i] = std::max(best.peak[i], peak(simd));
        }
        if (!onednn_usable() || pass == Pass::weight) continue;  // gemm_onednn takes our own product for weight gradients
        double t = seconds_of([&] { product(gemm_onednn, best_simd()); });
        best.onednn = std::max(best.onednn, flops / t * 1e-9), spent += t;
    }
    return best;
}

void table(int threads) {
    omp_set_num_threads(threads);
    const Row rows[] = {{"1024^3", 1024, 1024, 1024},      {"124M qkv", 256, 768, 2304},   {"124M mlp up", 256, 768, 3072},
                        {"124M mlp down", 256, 3072, 768}, {"124M head", 256, 768, 50304}, {"demo qkv", 4096, 128, 384},
                        {"small mlp up", 4096, 256, 1024}};
    std::printf("\n%d thread%s, GFLOP/s (%% of the peak measured in the same rounds)\n", threads, threads > 1 ? "s" : "");
    std::printf("%-14s %5s x %4s x %5s  %-8s %14s %14s %8s %11s\n", "layer", "N", "IC", "OC", "pass", "own AVX2", "own AVX-512", "oneDNN",
                "best/oneDNN");
    Best highest;
    for (const Row& row : rows)
        for (Pass pass : {Pass::forward, Pass::input, Pass::weight}) {
            Best b = measure(row, pass);
            const char* name = pass == Pass::forward ? "forward" : pass == Pass::input ? "dinp" : "dweight";
            std::printf("%-14s %5lld x %4lld x %5lld  %-8s", row.what, static_cast<long long>(row.N), static_cast<long long>(row.IC),
                        static_cast<long long>(row.OC), name);
            for (size_t i : {size_t{1}, size_t{2}}) {
                std::printf(" %7.0f (%2.0f %%)", b.own[i], b.peak[i] > 0 ? 100 * b.own[i] / b.peak[i] : 0.0);
                highest.peak[i] = std::max(highest.peak[i], b.peak[i]);
            }
            if (b.onednn > 0)
                std::printf(" %8.0f %11.2f\n", b.onednn, std::max(b.own[1], b.own[2]) / b.onednn);
            else
                std::printf(" %8s %11s\n", "-", "-");
            std::fflush(stdout);
        }
    std::printf("peak: AVX2 %.0f, AVX-512 %.0f GFLOP/s\n", highest.peak[1], highest.peak[2]);
}

}  // namespace

int main(int argc, char** argv) {
    for (int i = 1; i < argc; i++) {
        const std::string word = argv[i];
        if (word == "wall") wall_clock = true;
        if (word == "f32xbf16") weight_type = Dtype::bf16;
        if (word == "f32xf16") weight_type = Dtype::f16;
        if (word == "bf16") activation_type = weight_type = Dtype::bf16;
    }
    std::printf("oneDNN: %s; time: %s; activations %s, weights %s\n", onednn_usable() ? onednn_version().c_str() : "not used",
                wall_clock ? "wall" : "processor", name_of(activation_type), name_of(weight_type));
    const int most = omp_get_max_threads();
    table(1);
    if (most > 1) table(most);
}
