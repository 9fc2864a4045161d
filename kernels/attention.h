// Causal attention over a table of segments: grouped query heads, a sliding window, a bias of the scores, sinks, an output gate.
//
//   s[i,j] = cap(scale q[i] . k[j]) + bias[i,j]                  for the keys j that query i may see; cap(x) = softcap tanh(x / softcap)
//   lse[i] = log(sum_j exp(s[i,j]) + exp(sink)),   P[i,j] = exp(s[i,j] - lse[i])
//   O[i]   = sum_j P[i,j] v[j],   out[i] = O[i] sigmoid(gate[i])
// Without softcap (0) cap(x) = x; without sinks the term exp(sink) is absent; without a gate out = O.
//
// Backward, dO = dout sigmoid(gate):
//   D[i]  = dO[i] . O[i] = dout[i] . out[i]                      so O itself is not saved
//   dP    = dO[i] . v[j],  dS[i,j] = P[i,j] (dP - D[i]),  dX[i,j] = dS[i,j] cap'(scale q[i] . k[j]),  cap'(x) = 1 - (cap(x) / softcap)^2
//   dq[i] = scale sum_j dX[i,j] k[j],   dk[j] += scale sum_i dX[i,j] q[i],   dv[j] += sum_i P[i,j] dO[i]
//   dgate = dout out (1 - sigmoid(gate)), summed over the head's columns where the gate has one number per head
//   dsink += - sum_i exp(sink - lse[i]) D[i]
// dq and dgate are overwritten; dk and dv are accumulated (several query slices may share keys), so the caller zeroes them first.
// Query heads of a group are added in ascending order: the result does not depend on the number of threads.
// A row of out, lse, dq, dk, dv, dgate, dq_factors or dk_factors is a function of its own segment (of all segments that share its keys): it
// has the same bits whatever else is in the call, on any GPU that runs the same kernel. dsinks and drelative go on from what was there: on
// a GPU unit by unit of the rows; on a CPU always 64 queries of a segment after another. A step split between segments, at multiples of
// unit_rows, then has the bits of the whole.
//
// Segments. A batch is a row of T tokens; a segment {q_start, q_len, kv_start, kv_len, first_position} says that query rows
// [q_start, q_start+q_len) belong together and look at key rows [kv_start, kv_start+kv_len), of which the last q_len are the queries' own.
// A document is a segment with q_len = kv_len; a slice of a long document, or a generation step with its cache, has kv_len > q_len. q_len
// and kv_len >= 1, kv_len >= q_len. Segments cover every query row exactly once. Below, i and j count within the segment, and query i
// stands beside key i' = kv_len - q_len + i. It sees the keys j with i' - window < j <= i' (window = 0: all j <= i').
//
// Bias: at most one of these, with the distance d = i' - j >= 0 and the positions p = first_position + i of the query, p - d of the key:
//   ALiBi      - slopes[h] d                                     never trained (Press et al. 2022)
//   relative   table[h, relative_bucket(d)]                      drelative[h, b] += sum of dS over the pairs of bucket b
//   factors    sum_r q_factors[p, h, r] k_factors[p - d, h / group, r]     a bias of low rank, which is never formed (FlashBias, Wu et al.
//   2025):
//              R more columns of the product. dq_factors[i] = sum_j dS k_factors, dk_factors[j] += sum_i dS q_factors: a row for each
//              token; what adds up at one position is embedding_backward()'s (kernels/embedding.h)
//   dense      dense[h, p, p - d]                                the same as a whole matrix: the baseline that factors are compared with;
//   no gradient
// With factors and dense, first_position >= kv_len - q_len.
//
// Shapes: q, out, dout (T,NH,HS); k, v (Tk,NKV,HS); lse, delta (T,NH) and slopes (NH) of the statistics' type (statistics_of(),
// src/base/dtype.h); gate (T,NH,1) or (T,NH,HS); sinks (NH); relative (NH,relative_buckets); q_factors (P,NH,R), k_factors (P,NKV,R), R <=
// 256; dense (NH,P,P). Those are of q's type; the gradients dsinks, drelative of the statistics' type and accumulated; dq_factors (T,NH,R)
// overwritten, dk_factors (Tk,NKV,R) accumulated, of q's type. NH is a multiple of NKV: query head h reads key head h / group, group =
// NH/NKV. q, k, v, gate, out and their gradients may be strided views (of packed QKV); K and V have bases of their own (a cache). Saved for
// backward: q, k, v, gate, out, lse. The (T,T) matrix never exists: tiles of keys are visited with an online softmax. Bytes, s = size of an
// element, every tensor once: forward s (2 T NH + 2 Tk NKV) HS, backward s (4 T NH + 6 Tk NKV) HS; and s T NH of lse; a gate adds s T NH HS
// and 2 s T NH HS, factors s R (T NH + Tk NKV) and twice that. FLOPs of the products, causal, per segment of n tokens: forward (two of
// them) 2 NH HS n^2, backward (five) 5 NH HS n^2; factors add NH R n^2 and 3 NH R n^2. Sources: grouped heads, Ainslie et al. 2023; online
// softmax, Milakov, Gimelshein 2018; tiles, FlashAttention, Dao et al. 2022; the gate, Qiu et al. 2025; softcap, Gemma 2; sinks, gpt-oss.
//
// bf16 on a CPU: f32 copies of whole tensors for each call; dk, dv and dk_factors are summed in f32 over the call, then added to what is
// there and rounded once.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/attention_tiles.h"
#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

// The segments of a batch, where the host and where the GPU can read them. They ascend by q_start.
struct SegmentTable {
    std::span<const Segment> host;
    Tensor device;                  // (S,5) i64, the same bytes; absent on the CPU, as are
    Tensor query_tiles, key_tiles;  // (n,5) i32, the lists of attention_tiles()
};

struct AttentionParams {
    double scale = 1.0;         // usually 1 / sqrt(HS)
    int64_t window = 0;         // keys that a query sees, its own included; 0 = all before it
    double softcap = 0;         // 0 = none
    bool deterministic = true;  // the same bits on every run; false: a GPU may add dq in any order
    int64_t unit_rows = 0;  // of dsinks and drelative, sums over queries: rows of q in a unit (kernels/norm.h, "Units"), a multiple of 8
};

struct AttentionInputs {
    Tensor q, k, v;
    Tensor gate = {}, sinks = {};                                                   // or absent
    Tensor slopes = {}, relative = {}, q_factors = {}, k_factors = {}, dense = {};  // the bias; one of them (or the two factors), or none
};

struct AttentionGradients {
    Tensor dq, dk, dv;
    Tensor dgate = {}, dsinks = {};                           // where there is the input
    Tensor drelative = {}, dq_factors = {}, dk_factors = {};  // where the input is trained; may be absent
};

// Memory that the backward needs.
struct AttentionScratch {
    Tensor delta;    // (T,NH) statistics: D
    Tensor dq = {};  // (T,NH,HS) f32: sums of dq in any order; only where !deterministic, and even there it may be absent
};

// Buckets of the relative bias: every distance below 64 has its own, beyond that eight share the octave [2^n, 2^(n+1)); distances of 65,536
// and more are in the last.
constexpr int64_t relative_exact = 64, relative_buckets = 64 + 8 * 10;
constexpr int relative_bucket(int64_t distance) {
    if (distance < relative_exact) return static_cast<int>(distance);
    const int octave = std::bit_width(static_cast<uint64_t>(distance)) - 1;
    if (octave > 15) return static_cast<int>(relative_buckets) - 1;
    return static_cast<int>(relative_exact) + (octave - 6) * 8 + static_cast<int>(distance >> (octave - 3) & 7);
}

void attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments, const AttentionParams& params,
                       Stream& stream);

// With a gate, dout is overwritten: by dO or by nothing of use.
void attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                        const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params, Stream& stream);

// Which kernels compute it. `simple`: the formulas in plain loops (on a GPU one warp a row, kernels/attention_simple.cu); any shape, any
// type. `tiled`: tiles in registers (on a GPU mma.sync, bf16, kernels/attention_tiled.cu). `hopper`: TMA and wgmma
// (kernels/attention_sm90.cu). `automatic`, on a CPU: tiled; on a GPU: the fastest that takes the shape among those whose tests have passed
// on a card.
enum class AttentionKernel { automatic, simple, tiled, hopper };
void set_attention_kernel(AttentionKernel kernel);
AttentionKernel wanted_attention_kernel();

namespace gpu {
// simple, tiled or hopper. Error(usage) where one was asked for by name that does not take the inputs.
TRAINCU_GPU AttentionKernel chosen_attention_kernel(const AttentionInputs& in);
TRAINCU_GPU void attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                                   const AttentionParams& params, Stream& stream);
TRAINCU_GPU void attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                                    const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params,
                                    Stream& stream);
}  // namespace gpu

}  // namespace traincu
