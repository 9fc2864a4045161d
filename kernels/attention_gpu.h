// What attention's kernels for GPUs share: how they see the tensors of kernels/attention.h, and who computes what.
//
//   attention.cu                     chooses the kernels; the backward's first pass: D, the gate, the sinks
//   attention_relative.cu            the gradient of the relative bias, a pass of its own after any of the following
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

// ---- what a score is made of. i' is the key beside a query, j a key, both counted within the segment; d = i' - j

// exp(score - reference), through the base that the hardware knows. The scores are never scaled by log2(e) themselves: of a large one that
// would lose the digits that its difference from the reference still has.
inline __device__ float attention_exp(float score, float reference) { return exp2f((score - reference) * attention_log2e); }

// The first key that a query sees, and the end of the queries (as i') that see a key.
inline __device__ int64_t attention_first_key(int64_t beside, int64_t window) {
    return window > 0 && beside >= window ? beside - window + 1 : 0;
}
inline __device__ int64_t attention_last_query(int64_t key, int64_t window, int64_t kv_len) {
    return window > 0 && window < kv_len - key ? key + window : kv_len;
}

// cap(x); and cap'(x), of cap(x).
inline __device__ float attention_cap(float x, float softcap) { return softcap > 0 ? softcap * tanhf(x / softcap) : x; }
inline __device__ float attention_cap_slope(float capped, float softcap) {
    if (softcap == 0) return 1.0f;
    const float t = capped / softcap;
    return fmaf(-t, t, 1.0f);
}

// relative_bucket(), of d >= 0.
inline __device__ int attention_bucket(int64_t distance) {
    if (distance < relative_exact) return static_cast<int>(distance);
    if (distance >= 65536) return static_cast<int>(relative_buckets) - 1;
    const int d = static_cast<int>(distance), octave = 31 - __clz(d);
    return static_cast<int>(relative_exact) + (octave - 6) * 8 + (d >> (octave - 3) & 7);
}
// The least d of a bucket: bucket b holds the distances [attention_bucket_begin(b), attention_bucket_begin(b + 1)), the last one all the
// rest.
inline __device__ int64_t attention_bucket_begin(int bucket) {
    const int beyond = bucket - static_cast<int>(relative_exact);
    return beyond < 0 ? bucket : int64_t{8 + beyond % 8} << (beyond / 8 + 3);
}

// What a bias adds to the score of one pair, but for the factors, which are a product of rows. position: of the query.
template <class T>
__device__ float attention_bias(const AttentionScores<T>& scores, int64_t head, int64_t position, int64_t distance) {
    switch (scores.bias) {
        case AttentionBias::alibi:
            return -scores.slopes[head] * static_cast<float>(distance);
        case AttentionBias::relative:
            return to_float(scores.relative[head * relative_buckets + attention_bucket(distance)]);
        case AttentionBias::dense:
            return to_float(scores.dense[(head * scores.P + position) * scores.P + position - distance]);
        default:
            return 0.0f;
    }
}

// sigmoid(z). 1 - sigmoid(z) is sigmoid(-z), which keeps the digits of a small one.
inline __device__ float attention_sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

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
            in.slopes.as_or_null<float>(),
            in.relative.as_or_null<T>(),
            attention_heads<const T>(in.q_factors),
            attention_heads<const T>(in.k_factors),
            in.q_factors ? static_cast<int>(in.q_factors.shape[2]) : 0,
            in.dense.as_or_null<T>(),
            in.dense ? in.dense.shape[1] : 0,
            in.sinks.as_or_null<T>()};
}

// The tiers. Their backward comes after the first pass: `dout` is dO, scratch.delta is D, dgate and dsinks are done; it computes dq, dk,
// dv, dq_factors and dk_factors. drelative is attention_relative.cu's, which attention.cu calls.
void simple_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                              const AttentionParams& params, Stream& stream);
void simple_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                               const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                               Stream& stream);

// drelative += the gradient of in.relative; dout is dO, D scratch.delta.
void attention_backward_relative(Tensor drelative, Tensor dout, Tensor lse, Tensor D, const AttentionInputs& in,
                                 const SegmentTable& segments, const AttentionParams& params, Stream& stream);
bool tiled_attention_takes(const AttentionInputs& in);
void tiled_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments, const AttentionParams& params,
                             Stream& stream);
void tiled_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                              const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params, Stream& stream);
// Heads of 64 or 128 whose rows begin at multiples of 16 bytes (dout's and out's too), factors of rank 64 at most.
bool hopper_attention_takes(const AttentionInputs& in);
void hopper_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                              const AttentionParams& params, Stream& stream);
void hopper_attention_backward(const AttentionGradients& d, Tensor dout, Tensor lse, const AttentionInputs& in,
                               const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                               Stream& stream);

}  // namespace traincu::gpu
