#include "kernels/activation.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

// The formulas of the contract in type R: double as the oracle, float as the naive kernel.
template <class R>
R gelu(R x) {
    R u = std::sqrt(R(2) / R(3.14159265358979323846)) * (x + R(0.044715) * x * x * x);
    return R(0.5) * x * (1 + std::tanh(u));
}
template <class R>
R gelu_slope(R x) {
    R k = std::sqrt(R(2) / R(3.14159265358979323846)), t = std::tanh(k * (x + R(0.044715) * x * x * x));
    return R(0.5) * (1 + t) + R(0.5) * x * (1 - t * t) * k * (1 + 3 * R(0.044715) * x * x);
}
template <class R>
R silu(R x) {
    return x / (1 + std::exp(-x));
}
template <class R>
R silu_slope(R x) {
    R s = 1 / (1 + std::exp(-x));
    return s * (1 + x * (1 - s));
}

// Calls f(i) in float and in double for every element; `result` must be as near to the doubles as twice the floats (stored as it is) are.
template <class F>
void check_elements(const Tensor& result, F f) {
    Pool pool;
    int64_t n = result.numel();
    Tensor exact = pool.zeros(Dtype::f64, {n}), naive = pool.zeros(result.dtype == Dtype::bf16 ? Dtype::bf16 : Dtype::f32, {n});
    for (int64_t i = 0; i < n; i++) Pool::set(exact, i, f(i, double{})), Pool::set(naive, i, static_cast<double>(f(i, float{})));
    if (result.dtype == Dtype::f64)
        CHECK(relative_error(result, exact) < 1e-14);
    else
        CHECK(relative_error(result, exact) <= allowed(relative_error(naive, exact), n, result.dtype));
}

double weighted_sum(const Tensor& out, const Tensor& weights) {
    double total = 0;
    for (int64_t i = 0; i < out.numel(); i++) total += Pool::get(out, i) * Pool::get(weights, i);
    return total;
}

constexpr int64_t rows[] = {1, 17, 300}, widths[] = {1, 7, 96, 129};

}  // namespace

TEST_SUITE("activation") {
    TEST_CASE("gelu: forward and backward follow the formula, in place or not") {
        for (Dtype dtype : test_dtypes())
            for (int64_t N : rows)
                for (int64_t F : widths) {
                    Pool pool;
                    Tensor x = pool.normal(dtype, {N, F}, 3.0), dout = pool.normal(dtype, {N, F}), out = pool.poison(dtype, {N, F}),
                           dx = pool.poison(dtype, {N, F});
                    gelu_forward(out, x, test_stream());
                    gelu_backward(dx, dout, x, test_stream());
                    test_stream().synchronize();
                    check_elements(out, [&](int64_t i, auto r) { return gelu<decltype(r)>(static_cast<decltype(r)>(Pool::get(x, i))); });
                    check_elements(dx, [&](int64_t i, auto r) {
                        using R = decltype(r);
                        return static_cast<R>(Pool::get(dout, i)) * gelu_slope<R>(static_cast<R>(Pool::get(x, i)));
                    });
                    Tensor in_place = pool.copy(dout, dtype);
                    gelu_backward(in_place, in_place, x, test_stream());
                    gelu_backward(x, dout, x, test_stream());
                    test_stream().synchronize();
                    CHECK(equal_bits(in_place, dx));
                    CHECK(equal_bits(x, dx));
                }
    }

    TEST_CASE("swiglu: forward and backward follow the formula, in place or not") {
        for (Dtype dtype : test_dtypes())
            for (int64_t N : rows)
                for (int64_t F : widths) {
                    Pool pool;
                    Tensor x = pool.normal(dtype, {N, 2 * F}, 3.0), dout = pool.normal(dtype, {N, F});
                    Tensor out = pool.poison(dtype, {N, F}), dx = pool.poison(dtype, {N, 2 * F});
                    swiglu_forward(out, x, test_stream());
                    swiglu_backward(dx, dout, x, test_stream());
                    test_stream().synchronize();
                    auto gate = [&](int64_t n, int64_t f) { return Pool::get(x, n * 2 * F + f); };
                    auto up = [&](int64_t n, int64_t f) { return Pool::get(x, n * 2 * F + F + f); };
                    check_elements(out, [&](int64_t i, auto r) {
                        using R = decltype(r);
                        return silu<R>(static_cast<R>(gate(i / F, i % F))) * static_cast<R>(up(i / F, i % F));
                    });
                    check_elements(dx, [&](int64_t i, auto r) {
                        using R = decltype(r);
                        int64_t n = i / (2 * F), column = i % (2 * F), f = column % F;
                        R g = static_cast<R>(gate(n, f)), d = static_cast<R>(Pool::get(dout, n * F + f));
                        return column < F ? d * static_cast<R>(up(n, f)) * silu_slope<R>(g) : d * silu<R>(g);
                    });
                    swiglu_backward(x, dout, x, test_stream());
                    test_stream().synchronize();
                    CHECK(equal_bits(x, dx));
                }
    }

    TEST_CASE("activation: backward is the gradient of forward" * doctest::skip(on_gpu())) {
        Pool pool;
        Tensor x = pool.normal(Dtype::f64, {5, 14}, 2.0), dx = pool.poison(Dtype::f64, {5, 14});
        Tensor wide = pool.poison(Dtype::f64, {5, 14}), narrow = pool.poison(Dtype::f64, {5, 7});
        Tensor dwide = pool.normal(Dtype::f64, {5, 14}), dnarrow = pool.normal(Dtype::f64, {5, 7});
        gelu_backward(dx, dwide, x, test_stream());
        test_stream().synchronize();
        CHECK(gradient_error([&] { return gelu_forward(wide, x, test_stream()), weighted_sum(wide, dwide); }, x, dx) < 1e-8);
        swiglu_backward(dx, dnarrow, x, test_stream());
        test_stream().synchronize();
        CHECK(gradient_error([&] { return swiglu_forward(narrow, x, test_stream()), weighted_sum(narrow, dnarrow); }, x, dx) < 1e-8);
    }

    TEST_CASE("activation: large inputs give the limits, NaN stays NaN") {
        for (Dtype dtype : test_dtypes()) {
            Pool pool;
            Tensor x = pool.zeros(dtype, {1, 8}), out = pool.poison(dtype, {1, 8}), dx = pool.poison(dtype, {1, 8}),
                   one = pool.filled(dtype, {1, 8}, 1.0);
            double inputs[] = {-8192, -100, -30, 0, 30, 100, 8192, std::nan("")};
            for (int64_t i = 0; i < 8; i++) Pool::set(x, i, inputs[i]);
            gelu_forward(out, x, test_stream());
            gelu_backward(dx, one, x, test_stream());
            test_stream().synchronize();
            for (int64_t i = 0; i < 7; i++) {
                CHECK(std::fabs(Pool::get(out, i) - std::max(inputs[i], 0.0)) < 1e-30);
                CHECK(std::fabs(Pool::get(dx, i) - (inputs[i] == 0 ? 0.5 : inputs[i] > 0 ? 1 : 0)) < 1e-20);
            }
            CHECK(std::isnan(Pool::get(out, 7)));
            CHECK(std::isnan(Pool::get(dx, 7)));

            Tensor gated = pool.poison(dtype, {1, 4}), dgated = pool.poison(dtype, {1, 8});
            double pairs[] = {-8192, 8192, 0, std::nan(""), 1, 1, 1, 1};  // gates, then ups
            for (int64_t i = 0; i < 8; i++) Pool::set(x, i, pairs[i]);
            swiglu_forward(gated, x, test_stream());
            swiglu_backward(dgated, pool.filled(dtype, {1, 4}, 1.0), x, test_stream());
            test_stream().synchronize();
            CHECK(std::fabs(Pool::get(gated, 0)) < 1e-30);
            CHECK(Pool::get(gated, 1) == 8192);
            CHECK(Pool::get(gated, 2) == 0);
            CHECK(std::isnan(Pool::get(gated, 3)));
            CHECK(std::fabs(Pool::get(dgated, 0)) < 1e-30);
            CHECK(Pool::get(dgated, 1) == 1);
            CHECK(Pool::get(dgated, 2) == 0.5);
            CHECK(std::isnan(Pool::get(dgated, 3)));
        }
    }

    TEST_CASE("activation: the same bits for any split and number of threads") {
        for (Dtype dtype : test_dtypes()) {
            Pool pool;
            int64_t N = 37, F = 130;
            Tensor x = pool.normal(dtype, {N, F}, 2.0), dwide = pool.normal(dtype, {N, F}), dnarrow = pool.normal(dtype, {N, F / 2});
            auto all = [&](int threads, int64_t step) {
                std::array<Tensor, 4> results{pool.poison(dtype, {N, F}), pool.poison(dtype, {N, F}), pool.poison(dtype, {N, F / 2}),
                                              pool.poison(dtype, {N, F})};
                on_threads(threads, [&] {
                    for (int64_t begin = 0; begin < N; begin += step) {
                        auto part = [&](const Tensor& t) { return t.slice_rows(begin, std::min(step, N - begin)); };
                        gelu_forward(part(results[0]), part(x), test_stream());
                        gelu_backward(part(results[1]), part(dwide), part(x), test_stream());
                        swiglu_forward(part(results[2]), part(x), test_stream());
                        swiglu_backward(part(results[3]), part(dnarrow), part(x), test_stream());
                        test_stream().synchronize();
                    }
                });
                return results;
            };
            auto whole = all(1, N);
            for (auto [threads, step] : {std::pair<int, int64_t>{2, N}, {3, N}, {1, 1}, {2, 5}}) {
                auto split = all(threads, step);
                for (size_t i = 0; i < 4; i++) CHECK(equal_bits(split[i], whole[i]));
            }
        }
    }

    TEST_CASE("activation: shapes must agree") {
        Pool pool;
        Tensor a = pool.zeros(Dtype::f32, {4, 6}), b = pool.zeros(Dtype::f32, {4, 5});
        CHECK_THROWS_AS(gelu_forward(a, b, test_stream()), std::logic_error);
        CHECK_THROWS_AS(gelu_backward(a, b, a, test_stream()), std::logic_error);
        CHECK_THROWS_AS(swiglu_forward(b, a, test_stream()), std::logic_error);
        CHECK_THROWS_AS(swiglu_backward(a, b, a, test_stream()), std::logic_error);
    }
}
