#include "kernels/activation.h"

#include "kernels/vmath.h"
#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

constexpr double sqrt_2_over_pi = 0.7978845608028654, gelu_cubic = 0.044715;

// 0.5 (1 + tanh(u)) is the sigmoid of 2u. Written so, gelu costs one exponential and one division, and large negative x
// lose no digits in 1 + tanh(u), where tanh(u) is nearly -1. This is 2u.
template <class T>
inline T gelu_logit(T x) {
    return T(2 * sqrt_2_over_pi) * (x + T(gelu_cubic) * x * x * x);
}
template <class T>
inline T gelu_logit_slope(T x) {
    return T(2 * sqrt_2_over_pi) * (T(1) + T(3 * gelu_cubic) * x * x);
}

// s = 1 / (1 + e^-z) and 1 - s, which as a difference would have few correct digits for large z.
template <class T>
struct Sigmoid {
    T s, rest;
    explicit Sigmoid(T z) {
        T e = vexp(-z);  // never infinite, which times s = 0 would be NaN
        s = T(1) / (T(1) + e);
        rest = e * s;
    }
};

template <class S>
void gelu_forward(S* out, const S* inp, int64_t size) {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < size; i++) {
        const Real<S> x = widened(inp[i]);
        out[i] = stored<S>(x * vsigmoid(gelu_logit(x)));
    }
}

// (x s(z))' = s + x s (1 - s) z'
template <class S>
void gelu_backward(S* dinp, const S* dout, const S* inp, int64_t size) {
    using T = Real<S>;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < size; i++) {
        T x = widened(inp[i]);
        Sigmoid<T> gate(gelu_logit(x));
        dinp[i] = stored<S>(widened(dout[i]) * (gate.s + x * gate.s * gate.rest * gelu_logit_slope(x)));
    }
}

// gate_up (N,2F), out (N,F)
template <class S>
void swiglu_forward(S* out, const S* gate_up, int64_t N, int64_t F) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const S *gate = gate_up + n * 2 * F, *up = gate + F;
        S* row = out + n * F;
#pragma omp simd
        for (int64_t f = 0; f < F; f++) row[f] = stored<S>(widened(gate[f]) * vsigmoid(widened(gate[f])) * widened(up[f]));
    }
}

// silu'(x) = s + x s (1 - s). Both inputs are read before either gradient is written: dgate_up may be gate_up.
template <class S>
void swiglu_backward(S* dgate_up, const S* dout, const S* gate_up, int64_t N, int64_t F) {
    using T = Real<S>;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const S *gate = gate_up + n * 2 * F, *up = gate + F, *gradient = dout + n * F;
        S *dgate = dgate_up + n * 2 * F, *dup = dgate + F;
#pragma omp simd
        for (int64_t f = 0; f < F; f++) {
            T x = widened(gate[f]), y = widened(up[f]), dy = widened(gradient[f]);
            Sigmoid<T> sigmoid(x);
            dgate[f] = stored<S>(dy * y * (sigmoid.s + x * sigmoid.s * sigmoid.rest));
            dup[f] = stored<S>(dy * x * sigmoid.s);
        }
    }
}

}  // namespace
}  // namespace cpu

void gelu_forward(Tensor out, Tensor inp, Stream& stream) {
    ENSURE(out.is({inp.rows(), inp.cols()}) && out.contiguous() && inp.contiguous());
    if (stream.on_gpu()) return gpu::gelu_forward(out, inp, stream);
    cpu::dispatch_activations(out.dtype, [&]<class S>(S) { cpu::gelu_forward(out.as<S>(), inp.as<S>(), out.numel()); });
}

void gelu_backward(Tensor dinp, Tensor dout, Tensor inp, Stream& stream) {
    int64_t N = inp.rows(), F = inp.cols();
    ENSURE(dinp.is({N, F}) && dinp.contiguous() && dout.is({N, F}) && dout.contiguous() && inp.contiguous());
    if (stream.on_gpu()) return gpu::gelu_backward(dinp, dout, inp, stream);
    cpu::dispatch_activations(dinp.dtype, [&]<class S>(S) { cpu::gelu_backward(dinp.as<S>(), dout.as<S>(), inp.as<S>(), dinp.numel()); });
}

void swiglu_forward(Tensor out, Tensor gate_up, Stream& stream) {
    int64_t N = out.rows(), F = out.cols();
    ENSURE(out.is({N, F}) && out.contiguous() && gate_up.is({N, 2 * F}) && gate_up.contiguous());
    if (stream.on_gpu()) return gpu::swiglu_forward(out, gate_up, stream);
    cpu::dispatch_activations(out.dtype, [&]<class S>(S) { cpu::swiglu_forward(out.as<S>(), gate_up.as<S>(), N, F); });
}

void swiglu_backward(Tensor dgate_up, Tensor dout, Tensor gate_up, Stream& stream) {
    int64_t N = dout.rows(), F = dout.cols();
    ENSURE(dgate_up.is({N, 2 * F}) && dgate_up.contiguous() && dout.is({N, F}) && dout.contiguous());
    ENSURE(gate_up.is({N, 2 * F}) && gate_up.contiguous());
    if (stream.on_gpu()) return gpu::swiglu_backward(dgate_up, dout, gate_up, stream);
    cpu::dispatch_activations(dout.dtype, [&]<class S>(S) { cpu::swiglu_backward(dgate_up.as<S>(), dout.as<S>(), gate_up.as<S>(), N, F); });
}

}  // namespace traincu
