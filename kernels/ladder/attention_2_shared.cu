// Attention, step 2: tiles of keys in shared memory, and the softmax in one pass.
//
// Two ideas, which need each other. 128 queries that lie together see mostly the same keys: their block fetches 16 keys and their values
// once, and all of its threads use them. But a tile that is overwritten by the next cannot be passed over three times. So the softmax is
// kept as far as it has come, relative to the largest score so far: where a tile brings a larger one, top', what has been summed is
// multiplied by exp(top - top') and goes on. This is the online softmax (Milakov, Gimelshein 2018). Scores are computed once: 4 HS FLOPs a
// pair.
//
// A thread still owns a query row. The sums of its output are in its registers; the row itself lies in shared memory, 8 numbers read for
// 16 keys. Every number of the tile is read by all threads of a warp together, 16 bytes at a time: one read for 4 multiply-adds, which
// is the rate of both, since a multiprocessor serves one read of a warp a clock and makes 4 warps' multiply-adds. From L2 come 4 HS
// bytes a key for 128 queries, 128 FLOPs a byte. Expected, not measured: 15-30 TFLOP/s on an H200, of 60 without tensor cores.
#include "kernels/ladder/ladder.h"
#include "kernels/packs.h"

namespace traincu::gpu::ladder {

constexpr int shared_queries = 128, shared_keys = 16;  // of a block; of a tile

template <int HS>
constexpr int query_pitch = HS + 8;  // of a row in shared memory: the eight that are read at once begin in different groups of 4 banks

// tile (16,HS) in f32 = rows [key, key + 16) of a head of k or v, zeros from row `end` on.
template <int HS>
__device__ inline void load_key_tile(float* tile, const bf16* from, int64_t stride, int key, int end) {
    constexpr int width = 8, packs = HS / width;
    for (int at = static_cast<int>(threadIdx.x); at < shared_keys * packs; at += shared_queries) {
        const int row = at / packs, d = at % packs * width;
        float x[width] = {};
        if (key + row < end) load_floats(x, from + (key + row) * stride + d);
        store_floats(tile + row * HS + d, x);
    }
}

template <int HS>
__global__ void __launch_bounds__(shared_queries) attention_shared_kernel(bf16* out, const bf16* q, const bf16* k, const bf16* v,
                                                                          const int* starts, float scale, int T, int NH, int NKV) {
    bf16* query = shared<bf16>() + threadIdx.x * query_pitch<HS>;  // this thread's row
    float(&k_tile)[shared_keys * HS] = shared_array<float, shared_keys * HS, 0>();
    float(&v_tile)[shared_keys * HS] = shared_array<float, shared_keys * HS, 1>();
    const int first = static_cast<int>(blockIdx.x) * shared_queries, end = first + shared_queries < T ? first + shared_queries : T;
    const int head = static_cast<int>(blockIdx.y), kv_head = head / (NH / NKV), i = first + static_cast<int>(threadIdx.x);
    const int start = i < T ? starts[i] : 0;  // threads beyond the last row only help to load
    const int64_t row = (int64_t{i} * NH + head) * HS;
    for (int d = 0; d < HS && i < T; d += 8) store16(query + d, load16(q + row + d));
    float top = -INFINITY, total = 0, sums[HS] = {};
    for (int key = starts[first]; key < end; key += shared_keys) {
        __syncthreads();  // the tile before has been read
        load_key_tile<HS>(k_tile, k + kv_head * HS, int64_t{NKV} * HS, key, end);
        load_key_tile<HS>(v_tile, v + kv_head * HS, int64_t{NKV} * HS, key, end);
        __syncthreads();
        if (i >= T || key > i || key + shared_keys <= start) continue;  // after this the row sees one at least: new_top is a number

        float s[shared_keys] = {};
#pragma unroll
        for (int d = 0; d < HS; d += 8) {
            float x[8];
            load_floats(x, query + d);
#pragma unroll
            for (int n = 0; n < shared_keys; n++) {
                const Pack<float> low = load16(k_tile + n * HS + d), high = load16(k_tile + n * HS + d + 4);
#pragma unroll
                for (int e = 0; e < 4; e++) s[n] = fmaf(x[e], low[e], s[n]);
#pragma unroll
                for (int e = 0; e < 4; e++) s[n] = fmaf(x[4 + e], high[e], s[n]);
            }
        }
        float new_top = top;
#pragma unroll
        for (int n = 0; n < shared_keys; n++) {
            s[n] = start <= key + n && key + n <= i ? scale * s[n] : -INFINITY;
            new_top = fmaxf(new_top, s[n]);
        }
        const float rescale = expf(top - new_top);  // at first exp(-infinity) = 0
        top = new_top, total *= rescale;
#pragma unroll
        for (int d = 0; d < HS; d++) sums[d] *= rescale;
#pragma unroll
        for (int n = 0; n < shared_keys; n++) {
            const float p = expf(s[n] - top);
            total += p;
#pragma unroll
            for (int d = 0; d < HS; d += 4) {
                const Pack<float> four = load16(v_tile + n * HS + d);
#pragma unroll
                for (int e = 0; e < 4; e++) sums[d + e] = fmaf(p, four[e], sums[d + e]);
            }
        }
    }
    if (i >= T) return;
#pragma unroll
    for (int d = 0; d < HS; d += 8) {
        float x[8];
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = sums[d + e] / total;
        store_floats(out + row + d, x);
    }
}

void attention_shared(Tensor out, Tensor q, Tensor k, Tensor v, Tensor starts, float scale, Stream& stream) {
    const int64_t T = q.shape[0], NH = q.shape[1], NKV = k.shape[1], HS = q.shape[2];
    ENSURE(HS == 64 || HS == 128);
    launch(HS == 64 ? attention_shared_kernel<64> : attention_shared_kernel<128>,
           dim3(static_cast<unsigned>(div_ceil(T, shared_queries)), static_cast<unsigned>(NH)), dim3(shared_queries),
           shared_queries * (HS + 8) * int64_t{sizeof(bf16)}, stream, out.as<bf16>(), q.as<bf16>(), k.as<bf16>(), v.as<bf16>(),
           starts.as<int32_t>(), scale, static_cast<int>(T), static_cast<int>(NH), static_cast<int>(NKV));
}

}  // namespace traincu::gpu::ladder
