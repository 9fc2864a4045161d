// The gradient of attention's relative bias, for all kernels: drelative[h, b] += the sum of dS over the pairs of bucket b.
//
// A pass of its own after the backward's first: it computes P and dS once more, one warp per query row as the simple kernels do
// (kernels/attention_simple.h). A block takes a part of the rows (kernels/fold.h) of one head, 8 at a time; parts of late rows, which may
// see most, start first. Each tile of 8 rows and 32 keys has 39 diagonals, and on a diagonal all pairs are equally far apart: 39 threads
// add a diagonal each, then the thread that owns a bucket adds its diagonals to its register, both ascending. What the blocks sum is added
// by fold_units(). No atomics, the same bits on every run.
//
// FLOPs: 4 NH HS a visible pair, beside the backward's 10 (14 in the simple kernels), without tensor cores. Bytes: as in the simple
// forward, mostly from L2. Floor: FLOPs / 12 TFLOP/s (H200), which is many times a tiled backward. Fraction: not measured.
#include "kernels/attention_simple.h"
#include "kernels/fold.h"

namespace traincu::gpu {

constexpr int attention_diagonals = attention_warps + attention_tile - 1;

template <class T>
__global__ void __launch_bounds__(attention_threads, 1)
    attention_relative_kernel(float* partials, AttentionSaved<T> saved, AttentionScores<T> scores, AttentionSegments segments,
                              AttentionSizes sizes, Parts parts, int64_t first_part) {
    constexpr int buckets = static_cast<int>(relative_buckets);
    float(&ds)[attention_threads] = shared_array<float, attention_threads, 1>();  // (8,32)
    float(&diagonals)[attention_diagonals] = shared_array<float, attention_diagonals>();
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t head = blockIdx.y, at = int64_t{gridDim.x} - 1 - blockIdx.x;
    const PartRows part(parts, first_part + at);
    const int64_t bucket_begin = attention_bucket_begin(thread < buckets ? thread : 0);
    const int64_t bucket_end = thread < buckets - 1 ? attention_bucket_begin(thread + 1) : INT64_MAX;
    float sum = 0;  // of the bucket `thread`
    for (int64_t first = part.begin; first < part.end; first += attention_warps)
        attention_visit_keys(saved, scores, segments, sizes, first, head, [&](const AttentionKeyTile& tile, const AttentionPair& pair) {
            ds[thread] = pair.ds;
            __syncthreads();
            if (thread < attention_diagonals) {  // (warp, lane) lies on diagonal warp - lane + 31
                float along = 0;
                for (int warp = 0; warp < attention_warps; warp++) {
                    const int lane = warp + attention_tile - 1 - thread;
                    if (lane >= 0 && lane < attention_tile) along += ds[warp * attention_tile + lane];
                }
                diagonals[thread] = along;
            }
            __syncthreads();
            if (thread >= buckets) return;
            const int64_t nearest = tile.distance - (attention_tile - 1), beyond = nearest + attention_diagonals;
            const int64_t begin = bucket_begin > nearest ? bucket_begin : nearest, end = bucket_end < beyond ? bucket_end : beyond;
            for (int64_t distance = begin; distance < end; distance++) sum += diagonals[distance - nearest];
        });
    if (thread < buckets) partials[(at * sizes.NH + head) * buckets + thread] = sum;
}

void attention_backward_relative(Tensor drelative, Tensor dout, Tensor lse, Tensor D, const AttentionInputs& in,
                                 const SegmentTable& segments, const AttentionParams& params, Stream& stream) {
    const AttentionSizes sizes = attention_sizes(in.q, in.k);
    const int64_t width = sizes.NH * relative_buckets, part_bytes = width * size_of(Dtype::f32);
    const int64_t room = stream.workspace_bytes() / part_bytes;
    ENSURE(room > 0 && drelative.contiguous() && params.unit_rows % attention_warps == 0);  // an eight lies within one part
    const int64_t most = div_ceil(2112, sizes.NH);  // parts without units: with all heads 16 for each of 132 SMs
    const Parts parts = Parts::of(sizes.T, params.unit_rows, std::min(most, room), attention_warps);
    const int64_t count = parts.count(), at_once = parts.at_once(stream.workspace_bytes(), part_bytes);
    for (int64_t first = 0; first < count; first += at_once) {
        const int64_t here = std::min(count - first, at_once);
        float* partials = static_cast<float*>(stream.workspace(here * part_bytes));
        auto with_type = [&]<class T>(T) {
            launch(attention_relative_kernel<T>, dim3(static_cast<unsigned>(here), static_cast<unsigned>(sizes.NH)),
                   dim3(attention_threads), attention_shared_bytes(2 * attention_warps, sizes), stream, partials,
                   attention_saved<T>(dout, lse, D, in), attention_scores<T>(in, params), attention_segments(segments), sizes, parts,
                   first);
        };
        if (in.q.dtype == Dtype::bf16)
            with_type(bf16{});
        else
            with_type(float{});
        fold_units(drelative.as<float>(), partials, here, parts.per_unit(), width, width, stream);
    }
}

}  // namespace traincu::gpu
