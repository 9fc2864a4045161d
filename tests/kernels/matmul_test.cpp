#include "kernels/matmul.h"

#include <doctest/doctest.h>
#include <omp.h>

#include <cstring>

#include "kernels/gemm_cpu.h"
#include "tests/support/numeric.h"

using namespace traincu;
using test::Pool;
using test::relative_error;

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

// Every engine that this build and processor have.
std::vector<GemmEngine> engines() {
    std::vector<GemmEngine> all = {GemmEngine::own};
    if (cpu::onednn_usable()) all.push_back(GemmEngine::onednn);
    return all;
}

// Settings of one test that are put back at its end.
struct Settings {
    int threads = omp_get_max_threads();
    ~Settings() {
        omp_set_num_threads(threads);
        set_gemm_engine(GemmEngine::automatic);
    }
};

struct Shape {
    int64_t N, OC, IC;
};
const Shape odd_shapes[] = {{1, 1, 1},    {7, 17, 63},   {17, 7, 1},    {1, 129, 65},  {65, 1, 129},
                            {63, 65, 17}, {129, 63, 65}, {13, 33, 385}, {12, 32, 384}, {130, 4100, 7}};

}  // namespace

TEST_SUITE("matmul") {
    TEST_CASE("linear: forward and backward agree with a double loop, over odd shapes and strided views, on every engine") {
        Settings settings;
        Stream stream;
        for (GemmEngine engine : engines())
            for (Dtype dtype : {Dtype::f32, Dtype::f64})
                for (Shape s : odd_shapes)
                    for (bool with_bias : {false, true}) {
                        set_gemm_engine(engine);
                        INFO(gemm_engine_name(), " ", name_of(dtype), " ", s.N, " ", s.OC, " ", s.IC, " ", with_bias);
                        Pool pool;
                        // inp and out are slices of wider buffers: what lies beside them is NaN and stays so.
                        Tensor wide_inp = pool.poison(dtype, {s.N, s.IC + 3}), wide_out = pool.poison(dtype, {s.N, s.OC + 5});
                        Tensor inp = wide_inp.slice_cols(2, s.IC), out = wide_out.slice_cols(3, s.OC);
                        Tensor values = pool.normal(dtype, {s.N, s.IC});
                        for (int64_t i = 0; i < values.numel(); i++)
                            Pool::set(inp, i / s.IC * inp.row_stride + i % s.IC, Pool::get(values, i));
                        Tensor weight = pool.normal(dtype, {s.OC, s.IC}), bias = with_bias ? pool.normal(dtype, {s.OC}) : Tensor();

                        auto check = [&](const Tensor& got, int64_t K, auto start, auto a, auto b) {
                            int64_t M = got.rows(), N = got.cols();
                            Tensor exact = brute_force<double>(pool, M, N, K, start, a, b);
                            Tensor naive = brute_force<float>(pool, M, N, K, start, a, b);
                            double naive_error = dtype == Dtype::f32 ? relative_error(naive, exact) : 0;
                            double rounding = dtype == Dtype::f32 ? 1.2e-7 : 4e-15;  // where the naive sums happen to be exact
                            CHECK(relative_error(packed(pool, got), exact) <= 2 * naive_error + rounding);
                        };
                        linear_forward(out, inp, weight, bias, stream);
                        check(
                            out, s.IC, [&](int64_t, int64_t o) { return bias ? Pool::get(bias, o) : 0.0; },
                            [&](int64_t n, int64_t i) { return at(inp, n, i); }, [&](int64_t i, int64_t o) { return at(weight, o, i); });
                        for (int64_t n = 0; n < s.N; n++)
                            for (int64_t c : {int64_t{0}, int64_t{2}, s.OC + 3, s.OC + 4}) CHECK(std::isnan(at(wide_out, n, c)));

                        Tensor dout = out, dinp = pool.poison(dtype, {s.N, s.IC});
                        linear_backward_input(dinp, dout, weight, stream);
                        check(
                            dinp, s.OC, [](int64_t, int64_t) { return 0.0; }, [&](int64_t n, int64_t o) { return at(dout, n, o); },
                            [&](int64_t o, int64_t i) { return at(weight, o, i); });

                        Tensor dweight = pool.normal(dtype, {s.OC, s.IC}), before = pool.copy(dweight, dtype);
                        Tensor dbias = with_bias ? pool.filled(dtype, {s.OC}, 0.5) : Tensor();
                        linear_backward_weight(dweight, dbias, dout, inp, 0, stream);
                        check(
                            dweight, s.N, [&](int64_t o, int64_t i) { return at(before, o, i); },
                            [&](int64_t o, int64_t n) { return at(dout, n, o); }, [&](int64_t n, int64_t i) { return at(inp, n, i); });
                        if (with_bias)
                            check(
                                dbias.view({s.OC}), s.N, [](int64_t, int64_t) { return 0.5; },
                                [&](int64_t o, int64_t n) { return at(dout, n, o); }, [](int64_t, int64_t) { return 1.0; });
                    }
    }

    TEST_CASE("gemm: small whole numbers give exact results, for every instruction set, layout, cut of K and shape") {
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
        Stream stream;
        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            Pool pool;
            Tensor inp = pool.normal(Dtype::f32, {20, 90}), weight = pool.normal(Dtype::f32, {40, 90}),
                   bias = pool.normal(Dtype::f32, {40});
            auto run = [&](int64_t inp_begin, int64_t weight_begin, int64_t out_width, const Tensor& added) {
                Tensor out = pool.poison(Dtype::f32, {20, out_width}).slice_cols(0, 40);
                Tensor x = packed(pool, inp.slice_cols(inp_begin, 30)), w = packed(pool, weight.slice_cols(weight_begin, 30));
                linear_forward(out, inp_begin ? inp.slice_cols(inp_begin, 30) : x, weight_begin ? weight.slice_cols(weight_begin, 30) : w,
                               added, stream);
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

    TEST_CASE("linear: the bits do not depend on the number of threads") {
        Settings settings;
        Stream stream;
        for (GemmEngine engine : engines())
            for (Shape s : {Shape{300, 65, 129}, {1030, 64, 64}, {1030, 17, 63}, {5, 500, 300}, {64, 33, 2000}}) {
                set_gemm_engine(engine);
                INFO(gemm_engine_name(), " ", s.N, " ", s.OC, " ", s.IC);
                Pool pool;
                Tensor inp = pool.normal(Dtype::f32, {s.N, s.IC}), weight = pool.normal(Dtype::f32, {s.OC, s.IC}),
                       bias = pool.normal(Dtype::f32, {s.OC});
                Tensor dout = pool.normal(Dtype::f32, {s.N, s.OC});
                auto run = [&](int threads, int64_t unit) {
                    omp_set_num_threads(threads);
                    std::vector<Tensor> results = {pool.poison(Dtype::f32, {s.N, s.OC}), pool.poison(Dtype::f32, {s.N, s.IC}),
                                                   pool.filled(Dtype::f32, {s.OC, s.IC}, 0.25), pool.filled(Dtype::f32, {s.OC}, 0.25)};
                    linear_forward(results[0], inp, weight, bias, stream);
                    linear_backward_input(results[1], dout, weight, stream);
                    linear_backward_weight(results[2], results[3], dout, inp, unit, stream);
                    return results;
                };
                for (int64_t unit : {int64_t{0}, int64_t{256}}) {
                    std::vector<Tensor> one = run(1, unit);
                    for (int threads : {2, 3, 8}) {
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
        Stream stream;
        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            Pool pool;
            constexpr int64_t N = 150, OC = 97, IC = 800;
            Tensor inp = pool.normal(Dtype::f32, {N, IC}), weight = pool.normal(Dtype::f32, {OC, IC}), bias = pool.normal(Dtype::f32, {OC});
            Tensor all = pool.poison(Dtype::f32, {N, OC}), dinp = pool.poison(Dtype::f32, {N, IC});
            linear_forward(all, inp, weight, bias, stream);
            linear_backward_input(dinp, all, weight, stream);
            for (int64_t rows : {1, 2, 11, 64, 149})
                for (int64_t begin : {int64_t{0}, int64_t{1}}) {
                    INFO(gemm_engine_name(), " ", rows, " ", begin);
                    Tensor few = pool.poison(Dtype::f32, {rows, OC}), dfew = pool.poison(Dtype::f32, {rows, IC});
                    linear_forward(few, inp.slice_rows(begin, rows), weight, bias, stream);
                    linear_backward_input(dfew, all.slice_rows(begin, rows), weight, stream);
                    CHECK(same_bits(few, all.slice_rows(begin, rows)));
                    CHECK(same_bits(dfew, dinp.slice_rows(begin, rows)));
                }
        }
    }

    TEST_CASE("linear: the weight's gradient has the same bits however the units are split into calls") {
        Settings settings;
        Stream stream;
        for (GemmEngine engine : engines())
            for (Dtype dtype : {Dtype::f32, Dtype::f64})
                for (int64_t unit : {1, 7, 48, 500}) {
                    set_gemm_engine(engine);
                    INFO(gemm_engine_name(), " ", name_of(dtype), " ", unit);
                    Pool pool;
                    const int64_t N = 8 * unit, OC = 65, IC = 34;
                    Tensor dout = pool.normal(dtype, {N, OC}), inp = pool.normal(dtype, {N, IC});
                    auto run = [&](int64_t rows_per_call) {
                        std::vector<Tensor> sums = {pool.filled(dtype, {OC, IC}, 0.125), pool.filled(dtype, {OC}, 0.125)};
                        for (int64_t n = 0; n < N; n += rows_per_call)
                            linear_backward_weight(sums[0], sums[1], dout.slice_rows(n, rows_per_call), inp.slice_rows(n, rows_per_call),
                                                   unit, stream);
                        return sums;
                    };
                    std::vector<Tensor> at_once = run(8 * unit), one_by_one = run(unit), in_twos = run(2 * unit);
                    for (size_t i = 0; i < 2; i++) {
                        CHECK(same_bits(at_once[i], one_by_one[i]));
                        CHECK(same_bits(at_once[i], in_twos[i]));
                    }
                    // unit_rows = 0 is one unit.
                    Tensor whole = pool.zeros(dtype, {OC, IC}), one_unit = pool.zeros(dtype, {OC, IC});
                    linear_backward_weight(whole, {}, dout, inp, 0, stream);
                    linear_backward_weight(one_unit, {}, dout, inp, N, stream);
                    CHECK(same_bits(whole, one_unit));
                }
    }

    TEST_CASE("linear: a unit is summed on its own before it is added") {
        // Units of two rows with the products 1 and -1 on top of 2^24: unit by unit nothing is lost; one by one, 2^24 + 1 would be.
        Settings settings;
        Stream stream;
        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            Pool pool;
            Tensor dout = pool.filled(Dtype::f32, {6, 1}, 1), inp = pool.filled(Dtype::f32, {6, 1}, 1);
            for (int64_t n : {1, 3, 5}) Pool::set(dout, n, 2);  // units sum to 3; 2^24 + 3 rounds to 2^24 + 4
            Tensor dweight = pool.filled(Dtype::f32, {1, 1}, 16777216), dbias = pool.filled(Dtype::f32, {1}, 16777216);
            linear_backward_weight(dweight, dbias, dout, inp, 2, stream);
            CHECK(Pool::get(dweight, 0) == 16777216 + 12);
            CHECK(Pool::get(dbias, 0) == 16777216 + 12);
            dweight = pool.filled(Dtype::f32, {1, 1}, 16777216);
            linear_backward_weight(dweight, {}, dout, inp, 0, stream);
            CHECK(Pool::get(dweight, 0) == 16777216 + 8);  // 9, a tie, to even
        }
    }

    TEST_CASE("linear: backward is the gradient of forward (central differences in f64)") {
        Stream stream;
        Pool pool;
        constexpr int64_t N = 9, OC = 7, IC = 5;
        Tensor inp = pool.normal(Dtype::f64, {N, IC}), weight = pool.normal(Dtype::f64, {OC, IC}), bias = pool.normal(Dtype::f64, {OC});
        Tensor dout = pool.normal(Dtype::f64, {N, OC}), out = pool.poison(Dtype::f64, {N, OC});
        auto loss = [&] {
            linear_forward(out, inp, weight, bias, stream);
            double sum = 0;
            for (int64_t i = 0; i < out.numel(); i++) sum += Pool::get(out, i) * Pool::get(dout, i);
            return sum;
        };
        Tensor dinp = pool.poison(Dtype::f64, {N, IC}), dweight = pool.zeros(Dtype::f64, {OC, IC}), dbias = pool.zeros(Dtype::f64, {OC});
        linear_backward_input(dinp, dout, weight, stream);
        linear_backward_weight(dweight, dbias, dout, inp, 4, stream);
        CHECK(test::gradient_error(loss, inp, dinp) < 1e-8);
        CHECK(test::gradient_error(loss, weight, dweight) < 1e-8);
        CHECK(test::gradient_error(loss, bias, dbias) < 1e-8);
    }

    TEST_CASE("matmul: no rows are no work, NaN is passed on, time is counted, engines have names") {
        Settings settings;
        Stream stream;
        Pool pool;
        Tensor weight = pool.normal(Dtype::f32, {5, 3}), dweight = pool.filled(Dtype::f32, {5, 3}, 2);
        linear_forward(pool.zeros(Dtype::f32, {0, 5}), pool.zeros(Dtype::f32, {0, 3}), weight, {}, stream);
        linear_backward_weight(dweight, {}, pool.zeros(Dtype::f32, {0, 5}), pool.zeros(Dtype::f32, {0, 3}), 0, stream);
        CHECK(Pool::get(dweight, 14) == 2);

        for (GemmEngine engine : engines()) {
            set_gemm_engine(engine);
            CHECK(gemm_engine() == engine);
            CHECK(gemm_engine_name().rfind(engine == GemmEngine::own ? "own (" : "oneDNN ", 0) == 0);
            Tensor inp = pool.zeros(Dtype::f32, {2, 3}), out = pool.zeros(Dtype::f32, {2, 5});
            Pool::set(inp, 4, std::nan(""));
            double before = matmul_seconds();
            linear_forward(out, inp, weight, {}, stream);
            CHECK(matmul_seconds() > before);
            CHECK(Pool::get(out, 0) == 0);
            CHECK(std::isnan(Pool::get(out, 7)));
        }
        if (!cpu::onednn_usable()) CHECK_THROWS_AS(set_gemm_engine(GemmEngine::onednn), Error);
    }
}
