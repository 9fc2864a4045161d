#include "kernels/adamw.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

Stream stream;

AdamwParams params_of_step(int64_t step) {
    AdamwParams p;
    p.lr = 1e-2 / static_cast<double>(step), p.beta1 = 0.9, p.beta2 = 0.95, p.eps = 1e-8, p.weight_decay = 0.1;
    return p;
}

// The guard's word on an accepted step.
Tensor accepted(Pool& pool, int64_t step, double clip = 0.37) {
    Tensor state = pool.zeros(Dtype::f64, {guard_state_size});
    guard_state_of(state).adam_steps = step, guard_state_of(state).clip = clip;
    return state;
}
Tensor all_decay(Pool& pool, int64_t n) {
    Tensor ranges = pool.zeros(Dtype::i64, {1, 2});
    ranges.as<int64_t>()[0] = n, ranges.as<int64_t>()[1] = 1;
    return ranges;
}

// The formula of the contract, letter by letter, in the type T.
template <class T>
void literal_adamw(std::vector<T>& param, std::vector<T>& m, std::vector<T>& v, const Tensor& grad, int64_t step) {
    const AdamwParams p = params_of_step(step);
    for (size_t i = 0; i < param.size(); i++) {
        T g = T(0.37) * T(Pool::get(grad, static_cast<int64_t>(i)));
        m[i] = T(p.beta1) * m[i] + (1 - T(p.beta1)) * g;
        v[i] = T(p.beta2) * v[i] + (1 - T(p.beta2)) * g * g;
        T m_hat = m[i] / (1 - std::pow(T(p.beta1), T(step))), v_hat = v[i] / (1 - std::pow(T(p.beta2), T(step)));
        param[i] -= T(p.lr) * (m_hat / (std::sqrt(v_hat) + T(p.eps)) + T(p.weight_decay) * param[i]);
    }
}

template <class T>
std::vector<T> values(const Tensor& t) {
    std::vector<T> x;
    for (int64_t i = 0; i < t.numel(); i++) x.push_back(static_cast<T>(Pool::get(t, i)));
    return x;
}

template <class T>
double error_of(const std::vector<T>& x, std::vector<double>& exact) {
    int64_t n = static_cast<int64_t>(x.size());
    std::vector<double> wide(x.begin(), x.end());
    return relative_error(Tensor(wide.data(), Dtype::f64, {n}), Tensor(exact.data(), Dtype::f64, {n}));
}

}  // namespace

TEST_SUITE("adamw") {
    TEST_CASE("adamw: ten steps follow the formula, with gradient scale and decay") {
        for (int64_t n : {1, 7, 129, 1001}) {
            for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
                Pool pool;
                Tensor param = pool.normal(dtype, {n}), m = pool.zeros(dtype, {n}), v = pool.zeros(dtype, {n});
                std::vector<double> exact = values<double>(param), exact_m(exact.size()), exact_v(exact.size());
                std::vector<float> naive = values<float>(param), naive_m(naive.size()), naive_v(naive.size());
                for (int64_t step = 1; step <= 10; step++) {
                    Tensor grad = pool.normal(dtype, {n}, 1e-3);
                    adamw_update(param, {}, m, v, grad, all_decay(pool, n), accepted(pool, step), params_of_step(step), stream);
                    literal_adamw(exact, exact_m, exact_v, grad, step);
                    literal_adamw(naive, naive_m, naive_v, grad, step);
                }
                bool wide = dtype == Dtype::f64;
                CHECK(error_of(values<double>(param), exact) <= (wide ? 1e-14 : allowed(error_of(naive, exact), n)));
                CHECK(error_of(values<double>(m), exact_m) <= (wide ? 1e-14 : allowed(error_of(naive_m, exact_m), n)));
                CHECK(error_of(values<double>(v), exact_v) <= (wide ? 1e-14 : allowed(error_of(naive_v, exact_v), n)));
            }
        }
    }

    TEST_CASE("adamw: the first step moves every parameter by the learning rate, against its gradient") {
        Pool pool;
        Tensor param = pool.zeros(Dtype::f32, {300}), m = pool.zeros(Dtype::f32, {300}), v = pool.zeros(Dtype::f32, {300});
        Tensor grad = pool.normal(Dtype::f32, {300});
        AdamwParams p;
        p.lr = 0.25;
        adamw_update(param, {}, m, v, grad, all_decay(pool, 300), accepted(pool, 1, 1.0), p, stream);
        for (int64_t i = 0; i < 300; i++)
            CHECK(Pool::get(param, i) == doctest::Approx(Pool::get(grad, i) > 0 ? -0.25 : 0.25).epsilon(1e-4));
    }

    TEST_CASE("adamw: where gradient and moments are zero, only decay acts") {
        Pool pool;
        Tensor param = pool.filled(Dtype::f32, {33}, 2.0), zero = pool.zeros(Dtype::f32, {33});
        Tensor m = pool.zeros(Dtype::f32, {33}), v = pool.zeros(Dtype::f32, {33});
        AdamwParams p;
        p.lr = 0.125, p.weight_decay = 0.5;
        adamw_update(param, {}, m, v, zero, all_decay(pool, 33), accepted(pool, 1, 1.0), p, stream);
        CHECK(equal_bits(param, pool.filled(Dtype::f32, {33}, 1.875)));
        CHECK(equal_bits(m, zero));
        CHECK(equal_bits(v, zero));
    }

    TEST_CASE("adamw: the same bits for any split and number of threads") {
        constexpr int64_t n = 1003;
        for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
            Pool pool;
            Tensor param0 = pool.normal(dtype, {n}), m0 = pool.normal(dtype, {n}, 1e-3), v0 = pool.filled(dtype, {n}, 1e-5),
                   grad = pool.normal(dtype, {n});
            auto updated = [&](int threads, int64_t slice) {
                std::array<Tensor, 3> state{pool.copy(param0, dtype), pool.copy(m0, dtype), pool.copy(v0, dtype)};
                on_threads(threads, [&] {
                    for (int64_t begin = 0; begin < n; begin += slice) {
                        auto part = [&](const Tensor& t) { return t.slice_rows(begin, std::min(slice, n - begin)); };
                        adamw_update(part(state[0]), {}, part(state[1]), part(state[2]), part(grad), all_decay(pool, part(grad).numel()),
                                     accepted(pool, 7), params_of_step(7), stream);
                    }
                });
                return state;
            };
            auto whole = updated(1, n);
            for (auto [threads, slice] : {std::pair<int, int64_t>{2, n}, {3, n}, {1, 1}, {1, 13}, {2, 100}}) {
                auto split = updated(threads, slice);
                for (size_t i = 0; i < 3; i++) CHECK(equal_bits(split[i], whole[i]));
            }
        }
    }

    TEST_CASE("adamw: steps count from 1, sizes must agree") {
        Pool pool;
        Tensor x = pool.zeros(Dtype::f32, {4}), shorter = pool.zeros(Dtype::f32, {3});
        const Tensor ranges = all_decay(pool, 4), state = accepted(pool, 1), fresh = accepted(pool, 0);
        CHECK_THROWS_AS(adamw_update(x, {}, x, x, shorter, ranges, state, {}, stream), std::logic_error);
        CHECK_THROWS_AS(adamw_update(x, {}, x, x, x, ranges, fresh, {}, stream), std::logic_error);
        CHECK_THROWS_AS(adamw_update(x, {}, x, x, x, all_decay(pool, 5), state, {}, stream), std::logic_error);
    }
}
