#include "kernels/matmul.h"

#include <doctest/doctest.h>
#include <omp.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "kernels/activation.h"
#include "kernels/gemm_cpu.h"
#include "tests/kernels/bits.h"
#include "tests/support/files.h"
#include "tests/support/numeric.h"

using namespace traincu;
using test::allowed;
using test::on_gpu;
using test::Pool;
using test::relative_error;
using test::test_dtypes;
using test::test_stream;

namespace {

double at(const Tensor& t, int64_t row, int64_t col) { return Pool::get(t, row * t.row_stride + col); }

bool same_bits(const Tensor& a, const Tensor& b) {
    return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

// The rows and columns of a view as a contiguous tensor.
Tensor packed(Pool& pool, const Tensor& view) {
    Tensor t = pool.zeros(view.dtype, {view.rows(), view.cols()});
    for (int64_t i = 0; i < t.numel(); i++) Pool::set(t, i, at(view, i / t.cols(), i % t.cols()));
    return t;
}

// The oracle: element (m,n) = start(m,n) + sum over k of a(m,k) b(k,n), summed one by one in the type Sum.
template <class Sum, class Start, class A, class B>
Tensor brute_force(Pool& pool, int64_t M, int64_t N, int64_t K, Start start, A a, B b) {
    Tensor c = pool.poison(Dtype::f64, {M, N});
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            Sum sum = static_cast<Sum>(start(m, n));
            for (int64_t k = 0; k < K; k++) sum += static_cast<Sum>(a(m, k)) * static_cast<Sum>(b(k, n));
            Pool::set(c, m * N + n, static_cast<double>(sum));
        }
    return c;
}

// GELU in its tanh form and its derivative, in the type R.
template <class R>
R gelu(R x) {
    return R(0.5) * x * (1 + std::tanh(R(0.7978845608028654) * (x + R(0.044715) * x * x * x)));
}
template <class R>
R gelu_slope(R x) {
    const R k = R(0.7978845608028654), t = std::tanh(k * (x + R(0.044715) * x * x * x));
    return R(0.5) * (1 + t) + R(0.5) * x * (1 - t * t) * k * (1 + 3 * R(0.044715) * x * x);
}

// Every engine that this executable and processor have.
std::vector<GemmEngine> engines() {
    std::vector<GemmEngine> all = {GemmEngine::own};
    if (on_gpu()) {
        if (gpu::cublaslt_version) all.push_back(GemmEngine::cublaslt);
    } else if (cpu::onednn_usable()) {
        all.push_back(GemmEngine::onednn);
    }
    return all;
}

std::string engine_name() { return gemm_engine_name(test::test_device()); }

// The operations on the tests' device, and the wait for their results.
void forward(Tensor out, Tensor inp, Tensor weight, Tensor bias) {
    linear_forward(out, inp, weight, bias, test_stream());
    test_stream().synchronize();
}
void backward_input(Tensor dinp, Tensor dout, Tensor weight) {
    linear_backward_input(dinp, dout, weight, test_stream());
    test_stream().synchronize();
}
void backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor inp, int64_t unit_rows) {
    linear_backward_weight(dweight, dbias, dout, inp, unit_rows, test_stream());
    test_stream().synchronize();
}

// Settings of one test that are put back at its end.
struct Settings {
    int threads = omp_get_max_threads();
    ~Settings() {
        omp_set_num_threads(threads);
        set_gemm_engine(GemmEngine::automatic);
    }
};

// A (rows, cols) slice of a wider buffer whose other columns are NaN and must stay so: `before` columns, then the slice, then `after`.
struct Slice {
    Tensor wide, inner;
    Slice(Pool& pool, Dtype dtype, int64_t rows, int64_t before, int64_t cols, int64_t after)
        : wide(pool.poison(dtype, {rows, before + cols + after})), inner(wide.slice_cols(before, cols)) {}
    Slice& set(const Tensor& values) {
        for (int64_t i = 0; i < values.numel(); i++)
            Pool::set(inner, i / inner.cols() * inner.row_stride + i % inner.cols(), Pool::get(values, i));
        return *this;
    }
    bool gaps_untouched() const {
        const int64_t before = (static_cast<std::byte*>(inner.data) - static_cast<std::byte*>(wide.data)) / size_of(wide.dtype);
        for (int64_t r = 0; r < wide.rows(); r++)
            for (int64_t c = 0; c < wide.cols(); c++)
                if ((c < before || c >= before + inner.cols()) && !std::isnan(at(wide, r, c))) return false;
        return true;
    }
};

struct Shape {
    int64_t N, OC, IC;
    int64_t gap = 0;  // multiples of 8: rows begin at multiples of 16 bytes, as slices of packed buffers do; else they do not
};
std::vector<Shape> odd_shapes() {
    if (!on_gpu())
        return {{1, 1, 1, 3},     {7, 17, 63, 3},   {17, 7, 1, 3},    {1, 129, 65, 3},  {65, 1, 129, 3},  {63, 65, 17, 3},
                {129, 63, 65, 3}, {13, 33, 385, 3}, {12, 32, 384, 3}, {65, 72, 136, 8}, {130, 4100, 7, 3}};
    return {{1, 1, 1, 3},
            {7, 17, 63, 3},
            {17, 7, 1, 3},
            {1, 129, 65, 3},
            {65, 1, 129, 3},
            {63, 65, 17, 3},
            {129, 33, 65, 3},
            {13, 33, 200, 3},
            {5, 16, 24, 8},
            {65, 72, 136, 8},
            {33, 40, 64, 0},
            {gpu::device_info().multiprocessors * int64_t{64} + 40, 136, 72, 8}};  // enough tiles of 128x128 for every multiprocessor
}
// What the library refuses is ours: a few such cases are enough.
bool repeats_own(GemmEngine engine, const Shape& s) { return engine == GemmEngine::cublaslt && s.gap % 8 != 0 && s.N > 7; }

}  // namespace

TEST_SUITE("matmul") {
    TEST_CASE("linear: forward and backward agree with a double loop, over odd shapes and strided views, on every engine") {
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (const Shape& s : odd_shapes())
                    for (bool with_bias : {false, true}) {
                        if (repeats_own(engine, s) || (on_gpu() && !with_bias && s.N > 17)) continue;
                        set_gemm_engine(engine);
                        INFO(engine_name(), " ", std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC, " ", with_bias);
                        Pool pool;
                        Slice inp_slice(pool, dtype, s.N, s.gap, s.IC, s.gap), out_slice(pool, dtype, s.N, s.gap, s.OC, 2 * s.gap);
                        Slice dinp_slice(pool, dtype, s.N, 2 * s.gap, s.IC, s.gap);
                        const Tensor inp = inp_slice.set(pool.normal(dtype, {s.N, s.IC})).inner, out = out_slice.inner,
                                     dinp = dinp_slice.inner;
                        Tensor weight = pool.normal(dtype, {s.OC, s.IC}), bias = with_bias ? pool.normal(dtype, {s.OC}) : Tensor();

                        // `naive` is what a plain loop in f32 gives, rounded to the type of the result. Where that happens to be exact, a
                        // rounding is still allowed; of the few sums of a small result it may well be, so K of them may walk at random.
                        auto check = [&](const Tensor& got, int64_t K, auto start, auto a, auto b) {
                            int64_t M = got.rows(), N = got.cols();
                            Tensor exact = brute_force<double>(pool, M, N, K, start, a, b);
                            Tensor naive = pool.copy(brute_force<float>(pool, M, N, K, start, a, b), got.dtype);
                            double naive_error = got.dtype == Dtype::f64 ? 0 : relative_error(naive, exact);
                            double rounding = got.dtype == Dtype::f64 ? 4e-15
                                              : M * N < 8             ? 1.2e-7 * std::sqrt(static_cast<double>(K))
                                                                      : 1.2e-7;
                            CHECK(relative_error(packed(pool, got), exact) <= 2 * naive_error + rounding);
                        };
                        forward(out, inp, weight, bias);
                        check(
                            out, s.IC, [&](int64_t, int64_t o) { return bias ? Pool::get(bias, o) : 0.0; },
                            [&](int64_t n, int64_t i) { return at(inp, n, i); }, [&](int64_t i, int64_t o) { return at(weight, o, i); });

                        const Tensor dout = out;
                        backward_input(dinp, dout, weight);
                        check(
                            dinp, s.OC, [](int64_t, int64_t) { return 0.0; }, [&](int64_t n, int64_t o) { return at(dout, n, o); },
                            [&](int64_t o, int64_t i) { return at(weight, o, i); });

                        const Dtype sums = statistics_of(dtype);
                        Tensor dweight = pool.normal(sums, {s.OC, s.IC}), before = pool.copy(dweight, sums);
                        Tensor dbias = with_bias ? pool.filled(sums, {s.OC}, 0.5) : Tensor();
                        backward_weight(dweight, dbias, dout, inp, 0);
                        check(
                            dweight, s.N, [&](int64_t o, int64_t i) { return at(before, o, i); },
                            [&](int64_t o, int64_t n) { return at(dout, n, o); }, [&](int64_t n, int64_t i) { return at(inp, n, i); });
                        if (with_bias)
                            check(
                                dbias.view({s.OC}), s.N, [](int64_t, int64_t) { return 0.5; },
                                [&](int64_t o, int64_t n) { return at(dout, n, o); }, [](int64_t, int64_t) { return 1.0; });
                        CHECK(inp_slice.gaps_untouched());
                        CHECK(out_slice.gaps_untouched());
                        CHECK(dinp_slice.gaps_untouched());
                    }
    }

    TEST_CASE("linear: small whole numbers give exact results, in every unit, however the rows lie") {
        // -1, 0, 1: sums of up to 256 of them are whole numbers that even bf16 holds.
        Settings settings;
        struct Case {
            Shape shape;
            int64_t unit;
        };
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (const auto& [s, unit] : {Case{{150, 40, 72, 8}, 0}, Case{{150, 40, 72, 8}, 64}, Case{{150, 39, 71, 1}, 0},
                                              Case{{130, 39, 17, 1}, 50}, Case{{200, 144, 136, 16}, 70}, Case{{9, 8, 8, 0}, 1}}) {
                    if (repeats_own(engine, s)) continue;
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC, " ", s.gap, " ", unit);
                    Pool pool;
                    auto operand = [&](int64_t rows, int64_t cols) {
                        Tensor values = pool.copy(pool.integers({rows, cols}, 3), dtype);
                        for (int64_t i = 0; i < values.numel(); i++) Pool::set(values, i, Pool::get(values, i) - 1);
                        return Slice(pool, dtype, rows, s.gap, cols, s.gap).set(values).inner;
                    };
                    const Tensor inp = operand(s.N, s.IC), dout = operand(s.N, s.OC), weight = operand(s.OC, s.IC);
                    const Tensor out = Slice(pool, dtype, s.N, s.gap, s.OC, s.gap).inner,
                                 dinp = Slice(pool, dtype, s.N, 0, s.IC, s.gap).inner;
                    Tensor dweight = pool.filled(statistics_of(dtype), {s.OC, s.IC}, 7),
                           dbias = pool.filled(statistics_of(dtype), {s.OC}, 5);
                    forward(out, inp, weight, {});
                    backward_input(dinp, dout, weight);
                    backward_weight(dweight, dbias, dout, inp, unit);
                    auto differences = [&](const Tensor& got, int64_t K, double start, auto a, auto b) {
                        const Tensor exact = brute_force<double>(
                            pool, got.rows(), got.cols(), K, [&](int64_t, int64_t) { return start; }, a, b);
                        return relative_error(packed(pool, got), exact);
                    };
                    auto x = [&](int64_t n, int64_t i) { return at(inp, n, i); };
                    auto dy = [&](int64_t n, int64_t o) { return at(dout, n, o); };
                    auto dy_t = [&](int64_t o, int64_t n) { return at(dout, n, o); };
                    CHECK(differences(out, s.IC, 0, x, [&](int64_t i, int64_t o) { return at(weight, o, i); }) == 0);
                    CHECK(differences(dinp, s.OC, 0, dy, [&](int64_t o, int64_t i) { return at(weight, o, i); }) == 0);
                    CHECK(differences(dweight, s.N, 7, dy_t, x) == 0);
                    CHECK(differences(dbias.view({s.OC}), s.N, 5, dy_t, [](int64_t, int64_t) { return 1.0; }) == 0);
                }
    }

    TEST_CASE("linear + gelu: agree with plain loops, over odd shapes and strided views, and give the same bits again, on every engine") {
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (const Shape& s :
                     {Shape{1, 1, 1, 3}, {7, 17, 63, 3}, {33, 9, 20, 1}, {17, 40, 24, 8}, {65, 72, 136, 8}, {33, 40, 64, 0}})
                    for (bool with_bias : {false, true}) {
                        set_gemm_engine(engine);
                        INFO(engine_name(), " ", std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC, " ", with_bias);
                        // forward: (N,IC) -> (N,OC); backward: (N,IC) -> (N,OC), through a weight (IC,OC)
                        Pool pool;
                        Slice inp_slice(pool, dtype, s.N, s.gap, s.IC, s.gap), dout_slice(pool, dtype, s.N, 2 * s.gap, s.IC, s.gap);
                        const Tensor inp = inp_slice.set(pool.normal(dtype, {s.N, s.IC})).inner,
                                     dout = dout_slice.set(pool.normal(dtype, {s.N, s.IC})).inner;
                        const double scale = 1.5 / std::sqrt(static_cast<double>(s.IC));
                        Tensor weight = pool.normal(dtype, {s.OC, s.IC}, scale), bias = with_bias ? pool.normal(dtype, {s.OC}) : Tensor();
                        Tensor weight_out = pool.normal(dtype, {s.IC, s.OC}, scale);
                        const auto run = [&] {
                            std::vector<Tensor> results;
                            for (int i = 0; i < 3; i++) results.push_back(pool.poison(dtype, {s.N, s.OC}));
                            linear_gelu_forward(results[1], results[0], inp, weight, bias, test_stream());
                            linear_gelu_backward_input(results[2], dout, weight_out, results[0], test_stream());
                            test_stream().synchronize();
                            return results;
                        };
                        const std::vector<Tensor> first = run(), again = run();
                        for (size_t i = 0; i < first.size(); i++) CHECK(same_bits(first[i], again[i]));

                        // The naive kernels are a loop for the product, whose result is stored, and one for the activation.
                        const auto product = [&]<class Sum>(Sum) {
                            return brute_force<Sum>(
                                pool, s.N, s.OC, s.IC, [&](int64_t, int64_t o) { return bias ? Pool::get(bias, o) : 0.0; },
                                [&](int64_t n, int64_t i) { return at(inp, n, i); },
                                [&](int64_t i, int64_t o) { return at(weight, o, i); });
                        };
                        const auto dact = [&]<class Sum>(Sum) {
                            return brute_force<Sum>(
                                pool, s.N, s.OC, s.IC, [](int64_t, int64_t) { return 0.0; },
                                [&](int64_t n, int64_t i) { return at(dout, n, i); },
                                [&](int64_t i, int64_t o) { return at(weight_out, i, o); });
                        };
                        const auto activated = [&]<class R>(const Tensor& x, R) {
                            Tensor y = pool.zeros(Dtype::f64, {s.N, s.OC});
                            for (int64_t i = 0; i < y.numel(); i++)
                                Pool::set(y, i, static_cast<double>(gelu(static_cast<R>(Pool::get(x, i)))));
                            return y;
                        };
                        const auto times_slope = [&]<class R>(const Tensor& d, R) {
                            Tensor y = pool.zeros(Dtype::f64, {s.N, s.OC});
                            for (int64_t i = 0; i < y.numel(); i++)
                                Pool::set(y, i,
                                          static_cast<double>(static_cast<R>(Pool::get(d, i)) *
                                                              gelu_slope(static_cast<R>(Pool::get(first[0], i)))));
                            return y;
                        };
                        const auto check = [&](const Tensor& got, const Tensor& exact, const Tensor& naive) {
                            const double naive_error = dtype == Dtype::f64 ? 0 : relative_error(pool.copy(naive, dtype), exact);
                            CHECK(relative_error(got, exact) <= (dtype == Dtype::f64 ? 4e-15 : allowed(naive_error, got.numel(), dtype)));
                        };
                        check(first[0], product(0.0), product(0.0f));
                        check(first[1], activated(product(0.0), 0.0), activated(pool.copy(product(0.0f), dtype), 0.0f));
                        check(first[2], times_slope(dact(0.0), 0.0), times_slope(pool.copy(dact(0.0f), dtype), 0.0f));
                        CHECK(inp_slice.gaps_untouched());
                        CHECK(dout_slice.gaps_untouched());
                    }
    }

    TEST_CASE(
        "linear + gelu: without the library, the bits of the operations one after the other; no rows are no work; shapes are checked") {
        Settings settings;
        set_gemm_engine(GemmEngine::own);
        for (Dtype dtype : test_dtypes())
            for (int64_t N : {0, 17}) {
                Pool pool;
                Stream& stream = test_stream();
                Tensor inp = pool.normal(dtype, {N, 24}), weight = pool.normal(dtype, {40, 24}), bias = pool.normal(dtype, {40});
                Tensor dout = pool.normal(dtype, {N, 24}), weight_out = pool.normal(dtype, {24, 40});
                const auto result = [&] { return pool.poison(dtype, {N, 40}); };
                Tensor pre = result(), out = result(), dpre = result(), pre_apart = result(), out_apart = result(), dact = result(),
                       dpre_apart = result();
                linear_gelu_forward(out, pre, inp, weight, bias, stream);
                linear_gelu_backward_input(dpre, dout, weight_out, pre, stream);
                linear_forward(pre_apart, inp, weight, bias, stream);
                gelu_forward(out_apart, pre_apart, stream);
                linear_backward_input(dact, dout, weight_out, stream);
                gelu_backward(dpre_apart, dact, pre_apart, stream);
                stream.synchronize();
                CHECK(same_bits(pre, pre_apart));
                CHECK(same_bits(out, out_apart));
                CHECK(same_bits(dpre, dpre_apart));
                if (N == 0) continue;
                CHECK_THROWS_AS(linear_gelu_forward(out.slice_cols(0, 39), pre, inp, weight, bias, stream), std::logic_error);
                CHECK_THROWS_AS(linear_gelu_forward(out, dout, inp, weight, bias, stream), std::logic_error);
                CHECK_THROWS_AS(linear_gelu_backward_input(dpre, dout, weight_out, dout, stream), std::logic_error);
            }
    }

    TEST_CASE("linear + gelu: backward is the gradient of forward (central differences in f64)") {
        if (on_gpu()) return;  // has no f64
        Pool pool;
        constexpr int64_t N = 6, C = 5, F = 7;
        Tensor inp = pool.normal(Dtype::f64, {N, C}), weight = pool.normal(Dtype::f64, {F, C}),
               weight_out = pool.normal(Dtype::f64, {C, F});
        Tensor dout = pool.normal(Dtype::f64, {N, C}), pre = pool.poison(Dtype::f64, {N, F}), act = pool.poison(Dtype::f64, {N, F});
        Tensor out = pool.poison(Dtype::f64, {N, C}), dpre = pool.poison(Dtype::f64, {N, F}), dinp = pool.poison(Dtype::f64, {N, C});
        auto loss = [&] {
            linear_gelu_forward(act, pre, inp, weight, {}, test_stream());
            forward(out, act, weight_out, {});
            double sum = 0;
            for (int64_t i = 0; i < out.numel(); i++) sum += Pool::get(out, i) * Pool::get(dout, i);
            return sum;
        };
        loss();
        linear_gelu_backward_input(dpre, dout, weight_out, pre, test_stream());
        backward_input(dinp, dpre, weight);
        CHECK(test::gradient_error(loss, inp, dinp) < 1e-8);
    }

    TEST_CASE("gemm: small whole numbers give exact results, for every instruction set, layout, cut of K and shape") {
        if (on_gpu()) return;  // of the CPU's product
        for (cpu::Simd simd : {cpu::Simd::portable, cpu::Simd::avx2, cpu::Simd::avx512}) {
            if (!cpu::has_simd(simd)) continue;
            struct Case {
                int64_t M, N, K, unit;
            };
            for (Case s : {Case{1, 1, 1, 0},
                           {11, 31, 383, 0},
                           {13, 33, 385, 100},
                           {12, 32, 384, 0},
                           {25, 200, 900, 256},
                           {200, 25, 900, 0},
                           {3, 4200, 5, 2},
                           {4300, 9, 6, 0},
                           {4100, 4100, 2, 0},
                           {30, 20, 50000, 20000}})
                for (int layout = 0; layout < 8; layout++) {
                    INFO(static_cast<int>(simd), " ", s.M, " ", s.N, " ", s.K, " ", s.unit, " ", layout);
                    const bool a_transposed = layout & 1, b_transposed = layout & 2, accumulate = layout & 4;
                    if (std::max(s.M, s.N) * std::max(s.N, s.K) > 1000000 && layout != 3 && layout != 4) continue;  // large: two are enough
                    Pool pool;
                    auto operand = [&](int64_t rows, int64_t cols, int64_t below) {
                        Tensor t = pool.integers({rows, cols + 1}, below);  // rows one element longer than the matrix
                        return pool.copy(t, Dtype::f32);
                    };
                    Tensor a = a_transposed ? operand(s.K, s.M, 5) : operand(s.M, s.K, 5);
                    Tensor b = b_transposed ? operand(s.N, s.K, 3) : operand(s.K, s.N, 3);
                    Tensor c = accumulate ? pool.filled(Dtype::f32, {s.M, s.N}, 7) : pool.poison(Dtype::f32, {s.M, s.N});
                    auto matrix = [](const Tensor& t, bool transposed) -> cpu::Matrix<float> {
                        return transposed ? cpu::Matrix<float>{t.as<float>(), 1, t.row_stride}
                                          : cpu::Matrix<float>{t.as<float>(), t.row_stride, 1};
                    };
                    cpu::Matrix<float> ma = matrix(a, a_transposed), mb = matrix(b, b_transposed);
                    cpu::gemm(s.M, s.N, s.K, ma, mb, c.as<float>(), s.N, {.accumulate = accumulate, .unit = s.unit, .simd = simd});
                    int64_t wrong = 0;
                    std::vector<float> expected(static_cast<size_t>(s.N));
                    for (int64_t m = 0; m < s.M; m++) {
                        std::fill(expected.begin(), expected.end(), accumulate ? 7.0f : 0.0f);
                        for (int64_t k = 0; k < s.K; k++)
                            for (int64_t n = 0; n < s.N; n++)
                                expected[static_cast<size_t>(n)] +=
                                    ma.data[m * ma.row_stride + k * ma.col_stride] * mb.data[k * mb.row_stride + n * mb.col_stride];
                        for (int64_t n = 0; n < s.N; n++) wrong += c.as<float>()[m * s.N + n] != expected[static_cast<size_t>(n)];
                    }
                    CHECK(wrong == 0);
                }
        }
    }

    TEST_CASE("linear: one shape with other strides, with and without bias, in turns") {
        Settings settings;
        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            Pool pool;
            Tensor inp = pool.normal(Dtype::f32, {20, 90}), weight = pool.normal(Dtype::f32, {40, 90}),
                   bias = pool.normal(Dtype::f32, {40});
            auto run = [&](int64_t inp_begin, int64_t weight_begin, int64_t out_width, const Tensor& added) {
                Tensor out = pool.poison(Dtype::f32, {20, out_width}).slice_cols(0, 40);
                Tensor x = packed(pool, inp.slice_cols(inp_begin, 30)), w = packed(pool, weight.slice_cols(weight_begin, 30));
                forward(out, inp_begin ? inp.slice_cols(inp_begin, 30) : x, weight_begin ? weight.slice_cols(weight_begin, 30) : w, added);
                Tensor exact = brute_force<double>(
                    pool, 20, 40, 30, [&](int64_t, int64_t o) { return added ? Pool::get(added, o) : 0.0; },
                    [&](int64_t n, int64_t i) { return at(x, n, i); }, [&](int64_t i, int64_t o) { return at(w, o, i); });
                CHECK(relative_error(packed(pool, out), exact) < 1e-6);
            };
            for (int round = 0; round < 2; round++)
                for (int64_t inp_begin : {0, 30})
                    for (int64_t weight_begin : {0, 60})
                        for (int64_t out_width : {40, 57}) {
                            run(inp_begin, weight_begin, out_width, {});
                            run(inp_begin, weight_begin, out_width, bias);
                        }
        }
    }

    TEST_CASE("gemm: AVX2 and AVX-512 give the same bits") {
        if (on_gpu()) return;  // of the CPU's product
        if (!cpu::has_simd(cpu::Simd::avx512) || !cpu::has_simd(cpu::Simd::avx2)) return;
        Pool pool;
        Tensor a = pool.normal(Dtype::f32, {77, 1000}), b = pool.normal(Dtype::f32, {90, 1000}), bias = pool.normal(Dtype::f32, {90});
        Tensor c = pool.poison(Dtype::f32, {77, 90}), d = pool.poison(Dtype::f32, {77, 90});
        auto run = [&](const Tensor& out, cpu::Simd simd) {
            cpu::gemm(77, 90, 1000, {a.as<float>(), 1000, 1}, {b.as<float>(), 1, 1000}, out.as<float>(), 90,
                      {.bias = bias.as<float>(), .simd = simd});
        };
        run(c, cpu::Simd::avx2), run(d, cpu::Simd::avx512);
        CHECK(same_bits(c, d));
    }

    TEST_CASE("linear: the bits do not depend on the number of threads, nor on the order in which a GPU's blocks and warps run") {
        Settings settings;
        const std::vector<Shape> shapes =
            on_gpu() ? std::vector<Shape>{{140, 65, 40}, {264, 64, 40}}
                     : std::vector<Shape>{{300, 65, 129}, {1030, 64, 64}, {1030, 17, 63}, {5, 500, 300}, {64, 33, 2000}};
        const std::vector<int> thread_counts = on_gpu() ? std::vector{2} : std::vector{2, 3, 8};
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (const Shape& s : shapes) {
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC);
                    Pool pool;
                    const Dtype sums = statistics_of(dtype);
                    Tensor inp = pool.normal(dtype, {s.N, s.IC}), weight = pool.normal(dtype, {s.OC, s.IC}),
                           bias = pool.normal(dtype, {s.OC});
                    Tensor dout = pool.normal(dtype, {s.N, s.OC});
                    auto run = [&](int threads, int64_t unit) {
                        omp_set_num_threads(threads);
                        std::vector<Tensor> results = {pool.poison(dtype, {s.N, s.OC}), pool.poison(dtype, {s.N, s.IC}),
                                                       pool.filled(sums, {s.OC, s.IC}, 0.25), pool.filled(sums, {s.OC}, 0.25)};
                        forward(results[0], inp, weight, bias);
                        backward_input(results[1], dout, weight);
                        backward_weight(results[2], results[3], dout, inp, unit);
                        return results;
                    };
                    for (int64_t unit : {int64_t{0}, int64_t{256}}) {
                        std::vector<Tensor> one = run(1, unit);
                        for (int threads : thread_counts) {
                            std::vector<Tensor> many = run(threads, unit);
                            for (size_t i = 0; i < one.size(); i++) {
                                INFO("threads ", threads, " unit ", unit, " result ", i);
                                CHECK(same_bits(one[i], many[i]));
                            }
                        }
                    }
                }
    }

    TEST_CASE("linear: a row's bits do not depend on how many rows there are") {
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes()) {
                if (engine == GemmEngine::cublaslt) continue;  // the library chooses another kernel for another shape
                set_gemm_engine(engine);
                Pool pool;
                const int64_t N = 150, OC = on_gpu() ? 200 : 97, IC = on_gpu() ? 72 : 800;  // on a GPU: tiles of both sizes
                Tensor inp = pool.normal(dtype, {N, IC}), weight = pool.normal(dtype, {OC, IC}), bias = pool.normal(dtype, {OC});
                Tensor all = pool.poison(dtype, {N, OC}), dinp = pool.poison(dtype, {N, IC});
                forward(all, inp, weight, bias);
                backward_input(dinp, all, weight);
                for (int64_t rows : on_gpu() ? std::vector<int64_t>{1, 64, 149} : std::vector<int64_t>{1, 2, 11, 64, 149})
                    for (int64_t begin : {int64_t{0}, int64_t{1}}) {
                        INFO(engine_name(), " ", std::string(name_of(dtype)), " ", rows, " ", begin);
                        Tensor few = pool.poison(dtype, {rows, OC}), dfew = pool.poison(dtype, {rows, IC});
                        forward(few, inp.slice_rows(begin, rows), weight, bias);
                        backward_input(dfew, all.slice_rows(begin, rows), weight);
                        CHECK(same_bits(few, all.slice_rows(begin, rows)));
                        CHECK(same_bits(dfew, dinp.slice_rows(begin, rows)));
                    }
            }
    }

    TEST_CASE("linear: the weight's gradient has the same bits however the units are split into calls") {
        Settings settings;
        const std::vector<int64_t> units = on_gpu() ? std::vector<int64_t>{1, 7, 48, 300} : std::vector<int64_t>{1, 7, 48, 500};
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes())
                for (int64_t unit : units) {
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", unit);
                    Pool pool;
                    const int64_t N = (on_gpu() ? 4 : 8) * unit, OC = on_gpu() ? 72 : 65, IC = on_gpu() ? 40 : 34;
                    const Dtype sums_type = statistics_of(dtype);
                    Tensor dout = pool.normal(dtype, {N, OC}), inp = pool.normal(dtype, {N, IC});
                    auto run = [&](int64_t rows_per_call) {
                        std::vector<Tensor> sums = {pool.filled(sums_type, {OC, IC}, 0.125), pool.filled(sums_type, {OC}, 0.125)};
                        for (int64_t n = 0; n < N; n += rows_per_call)
                            backward_weight(sums[0], sums[1], dout.slice_rows(n, rows_per_call), inp.slice_rows(n, rows_per_call), unit);
                        return sums;
                    };
                    std::vector<Tensor> at_once = run(N), one_by_one = run(unit), in_twos = run(2 * unit);
                    for (size_t i = 0; i < 2; i++) {
                        CHECK(same_bits(at_once[i], one_by_one[i]));
                        CHECK(same_bits(at_once[i], in_twos[i]));
                    }
                    // unit_rows = 0 is one unit.
                    Tensor whole = pool.zeros(sums_type, {OC, IC}), one_unit = pool.zeros(sums_type, {OC, IC});
                    backward_weight(whole, {}, dout, inp, 0);
                    backward_weight(one_unit, {}, dout, inp, N);
                    CHECK(same_bits(whole, one_unit));
                }
    }

    TEST_CASE("linear: a unit is summed on its own before it is added") {
        // Units of two rows with the products 1 and 2 on top of 2^24: unit by unit, 2^24 + 3 rounds to 2^24 + 4; one by one, to 2^24 + 2.
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype dtype : test_dtypes()) {
                if (dtype == Dtype::f64) continue;  // has all the digits
                for (int64_t width : {1, 8}) {
                    set_gemm_engine(engine);
                    INFO(engine_name(), " ", std::string(name_of(dtype)), " ", width);
                    Pool pool;
                    Tensor dout = pool.filled(dtype, {6, width}, 1), inp = pool.filled(dtype, {6, width}, 1);
                    for (int64_t n : {1, 3, 5})
                        for (int64_t c = 0; c < width; c++) Pool::set(dout, n * width + c, 2);
                    Tensor dweight = pool.filled(Dtype::f32, {width, width}, 16777216), dbias = pool.filled(Dtype::f32, {width}, 16777216);
                    backward_weight(dweight, dbias, dout, inp, 2);
                    CHECK(Pool::get(dweight, 0) == 16777216 + 12);
                    CHECK(Pool::get(dbias, 0) == 16777216 + 12);
                    dweight = pool.filled(Dtype::f32, {width, width}, 16777216);
                    backward_weight(dweight, {}, dout, inp, 0);
                    CHECK(Pool::get(dweight, 0) == 16777216 + 8);  // 9, a tie, to even
                }
            }
    }

    TEST_CASE("linear: a bias gradient of many columns goes through a workspace of few") {
        if (!on_gpu()) return;
        Pool pool;
        const int64_t N = 520, OC = 1000;
        Stream small(Device::cuda, 3 * 512 * 4);  // 3 partial sums of up to 512 columns
        for (Dtype dtype : test_dtypes()) {
            Tensor dout = pool.filled(dtype, {N, OC}, 1), inp = pool.filled(dtype, {N, 8}, 1);
            for (int64_t i = 0; i < dout.numel(); i++) Pool::set(dout, i, static_cast<double>(i % OC % 7));
            Tensor dweight = pool.zeros(Dtype::f32, {OC, 8}), dbias = pool.zeros(Dtype::f32, {OC});
            set_gemm_engine(GemmEngine::own);
            linear_backward_weight(dweight, dbias, dout, inp, 0, small);
            small.synchronize();
            set_gemm_engine(GemmEngine::automatic);
            int64_t wrong = 0;
            for (int64_t c = 0; c < OC; c++) wrong += Pool::get(dbias, c) != static_cast<double>(N * (c % 7));
            CHECK(wrong == 0);
        }
    }

    TEST_CASE("linear: cuBLASLt and our own product agree, with bias gradients by the library, by us, and with no room for them") {
        if (!gpu::cublaslt_version) return;
        Settings settings;
        for (Dtype dtype : test_dtypes())
            for (const auto& [workspace, OC] : {std::pair<int64_t, int64_t>{4 << 20, 72}, {4 << 20, 65}, {24 << 10, 72}, {3 << 10, 72}}) {
                INFO(std::string(name_of(dtype)), " ", workspace, " ", OC);
                Pool pool;
                const int64_t N = 100, IC = 40, unit = 32, wide = 72;  // units of 32, 32, 32 and 4 rows
                Stream stream(Device::cuda, workspace);
                Tensor inp = pool.normal(dtype, {N, IC}), weight = pool.normal(dtype, {OC, IC}), bias = pool.normal(dtype, {OC});
                Tensor dout = pool.normal(dtype, {N, wide}).slice_cols(0, OC);
                auto run = [&](GemmEngine engine) {
                    set_gemm_engine(engine);
                    std::vector<Tensor> results = {pool.poison(dtype, {N, wide}).slice_cols(0, OC), pool.poison(dtype, {N, IC}),
                                                   pool.filled(Dtype::f32, {OC, IC}, 0.25), pool.filled(Dtype::f32, {OC}, 0.25)};
                    linear_forward(results[0], inp, weight, bias, stream);
                    linear_backward_input(results[1], dout, weight, stream);
                    linear_backward_weight(results[2], results[3], dout, inp, unit, stream);
                    stream.synchronize();
                    results[0] = packed(pool, results[0]);
                    return results;
                };
                const std::vector<Tensor> own = run(GemmEngine::own), library = run(GemmEngine::cublaslt),
                                          again = run(GemmEngine::cublaslt);
                for (size_t i = 0; i < own.size(); i++) {
                    INFO("result ", i);
                    CHECK(relative_error(library[i], own[i]) < (i < 2 && dtype == Dtype::bf16 ? 0x1p-8 : 1e-6));
                    CHECK(same_bits(library[i], again[i]));
                }
            }
    }

    TEST_CASE(
        "linear: what cuBLASLt's algorithms were measured to be is read by the next process, and measured again if it is not theirs") {
        if (!gpu::cublaslt_version) return;
        test::TempDir dir;
        const std::string path = dir / "train.cu/gemm.json";
        auto run = [&] {
            return std::system(("TEST_CACHE_HOME=" + dir.path + " '" + test::fs::read_symlink("/proc/self/exe").string() +
                                "' -tc='linear: a unit is summed on its own*' > " + (dir / "output"))
                                   .c_str());
        };
        REQUIRE(run() == 0);
        const std::string first = test::read_file(path);
        CHECK(first.find("f32 NT 8x8x2") != std::string::npos);
        const auto written = test::fs::last_write_time(path);
        REQUIRE(run() == 0);
        CHECK(test::read_file(path) == first);
        CHECK(test::fs::last_write_time(path) == written);
        nlohmann::json file = nlohmann::json::parse(first);
        for (auto& choice : file["choices"])
            for (auto& number : choice) number = 12345;  // of no algorithm
        const std::string wrong = file.dump(1) + "\n";
        test::write_file(path, wrong);
        REQUIRE(run() == 0);
        CHECK(test::read_file(path) != wrong);
    }

    TEST_CASE("linear: cuBLASLt takes products with a bias") {
        if (!gpu::cublaslt_version) return;
        test::TempDir dir;
        REQUIRE(std::system(("TEST_CACHE_HOME=" + dir.path + " '" + test::fs::read_symlink("/proc/self/exe").string() +
                             "' -tc='linear: cuBLASLt and our own product agree*' > " + (dir / "output"))
                                .c_str()) == 0);
        const std::string choices = test::read_file(dir / "train.cu/gemm.json");
        CHECK(choices.find("bf16->bf16 TN 72x100x40 ld 40,40,72 +bias ") != std::string::npos);
        CHECK(choices.find("f32->f32 TN 72x100x40 ld 40,40,72 +bias ") != std::string::npos);
    }

    TEST_CASE("linear: backward is the gradient of forward (central differences in f64)") {
        if (on_gpu()) return;  // has no f64
        Pool pool;
        constexpr int64_t N = 9, OC = 7, IC = 5;
        Tensor inp = pool.normal(Dtype::f64, {N, IC}), weight = pool.normal(Dtype::f64, {OC, IC}), bias = pool.normal(Dtype::f64, {OC});
        Tensor dout = pool.normal(Dtype::f64, {N, OC}), out = pool.poison(Dtype::f64, {N, OC});
        auto loss = [&] {
            forward(out, inp, weight, bias);
            double sum = 0;
            for (int64_t i = 0; i < out.numel(); i++) sum += Pool::get(out, i) * Pool::get(dout, i);
            return sum;
        };
        Tensor dinp = pool.poison(Dtype::f64, {N, IC}), dweight = pool.zeros(Dtype::f64, {OC, IC}), dbias = pool.zeros(Dtype::f64, {OC});
        backward_input(dinp, dout, weight);
        backward_weight(dweight, dbias, dout, inp, 4);
        CHECK(test::gradient_error(loss, inp, dinp) < 1e-8);
        CHECK(test::gradient_error(loss, weight, dweight) < 1e-8);
        CHECK(test::gradient_error(loss, bias, dbias) < 1e-8);
    }

    TEST_CASE("matmul: no rows are no work, NaN is passed on, time is counted, engines have names") {
        Settings settings;
        Pool pool;
        Tensor weight = pool.normal(Dtype::f32, {5, 3}), dweight = pool.filled(Dtype::f32, {5, 3}, 2);
        forward(pool.zeros(Dtype::f32, {0, 5}), pool.zeros(Dtype::f32, {0, 3}), weight, {});
        backward_weight(dweight, {}, pool.zeros(Dtype::f32, {0, 5}), pool.zeros(Dtype::f32, {0, 3}), 0);
        CHECK(Pool::get(dweight, 14) == 2);

        const Device device = test::test_device();
        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            CHECK(gemm_engine(device) == engine);
            const char* name = engine == GemmEngine::own ? "own (" : engine == GemmEngine::onednn ? "oneDNN " : "cuBLASLt ";
            CHECK(gemm_engine_name(device).rfind(name, 0) == 0);
            Tensor inp = pool.zeros(Dtype::f32, {2, 3}), out = pool.zeros(Dtype::f32, {2, 5});
            Pool::set(inp, 4, std::nan(""));
            double before = matmul_seconds();
            forward(out, inp, weight, {});
            CHECK((matmul_seconds() > before || on_gpu()));
            CHECK(Pool::get(out, 0) == 0);
            CHECK(std::isnan(Pool::get(out, 7)));
        }
        if (!cpu::onednn_usable()) CHECK_THROWS_AS(set_gemm_engine(GemmEngine::onednn), Error);
        if (!gpu::cublaslt_version) CHECK_THROWS_AS(set_gemm_engine(GemmEngine::cublaslt), Error);
    }
}
