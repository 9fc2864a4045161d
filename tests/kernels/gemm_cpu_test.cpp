// Our own product for CPUs, apart from the layers that call it.
#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/kernels/matmul_fixture.h"

namespace traincu::test {

TEST_SUITE("matmul") {
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
                    auto matrix = [](const Tensor& t, bool transposed) -> cpu::Operand {
                        return {t.data, t.dtype, transposed ? 1 : t.row_stride, transposed ? t.row_stride : 1};
                    };
                    cpu::Operand ma = matrix(a, a_transposed), mb = matrix(b, b_transposed);
                    cpu::gemm(s.M, s.N, s.K, ma, mb, c.as<float>(), s.N, {.accumulate = accumulate, .unit = s.unit, .simd = simd});
                    int64_t wrong = 0;
                    std::vector<float> expected(static_cast<size_t>(s.N));
                    for (int64_t m = 0; m < s.M; m++) {
                        std::fill(expected.begin(), expected.end(), accumulate ? 7.0f : 0.0f);
                        for (int64_t k = 0; k < s.K; k++)
                            for (int64_t n = 0; n < s.N; n++)
                                expected[static_cast<size_t>(n)] += ma.as<float>()[m * ma.row_stride + k * ma.col_stride] *
                                                                    mb.as<float>()[k * mb.row_stride + n * mb.col_stride];
                        for (int64_t n = 0; n < s.N; n++) wrong += c.as<float>()[m * s.N + n] != expected[static_cast<size_t>(n)];
                    }
                    CHECK(wrong == 0);
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

    TEST_CASE("gemm: 16-bit operands give the bits of their widened copies, however they lie; bf16 results are those rounded") {
        if (on_gpu()) return;  // of the CPU's product
        struct Case {
            int64_t M, N, K, unit;
        };
        for (Case s : {Case{1, 1, 1, 0}, {13, 33, 385, 100}, {25, 200, 900, 256}, {129, 17, 127, 0}, {4100, 9, 19, 0}, {5, 4200, 40, 0}})
            for (int layout = 0; layout < 4; layout++)
                for (auto [a_type, b_type] : {std::pair{Dtype::f32, Dtype::bf16}, {Dtype::f32, Dtype::f16}, {Dtype::bf16, Dtype::bf16}}) {
                    INFO(s.M, " ", s.N, " ", s.K, " ", layout, " ", std::string(name_of(a_type)), " ", std::string(name_of(b_type)));
                    Pool pool;
                    auto operand = [&](int64_t rows, int64_t cols, Dtype type) {  // rows one element longer than the matrix
                        Tensor t = pool.normal(Dtype::f32, {rows, cols + 1}), narrow = t;
                        if (type == Dtype::f32) return std::pair{t, t};
                        narrow = pool.copy(t, Dtype::bf16);  // memory of 2 bytes a number
                        for (int64_t i = 0; i < t.numel(); i++) {
                            float& x = t.as<float>()[i];
                            uint16_t& bits = static_cast<uint16_t*>(narrow.data)[i];
                            bits = type == Dtype::f16 ? float_to_half(x) : float_to_bf16(x);
                            x = type == Dtype::f16 ? half_to_float(bits) : bf16_to_float(bits);
                        }
                        narrow.dtype = type;
                        return std::pair{t, narrow};
                    };
                    const bool a_turned = layout & 1, b_turned = layout & 2;
                    auto [a, a16] = a_turned ? operand(s.K, s.M, a_type) : operand(s.M, s.K, a_type);
                    auto [b, b16] = b_turned ? operand(s.N, s.K, b_type) : operand(s.K, s.N, b_type);
                    auto as_operand = [](const Tensor& t, bool turned) -> cpu::Operand {
                        return {t.data, t.dtype, turned ? 1 : t.row_stride, turned ? t.row_stride : 1};
                    };
                    const cpu::Operand x = as_operand(a, a_turned), y = as_operand(b, b_turned), x16 = as_operand(a16, a_turned),
                                       y16 = as_operand(b16, b_turned);
                    Tensor wide = pool.filled(Dtype::f32, {s.M, s.N}, 0.5), narrow = pool.filled(Dtype::f32, {s.M, s.N}, 0.5);
                    const cpu::GemmOptions units{.accumulate = true, .unit = s.unit};
                    cpu::gemm(s.M, s.N, s.K, x, y, wide.as<float>(), s.N, units);
                    cpu::gemm(s.M, s.N, s.K, x16, y16, narrow.as<float>(), s.N, units);
                    CHECK(same_bits(wide, narrow));

                    Tensor bias = pool.normal(Dtype::f32, {s.N}), rounded = pool.poison(Dtype::bf16, {s.M, s.N + 3});
                    const cpu::GemmOptions biased{.bias = bias.as<float>()};
                    cpu::gemm(s.M, s.N, s.K, x, y, wide.as<float>(), s.N, biased);
                    cpu::gemm_rounded(cpu::gemm, s.M, s.N, s.K, x16, y16, rounded.as<bf16>(), s.N + 3, biased);
                    CHECK(same_bits(packed(pool, rounded.slice_cols(0, s.N)), pool.copy(wide, Dtype::bf16)));

                    if (a_type != Dtype::bf16) continue;
                    // By blocks of at most 384, our own blocks of K: the same sums.
                    Tensor blocks = pool.filled(Dtype::f32, {s.M, s.N}, 0.5);
                    cpu::gemm_by_blocks(cpu::gemm, 384, s.M, s.N, s.K, x16, y16, blocks.as<float>(), s.N, units);
                    if (s.unit > 0 || s.K <= 384) CHECK(same_bits(blocks, narrow));
                }
    }

    TEST_CASE("linear: weights stored in fewer bits than the activations give the bits of widened weights, on every engine") {
        if (on_gpu()) return;  // of the CPU's layers
        Settings settings;
        for (GemmEngine engine : engines())
            for (Dtype type : {Dtype::f32, Dtype::f64})
                for (Dtype stored : {Dtype::bf16, Dtype::f16})
                    for (const Shape& s : {Shape{1, 1, 1}, {17, 7, 129}, {65, 72, 136}}) {
                        set_gemm_engine(engine);
                        INFO(engine_name(), " ", std::string(name_of(type)), " ", std::string(name_of(stored)), " ", s.N, " ", s.OC, " ",
                             s.IC);
                        Pool pool;
                        const Tensor narrow = pool.normal(stored, {s.OC, s.IC}), wide = pool.copy(narrow, type);
                        const Tensor inp = pool.normal(type, {s.N, s.IC}), bias = pool.normal(type, {s.OC}),
                                     dout = pool.normal(type, {s.N, s.OC});
                        const Tensor pre_in = pool.normal(type, {s.N, s.IC});
                        auto results = [&](const Tensor& weight) {
                            std::vector<Tensor> r;
                            for (int64_t cols : {s.OC, s.IC, s.OC, s.OC, s.IC}) r.push_back(pool.poison(type, {s.N, cols}));
                            linear_forward(r[0], inp, weight, bias, test_stream());
                            linear_backward_input(r[1], dout, weight, test_stream());
                            linear_gelu_forward(r[2], r[3], inp, weight, bias, test_stream());
                            linear_gelu_backward_input(r[4], dout, weight, pre_in, test_stream());
                            return r;
                        };
                        const std::vector<Tensor> from_narrow = results(narrow), from_wide = results(wide);
                        for (size_t i = 0; i < from_wide.size(); i++) {
                            CHECK(!std::isnan(Pool::get(from_wide[i], 0)));
                            CHECK(same_bits(from_narrow[i], from_wide[i]));
                        }
                        // bf16 activations take weights of their own type alone
                        Tensor half = pool.normal(Dtype::f16, {3, 4}), inp16 = pool.normal(Dtype::bf16, {2, 4}),
                               out16 = pool.poison(Dtype::bf16, {2, 3});
                        CHECK_THROWS_AS(linear_forward(out16, inp16, half, {}, test_stream()), std::logic_error);
                        CHECK_THROWS_AS(linear_forward(out16, inp16, pool.normal(Dtype::f32, {3, 4}), {}, test_stream()), std::logic_error);
                    }
    }
}

}  // namespace traincu::test
