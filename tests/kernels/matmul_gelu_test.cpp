// Linear layers that end with GELU.
#include <doctest/doctest.h>

#include <stdexcept>

#include "kernels/activation.h"
#include "tests/kernels/bits.h"
#include "tests/kernels/matmul_fixture.h"

namespace traincu::test {
namespace {

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

}  // namespace

TEST_SUITE("matmul") {
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
}

}  // namespace traincu::test
