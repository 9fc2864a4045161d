// Attention, step 1: the formulas, a thread a query row of a head.
//
// The softmax wants the largest score before it can take exponentials, and the sum of these before it can weigh a value: three passes over
// the keys that the row sees. Nobody keeps the scores, each pass computes them anew: 8 HS FLOPs a pair of query and key instead of 4 HS.
// (To keep them would take a (T,T) matrix a head: at T = 8192 and 16 heads 2 GB in bf16.)
//
// The 32 threads of a warp ask for the same number of a key at once, one access for all. But their queries lie a token apart, and the load
// unit goes to 32 places for 32 multiply-adds. Bytes: 2 (q) + 2 (k) for each multiply-add, out of the caches. Expected, not measured:
// 0.3-1 TFLOP/s on an H200, counted as 4 HS FLOPs for each pair that is seen, as in all the steps.
#include "kernels/ladder/ladder.h"
#include "kernels/launch.h"

namespace traincu::gpu::ladder {

constexpr int naive_threads = 128;

template <int HS>
__global__ void __launch_bounds__(naive_threads)
    attention_naive_kernel(bf16* out, const bf16* q, const bf16* k, const bf16* v, const int* starts, float scale, int T, int NH, int NKV) {
    const int i = static_cast<int>(blockIdx.x) * naive_threads + static_cast<int>(threadIdx.x);
    const int head = static_cast<int>(blockIdx.y), kv_head = head / (NH / NKV);
    if (i >= T) return;
    const bf16* query = q + (int64_t{i} * NH + head) * HS;
    auto score = [&](int j) {
        const bf16* key = k + (int64_t{j} * NKV + kv_head) * HS;
        float sum = 0;
        for (int d = 0; d < HS; d++) sum = fmaf(to_float(query[d]), to_float(key[d]), sum);
        return scale * sum;
    };
    float top = -INFINITY, total = 0, sums[HS] = {};
    for (int j = starts[i]; j <= i; j++) top = fmaxf(top, score(j));
    for (int j = starts[i]; j <= i; j++) total += expf(score(j) - top);
    for (int j = starts[i]; j <= i; j++) {
        const float p = expf(score(j) - top) / total;
        const bf16* value = v + (int64_t{j} * NKV + kv_head) * HS;
#pragma unroll
        for (int d = 0; d < HS; d++) sums[d] = fmaf(p, to_float(value[d]), sums[d]);
    }
    bf16* to = out + (int64_t{i} * NH + head) * HS;
#pragma unroll
    for (int d = 0; d < HS; d++) to[d] = from_float<bf16>(sums[d]);
}

void attention_naive(Tensor out, Tensor q, Tensor k, Tensor v, Tensor starts, float scale, Stream& stream) {
    const int64_t T = q.shape[0], NH = q.shape[1], NKV = k.shape[1], HS = q.shape[2];
    ENSURE(HS == 64 || HS == 128);
    launch(HS == 64 ? attention_naive_kernel<64> : attention_naive_kernel<128>,
           dim3(static_cast<unsigned>(div_ceil(T, naive_threads)), static_cast<unsigned>(NH)), dim3(naive_threads), 0, stream,
           out.as<bf16>(), q.as<bf16>(), k.as<bf16>(), v.as<bf16>(), starts.as<int32_t>(), scale, static_cast<int>(T), static_cast<int>(NH),
           static_cast<int>(NKV));
}

}  // namespace traincu::gpu::ladder
