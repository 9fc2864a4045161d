// QK-norm and rotary positions on the GPU. A block takes a token, or a part of the tokens where gradients of weights are summed; a team of
// neighbouring lanes takes a head, each lane the pairs (i, i + HS/2) of one pack: 16 bytes at i and 16 half a head further. A head's sum is
// a tree over its team. Heads that cannot be read so (HS/2 no multiple of a pack) go by single elements, with more of them a lane: up to
// 256 a head, and 512 (256 in f32) where they are packs.
//
// The gradients of q_weight and k_weight: a lane's elements of a head are the same for all heads and tokens it meets, so they are summed in
// registers; at the end of the part the teams' sums are added in a tree, and fold_units() adds the parts (kernels/fold.h).
//
// Bytes per token, bf16: forward 4(NH+NKV)HS, backward 6(NH+NKV)HS with QK-norm, 4 without; the row of angles, 4HS, is shared by all heads.
// Floor: these over the memory's speed; 64k tokens with (16+8) heads of 128 at 4.3 TB/s: 0.19 and 0.28 ms. Fraction: not measured.
#include "kernels/rope.h"

#include "kernels/fold.h"

namespace traincu::gpu {

struct RopeHeads {
    int n_head, heads, HS;  // heads: of queries and keys
    int team;               // lanes that share a head, a power of two
    float eps;
};

constexpr int rope_threads = 256;

// One lane's pairs of a head: first[r][i] is element c(r) + i of the first half, second[r][i] that of the second. HS may be odd where
// nothing is rotated: the middle element has no partner.
template <int width, int rounds>
struct Pairs {
    float first[rounds][width], second[rounds][width];
};

// Calls body(r, c, has_partner) for the packs of this lane.
template <int width, int rounds, class Body>
__device__ void for_packs(const RopeHeads& p, int lane, Body body) {
    const int half = (p.HS + 1) / 2;
#pragma unroll
    for (int r = 0; r < rounds; r++) {
        const int c = (r * p.team + lane) * width;
        if (c < half) body(r, c, c + half < p.HS);
    }
}

template <int width, int rounds, class T>
__device__ void load_pairs(Pairs<width, rounds>& x, const T* head, const RopeHeads& p, int lane) {
    const int half = (p.HS + 1) / 2;
    for_packs<width, rounds>(p, lane, [&](int r, int c, bool partner) {
        load_floats(x.first[r], head + c);
        if (partner)
            load_floats(x.second[r], head + half + c);
        else
            for (int i = 0; i < width; i++) x.second[r][i] = 0;
    });
}
template <int width, int rounds, class T>
__device__ void store_pairs(T* head, const Pairs<width, rounds>& x, const RopeHeads& p, int lane) {
    const int half = (p.HS + 1) / 2;
    for_packs<width, rounds>(p, lane, [&](int r, int c, bool partner) {
        store_floats(head + c, x.first[r]);
        if (partner) store_floats(head + half + c, x.second[r]);
    });
}

// By the angles of a position (HS); sign = -1 turns back.
template <int width, int rounds>
__device__ void rotate(Pairs<width, rounds>& x, const float* angles, float sign, const RopeHeads& p, int lane) {
    for_packs<width, rounds>(p, lane, [&](int r, int c, bool) {
        float cosine[width], sine[width];
        load_floats(cosine, angles + c), load_floats(sine, angles + p.HS / 2 + c);
        for (int i = 0; i < width; i++) {
            const float a = x.first[r][i], b = x.second[r][i], s = sign * sine[i];
            x.first[r][i] = a * cosine[i] - b * s;
            x.second[r][i] = b * cosine[i] + a * s;
        }
    });
}

// to = rotated from, or with weights: rotated normed from. Both (T, row_stride); rstd (T,heads). sign = -1: the backward without weights.
template <class T, int width, int rounds>
__global__ void __launch_bounds__(rope_threads)
    rope_kernel(T* to, int64_t to_stride, float* rstd, const T* from, int64_t from_stride, const T* q_weight, const T* k_weight,
                const int32_t* positions, const float* angles, float sign, RopeHeads p) {
    const int64_t t = blockIdx.x;
    const int lane = static_cast<int>(threadIdx.x) % p.team, teams = static_cast<int>(blockDim.x) / p.team;
    const float* angle = angles ? angles + positions[t] * int64_t{p.HS} : nullptr;
    // All lanes of a warp go through each round, since its sums need them all.
    for (int first = 0; first < p.heads; first += teams) {
        const int h = first + static_cast<int>(threadIdx.x) / p.team;
        const bool there = h < p.heads;
        Pairs<width, rounds> x = {};
        if (there) load_pairs(x, from + t * from_stride + h * p.HS, p, lane);
        if (rstd) {
            float squares = 0;
            for (int r = 0; r < rounds; r++)
                for (int i = 0; i < width; i++) squares += x.first[r][i] * x.first[r][i] + x.second[r][i] * x.second[r][i];
            const float scale = 1.0f / sqrtf(team_sum(squares, p.team) / static_cast<float>(p.HS) + p.eps);
            if (!there) continue;
            if (lane == 0) rstd[t * p.heads + h] = scale;
            Pairs<width, rounds> w = {};
            load_pairs(w, h < p.n_head ? q_weight : k_weight, p, lane);
            for (int r = 0; r < rounds; r++)
                for (int i = 0; i < width; i++) x.first[r][i] *= scale * w.first[r][i], x.second[r][i] *= scale * w.second[r][i];
        }
        if (!there) continue;
        if (angle) rotate(x, angle, sign, p, lane);
        store_pairs(to + t * to_stride + h * p.HS, x, p, lane);
    }
}

template <class T>
struct RopeBackward {
    T* dqkv;
    const T *dqk, *qkv, *q_weight, *k_weight;
    int64_t dqkv_stride, dqk_stride, qkv_stride;
    const float *rstd, *angles;
    const int32_t* positions;
    float* partials;  // (parts of this launch, 2: q and k, HS)
    Parts parts;
    int64_t first_part;
};

// The sums of all teams of the block: to (2,HS); shared memory for (warps, 2, HS).
template <int width, int rounds>
__device__ void sum_teams(float* to, const Pairs<width, rounds> (&dweight)[2], const RopeHeads& p, int lane) {
    float* sums = shared<float>();
    const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / warp_size, half = (p.HS + 1) / 2;
    auto over_teams = [&](float x) {
        for (int offset = warp_size / 2; offset >= p.team; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
        return x;
    };
#pragma unroll
    for (int which = 0; which < 2; which++) {
        float* mine = sums + (thread / warp_size * 2 + which) * p.HS;
#pragma unroll
        for (int r = 0; r < rounds; r++)
#pragma unroll
            for (int i = 0; i < width; i++) {
                const int c = (r * p.team + lane) * width + i;
                const float first = over_teams(dweight[which].first[r][i]), second = over_teams(dweight[which].second[r][i]);
                if (thread % warp_size >= p.team || c >= half) continue;
                mine[c] = first;
                if (half + c < p.HS) mine[half + c] = second;
            }
    }
    __syncthreads();
    for (int c = thread; c < 2 * p.HS; c += static_cast<int>(blockDim.x)) {
        float sum = 0;
        for (int w = 0; w < warps; w++) sum += sums[w * 2 * p.HS + c];
        to[c] = sum;
    }
}

// The rotation back, then a head's norm: dx = rstd (g - xhat average(g xhat)) with g = dy w, xhat = x rstd; dw += dy xhat.
template <class T, int width, int rounds>
__global__ void __launch_bounds__(rope_threads, 2) rope_norm_backward_kernel(RopeBackward<T> b, RopeHeads p) {
    const int lane = static_cast<int>(threadIdx.x) % p.team, teams = static_cast<int>(blockDim.x) / p.team;
    const PartRows part(b.parts, b.first_part + blockIdx.x);
    Pairs<width, rounds> dweight[2] = {};  // of q and k
    for (int64_t t = part.begin; t < part.end; t++)
        for (int first = 0; first < p.heads; first += teams) {
            const int h = first + static_cast<int>(threadIdx.x) / p.team;
            const bool there = h < p.heads, is_q = h < p.n_head;
            Pairs<width, rounds> dy = {}, x = {}, w = {};
            if (there) {
                load_pairs(dy, b.dqk + t * b.dqk_stride + h * p.HS, p, lane);
                load_pairs(x, b.qkv + t * b.qkv_stride + h * p.HS, p, lane);
                load_pairs(w, is_q ? b.q_weight : b.k_weight, p, lane);
                if (b.angles) rotate(dy, b.angles + b.positions[t] * int64_t{p.HS}, -1.0f, p, lane);
            }
            const float rstd = there ? b.rstd[t * p.heads + h] : 0.0f;
            float average = 0;
            auto sum_up = [&](float(&d)[width], float(&value)[width], const float(&weight)[width], float(&q)[width], float(&k)[width]) {
                for (int i = 0; i < width; i++) {
                    value[i] *= rstd;  // xhat
                    const float term = d[i] * value[i];
                    q[i] += is_q ? term : 0.0f, k[i] += is_q ? 0.0f : term;
                    average += term * weight[i];
                    d[i] *= weight[i];  // g
                }
            };
            for (int r = 0; r < rounds; r++) {
                sum_up(dy.first[r], x.first[r], w.first[r], dweight[0].first[r], dweight[1].first[r]);
                sum_up(dy.second[r], x.second[r], w.second[r], dweight[0].second[r], dweight[1].second[r]);
            }
            average = team_sum(average, p.team) / static_cast<float>(p.HS);
            if (!there) continue;
            for (int r = 0; r < rounds; r++)
                for (int i = 0; i < width; i++) {
                    dy.first[r][i] = rstd * (dy.first[r][i] - x.first[r][i] * average);
                    dy.second[r][i] = rstd * (dy.second[r][i] - x.second[r][i] * average);
                }
            store_pairs(b.dqkv + t * b.dqkv_stride + h * p.HS, dy, p, lane);
        }
    sum_teams(b.partials + blockIdx.x * 2 * p.HS, dweight, p, lane);
}

// Calls run(width, rounds), two integral constants, and the heads as teams of lanes.
template <class T, class Run>
void dispatch_heads(const RopeParams& params, bool aligned, Run&& run) {
    const int64_t HS = params.head_size, half = (HS + 1) / 2;
    constexpr int pack = Pack<T>::size, most_rounds = 4;
    const bool packed = aligned && HS % (2 * pack) == 0 && half <= warp_size * pack;
    int team = 1;
    while (team < warp_size && team * (packed ? pack : 1) < half) team *= 2;
    const RopeHeads p{static_cast<int>(params.n_head), static_cast<int>(params.n_head + params.n_kv_head), static_cast<int>(HS), team,
                      static_cast<float>(params.eps)};
    if (packed) return run(std::integral_constant<int, pack>{}, std::integral_constant<int, 1>{}, p);
    ENSURE(half <= warp_size * most_rounds);
    if (half <= warp_size) return run(std::integral_constant<int, 1>{}, std::integral_constant<int, 1>{}, p);
    run(std::integral_constant<int, 1>{}, std::integral_constant<int, most_rounds>{}, p);
}

// to, from: (T, heads and perhaps more columns); the weights may be absent
inline void rotate_heads(const Tensor& to, const Tensor& rstd, const Tensor& from, const Tensor& q_weight, const Tensor& k_weight,
                         const Tensor& positions, const Tensor& angles, float sign, const RopeParams& params, Stream& stream) {
    dispatch_stored(to.dtype, [&](auto stored) {
        using T = decltype(stored);
        dispatch_heads<T>(params, rows_aligned({to, from, q_weight, k_weight, angles}), [&](auto width, auto rounds, const RopeHeads& p) {
            launch(rope_kernel<T, decltype(width)::value, decltype(rounds)::value>, grid_of(to.rows()),
                   dim3(threads_for(int64_t{p.heads} * p.team, rope_threads)), 0, stream, to.as<T>(), to.row_stride,
                   rstd.as_or_null<float>(), from.as<T>(), from.row_stride, q_weight.as_or_null<T>(), k_weight.as_or_null<T>(),
                   positions.as<int32_t>(), angles.as_or_null<float>(), sign, p);
        });
    });
}

void qk_norm_rope_forward(Tensor qk, Tensor rstd, Tensor qkv, Tensor q_weight, Tensor k_weight, Tensor positions, Tensor angles,
                          const RopeParams& params, Stream& stream) {
    rotate_heads(qk, rstd, qkv, q_weight, k_weight, positions, angles, 1.0f, params, stream);
}

void qk_norm_rope_backward(Tensor dqkv, Tensor dq_weight, Tensor dk_weight, Tensor dqk, Tensor rstd, Tensor qkv, Tensor q_weight,
                           Tensor k_weight, Tensor positions, Tensor angles, const RopeParams& params, int64_t unit_rows, Stream& stream) {
    if (!rstd) return rotate_heads(dqkv, {}, dqk, {}, {}, positions, angles, -1.0f, params, stream);
    const int64_t HS = params.head_size, part_bytes = 2 * HS * size_of(Dtype::f32);
    const int64_t most =
        stream.workspace_bytes() / part_bytes < 1056 ? stream.workspace_bytes() / part_bytes : 1056;  // 8 for each of 132 SMs
    ENSURE(most > 0);
    const Parts parts = Parts::of(dqk.rows(), unit_rows, most, 1);
    const int64_t count = parts.count(), at_once = parts.at_once(stream.workspace_bytes(), part_bytes);
    dispatch_stored(dqk.dtype, [&](auto stored) {
        using T = decltype(stored);
        const bool aligned = rows_aligned({dqkv, dqk, qkv, q_weight, k_weight, angles});
        for (int64_t first = 0; first < count; first += at_once) {
            const int64_t here = count - first < at_once ? count - first : at_once;
            float* partials = static_cast<float*>(stream.workspace(here * part_bytes));
            const RopeBackward<T> b{
                dqkv.as<T>(),   dqk.as<T>(),    qkv.as<T>(),      q_weight.as<T>(),           k_weight.as<T>(),        dqkv.row_stride,
                dqk.row_stride, qkv.row_stride, rstd.as<float>(), angles.as_or_null<float>(), positions.as<int32_t>(), partials,
                parts,          first};
            dispatch_heads<T>(params, aligned, [&](auto width, auto rounds, const RopeHeads& p) {
                const unsigned threads = threads_for(int64_t{p.heads} * p.team, rope_threads);
                launch(rope_norm_backward_kernel<T, decltype(width)::value, decltype(rounds)::value>, grid_of(here), dim3(threads),
                       threads / warp_size * part_bytes, stream, b, p);
            });
            fold_units(dq_weight.as<float>(), partials, here, parts.per_unit(), 2 * HS, HS, stream);
            fold_units(dk_weight.as<float>(), partials + HS, here, parts.per_unit(), 2 * HS, HS, stream);
        }
    });
}

}  // namespace traincu::gpu
