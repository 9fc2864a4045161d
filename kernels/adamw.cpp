#include "kernels/adamw.h"

#include <cmath>

namespace traincu {
namespace cpu {
namespace {

template <class T>
void adamw_update(T* param, T* m, T* v, const T* grad, int64_t size, const AdamwParams& p) {
    // Once per call and in double: 1 - beta^step has few correct digits in float while step is small.
    double step = static_cast<double>(p.step);
    T m_correction = T(1 / (1 - std::pow(p.beta1, step))), v_correction = T(1 / (1 - std::pow(p.beta2, step)));
    T beta1 = T(p.beta1), beta2 = T(p.beta2), rest1 = T(1 - p.beta1), rest2 = T(1 - p.beta2);
    T lr = T(p.lr), eps = T(p.eps), decay = T(p.weight_decay), scale = T(p.grad_scale);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < size; i++) {
        T g = scale * grad[i];
        T new_m = beta1 * m[i] + rest1 * g, new_v = beta2 * v[i] + rest2 * (g * g);
        m[i] = new_m;
        v[i] = new_v;
        param[i] -= lr * (new_m * m_correction / (std::sqrt(new_v * v_correction) + eps) + decay * param[i]);
    }
}

}  // namespace
}  // namespace cpu

void adamw_update(Tensor param, Tensor m, Tensor v, Tensor grad, const AdamwParams& params, Stream& stream) {
    ENSURE(stream.device == Device::cpu && params.step >= 1);
    ENSURE(param.contiguous() && m.contiguous() && v.contiguous() && grad.contiguous());
    ENSURE(m.numel() == param.numel() && v.numel() == param.numel() && grad.numel() == param.numel());
    dispatch_real(param.dtype, [&](auto real) {
        using T = decltype(real);
        cpu::adamw_update(param.as<T>(), m.as<T>(), v.as<T>(), grad.as<T>(), param.numel(), params);
    });
}

}  // namespace traincu
