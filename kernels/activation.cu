// GELU and SwiGLU on the GPU: a thread takes two packs of 16 bytes, half a block apart, and reads both before it computes.
//
// Bytes per element of out, bf16: gelu 4 forward, 6 backward; swiglu 6 and 10. Floor: these over the memory's speed; 64k rows of 3072
// at 4.3 TB/s: 0.19, 0.28, 0.28, 0.47 ms. The exponential, the reciprocal and the conversions are ~20 instructions an element, which is
// just below what the memory allows in bf16: hence exponential() and reciprocal() of kernels/packs.h. Fraction: not measured.
#include "kernels/activation.h"

#include "kernels/packs.h"

namespace traincu::gpu {

constexpr float gelu_inner = 1.5957691216057308f, gelu_cubic = 0.044715f;  // 2 sqrt(2/pi)

// s = 1 / (1 + e^-z) and 1 - s, which as a difference would have few correct digits for large z. The exponential saturates, since infinity
// times s = 0 would be NaN; the comparison keeps NaN.
template <class T>
struct Sigmoid {
    float s, rest;
    __device__ explicit Sigmoid(float z) {
        const float e = exponential<T>(-z > 87.0f ? 87.0f : -z);
        s = reciprocal<T>(1.0f + e), rest = e * s;
    }
};

// 0.5 (1 + tanh(u)) = s(2u); this is 2u
inline __device__ float gelu_logit(float x) { return gelu_inner * (x + gelu_cubic * x * x * x); }
inline __device__ float gelu_logit_slope(float x) { return gelu_inner * (1.0f + 3 * gelu_cubic * x * x); }

constexpr int activation_threads = 256, in_flight = 2;

// n packs of `width`. Forward: to = out. Backward: to = dinp, which may be inp or dout.
template <class T, int width, bool backward>
__global__ void __launch_bounds__(activation_threads) gelu_kernel(T* to, const T* dout, const T* inp, int64_t n) {
    const int64_t first = int64_t{blockIdx.x} * in_flight * activation_threads + threadIdx.x;
    float x[in_flight][width], dy[in_flight][width];
#pragma unroll
    for (int k = 0; k < in_flight; k++) {
        const int64_t pack = first + k * activation_threads;
        if (pack >= n) continue;
        load_floats(x[k], inp + pack * width);
        if constexpr (backward) load_floats(dy[k], dout + pack * width);
    }
#pragma unroll
    for (int k = 0; k < in_flight; k++) {
        const int64_t pack = first + k * activation_threads;
        if (pack >= n) continue;
#pragma unroll
        for (int i = 0; i < width; i++) {
            const float v = x[k][i];
            const Sigmoid<T> gate(gelu_logit(v));
            if constexpr (backward)
                x[k][i] = dy[k][i] * (gate.s + v * gate.s * gate.rest * gelu_logit_slope(v));  // (x s(z))' = s + x s (1 - s) z'
            else
                x[k][i] = v * gate.s;
        }
        store_floats(to + pack * width, x[k]);
    }
}

// n packs of out, F / width of them in a row. Forward: to (N,F) = out. Backward: to (N,2F) = dgate_up, which may be gate_up.
template <class T, int width, bool backward>
__global__ void __launch_bounds__(activation_threads) swiglu_kernel(T* to, const T* dout, const T* gate_up, int64_t n, int64_t F) {
    const int64_t first = int64_t{blockIdx.x} * in_flight * activation_threads + threadIdx.x;
    float gate[in_flight][width], up[in_flight][width], dy[in_flight][width];
    int64_t at[in_flight];  // of the gate, in gate_up
#pragma unroll
    for (int k = 0; k < in_flight; k++) {
        const int64_t pack = first + k * activation_threads;
        if (pack >= n) continue;
        at[k] = pack * width + pack / (F / width) * F;
        load_floats(gate[k], gate_up + at[k]), load_floats(up[k], gate_up + at[k] + F);
        if constexpr (backward) load_floats(dy[k], dout + pack * width);
    }
#pragma unroll
    for (int k = 0; k < in_flight; k++) {
        const int64_t pack = first + k * activation_threads;
        if (pack >= n) continue;
#pragma unroll
        for (int i = 0; i < width; i++) {
            const float x = gate[k][i], y = up[k][i];
            const Sigmoid<T> sigmoid(x);
            if constexpr (backward) {
                gate[k][i] = dy[k][i] * y * (sigmoid.s + x * sigmoid.s * sigmoid.rest);  // silu'(x) = s + x s (1 - s)
                up[k][i] = dy[k][i] * x * sigmoid.s;
            } else {
                gate[k][i] = x * sigmoid.s * y;
            }
        }
        if constexpr (backward)
            store_floats(to + at[k], gate[k]), store_floats(to + at[k] + F, up[k]);
        else
            store_floats(to + pack * width, gate[k]);
    }
}

template <bool backward>
void gelu(const Tensor& to, const Tensor& dout, const Tensor& inp, Stream& stream) {
    if (to.numel() == 0) return;
    dispatch_stored(to.dtype, [&](auto stored) {
        using T = decltype(stored);
        // the tensors are contiguous, so rows need not be told apart
        const bool packed = to.numel() % Pack<T>::size == 0 && pointers_aligned({to, dout, inp});
        dispatch_width<T>(packed, [&](auto w) {
            constexpr int width = decltype(w)::value;
            const int64_t n = to.numel() / width;
            launch(gelu_kernel<T, width, backward>, grid_of(div_ceil(n, in_flight * activation_threads)), dim3(activation_threads), 0,
                   stream, to.as<T>(), dout.as_or_null<T>(), inp.as<T>(), n);
        });
    });
}

template <bool backward>
void swiglu(const Tensor& to, const Tensor& dout, const Tensor& gate_up, Stream& stream) {
    if (to.numel() == 0) return;
    const int64_t N = gate_up.rows(), F = gate_up.cols() / 2;
    dispatch_stored(to.dtype, [&](auto stored) {
        using T = decltype(stored);
        const bool packed = F % Pack<T>::size == 0 && pointers_aligned({to, dout, gate_up});
        dispatch_width<T>(packed, [&](auto w) {
            constexpr int width = decltype(w)::value;
            const int64_t n = N * F / width;
            launch(swiglu_kernel<T, width, backward>, grid_of(div_ceil(n, in_flight * activation_threads)), dim3(activation_threads), 0,
                   stream, to.as<T>(), dout.as_or_null<T>(), gate_up.as<T>(), n, F);
        });
    });
}

void gelu_forward(Tensor out, Tensor inp, Stream& stream) { gelu<false>(out, {}, inp, stream); }
void gelu_backward(Tensor dinp, Tensor dout, Tensor inp, Stream& stream) { gelu<true>(dinp, dout, inp, stream); }
void swiglu_forward(Tensor out, Tensor gate_up, Stream& stream) { swiglu<false>(out, {}, gate_up, stream); }
void swiglu_backward(Tensor dgate_up, Tensor dout, Tensor gate_up, Stream& stream) { swiglu<true>(dgate_up, dout, gate_up, stream); }

}  // namespace traincu::gpu
