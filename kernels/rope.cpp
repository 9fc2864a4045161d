#include "kernels/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/widened_cpu.h"

namespace traincu {
namespace cpu {
namespace {

// One head (HS) by the angles of its position; sign = -1 turns back. to = from is allowed.
template <class T>
void rotate(T* to, const T* from, const T* angles, int64_t half, T sign) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const T a = from[i], b = from[half + i], cosine = angles[i], sine = sign * angles[half + i];
        to[i] = a * cosine - b * sine;
        to[half + i] = b * cosine + a * sine;
    }
}

// The sum of term(i) over i < HS, in vector lanes: its order depends on HS alone.
template <class T, class Term>
T head_sum(int64_t HS, Term term) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < HS; i++) total += term(i);
    return total;
}

// The QK-norm's weights (HS) as numbers to compute with, or null.
template <class S>
struct HeadWeights {
    std::vector<Real<S>> q_copy, k_copy;
    const Real<S>*q = nullptr, *k = nullptr;

    HeadWeights(const Tensor& q_weight, const Tensor& k_weight) {
        if (!q_weight) return;
        q_copy = row_buffer<S>(q_weight.numel()), k_copy = row_buffer<S>(k_weight.numel());
        q = real_row(q_weight.as<S>(), q_copy, q_weight.numel()), k = real_row(k_weight.as<S>(), k_copy, k_weight.numel());
    }
};

template <class S>
void forward(const Tensor& qk, const Tensor& rstd, const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
             const Tensor& positions, const Tensor& angles, const RopeParams& params) {
    using T = Real<S>;
    const int64_t tokens = qk.rows(), HS = params.head_size, heads = params.n_head + params.n_kv_head;
    const T* table = angles.as_or_null<T>();
    const HeadWeights<S> weights(q_weight, k_weight);
    const S* in = qkv.as<S>();
    const int32_t* position = positions.as<int32_t>();
    S* out = qk.as<S>();
    T* rstds = rstd.as_or_null<T>();
#pragma omp parallel
    {
        std::vector<T> x_buffer = row_buffer<S>(HS), y_buffer = row_buffer<S>(HS);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t h = 0; h < heads; h++) {
                const T *x = real_row(in + t * qkv.row_stride + h * HS, x_buffer, HS), *w = h < params.n_head ? weights.q : weights.k;
                S* to = out + t * qk.row_stride + h * HS;
                T* y = result_row(to, y_buffer);
                const T* source = x;
                if (w) {
                    const T mean_square = head_sum<T>(HS, [=](int64_t i) { return x[i] * x[i]; }) / static_cast<T>(HS);
                    const T rs = rstds[t * heads + h] = 1 / std::sqrt(mean_square + static_cast<T>(params.eps));
#pragma omp simd
                    for (int64_t i = 0; i < HS; i++) y[i] = x[i] * rs * w[i];
                    source = y;
                }
                if (table)
                    rotate(y, source, table + position[t] * HS, HS / 2, T(1));
                else if (source != y)
                    std::copy(source, source + HS, y);
                put_row(to, y, HS);
            }
    }
}

// The gradient of one normed head: dx = rstd (g - xhat average(g xhat)) with g = dy w, xhat = x rstd; dw += dy xhat. dx = dy is allowed.
template <class T>
void norm_backward(T* dx, T* dw, const T* dy, const T* x, const T* w, T rstd, int64_t HS) {
    const T average = head_sum<T>(HS, [=](int64_t i) { return dy[i] * w[i] * (x[i] * rstd); }) / static_cast<T>(HS);
#pragma omp simd
    for (int64_t i = 0; i < HS; i++) {
        const T xhat = x[i] * rstd, gradient = dy[i];
        dw[i] += gradient * xhat;
        dx[i] = rstd * (gradient * w[i] - xhat * average);
    }
}

// dweight (HS) += for every unit, in ascending order: the sum of its blocks. partials (units,blocks,2,HS), of which one of the two.
template <class T>
void fold_units(T* dweight, const T* partials, int64_t units, int64_t blocks, int64_t HS) {
    std::vector<T> sum(static_cast<size_t>(HS));
    for (int64_t u = 0; u < units; u++) {
        std::fill(sum.begin(), sum.end(), T(0));
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t i = 0; i < HS; i++) sum[static_cast<size_t>(i)] += partials[(u * blocks + b) * 2 * HS + i];
        for (int64_t i = 0; i < HS; i++) dweight[i] += sum[static_cast<size_t>(i)];
    }
}

// Tokens are handed to the threads in blocks of 16 within a unit, each with partial sums of its own for the gradients of the weights:
// the order of these sums never depends on the number of threads.
template <class S>
void backward(const Tensor& dqkv, const Tensor& dq_weight, const Tensor& dk_weight, const Tensor& dqk, const Tensor& rstd,
              const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight, const Tensor& positions, const Tensor& angles,
              const RopeParams& params, int64_t unit_rows) {
    using T = Real<S>;
    constexpr int64_t block_rows = 16;
    const int64_t tokens = dqk.rows(), HS = params.head_size, heads = params.n_head + params.n_kv_head;
    const int64_t unit = unit_rows > 0 ? std::min(unit_rows, tokens) : tokens;
    const int64_t units = div_ceil(tokens, unit), blocks = div_ceil(unit, block_rows);
    const T* table = angles.as_or_null<T>();
    const T* rstds = rstd.as_or_null<T>();
    const S *dout = dqk.as<S>(), *in = rstd ? qkv.as<S>() : nullptr;
    const HeadWeights<S> weights(q_weight, k_weight);
    const bool normed = weights.q != nullptr;
    const int32_t* position = positions.as<int32_t>();
    S* din = dqkv.as<S>();
    std::vector<T> partials(static_cast<size_t>(normed ? units * blocks * 2 * HS : 0));
#pragma omp parallel
    {
        std::vector<T> x_buffer = row_buffer<S>(HS), dy_buffer = row_buffer<S>(HS), dx_buffer = row_buffer<S>(HS);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < units * blocks; block++) {
            const int64_t unit_begin = block / blocks * unit, begin = unit_begin + block % blocks * block_rows;
            const int64_t end = std::min({begin + block_rows, unit_begin + unit, tokens});
            T* dw = normed ? partials.data() + block * 2 * HS : nullptr;  // (2,HS): q, then k
            for (int64_t t = begin; t < end; t++)
                for (int64_t h = 0; h < heads; h++) {
                    const T* dy = real_row(dout + t * dqk.row_stride + h * HS, dy_buffer, HS);
                    S* to = din + t * dqkv.row_stride + h * HS;
                    T* dx = result_row(to, dx_buffer);
                    if (table)
                        rotate(dx, dy, table + position[t] * HS, HS / 2, T(-1));
                    else if (dx != dy)
                        std::copy(dy, dy + HS, dx);
                    const bool is_q = h < params.n_head;
                    if (normed)
                        norm_backward(dx, is_q ? dw : dw + HS, dx, real_row(in + t * qkv.row_stride + h * HS, x_buffer, HS),
                                      is_q ? weights.q : weights.k, rstds[t * heads + h], HS);
                    put_row(to, dx, HS);
                }
        }
    }
    if (!normed) return;
    fold_units(dq_weight.as<T>(), partials.data(), units, blocks, HS);
    fold_units(dk_weight.as<T>(), partials.data() + HS, units, blocks, HS);
}

// The shapes that both directions share; `qk` and `qkv` stand for their gradients too.
void check_rope(const Tensor& qk, const Tensor& qkv, const Tensor& rstd, const Tensor& q_weight, const Tensor& k_weight,
                const Tensor& positions, const Tensor& angles, const RopeParams& p) {
    const int64_t tokens = qk.rows(), heads = p.n_head + p.n_kv_head;
    ENSURE(tokens > 0 && positions.is({tokens}));
    ENSURE(qk.is({tokens, heads * p.head_size}) && qkv.is({tokens, (heads + p.n_kv_head) * p.head_size}));
    ENSURE(!angles || (p.head_size % 2 == 0 && angles.is({angles.rows(), p.head_size}) && angles.dtype == statistics_of(qk.dtype)));
    ENSURE(bool(q_weight) == bool(rstd) && bool(k_weight) == bool(rstd));
    if (rstd)
        ENSURE(rstd.is({tokens, heads}) && rstd.contiguous() && rstd.dtype == statistics_of(qk.dtype) && q_weight.is({p.head_size}) &&
               k_weight.is({p.head_size}));
}

// Every position has a row in the table.
void check_positions(const Tensor& positions, const Tensor& angles) {
    if (!angles) return;
    const int32_t* p = positions.as<int32_t>();
    const auto [lowest, highest] = std::minmax_element(p, p + positions.rows());
    ENSURE(*lowest >= 0 && *highest < angles.rows());
}

}  // namespace
}  // namespace cpu

double rope_frequency(int64_t i, int64_t head_size, double theta, const RopeScaling& s) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
    if (s.factor == 1) return frequency;
    const double waves = static_cast<double>(s.original_max_position) * frequency / (2 * std::numbers::pi);  // r above
    if (waves > s.high_freq_factor) return frequency;
    if (waves < s.low_freq_factor) return frequency / s.factor;
    const double keep = (waves - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    return keep * frequency + (1 - keep) * frequency / s.factor;
}

void rope_angles(Tensor angles, double theta, const RopeScaling& scaling) {
    const int64_t positions = angles.rows(), HS = angles.cols(), half = HS / 2;
    ENSURE(HS % 2 == 0 && angles.contiguous());
    dispatch_real(angles.dtype, [&](auto real) {
        using T = decltype(real);
        T* table = angles.as<T>();
        for (int64_t i = 0; i < half; i++) {
            const double frequency = rope_frequency(i, HS, theta, scaling);
            for (int64_t p = 0; p < positions; p++) {
                const double angle = static_cast<double>(p) * frequency;
                table[p * HS + i] = static_cast<T>(std::cos(angle));
                table[p * HS + half + i] = static_cast<T>(std::sin(angle));
            }
        }
    });
}

void qk_norm_rope_forward(Tensor qk, Tensor rstd, Tensor qkv, Tensor q_weight, Tensor k_weight, Tensor positions, Tensor angles,
                          const RopeParams& params, Stream& stream) {
    cpu::check_rope(qk, qkv, rstd, q_weight, k_weight, positions, angles, params);
    if (stream.on_gpu()) return gpu::qk_norm_rope_forward(qk, rstd, qkv, q_weight, k_weight, positions, angles, params, stream);
    cpu::check_positions(positions, angles);
    cpu::dispatch_activations(qk.dtype, [&]<class S>(S) { cpu::forward<S>(qk, rstd, qkv, q_weight, k_weight, positions, angles, params); });
}

void qk_norm_rope_backward(Tensor dqkv, Tensor dq_weight, Tensor dk_weight, Tensor dqk, Tensor rstd, Tensor qkv, Tensor q_weight,
                           Tensor k_weight, Tensor positions, Tensor angles, const RopeParams& params, int64_t unit_rows, Stream& stream) {
    ENSURE(unit_rows >= 0);
    cpu::check_rope(dqk, dqkv, rstd, q_weight, k_weight, positions, angles, params);
    if (rstd) {
        ENSURE(qkv.is({dqkv.rows(), dqkv.cols()}) && dq_weight.is({params.head_size}) && dk_weight.is({params.head_size}));
        ENSURE(dq_weight.dtype == rstd.dtype && dk_weight.dtype == rstd.dtype);
    }
    if (stream.on_gpu())
        return gpu::qk_norm_rope_backward(dqkv, dq_weight, dk_weight, dqk, rstd, qkv, q_weight, k_weight, positions, angles, params,
                                          unit_rows, stream);
    cpu::check_positions(positions, angles);
    cpu::dispatch_activations(dqk.dtype, [&]<class S>(S) {
        cpu::backward<S>(dqkv, dq_weight, dk_weight, dqk, rstd, qkv, q_weight, k_weight, positions, angles, params, unit_rows);
    });
}

}  // namespace traincu
