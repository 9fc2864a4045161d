#include "kernels/adamw.h"

#include <cmath>

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
          clip(T(guard.clip)) {}
    T m_correction, v_correction, beta1, beta2, rest1, rest2, lr, eps, clip;
};

template <class T>
void adamw_update(T* param, T* m, T* v, const T* grad, int64_t begin, int64_t end, T decay, Factors<T> f) {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = begin; i < end; i++) {
        T g = f.clip * grad[i];
        T new_m = f.beta1 * m[i] + f.rest1 * g, new_v = f.beta2 * v[i] + f.rest2 * (g * g);
        m[i] = new_m;
        v[i] = new_v;
        param[i] -= f.lr * (new_m * f.m_correction / (std::sqrt(new_v * f.v_correction) + f.eps) + decay * param[i]);
    }
}

}  // namespace
}  // namespace cpu

void adamw_update(Tensor param, Tensor copy, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state, const AdamwParams& params,
                  Stream& stream) {
    const int64_t n = param.numel();
    for (const Tensor& t : {param, m, v, grad}) ENSURE(t.contiguous() && t.numel() == n);
    ENSURE(grad.dtype == param.dtype && m.dtype == v.dtype && ranges.is({ranges.rows(), 2}) && ranges.rows() > 0);
    ENSURE(!copy || (copy.contiguous() && copy.numel() == n && copy.dtype == Dtype::bf16));
    ENSURE(guard_state.is({guard_state_size}));
    if (stream.on_gpu()) return gpu::adamw_update(param, copy, m, v, grad, ranges, guard_state, params, stream);
    ENSURE(!copy && m.dtype == param.dtype);
    const GuardState& guard = guard_state_of(guard_state);
    if (guard.verdict != Verdict::accepted) return;
    ENSURE(guard.adam_steps >= 1);
    dispatch_real(param.dtype, [&](auto real) {
        using T = decltype(real);
        int64_t begin = 0;
        for (int64_t r = 0; r < ranges.rows(); r++) {
            const int64_t end = ranges.as<int64_t>()[2 * r], decays = ranges.as<int64_t>()[2 * r + 1];
            ENSURE(end >= begin && end <= n);
            cpu::adamw_update(param.as<T>(), m.as<T>(), v.as<T>(), grad.as<T>(), begin, end, decays ? T(params.weight_decay) : T(0),
                              cpu::Factors<T>(params, guard));
            begin = end;
        }
        ENSURE(begin == n);
    });
}

}  // namespace traincu
