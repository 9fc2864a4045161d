#include "kernels/adamw.h"

#include <doctest/doctest.h>

#include <cstring>
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
Tensor table(Pool& pool, const std::vector<WeightRange>& ranges) {
    Tensor t = pool.zeros(Dtype::i64, {static_cast<int64_t>(ranges.size()), weight_range_size});
    std::memcpy(t.data, ranges.data(), ranges.size() * sizeof(WeightRange));
    return t;
}
Tensor all_decay(Pool& pool, int64_t n, Dtype stored = Dtype::f32, int64_t kept_at = -1) {
    return table(pool, {{n, 1, static_cast<int64_t>(stored), 0, kept_at}});
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
                    adamw_update(param, {}, m, v, grad, all_decay(pool, n, dtype), accepted(pool, step), params_of_step(step),
                                 test_stream());
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
                        adamw_update(part(state[0]), {}, part(state[1]), part(state[2]), part(grad),
                                     all_decay(pool, part(grad).numel(), dtype), accepted(pool, 7), params_of_step(7), test_stream());
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
                Tensor m = pool.zeros(dtype, {n}), v = pool.zeros(dtype, {n}), grad = pool.zeros(dtype, {n});
                std::vector<WeightRange> ranges;
                // one of no elements is among them
                const int64_t ends[8] = {16, 32, 32, 48, 160, 320, 336, n}, decays[8] = {0, 1, 0, 1, 0, 0, 1, 0};
                for (int64_t r = 0; r < 8; r++)
                    ranges.push_back({ends[r], decays[r], static_cast<int64_t>(dtype), r > 0 ? ends[r - 1] * size_of(dtype) : 0, -1});
                AdamwParams p;
                p.lr = 0.125, p.weight_decay = 0.5;
                adamw_update(param, {}, m, v, grad, table(pool, ranges), accepted(pool, 1, 1.0), p, test_stream());
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

    // 16-bit weights as they can be kept, aligned or not: what is stored and kept after a step, against the same step in f32.
    TEST_CASE("adamw: weights of 16 bits with masters, split masters and by chance; bf16 moments by the bits of (seed, step, index)") {
        enum class Way { bf16_master, f16_master, split, by_chance };
        for (Way way : {Way::bf16_master, Way::f16_master, Way::split, Way::by_chance})
            for (Dtype moments : {Dtype::f32, Dtype::bf16})
                for (bool aligned : {true, false})
                    for (int64_t n : {1, 7, 16, 1003}) {
                        Pool pool;
                        auto moved = [&](const Tensor& t) {  // onto 16 bytes or not
                            Tensor wide = pool.zeros(t.dtype, {n + 8}), to = wide.slice_rows(aligned ? 0 : 1, n);
                            std::memcpy(to.data, t.data, static_cast<size_t>(t.bytes()));
                            return to;
                        };
                        const Dtype stored = way == Way::f16_master ? Dtype::f16 : Dtype::bf16;
                        Tensor w = moved(pool.normal(Dtype::f32, {n})), grad = moved(pool.normal(Dtype::f32, {n}));
                        Tensor m = moved(pool.normal(moments, {n}, 1e-2)), v = moved(pool.filled(moments, {n}, 1e-3));
                        if (n == 1003 && moments == Dtype::bf16)  // NaN, and a square beyond all floats
                            Pool::set(grad, 500, std::nan("")), Pool::set(grad, 501, 1e30);
                        Tensor narrow = moved(pool.zeros(stored, {n})), kept;
                        if (way == Way::bf16_master || way == Way::f16_master) kept = moved(w);
                        if (way == Way::split) kept = moved(pool.zeros(Dtype::i16, {n}));
                        for (int64_t i = 0; i < n; i++) {
                            float& x = w.as<float>()[i];
                            if (way == Way::split) {
                                const SplitMaster s = split_master(std::bit_cast<uint32_t>(x));
                                narrow.as<bf16>()[i].bits = s.upper, kept.as<int16_t>()[i] = s.lower;
                            } else if (stored == Dtype::f16) {
                                narrow.as<f16>()[i] = narrowed<f16>(x);
                            } else {
                                narrow.as<bf16>()[i] = narrowed<bf16>(x);
                                if (way == Way::by_chance) x = widened(narrow.as<bf16>()[i]);
                            }
                        }
                        Tensor exact = moved(w), exact_m = pool.copy(m, Dtype::f32), exact_v = pool.copy(v, Dtype::f32);
                        Tensor state = accepted(pool, 9, 0.5);
                        AdamwParams p = params_of_step(9);
                        p.seed = 0x123456789ABCDEF;
                        adamw_update(exact, {}, exact_m, exact_v, grad, all_decay(pool, n), state, p, test_stream());
                        adamw_update(narrow, kept, m, v, grad, all_decay(pool, n, stored, kept ? 0 : -1), state, p, test_stream());
                        test_stream().synchronize();
                        auto random = [&](RandomStream use, int64_t i) {
                            return Random{p.seed, use}.bits(9, static_cast<uint64_t>(i / 4))[static_cast<size_t>(i % 4)];
                        };
                        auto by_chance = [&](float x, uint32_t bits) {
                            const uint32_t sum = std::bit_cast<uint32_t>(x) + bits;
                            return std::isfinite(x) ? static_cast<uint16_t>(sum >> 16) : float_to_bf16(x);
                        };
                        int64_t wrong = 0;
                        for (int64_t i = 0; i < n; i++) {
                            const float x = exact.as<float>()[i];
                            if (moments == Dtype::bf16) {
                                const uint32_t word = random(RandomStream::rounding, i);
                                wrong += m.as<bf16>()[i].bits != by_chance(exact_m.as<float>()[i], word & 0xFFFF);
                                wrong += v.as<bf16>()[i].bits != by_chance(exact_v.as<float>()[i], word >> 16);
                            }
                            if (std::isnan(x)) continue;
                            if (way == Way::bf16_master || way == Way::f16_master) wrong += kept.as<float>()[i] != x;
                            if (way == Way::bf16_master) wrong += narrow.as<bf16>()[i].bits != float_to_bf16(x);
                            if (way == Way::f16_master) wrong += narrow.as<f16>()[i].bits != float_to_half(x);
                            if (way == Way::split)
                                wrong += joined_master({narrow.as<bf16>()[i].bits, kept.as<int16_t>()[i]}) != std::bit_cast<uint32_t>(x);
                            if (way == Way::by_chance)
                                wrong += narrow.as<bf16>()[i].bits != by_chance(x, random(RandomStream::weight_rounding, i) & 0xFFFF);
                        }
                        CHECK(wrong == 0);
                        CHECK(guard_state_of(state).overflows == 0);
                        if (n == 1003 && moments == Dtype::bf16) {
                            CHECK(std::isnan(Pool::get(m, 500)));
                            CHECK(std::isinf(Pool::get(v, 501)));
                        }
                    }
    }

    TEST_CASE("adamw: a range of each kind in one call, each where the table says") {
        constexpr int64_t n = 16 * 5 + 3;
        Pool pool;
        const Tensor m = pool.zeros(Dtype::f32, {n}), v = pool.zeros(Dtype::f32, {n}), grad = pool.filled(Dtype::f32, {n}, 1.0);
        Tensor weights = pool.zeros(Dtype::u8, {32 * 4 + 32 * 2 + 19 * 2}), kept = pool.filled(Dtype::f32, {19}, 1.0);
        auto at = [&](int64_t byte) { return static_cast<std::byte*>(weights.data) + byte; };
        float* wide = reinterpret_cast<float*>(at(0));
        bf16* chance = reinterpret_cast<bf16*>(at(128));
        f16* half = reinterpret_cast<f16*>(at(192));
        for (int64_t i = 0; i < 32; i++) wide[i] = 1, chance[i] = narrowed<bf16>(1.0f);
        for (int64_t i = 0; i < 19; i++) half[i] = narrowed<f16>(1.0f);
        auto type = [](Dtype t) { return static_cast<int64_t>(t); };
        const Tensor ranges =
            table(pool, {{32, 0, type(Dtype::f32), 0, -1}, {64, 0, type(Dtype::bf16), 128, -1}, {n, 0, type(Dtype::f16), 192, 0}});
        AdamwParams p;
        p.lr = 0.25;
        adamw_update(weights, kept, m, v, grad, ranges, accepted(pool, 1, 1.0), p, test_stream());
        test_stream().synchronize();
        for (int64_t i = 0; i < 32; i++) {
            CHECK(wide[i] == doctest::Approx(0.75).epsilon(1e-5));
            CHECK(widened(chance[i]) == doctest::Approx(0.75).epsilon(0.01));
        }
        for (int64_t i = 0; i < 19; i++) {
            CHECK(widened(half[i]) == 0.75f);
            CHECK(kept.as<float>()[i] == doctest::Approx(0.75).epsilon(1e-5));
        }
    }

    TEST_CASE("adamw: rounding by chance loses nothing on average, where rounding to the nearest would stand still") {
        constexpr int64_t n = 20000;
        Pool pool;
        Tensor w = pool.filled(Dtype::bf16, {n}, 1.0), m = pool.zeros(Dtype::f32, {n}), v = pool.zeros(Dtype::f32, {n});
        const Tensor grad = pool.filled(Dtype::f32, {n}, 1.0);
        AdamwParams p;
        p.lr = 1e-4, p.eps = 0;  // steps of 1e-4 below 1, where neighbours are 2^-8 = 3.9e-3 apart
        for (int64_t step = 1; step <= 10; step++)
            adamw_update(w, {}, m, v, grad, all_decay(pool, n, Dtype::bf16), accepted(pool, step, 1.0), p, test_stream());
        test_stream().synchronize();
        double mean = 0;
        for (int64_t i = 0; i < n; i++) mean += Pool::get(w, i) / n;
        // ten draws of 0 or 2^-8 with probability 0.0256: deviation of the mean 2^-8 sqrt(10 * 0.025 / n) = 1.4e-5
        CHECK(std::abs(mean - 0.999) < 6e-5);
    }

    TEST_CASE("adamw: a piece of the arenas is updated, and rounded by chance, as in the whole") {
        constexpr int64_t n = 208, at = 64, count = 112;
        Pool pool;
        std::vector<Tensor> whole, pieces;
        for (auto* set : {&whole, &pieces}) {
            for (Dtype type : {Dtype::bf16, Dtype::bf16, Dtype::bf16, Dtype::f32}) set->push_back(pool.zeros(type, {n}));
            for (int64_t i = 0; i < n; i++) {
                Pool::set((*set)[0], i, 1 + 0.01 * static_cast<double>(i)), Pool::set((*set)[1], i, 0.3);
                Pool::set((*set)[2], i, 0.2), Pool::set((*set)[3], i, 0.7 - 0.003 * static_cast<double>(i));
            }
        }
        AdamwParams p;
        p.lr = 1e-3, p.seed = 5;
        auto update = [&](const std::vector<Tensor>& t, int64_t begin, int64_t size) {
            p.first_index = begin;
            auto part = [&](size_t which) { return t[which].slice_rows(begin, size); };
            adamw_update(part(0), {}, part(1), part(2), part(3), all_decay(pool, size, Dtype::bf16), accepted(pool, 3, 1.0), p,
                         test_stream());
        };
        update(whole, 0, n);
        update(pieces, at, count), update(pieces, at + count, n - at - count), update(pieces, 0, at);
        test_stream().synchronize();
        for (size_t which : {0, 1, 2})
            CHECK(std::memcmp(whole[which].data, pieces[which].data, static_cast<size_t>(whole[which].bytes())) == 0);
    }

    TEST_CASE("adamw: a weight that leaves the range of fp16 is counted") {
        Pool pool;
        Tensor w = pool.zeros(Dtype::f16, {48}), kept = pool.filled(Dtype::f32, {48}, 1.0), m = pool.zeros(Dtype::f32, {48});
        Tensor v = pool.zeros(Dtype::f32, {48}), grad = pool.filled(Dtype::f32, {48}, 1.0), state = accepted(pool, 1, 1.0);
        Pool::set(kept, 5, -65510), Pool::set(kept, 47, -65518);  // 65504 is the largest; to 65520 from there on goes to infinity
        AdamwParams p;
        p.lr = 4;
        adamw_update(w, kept, m, v, grad, all_decay(pool, 48, Dtype::f16, 0), state, p, test_stream());
        test_stream().synchronize();
        CHECK(guard_state_of(state).overflows == 1);
        CHECK(widened(w.as<f16>()[5]) == -65504.0f);
        CHECK(std::isinf(widened(w.as<f16>()[47])));
        CHECK(kept.as<float>()[47] == doctest::Approx(-65522));
    }

    TEST_CASE("adamw: a split master holds every finite number up to the largest bf16" * doctest::skip(on_gpu())) {
        int64_t wrong = 0, infinite = 0;
        for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 251) {  // 17 million of all patterns
            const uint32_t x = static_cast<uint32_t>(bits);
            if ((x & 0x7F800000) == 0x7F800000) continue;
            const SplitMaster s = split_master(x);
            wrong += joined_master(s) != x;
            const bool overflows = (s.upper & 0x7FFF) == 0x7F80;
            infinite += overflows;
            const double error = std::abs(static_cast<double>(std::bit_cast<float>(x)) - static_cast<double>(widened(bf16{s.upper})));
            const double other = std::abs(static_cast<double>(std::bit_cast<float>(x)) -
                                          static_cast<double>(widened(narrowed<bf16>(std::bit_cast<float>(x)))));
            wrong += !overflows && error != other;  // as near as the nearest
        }
        CHECK(wrong == 0);
        CHECK(infinite > 0);
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
