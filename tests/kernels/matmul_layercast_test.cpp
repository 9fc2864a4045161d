// Linear layers with f32 activations beside a weight stored in 16 bits, and f32 products by bf16 terms: what a GPU computes. They are
// called by their own names, since the CPU has no F32Products.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/bits.h"
#include "tests/kernels/matmul_fixture.h"

namespace traincu::test {
namespace {

struct ProductsSettings : Settings {
    ~ProductsSettings() { set_f32_products(F32Products::fp32); }
};

// A weight in its stored type, and the same numbers in f32.
struct StoredWeight {
    Tensor stored, wide;
    StoredWeight(Pool& pool, Dtype dtype, int64_t rows, int64_t cols, int64_t gap) : wide(pool.normal(Dtype::f32, {rows, cols}, 0.3)) {
        const Tensor whole = pool.copy(pool.zeros(Dtype::i32, {rows, cols + gap}), Dtype::bf16);
        stored = whole.slice_cols(gap, cols), stored.dtype = dtype;
        for (int64_t i = 0; i < wide.numel(); i++) {
            uint16_t& bits = static_cast<uint16_t*>(stored.data)[i / cols * stored.row_stride + i % cols];
            float& x = wide.as<float>()[i];
            bits = dtype == Dtype::f16 ? float_to_half(x) : float_to_bf16(x);
            x = dtype == Dtype::f16 ? half_to_float(bits) : bf16_to_float(bits);
        }
    }
};

struct Problem {
    Pool pool;
    int64_t N, OC, IC;
    Tensor inp, dout, bias;
    Problem(int64_t N, int64_t OC, int64_t IC, int64_t gap = 0) : N(N), OC(OC), IC(IC) {
        inp = Slice(pool, Dtype::f32, N, gap, IC, gap).set(pool.normal(Dtype::f32, {N, IC})).inner;
        dout = Slice(pool, Dtype::f32, N, gap, OC, 2 * gap).set(pool.normal(Dtype::f32, {N, OC})).inner;
        bias = pool.normal(Dtype::f32, {OC});
    }
    // out, dinp, dweight, dbias
    std::vector<Tensor> run(const Tensor& weight, int64_t unit, Stream& stream = test_stream()) {
        std::vector<Tensor> r = {pool.poison(Dtype::f32, {N, OC}), pool.poison(Dtype::f32, {N, IC}),
                                 pool.filled(Dtype::f32, {OC, IC}, 0.25), pool.filled(Dtype::f32, {OC}, 0.25)};
        gpu::linear_forward(r[0], inp, weight, bias, stream);
        gpu::linear_backward_input(r[1], dout, weight, stream);
        gpu::linear_backward_weight(r[2], r[3], dout, inp, unit, stream);
        stream.synchronize();
        return r;
    }
    // The same in sums of type Sum, of activations that went through `stored`.
    template <class Sum, class Stored>
    std::vector<Tensor> oracle(const Tensor& weight, Stored stored) {
        auto zero = [](int64_t, int64_t) { return 0.0; };
        auto x = [&](int64_t n, int64_t i) { return stored(at(inp, n, i)); };
        auto dy = [&](int64_t n, int64_t o) { return stored(at(dout, n, o)); };
        return {brute_force<Sum>(
                    pool, N, OC, IC, [&](int64_t, int64_t o) { return Pool::get(bias, o); }, x,
                    [&](int64_t i, int64_t o) { return at(weight, o, i); }),
                brute_force<Sum>(pool, N, IC, OC, zero, dy, [&](int64_t o, int64_t i) { return at(weight, o, i); }),
                brute_force<Sum>(
                    pool, OC, IC, N, [](int64_t, int64_t) { return 0.25; }, [&](int64_t o, int64_t n) { return dy(n, o); }, x)};
    }
};

double as_it_is(double x) { return x; }
double as_bf16(double x) { return bf16_to_float(float_to_bf16(static_cast<float>(x))); }

// What of x, as a part of it, is not in its first `terms` terms.
double left_over(const Tensor& x, int terms) {
    double left = 0, size = 0;
    for (int64_t n = 0; n < x.rows(); n++)
        for (int64_t c = 0; c < x.cols(); c++) {
            double rest = at(x, n, c);
            size += rest * rest;
            for (int t = 0; t < terms; t++) rest -= as_bf16(rest);
            left += rest * rest;
        }
    return std::sqrt(left / size);
}

}  // namespace

TEST_SUITE("matmul") {
    TEST_CASE("linear, 16-bit weight beside f32: as written, the bits are those of the weight widened first") {
        if (!on_gpu()) return;
        ProductsSettings settings;
        for (Dtype dtype : {Dtype::bf16, Dtype::f16})
            for (const Shape& s : {Shape{1, 1, 1, 3}, {7, 17, 63, 3}, {129, 33, 65, 1}, {65, 72, 136, 8}}) {
                INFO(std::string(name_of(dtype)), " ", s.N, " ", s.OC, " ", s.IC);
                Problem p(s.N, s.OC, s.IC, s.gap);
                const StoredWeight w(p.pool, dtype, s.OC, s.IC, s.gap);
                set_gemm_engine(GemmEngine::own);
                const std::vector<Tensor> wide = p.run(w.wide, 0);
                for (GemmEngine engine : engines()) {  // the library takes no such product
                    set_gemm_engine(engine);
                    const std::vector<Tensor> stored = p.run(w.stored, 0);
                    if (dtype == Dtype::f16) set_f32_products(F32Products::bf16x3);  // an f16 is not one bf16 term
                    const std::vector<Tensor> not_split = p.run(w.stored, 0);
                    set_f32_products(F32Products::fp32);
                    for (size_t i = 0; i < 2; i++) {
                        CHECK(same_bits(stored[i], wide[i]));
                        CHECK(same_bits(not_split[i], wide[i]));
                    }
                }
            }
    }

    // A rounding to bf16 leaves 1.7e-3 of normal numbers (root mean square, left_over(x, 1)), a second term 2.6e-6 of them, a third
    // nothing: 3 x 8 bits are all of an f32. What is left over has nothing to do with the other operand, so it is the same part of a sum of
    // products:
    //   forward, backward_input, 2 terms:  2.6e-6
    //   backward_weight, 2 terms:          2.6e-6 of either operand, and the product x2 y2 that is not made, (1.7e-3)^2 = 2.9e-6. The three
    //                                      are independent: sqrt(2 * 2.6e-6^2 + 2.9e-6^2) = 4.7e-6
    //   3 terms:                           nothing; x2 y3 and x3 y2, which backward_weight does not make, are 4e-9 each
    // A quarter more is allowed, since the test's numbers are few, and beside it what sums in f32 may differ by (bits.h).
    TEST_CASE("linear by bf16 terms: what the terms leave over is all that f32 sums are farther from f64") {
        if (!on_gpu()) return;
        ProductsSettings settings;
        for (const auto& [products, terms] : {std::pair{F32Products::bf16x2, 2}, {F32Products::bf16x3, 3}})
            for (GemmEngine engine : engines())
                for (const Shape& s : {Shape{7, 17, 63, 3},
                                       {129, 33, 65, 1},
                                       {65, 72, 136, 8},
                                       {40, 48, 256, 0},
                                       {5, 16, 1100, 0},
                                       {5, 1100, 16, 0},
                                       {1100, 16, 8, 0}}) {  // K of more than one piece in each of the three
                    const int64_t unit = s.N > 1024 ? 0 : 32;
                    INFO(terms, " ", static_cast<int>(engine), " ", s.N, " ", s.OC, " ", s.IC);
                    Problem p(s.N, s.OC, s.IC, s.gap);
                    const StoredWeight w(p.pool, Dtype::bf16, s.OC, s.IC, s.gap);
                    set_gemm_engine(engine), set_f32_products(products);
                    const std::vector<Tensor> got = p.run(w.stored, unit);
                    const std::vector<Tensor> exact = p.oracle<double>(w.wide, as_it_is), naive = p.oracle<float>(w.wide, as_it_is);
                    const std::vector<Tensor> rounded = p.oracle<double>(w.wide, as_bf16);
                    set_f32_products(F32Products::fp32);
                    const std::vector<Tensor> written = p.run(w.stored, unit);
                    const double inp = left_over(p.inp, terms), dout = left_over(p.dout, terms);
                    const double not_made = terms == 2 ? left_over(p.inp, 1) * left_over(p.dout, 1) : 0;
                    const double left[] = {inp, dout, std::hypot(inp, dout, not_made)};
                    if (terms == 2) {
                        CHECK(std::fabs(left[0] / 2.6e-6 - 1) < 0.2);
                        CHECK(std::fabs(left[2] / 4.7e-6 - 1) < 0.2);
                    } else {
                        CHECK(left[2] == 0);
                    }
                    for (size_t i = 0; i < 3; i++) {
                        INFO("result ", i);
                        const double bound = 1.25 * left[i] + allowed(relative_error(naive[i], exact[i]), exact[i].numel());
                        const double error = relative_error(got[i], exact[i]);
                        CHECK(error <= bound);
                        CHECK(error > left[i] / 2);
                        CHECK(relative_error(rounded[i], exact[i]) > 100 * bound);
                        CHECK_FALSE(same_bits(got[i], written[i]));
                    }
                    CHECK(same_bits(got[3], written[3]));
                }
    }

    TEST_CASE("linear by bf16 terms: the smallest are added first") {
        if (!on_gpu()) return;
        ProductsSettings settings;
        // 256 pairs 1 + 2^-8 and -1: the first terms cancel, the second ones are 1 in all. In a group of 16 of its own a number whose
        // neighbour is 1 away: it would swallow each group's 2^-5.
        constexpr int64_t K = 528, width = 8;
        const double large = 0x1p23;
        auto x = [&](int64_t k) { return k == 512 ? large : k > 512 ? 0 : k % 2 == 0 ? 1 + 0x1p-8 : 1; };
        auto sign = [](int64_t k) { return k < 512 && k % 2 != 0 ? -1.0 : 1.0; };
        for (F32Products products : {F32Products::bf16x2, F32Products::bf16x3})
            for (GemmEngine engine : engines()) {
                INFO(static_cast<int>(products), " ", static_cast<int>(engine));
                set_f32_products(products), set_gemm_engine(engine);
                Pool pool;
                Tensor row = pool.zeros(Dtype::f32, {1, K}), signs = pool.zeros(Dtype::bf16, {width, K});
                Tensor columns = pool.zeros(Dtype::f32, {K, width}), column_signs = pool.zeros(Dtype::f32, {K, width});
                for (int64_t k = 0; k < K; k++) {
                    Pool::set(row, k, x(k));
                    for (int64_t c = 0; c < width; c++) {
                        Pool::set(signs, c * K + k, sign(k));
                        Pool::set(columns, k * width + c, x(k)), Pool::set(column_signs, k * width + c, sign(k));
                    }
                }
                Tensor out = pool.poison(Dtype::f32, {1, width}), dweight = pool.zeros(Dtype::f32, {width, width});
                Tensor other = pool.zeros(Dtype::f32, {width, width});
                gpu::linear_forward(out, row, signs, {}, test_stream());
                gpu::linear_backward_weight(dweight, {}, column_signs, columns, 0, test_stream());
                gpu::linear_backward_weight(other, {}, columns, column_signs, 0, test_stream());
                test_stream().synchronize();
                for (int64_t i = 0; i < width; i++) CHECK(Pool::get(out, i) == large + 1);
                for (int64_t i = 0; i < width * width; i++) CHECK((Pool::get(dweight, i) == large + 1 && Pool::get(other, i) == large + 1));
            }
    }

    TEST_CASE(
        "linear by bf16 terms: pieces of K, units, split calls and a small workspace give the same bits; rows do not know of others") {
        if (!on_gpu()) return;
        ProductsSettings settings;
        set_gemm_engine(GemmEngine::own), set_f32_products(F32Products::bf16x3);
        Stream small(Device::cuda, 24 << 10);
        for (const auto& [N, OC, IC, unit] : {std::array<int64_t, 4>{96, 40, 72, 32}, {1100, 8, 24, 0}, {20, 16, 1040, 5}}) {
            INFO(N, " ", OC, " ", IC, " ", unit);
            Problem p(N, OC, IC);
            const StoredWeight w(p.pool, Dtype::bf16, OC, IC, 0);
            // Room for all at once; for a few rows at a time, or a few columns.
            Stream tight(Device::cuda, N > 1000 ? 24 * 6 * 1024 : 24 << 10);
            const std::vector<Tensor> all = p.run(w.stored, unit), few = p.run(w.stored, unit, tight);
            for (size_t i = 0; i < 4; i++) CHECK(same_bits(all[i], few[i]));
            Tensor row = p.pool.poison(Dtype::f32, {1, OC}), drow = p.pool.poison(Dtype::f32, {1, IC});
            gpu::linear_forward(row, p.inp.slice_rows(N - 2, 1), w.stored, p.bias, test_stream());
            gpu::linear_backward_input(drow, p.dout.slice_rows(N - 2, 1), w.stored, test_stream());
            test_stream().synchronize();
            CHECK(same_bits(row, all[0].slice_rows(N - 2, 1)));
            CHECK(same_bits(drow, all[1].slice_rows(N - 2, 1)));
            if (unit == 0) continue;
            Tensor dweight = p.pool.filled(Dtype::f32, {OC, IC}, 0.25);
            for (int64_t n = 0; n < N; n += unit)
                gpu::linear_backward_weight(dweight, {}, p.dout.slice_rows(n, unit), p.inp.slice_rows(n, unit), unit, test_stream());
            test_stream().synchronize();
            CHECK(same_bits(dweight, all[2]));
        }
    }

    TEST_CASE("linear by bf16 terms: three are the number from 2^-110 on; Inf stays Inf and NaN NaN, the largest numbers are finite") {
        if (!on_gpu()) return;
        ProductsSettings settings;
        const float inf = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
        const std::vector<float> values = {
            inf, -inf, std::nanf(""), largest, -largest, 0x1.FEFFFEp127f, 1 + 0x1p-23f, 0x1.AAAAAAp-110f, 0x1.AAAAAAp-120f};
        const auto n_values = static_cast<int64_t>(values.size());
        set_f32_products(F32Products::bf16x3);
        for (GemmEngine engine : engines())
            for (int64_t width : {8, 5}) {
                set_gemm_engine(engine);
                Pool pool;
                // The identity as weight: the result is the sum of the terms.
                Tensor inp = pool.zeros(Dtype::f32, {n_values, width}), weight = pool.zeros(Dtype::bf16, {width, width});
                for (int64_t i = 0; i < width; i++) Pool::set(weight, i * width + i, 1);
                for (int64_t n = 0; n < n_values; n++) inp.as<float>()[n * width + n % width] = values[static_cast<size_t>(n)];
                Tensor out = pool.poison(Dtype::f32, {n_values, width});
                gpu::linear_forward(out, inp, weight, {}, test_stream());
                test_stream().synchronize();
                for (int64_t n = 0; n < n_values; n++) {
                    INFO(width, " ", n);
                    const float x = values[static_cast<size_t>(n)], y = out.as<float>()[n * width + n % width];
                    CHECK((std::isnan(x) ? std::isnan(y) : std::fabs(x) < 0x1p-110f ? std::fabs(x - y) <= 0x1p-134f : x == y));
                }
            }
    }

    TEST_CASE("linear + gelu by bf16 terms: the product, then the activation") {
        if (!on_gpu()) return;
        ProductsSettings settings;
        for (F32Products products : {F32Products::fp32, F32Products::bf16x2, F32Products::bf16x3}) {
            set_f32_products(products);
            Problem p(20, 24, 40);
            const StoredWeight w(p.pool, Dtype::bf16, 24, 40, 0);
            const std::vector<Tensor> apart = p.run(w.stored, 0);
            Tensor act = p.pool.poison(Dtype::f32, {20, 24}), pre = p.pool.poison(Dtype::f32, {20, 24});
            gpu::linear_gelu_forward(act, pre, p.inp, w.stored, p.bias, test_stream());
            Tensor dpre = p.pool.poison(Dtype::f32, {20, 40}), zeros = p.pool.zeros(Dtype::f32, {20, 40});
            gpu::linear_gelu_backward_input(dpre, p.dout, w.stored, zeros, test_stream());
            test_stream().synchronize();
            CHECK(same_bits(pre, apart[0]));
            for (int64_t i = 0; i < dpre.numel(); i++) CHECK(Pool::get(dpre, i) == Pool::get(apart[1], i) / 2);  // gelu'(0) = 1/2
        }
    }
}

}  // namespace traincu::test
