// What attention's kernels for GPUs share: how they see the tensors of kernels/attention.h, and who computes what.
//
//   attention.cu                     chooses the kernels; the backward's first pass: D, the gate, the sinks
//   attention_simple*.cu             one warp a row, f32 and bf16, any head up to 256: what the others are compared with
//   attention_tiled*.cu              tensor cores through mma.sync, bf16, sm_80 and later
//   attention_sm90.cu                TMA and wgmma, bf16, sm_90 alone
#pragma once

#include "kernels/attention.h"
#include "kernels/launch.h"

namespace traincu::gpu {

constexpr int attention_largest_head = 256;
constexpr float attention_log2e = 1.4426950408889634f;

// A (rows, heads, HS) view.
template <class T>
struct AttentionHeads {
    T* data;
    int64_t stride;  // from one token to the next
    bool aligned;    // every head begins and ends at multiples of 16 bytes
    __device__ T* row(int64_t token, int64_t head, int width) const { return data + token * stride + head * width; }
};

enum class AttentionBias { none, alibi, relative, factors, dense };

// All that a kernel reads besides q, k, v and its tiles.
template <class T>
struct AttentionScores {
    float scale, softcap;  // softcap: 0 = none
    int64_t window;        // 0 = all
    AttentionBias bias;
    const float* slopes;                           // (NH)
    const T* relative;                             // (NH,relative_buckets)
    AttentionHeads<const T> q_factors, k_factors;  // (P,NH,R), (P,NKV,R)
    int R;
    const T* dense;  // (NH,P,P)
    int64_t P;
    const T* sinks;  // (NH), or null
};

// ---- launching

template <class T>
AttentionHeads<T> attention_heads(const Tensor& t) {
    if (!t) return {};
    const int64_t bytes = size_of(t.dtype);
    const bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.row_stride * bytes % 16 == 0 && t.shape[2] * bytes % 16 == 0;
    return {t.as<std::remove_const_t<T>>(), t.row_stride, aligned};
}

template <class T>
AttentionScores<T> attention_scores(const AttentionInputs& in, const AttentionParams& params) {
    const AttentionBias bias = in.slopes      ? AttentionBias::alibi
                               : in.relative  ? AttentionBias::relative
                               : in.q_factors ? AttentionBias::factors
                               : in.dense     ? AttentionBias::dense
                                              : AttentionBias::none;
    return {static_cast<float>(params.scale),
            static_cast<float>(params.softcap),
            params.window,
            bias,
            in.slopes.as_or_null<const float>(),
            in.relative.as_or_null<const T>(),
            attention_heads<const T>(in.q_factors),
            attention_heads<const T>(in.k_factors),
            in.q_factors ? static_cast<int>(in.q_factors.shape[2]) : 0,
            in.dense.as_or_null<const T>(),
            in.dense ? in.dense.shape[1] : 0,
            in.sinks.as_or_null<const T>()};
}

// The tiers. Their backward comes after the first pass: `dout` is dO, scratch.delta is D, dgate and dsinks are done; it computes dq, dk,
// dv, drelative, dq_factors and dk_factors.
void simple_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                              const AttentionParams& params, Stream& stream);
void simple_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                               const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                               Stream& stream);

}  // namespace traincu::gpu
