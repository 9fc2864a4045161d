#include "kernels/adamw.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tests/kernels/bits.h"
#include "tests/support/numeric.h"

using namespace traincu;
using namespace traincu::test;

namespace {

AdamwParams params_of_step(int64_t step) {
    AdamwParams p;
    p.lr = 1e-2 / static_cast<double>(step), p.beta1 = 0.9, p.beta2 = 0.95, p.eps = 1e-8, p.weight_decay = 0.1;
    return p;
}

// What the masters are kept in.
std::vector<Dtype> real_dtypes() { return on_gpu() ? std::vector{Dtype::f32} : std::vector{Dtype::f32, Dtype::f64}; }

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
            for (Dtype dtype : real_dtypes()) {
                Pool pool;
                Tensor param = pool.normal(dtype, {n}), m = pool.zeros(dtype, {n}), v = pool.zeros(dtype, {n});
                std::vector<double> exact = values<double>(param), exact_m(exact.size()), exact_v(exact.size());
                std::vector<float> naive = values<float>(param), naive_m(naive.size()), naive_v(naive.size());
                for (int64_t step = 1; step <= 10; step++) {
                    Tensor grad = pool.normal(dtype, {n}, 1e-3);
                    adamw_update(param, {}, m, v, grad, all_decay(pool, n), accepted(pool, step), params_of_step(step), test_stream());
                    test_stream().synchronize();
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
        adamw_update(param, {}, m, v, grad, all_decay(pool, 300), accepted(pool, 1, 1.0), p, test_stream());
        test_stream().synchronize();
        for (int64_t i = 0; i < 300; i++)
            CHECK(Pool::get(param, i) == doctest::Approx(Pool::get(grad, i) > 0 ? -0.25 : 0.25).epsilon(1e-4));
    }

    TEST_CASE("adamw: where gradient and moments are zero, only decay acts") {
        Pool pool;
        Tensor param = pool.filled(Dtype::f32, {33}, 2.0), zero = pool.zeros(Dtype::f32, {33});
        Tensor m = pool.zeros(Dtype::f32, {33}), v = pool.zeros(Dtype::f32, {33});
        AdamwParams p;
        p.lr = 0.125, p.weight_decay = 0.5;
        adamw_update(param, {}, m, v, zero, all_decay(pool, 33), accepted(pool, 1, 1.0), p, test_stream());
        test_stream().synchronize();
        CHECK(equal_bits(param, pool.filled(Dtype::f32, {33}, 1.875)));
        CHECK(equal_bits(m, zero));
        CHECK(equal_bits(v, zero));
    }

    TEST_CASE("adamw: the same bits for any split and number of threads") {
        constexpr int64_t n = 1003;
        for (Dtype dtype : real_dtypes()) {
            Pool pool;
            Tensor param0 = pool.normal(dtype, {n}), m0 = pool.normal(dtype, {n}, 1e-3), v0 = pool.filled(dtype, {n}, 1e-5),
                   grad = pool.normal(dtype, {n});
            auto updated = [&](int threads, int64_t slice) {
                std::array<Tensor, 3> state{pool.copy(param0, dtype), pool.copy(m0, dtype), pool.copy(v0, dtype)};
                on_threads(threads, [&] {
                    for (int64_t begin = 0; begin < n; begin += slice) {
                        auto part = [&](const Tensor& t) { return t.slice_rows(begin, std::min(slice, n - begin)); };
                        adamw_update(part(state[0]), {}, part(state[1]), part(state[2]), part(grad), all_decay(pool, part(grad).numel()),
                                     accepted(pool, 7), params_of_step(7), test_stream());
                        test_stream().synchronize();
                    }
                });
                return state;
            };
            auto whole = updated(1, n);
            for (auto [threads, slice] : {std::pair<int, int64_t>{2, n}, {3, n}, {1, 1}, {1, 13}, {2, 100}, {1, 48}}) {
                auto split = updated(threads, slice);
                for (size_t i = 0; i < 3; i++) CHECK(equal_bits(split[i], whole[i]));
            }
        }
    }

    TEST_CASE("adamw: decay acts in the ranges that ask for it") {
        for (Dtype dtype : real_dtypes())
            for (bool aligned : {true, false}) {
                constexpr int64_t n = 16 * 40 + 5;
                Pool pool;
                Tensor wide = pool.filled(dtype, {n + 1}, 2.0), param = wide.slice_rows(aligned ? 0 : 1, n);
                Tensor m = pool.zeros(dtype, {n}), v = pool.zeros(dtype, {n}), grad = pool.zeros(dtype, {n}),
                       ranges = pool.zeros(Dtype::i64, {8, 2});
                // one of no elements is among them
                const int64_t ends[8] = {16, 32, 32, 48, 160, 320, 336, n}, decays[8] = {0, 1, 0, 1, 0, 0, 1, 0};
                for (int64_t r = 0; r < 8; r++) ranges.as<int64_t>()[2 * r] = ends[r], ranges.as<int64_t>()[2 * r + 1] = decays[r];
                AdamwParams p;
                p.lr = 0.125, p.weight_decay = 0.5;
                adamw_update(param, {}, m, v, grad, ranges, accepted(pool, 1, 1.0), p, test_stream());
                test_stream().synchronize();
                for (int64_t i = 0; i < n; i++) {
                    const bool decayed = (i >= 16 && i < 48) || (i >= 320 && i < 336);
                    CHECK(Pool::get(param, i) == (decayed ? 1.875 : 2.0));
                }
            }
    }

    TEST_CASE("adamw: a step that the guard does not accept touches nothing") {
        for (Verdict verdict : {Verdict::loss_not_finite, Verdict::norm_not_finite, Verdict::loss_spike, Verdict::norm_spike}) {
            Pool pool;
            Tensor param = pool.normal(Dtype::f32, {100}), m = pool.normal(Dtype::f32, {100}), v = pool.filled(Dtype::f32, {100}, 0.1);
            Tensor before[3] = {pool.copy(param, Dtype::f32), pool.copy(m, Dtype::f32), pool.copy(v, Dtype::f32)},
                   state = accepted(pool, 3);
            guard_state_of(state).verdict = verdict;
            adamw_update(param, {}, m, v, pool.poison(Dtype::f32, {100}), all_decay(pool, 100), state, params_of_step(3), test_stream());
            test_stream().synchronize();
            CHECK(equal_bits(param, before[0]));
            CHECK(equal_bits(m, before[1]));
            CHECK(equal_bits(v, before[2]));
        }
    }

    TEST_CASE("adamw: more elements than the grid has threads are all updated once" * doctest::skip(!on_gpu())) {
        constexpr int64_t n = 132 * 4 * 512 + 1000;  // by single elements, as the parameters do not lie on 16 bytes
        Pool pool;
        Tensor wide = pool.filled(Dtype::f32, {n + 1}, 1.0), param = wide.slice_rows(1, n), m = pool.zeros(Dtype::f32, {n});
        Tensor v = pool.zeros(Dtype::f32, {n}), grad = pool.filled(Dtype::f32, {n}, 1.0);
        AdamwParams p;
        p.lr = 0.25, p.eps = 0;
        adamw_update(param, {}, m, v, grad, all_decay(pool, n), accepted(pool, 1, 1.0), p, test_stream());
        test_stream().synchronize();
        int64_t right = 0;
        for (int64_t i = 0; i < n; i++) right += std::abs(Pool::get(param, i) - 0.75) < 1e-6;
        CHECK(right == n);
    }

    TEST_CASE("adamw: the copy is the parameters, rounded; bf16 moments are rounded by the bits of (seed, step, index)" *
              doctest::skip(!on_gpu())) {
        for (bool aligned : {true, false})
            for (int64_t n : {1, 7, 16, 1003}) {
                Pool pool;
                auto moved = [&](const Tensor& t) {  // onto 16 bytes or not
                    Tensor wide = pool.zeros(t.dtype, {n + 8}), to = wide.slice_rows(aligned ? 0 : 1, n);
                    for (int64_t i = 0; i < n; i++) Pool::set(to, i, Pool::get(t, i));
                    return to;
                };
                Tensor param = moved(pool.normal(Dtype::f32, {n})), grad = moved(pool.normal(Dtype::f32, {n}));
                Tensor m = moved(pool.normal(Dtype::bf16, {n}, 1e-2)), v = moved(pool.filled(Dtype::bf16, {n}, 1e-3));
                if (n == 1003) Pool::set(grad, 500, std::nan("")), Pool::set(grad, 501, 1e30);  // NaN, and a square beyond all floats
                Tensor exact_param = moved(param), exact_m = pool.copy(m, Dtype::f32), exact_v = pool.copy(v, Dtype::f32);
                Tensor copy = moved(pool.zeros(Dtype::bf16, {n})), state = accepted(pool, 9, 0.5);
                AdamwParams p = params_of_step(9);
                p.seed = 0x123456789ABCDEF;
                adamw_update(exact_param, {}, exact_m, exact_v, grad, all_decay(pool, n), state, p, test_stream());
                adamw_update(param, copy, m, v, grad, all_decay(pool, n), state, p, test_stream());
                test_stream().synchronize();
                for (int64_t i = 0; i < n; i++) {
                    const auto random =
                        Random{p.seed, RandomStream::rounding}.bits(9, static_cast<uint64_t>(i / 4))[static_cast<size_t>(i % 4)];
                    auto rounded = [&](float x, uint32_t bits) {
                        const uint32_t sum = std::bit_cast<uint32_t>(x) + bits;
                        return std::isfinite(x) ? static_cast<uint16_t>(sum >> 16) : float_to_bf16(x);
                    };
                    CHECK(m.as<bf16>()[i].bits == rounded(exact_m.as<float>()[i], random & 0xFFFF));
                    CHECK(v.as<bf16>()[i].bits == rounded(exact_v.as<float>()[i], random >> 16));
                    CHECK(copy.as<bf16>()[i].bits == float_to_bf16(param.as<float>()[i]));
                    if (i != 500) CHECK(Pool::get(param, i) == Pool::get(exact_param, i));  // from the moments before they are rounded
                }
                if (n == 1003) CHECK(std::isnan(Pool::get(m, 500)));
                if (n == 1003) CHECK(std::isinf(Pool::get(v, 501)));
            }
    }

    TEST_CASE("adamw: steps count from 1, sizes must agree") {
        Pool pool;
        Tensor x = pool.zeros(Dtype::f32, {4}), shorter = pool.zeros(Dtype::f32, {3});
        const Tensor ranges = all_decay(pool, 4), state = accepted(pool, 1), fresh = accepted(pool, 0);
        CHECK_THROWS_AS(adamw_update(x, {}, x, x, shorter, ranges, state, {}, test_stream()), std::logic_error);
        if (on_gpu()) return;  // where the host sees neither
        CHECK_THROWS_AS(adamw_update(x, {}, x, x, x, ranges, fresh, {}, test_stream()), std::logic_error);
        CHECK_THROWS_AS(adamw_update(x, {}, x, x, x, all_decay(pool, 5), state, {}, test_stream()), std::logic_error);
    }
}
