// Causal attention over a table of segments, with grouped query heads.
//
//   S[i,j] = scale * q[i] . k[j]        for the keys j that query i may see
//   P = softmax(S) over j,   out[i] = sum_j P[i,j] v[j],   lse[i] = log sum_j exp(S[i,j])
//
// Backward, D[i] = dout[i] . out[i]:
//   P[i,j] = exp(S[i,j] - lse[i]),  dP[i,j] = dout[i] . v[j],  dS[i,j] = P[i,j] (dP[i,j] - D[i])
//   dq[i] = scale * sum_j dS[i,j] k[j],   dk[j] += scale * sum_i dS[i,j] q[i],   dv[j] += sum_i P[i,j] dout[i]
// dq is overwritten; dk and dv are accumulated (several query slices may share keys), so the caller zeroes them first.
// Query heads of a group are added in ascending order: the result does not depend on the number of threads.
//
// Segments. A batch is a row of T tokens; a segment {q_start, q_len, kv_start, kv_len} says that query rows
// [q_start, q_start+q_len) belong together and look at key rows [kv_start, kv_start+kv_len), of which the last q_len are the queries' own:
// query i of the segment sees keys j <= (kv_len - q_len) + i. A document is a segment with q_len = kv_len; a slice of a long document,
// or a generation step with its cache, has kv_len > q_len. q_len and kv_len >= 1, kv_len >= q_len. Segments cover every query row exactly
// once.
//
// Shapes: q, out (T,NH,HS); k, v (Tk,NKV,HS); lse (T,NH) of the statistics' type (statistics_of(), src/base/dtype.h). NH is a multiple of
// NKV: query head h reads key head h / (NH/NKV). All but lse may be strided views (of packed QKV); K and V have bases of their own (a
// cache). Saved for backward: q, k, v, out, lse. The (T,T) matrix never exists: tiles of keys are visited with an online softmax. Bytes, s
// = size of an element, every tensor once: forward s (2 T NH + 2 Tk NKV) HS, backward s (4 T NH + 6 Tk NKV) HS; and s T NH of lse. FLOPs of
// the products, causal, per segment of n tokens: forward (two of them) 2 NH HS n^2, backward (five) 5 NH HS n^2. Source: grouped heads,
// Ainslie et al. 2023; online softmax, Milakov, Gimelshein 2018; tiles, FlashAttention, Dao et al. 2022.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

struct Segment {
    int64_t q_start = 0, q_len = 0;    // rows of q and out
    int64_t kv_start = 0, kv_len = 0;  // rows of k and v
    int64_t first_position = 0;        // position of the first query in its document
};

// The segments of a batch, where the host and where the GPU can read them. They ascend by q_start.
struct SegmentTable {
    std::span<const Segment> host;
    Tensor device;  // (S,5) i64, the same bytes; absent on the CPU
};

struct AttentionParams {
    double scale = 1.0;  // usually 1 / sqrt(HS)
};

void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const SegmentTable& segments, const AttentionParams& params,
                       Stream& stream);

void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                        const SegmentTable& segments, const AttentionParams& params, Stream& stream);

namespace gpu {
TRAINCU_GPU void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const SegmentTable& segments,
                                   const AttentionParams& params, Stream& stream);
TRAINCU_GPU void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v,
                                    const SegmentTable& segments, const AttentionParams& params, Stream& stream);
}  // namespace gpu

}  // namespace traincu
