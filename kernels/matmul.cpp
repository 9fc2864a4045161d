// CPU twin of the linear layers: each pass is one product of two strided matrices, a transpose being another pair of strides. f32 and bf16
// go to the engine in force, f64 to plain loops. The bias gradient reads dout once more.
#include "kernels/matmul.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "kernels/activation.h"
#include "kernels/gemm_cpu.h"
#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

GemmEngine wanted_engine = GemmEngine::automatic;
F32Products wanted_products = F32Products::fp32;

double seconds = 0, flops = 0;

// Adds the time from its birth to its end to `seconds`, and the work of one product to `flops`.
struct Stopwatch {
    Stopwatch(int64_t N, int64_t OC, int64_t IC) {
        flops += 2.0 * static_cast<double>(N) * static_cast<double>(OC) * static_cast<double>(IC);
    }
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    ~Stopwatch() { seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
};

// A (rows, cols) tensor as an operand, as it is or transposed.
Operand plain(const Tensor& t) { return {t.data, t.dtype, t.row_stride, 1}; }
Operand transposed(const Tensor& t) { return {t.data, t.dtype, 1, t.row_stride}; }

// In f64, B (K,N) of any type.
template <class S>
void multiply_plainly(int64_t M, int64_t N, int64_t K, Operand a, Operand b, const Tensor& c, const double* bias, bool accumulate,
                      int64_t unit) {
    if (unit == 0) unit = K;
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < M; m++) {
        double* row = c.as<double>() + m * c.row_stride;
        if (!accumulate)
            for (int64_t n = 0; n < N; n++) row[n] = bias ? bias[n] : 0.0;
        std::vector<double> sum(static_cast<size_t>(N));
        for (int64_t begin = 0; begin < K; begin += unit) {
            std::fill(sum.begin(), sum.end(), 0.0);
            for (int64_t k = begin; k < std::min(begin + unit, K); k++) {
                const double factor = a.as<double>()[m * a.row_stride + k * a.col_stride];
                const S* line = b.as<S>() + k * b.row_stride;
                for (int64_t n = 0; n < N; n++)
                    sum[static_cast<size_t>(n)] += factor * static_cast<double>(widened(line[n * b.col_stride]));
            }
            for (int64_t n = 0; n < N; n++) row[n] += sum[static_cast<size_t>(n)];
        }
    }
}

// C (M,N) = A (M,K) B (K,N) + bias, or += A B unit by unit of K.
void multiply(int64_t M, int64_t N, int64_t K, Operand a, Operand b, const Tensor& c, const Tensor& bias, bool accumulate, int64_t unit) {
    if (a.dtype == Dtype::f64) {
        dispatch_stored(b.dtype, [&]<class S>(S) { multiply_plainly<S>(M, N, K, a, b, c, bias.as_or_null<double>(), accumulate, unit); });
        return;
    }
    const Gemm engine = gemm_engine() == GemmEngine::onednn ? gemm_onednn : gemm;
    GemmOptions options{.accumulate = accumulate, .unit = unit};
    if (c.dtype != Dtype::bf16) {
        options.bias = bias.as_or_null<float>();
        return engine(M, N, K, a, b, c.as<float>(), c.row_stride, options);
    }
    std::vector<float> wide_bias(static_cast<size_t>(bias.numel()));
    if (bias) widen(wide_bias.data(), bias.as<bf16>(), N), options.bias = wide_bias.data();
    gemm_rounded(engine, M, N, K, a, b, c.as<bf16>(), c.row_stride, options);
}

// total (C) += sums over rows of x (N,C), unit by unit. Threads share out the columns, so that each sum has one order.
template <class S>
void add_column_sums(Real<S>* total, const Tensor& x, int64_t unit) {
    constexpr int64_t widest = 1024, narrowest = 16;  // columns of a thread: their sums stay in L1; whole cache lines
    const int64_t N = x.rows(), C = x.cols(), threads = omp_get_max_threads();
    const int64_t share = div_ceil(C, threads), chunk = std::min(widest, round_up(share, narrowest));
    if (unit == 0) unit = N;
#pragma omp parallel for schedule(static)
    for (int64_t c0 = 0; c0 < C; c0 += chunk) {
        const int64_t width = std::min(chunk, C - c0);
        for (int64_t begin = 0; begin < N; begin += unit) {
            std::array<Real<S>, widest> sum{};
            for (int64_t n = begin; n < std::min(begin + unit, N); n++) {
                const S* row = x.as<S>() + n * x.row_stride + c0;
                for (int64_t c = 0; c < width; c++) sum[static_cast<size_t>(c)] += widened(row[c]);
            }
            for (int64_t c = 0; c < width; c++) total[c0 + c] += sum[static_cast<size_t>(c)];
        }
    }
}

}  // namespace
}  // namespace cpu

// A weight beside activations: of their type, or under LayerCast stored in fewer bits.
static bool goes_beside(const Tensor& weight, Dtype activations) {
    return weight.dtype == activations || (is_16_bit(weight.dtype) && activations != Dtype::bf16);
}

void linear_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream) {
    const int64_t N = inp.rows(), IC = inp.cols(), OC = weight.rows();
    ENSURE(out.is({N, OC}) && inp.is({N, IC}) && weight.is({OC, IC}) && (!bias || bias.is({OC})));
    ENSURE(out.dtype == inp.dtype && goes_beside(weight, inp.dtype) && (!bias || bias.dtype == inp.dtype));
    if (stream.on_gpu()) return gpu::linear_forward(out, inp, weight, bias, stream);
    cpu::Stopwatch stopwatch(N, OC, IC);
    cpu::multiply(N, OC, IC, cpu::plain(inp), cpu::transposed(weight), out, bias, false, 0);
}

void linear_backward_input(Tensor dinp, Tensor dout, Tensor weight, Stream& stream) {
    const int64_t N = dout.rows(), OC = dout.cols(), IC = weight.cols();
    ENSURE(dinp.is({N, IC}) && dout.is({N, OC}) && weight.is({OC, IC}));
    ENSURE(dinp.dtype == dout.dtype && goes_beside(weight, dout.dtype));
    if (stream.on_gpu()) return gpu::linear_backward_input(dinp, dout, weight, stream);
    cpu::Stopwatch stopwatch(N, OC, IC);
    cpu::multiply(N, IC, OC, cpu::plain(dout), cpu::plain(weight), dinp, {}, false, 0);
}

void linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream) {
    const int64_t N = dout.rows(), OC = dout.cols(), IC = inp.cols();
    ENSURE(dweight.is({OC, IC}) && dout.is({N, OC}) && inp.is({N, IC}) && (!dbias || dbias.is({OC})));
    ENSURE(dweight.dtype == statistics_of(dout.dtype) && (!dbias || dbias.dtype == dweight.dtype));
    ENSURE(inp.dtype == dout.dtype && unit_rows >= 0);
    if (N == 0) return;
    if (stream.on_gpu()) return gpu::linear_backward_weight(dweight, dbias, dout, inp, unit_rows, stream);
    cpu::Stopwatch stopwatch(N, OC, IC);
    cpu::multiply(OC, IC, N, cpu::transposed(dout), cpu::plain(inp), dweight, {}, true, unit_rows);
    if (!dbias) return;
    cpu::dispatch_activations(dout.dtype, [&]<class S>(S) { cpu::add_column_sums<S>(dbias.as<cpu::Real<S>>(), dout, unit_rows); });
}

void linear_gelu_forward(Tensor out, Tensor pre, Tensor inp, Tensor weight, Tensor bias, Stream& stream) {
    const int64_t N = inp.rows(), IC = inp.cols(), OC = weight.rows();
    ENSURE(out.is({N, OC}) && out.contiguous() && pre.is({N, OC}) && pre.contiguous());
    ENSURE(inp.is({N, IC}) && weight.is({OC, IC}) && (!bias || bias.is({OC})));
    ENSURE(out.dtype == inp.dtype && pre.dtype == inp.dtype && goes_beside(weight, inp.dtype));
    if (stream.on_gpu()) return gpu::linear_gelu_forward(out, pre, inp, weight, bias, stream);
    linear_forward(pre, inp, weight, bias, stream);
    gelu_forward(out, pre, stream);
}

void linear_gelu_backward_input(Tensor dpre, Tensor dout, Tensor weight, Tensor pre, Stream& stream) {
    const int64_t N = dout.rows(), OC = dout.cols(), IC = weight.cols();
    ENSURE(dpre.is({N, IC}) && dpre.contiguous() && pre.is({N, IC}) && pre.contiguous());
    ENSURE(dout.is({N, OC}) && weight.is({OC, IC}));
    ENSURE(dpre.dtype == dout.dtype && pre.dtype == dout.dtype && goes_beside(weight, dout.dtype));
    if (stream.on_gpu()) return gpu::linear_gelu_backward_input(dpre, dout, weight, pre, stream);
    linear_backward_input(dpre, dout, weight, stream);
    gelu_backward(dpre, dpre, pre, stream);
}

void set_gemm_engine(GemmEngine engine) {
    if (engine == GemmEngine::onednn && cpu::onednn_version().empty())
        throw Error(ExitCode::usage, "this build has no oneDNN",
                    "install it (sh scripts/setup.sh) and build again, or choose our own product");
    if (engine == GemmEngine::onednn && !cpu::onednn_usable())
        throw Error(ExitCode::usage, "oneDNN's matrix product on this processor gives results that depend on the number of threads",
                    "choose our own product");
    if (engine == GemmEngine::cublaslt && !gpu::cublaslt_version)
        throw Error(ExitCode::usage, "this build has no cuBLASLt",
                    "build with make CUDA=1 where the CUDA toolkit is, or choose our own product");
    cpu::wanted_engine = engine;
}

GemmEngine gemm_engine(Device device) {
    if (cpu::wanted_engine == GemmEngine::own) return GemmEngine::own;
    if (device == Device::cuda) return gpu::cublaslt_version ? GemmEngine::cublaslt : GemmEngine::own;
    return cpu::wanted_engine == GemmEngine::onednn || cpu::onednn_usable() ? GemmEngine::onednn : GemmEngine::own;
}

void check_gemm_engine(Device device) {
    if (device == Device::cuda && cpu::wanted_engine == GemmEngine::onednn)
        throw Error(ExitCode::usage, "--gemm onednn: oneDNN multiplies on a CPU, and this run computes on a GPU",
                    "leave it out, or --device cpu");
    if (device == Device::cpu && cpu::wanted_engine == GemmEngine::cublaslt)
        throw Error(ExitCode::usage, "--gemm cublaslt: cuBLASLt multiplies on a GPU, and this run computes on the CPU",
                    "leave it out, or --device cuda");
}

std::string gemm_engine_name(Device device, Dtype activations) {
    if (device == Device::cuda)
        return gemm_engine(device) == GemmEngine::cublaslt ? "cuBLASLt " + gpu::cublaslt_version() : "own (tensor cores)";
    const bool narrow = activations == Dtype::bf16;
    if (gemm_engine() == GemmEngine::onednn && (!narrow || cpu::onednn_multiplies_bf16()))
        return "oneDNN " + cpu::onednn_version() + (narrow ? " (bf16)" : "");
    switch (cpu::best_simd()) {
        case cpu::Simd::avx512:
            return "own (AVX-512)";
        case cpu::Simd::avx2:
            return "own (AVX2)";
        case cpu::Simd::portable:
            return "own (portable)";
    }
    return "own";
}

void set_f32_products(F32Products products) { cpu::wanted_products = products; }
F32Products f32_products() { return cpu::wanted_products; }

double matmul_seconds() { return cpu::seconds; }
double matmul_flops() { return cpu::flops; }

}  // namespace traincu
