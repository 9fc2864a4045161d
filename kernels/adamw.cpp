#include "kernels/adamw.h"

#include <cmath>

#include "src/base/philox.h"

namespace traincu {
namespace cpu {
namespace {

// What is the same for all elements.
template <class T>
struct Factors {
    // In double: 1 - beta^step has few correct digits in float while step is small.
    Factors(const AdamwParams& p, const GuardState& guard)
        : m_correction(T(1 / (1 - std::pow(p.beta1, static_cast<double>(guard.adam_steps))))),
          v_correction(T(1 / (1 - std::pow(p.beta2, static_cast<double>(guard.adam_steps))))),
          beta1(T(p.beta1)),
          beta2(T(p.beta2)),
          rest1(T(1 - p.beta1)),
          rest2(T(1 - p.beta2)),
          lr(T(p.lr)),
          eps(T(p.eps)),
          clip(T(guard.clip)),
          seed(p.seed),
          first_index(p.first_index),
          step(static_cast<uint32_t>(guard.adam_steps)) {}
    T m_correction, v_correction, beta1, beta2, rest1, rest2, lr, eps, clip;
    uint64_t seed;
    int64_t first_index;
    uint32_t step;
};

// One of the two bf16 beside x, by chance: 16 random bits are added below the last place and the rest is cut off. What is not finite stays
// so.
bf16 rounded_by_chance(float x, uint32_t random16) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    return (bits & 0x7F800000u) == 0x7F800000u ? narrowed<bf16>(x) : bf16{static_cast<uint16_t>((bits + random16) >> 16)};
}
uint32_t random_word(const Random& random, uint32_t step, int64_t i) {
    return random.bits(step, static_cast<uint64_t>(i / 4))[static_cast<size_t>(i % 4)];
}

// ---- the moments, of elements i of the flat index

template <class T>
struct Moments {
    T *m, *v;
    void store(int64_t i, T new_m, T new_v) const { m[i] = new_m, v[i] = new_v; }
};
struct RoundedMoments {
    bf16 *m, *v;
    uint64_t seed;
    int64_t first_index;
    uint32_t step;
    void store(int64_t i, float new_m, float new_v) const {
        const uint32_t random = random_word({seed, RandomStream::rounding}, step, first_index + i);
        m[i] = rounded_by_chance(new_m, random & 0xFFFF), v[i] = rounded_by_chance(new_v, random >> 16);
    }
};

// ---- the weights, of elements i of the flat index; the pointers are moved so that i is their index. store(): was w finite, and is the
// stored weight not?

bool overflowed(float w, float stored) { return std::isfinite(w) && !std::isfinite(stored); }

template <class T>
struct Stored {
    T* weights;
    T load(int64_t i) const { return weights[i]; }
    bool store(int64_t i, T w) const { return weights[i] = w, false; }
};
template <class T, class Narrow>
struct Mastered {
    Narrow* weights;
    T* master;
    T load(int64_t i) const { return master[i]; }
    bool store(int64_t i, T w) const {
        master[i] = w, weights[i] = narrowed<Narrow>(static_cast<float>(w));
        return overflowed(static_cast<float>(w), widened(weights[i]));
    }
};
template <class T>
struct MasterAlone {
    T* master;
    T load(int64_t i) const { return master[i]; }
    bool store(int64_t i, T w) const { return master[i] = w, false; }
};
struct Split {
    bf16* weights;
    int16_t* lower;
    float load(int64_t i) const { return std::bit_cast<float>(joined_master({weights[i].bits, lower[i]})); }
    bool store(int64_t i, float w) const {
        const SplitMaster s = split_master(std::bit_cast<uint32_t>(w));
        weights[i].bits = s.upper, lower[i] = s.lower;
        return overflowed(w, widened(weights[i]));
    }
};
struct ByChance {
    bf16* weights;
    uint64_t seed;
    int64_t first_index;
    uint32_t step;
    float load(int64_t i) const { return widened(weights[i]); }
    bool store(int64_t i, float w) const {
        weights[i] = rounded_by_chance(w, random_word({seed, RandomStream::weight_rounding}, step, first_index + i) & 0xFFFF);
        return overflowed(w, widened(weights[i]));
    }
};

// Elements [begin, end); returns how many overflowed.
template <class T, class Weights, class Moments>
int64_t update(Weights weights, Moments moments, const T* grad, int64_t begin, int64_t end, T decay, const Factors<T>& factors) {
    const Factors<T> f = factors;
    int64_t overflows = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : overflows)
    for (int64_t i = begin; i < end; i++) {
        const T g = f.clip * grad[i];
        const T m = f.beta1 * T(widened(moments.m[i])) + f.rest1 * g, v = f.beta2 * T(widened(moments.v[i])) + f.rest2 * (g * g);
        moments.store(i, m, v);
        T w = weights.load(i);
        w -= f.lr * (m * f.m_correction / (std::sqrt(v * f.v_correction) + f.eps) + decay * w);
        overflows += weights.store(i, w);
    }
    return overflows;
}

// body(weights) with the way in which the range that begins at element `begin` keeps its weights.
template <class T, class Body>
void with_weights(const Tensor& weights, const Tensor& kept, const WeightRange& range, int64_t begin, const Factors<T>& f, Body&& body) {
    auto stored = [&]<class Type>(Type) {
        return reinterpret_cast<Type*>(static_cast<std::byte*>(weights.data) + range.stored_at) - begin;
    };
    if (range.stored == master_alone) {
        ENSURE(range.kept_at >= 0 && kept.dtype == DtypeOf<T>::value);
        return body(MasterAlone<T>{kept.as<T>() + range.kept_at - begin});
    }
    const Dtype type = static_cast<Dtype>(range.stored);
    if (type == DtypeOf<T>::value) return body(Stored<T>{stored(T{})});
    if (range.kept_at >= 0 && kept.dtype == DtypeOf<T>::value) {
        T* master = kept.as<T>() + range.kept_at - begin;
        if (type == Dtype::bf16) return body(Mastered<T, bf16>{stored(bf16{}), master});
        if (type == Dtype::f16) return body(Mastered<T, f16>{stored(f16{}), master});
    }
    if constexpr (std::is_same_v<T, float>) {
        if (type == Dtype::bf16 && range.kept_at < 0) return body(ByChance{stored(bf16{}), f.seed, f.first_index, f.step});
        if (type == Dtype::bf16 && kept.dtype == Dtype::i16) return body(Split{stored(bf16{}), kept.as<int16_t>() + range.kept_at - begin});
    }
    ENSURE(!"a way to keep weights that AdamW knows");
}

}  // namespace
}  // namespace cpu

void adamw_update(Tensor weights, Tensor kept, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state,
                  const AdamwParams& params, Stream& stream) {
    const int64_t n = grad.numel();
    for (const Tensor& t : {m, v, grad}) ENSURE(t.contiguous() && t.numel() == n);
    ENSURE(weights.contiguous() && (!kept || kept.contiguous()) && m.dtype == v.dtype && ranges.is({ranges.rows(), weight_range_size}));
    ENSURE(ranges.rows() > 0 && guard_state.is({guard_state_size}) && params.first_index % 4 == 0);
    if (stream.on_gpu()) return gpu::adamw_update(weights, kept, m, v, grad, ranges, guard_state, params, stream);
    GuardState& guard = guard_state_of(guard_state);
    if (guard.verdict != Verdict::accepted) return;
    ENSURE(guard.adam_steps >= 1);
    dispatch_real(grad.dtype, [&](auto real) {
        using T = decltype(real);
        const cpu::Factors<T> factors(params, guard);
        int64_t begin = 0;
        for (int64_t r = 0; r < ranges.rows(); r++) {
            const WeightRange& range = reinterpret_cast<const WeightRange*>(ranges.as<int64_t>())[r];
            ENSURE(range.end >= begin && range.end <= n);
            ENSURE(range.stored == master_alone ||
                   range.stored_at + (range.end - begin) * size_of(static_cast<Dtype>(range.stored)) <= weights.bytes());
            ENSURE(range.kept_at < 0 || range.kept_at + range.end - begin <= kept.numel());
            const T decay = range.decays ? T(params.weight_decay) : T(0);
            cpu::with_weights<T>(weights, kept, range, begin, factors, [&](auto w) {
                if constexpr (std::is_same_v<T, float>)
                    if (m.dtype == Dtype::bf16) {
                        const cpu::RoundedMoments moments{m.as<bf16>(), v.as<bf16>(), factors.seed, factors.first_index, factors.step};
                        guard.overflows += cpu::update(w, moments, grad.as<T>(), begin, range.end, decay, factors);
                        return;
                    }
                const cpu::Moments<T> moments{m.as<T>(), v.as<T>()};
                guard.overflows += cpu::update(w, moments, grad.as<T>(), begin, range.end, decay, factors);
            });
            begin = range.end;
        }
        ENSURE(begin == n);
    });
}

}  // namespace traincu
