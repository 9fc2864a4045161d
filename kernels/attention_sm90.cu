// Attention's forward on Hopper. A block is a query tile (128 rows) of one head: a warpgroup that produces and two that consume, 64 rows
// each.
//
//   producer   warp 0: TMA brings Q once, K and V tiles of 128 keys in a ring of two stages, from the diagonal downwards. V rows beyond the
//              segment's end, which are another document's or nobody's, are set to 0: their P is 0, but 0 inf is not.
//              warps 1 to 3: the factors of a bias of low rank, padded to 16 columns; any rank, so by plain loads
//   consumers  S = Q K^T (wgmma from shared memory), softmax in registers, O += P V with P as the operand in registers. S of the next tile
//              is put in line before O += P V of this one, and its softmax runs beside that product. The two warpgroups take turns at the
//              tensor cores, so that one multiplies while the other does its softmax.
//
// Each row sees its key tiles in the same order whatever else is in its query tile, and a tile in which it sees nothing changes no bit of
// it: packed, sliced or alone gives the same bits.
//
// FLOPs: 4 HS a pair that is seen, in tiles of 64 x 128 pairs. Bytes: q and out once; k and v once a query tile and head, nearly all from
// L2 (the heads of one tile are neighbours in the grid). Shared memory: 160 KiB with HS 128, 80 KiB with HS 64, 48 KiB more with factors.
// Floor: FLOPs / 790 TFLOP/s; the exponentials, 16 a cycle and multiprocessor, are another of the same size with HS 64. Fraction: not
// measured.
#include "kernels/attention_sm90.h"
#include "src/device/gpu.h"

namespace traincu::gpu {

constexpr int hopper_forward_threads = 3 * hopper_threads;
constexpr int hopper_slice = hopper_rows + hopper_tile;  // distances in a warpgroup's tile, one to spare

struct HopperForward {
    AttentionHeads<bf16> out;
    float* lse;  // (T,NH)
    AttentionHeads<const bf16> gate;
    int gate_width;
    AttentionScores<bf16> scores;
    int64_t positions;  // rows of the factors
    const AttentionTile* tiles;
    const Segment* segments;
    int NH, group;
};

// Where things lie in shared memory.
template <int HS>
struct HopperForwardLayout {
    static constexpr int tile = HS / 64 * hopper_panel;
    static constexpr int q = 0, k = tile, v = 3 * tile, q_factors = 5 * tile, k_factors = q_factors + hopper_panel;
    static constexpr int bytes(bool factors) { return factors ? k_factors + 2 * hopper_panel : q_factors; }
};

struct HopperForwardBarriers {
    uint64_t *q_full, *k_full, *v_full, *f_full, *k_empty, *v_empty, *f_empty, *tail;  // one, or one a stage
};

template <int HS>
__device__ void hopper_forward_produce(unsigned char* memory, const HopperForwardBarriers& barriers, const TensorMap* q, const TensorMap* k,
                                       const TensorMap* v, const HopperQueries& queries, int head, int kv_head) {
    using Layout = HopperForwardLayout<HS>;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    if (lane == 0) {
        mbarrier_arrive_expect(barriers.q_full, Layout::tile);
        hopper_load<HS, hopper_tile>(memory + Layout::q, q, head, queries.row, barriers.q_full);
    }
#pragma unroll 1
    for (int n = queries.last_key, i = 0; n >= queries.first_key; n--, i++) {
        const int stage = i % 2, parity = (i / 2 + 1) % 2, key = n * hopper_tile, left = queries.kv_len - key;
        unsigned char* v_tile = memory + Layout::v + stage * Layout::tile;
        mbarrier_wait(barriers.k_empty + stage, parity);
        if (lane == 0) {
            mbarrier_arrive_expect(barriers.k_full + stage, Layout::tile);
            hopper_load<HS, hopper_tile>(memory + Layout::k + stage * Layout::tile, k, kv_head, queries.kv_start + key,
                                         barriers.k_full + stage);
        }
        mbarrier_wait(barriers.v_empty + stage, parity);
        uint64_t* came = left < hopper_tile ? barriers.tail : barriers.v_full + stage;
        if (lane == 0) {
            mbarrier_arrive_expect(came, Layout::tile);
            hopper_load<HS, hopper_tile>(v_tile, v, kv_head, queries.kv_start + key, came);
        }
        if (left < hopper_tile) {  // the segment's last tile, the first that is visited
            mbarrier_wait(barriers.tail, 0);
            hopper_clear_rows<HS, hopper_tile>(v_tile, left, lane);
            fence_proxy_async();
            __syncwarp();
            if (lane == 0) mbarrier_arrive(barriers.v_full + stage);
        }
    }
}

template <int HS>
__device__ void hopper_forward_produce_factors(unsigned char* memory, const HopperForwardBarriers& barriers, const HopperForward& a,
                                               const HopperQueries& queries, int head, int kv_head) {
    using Layout = HopperForwardLayout<HS>;
    const int threads = hopper_threads - warp_size, thread = static_cast<int>(threadIdx.x) - warp_size, packs = (a.scores.R + 15) / 16 * 2;
    hopper_load_factors(memory + Layout::q_factors, a.scores.q_factors, queries.position, a.positions, hopper_tile, head, a.scores.R, packs,
                        thread, threads);
    const int64_t first = queries.position - queries.before;  // of the segment's first key
#pragma unroll 1
    for (int n = queries.last_key, i = 0; n >= queries.first_key; n--, i++) {
        const int stage = i % 2;
        mbarrier_wait(barriers.f_empty + stage, (i / 2 + 1) % 2);
        hopper_load_factors(memory + Layout::k_factors + stage * hopper_panel, a.scores.k_factors, first + n * hopper_tile, a.positions,
                            hopper_tile, kv_head, a.scores.R, packs, thread, threads);
        fence_proxy_async();
        mbarrier_arrive(barriers.f_full + stage);
    }
}

// The softmax of a tile joins what a row has seen: x becomes exp(logit - top); gives what to multiply earlier sums with. `top` in units.
inline __device__ void hopper_softmax(float (&x)[64], float (&top)[2], float (&sum)[2], float (&rescale)[2], float unit_log2e) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float highest = top[r];
#pragma unroll
        for (int i = 2 * r; i < 64; i += 4) highest = fmaxf(highest, fmaxf(x[i], x[i + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, 2));
        const float reference = highest == -INFINITY ? 0 : highest * unit_log2e;  // nothing seen yet: every term is 0
        rescale[r] = exp2_approximate(fmaf(top[r], unit_log2e, -reference));
        top[r] = highest;
        float added = 0;
#pragma unroll
        for (int i = 2 * r; i < 64; i += 4)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                x[i + e] = exp2_approximate(fmaf(x[i + e], unit_log2e, -reference));
                added += x[i + e];
            }
        sum[r] = fmaf(sum[r], rescale[r], added);
    }
}

template <int HS, bool factors>
__device__ void hopper_forward_consume(unsigned char* memory, const HopperForwardBarriers& barriers, const HopperForward& a,
                                       const HopperQueries& queries, int head, int which, float* slices) {
    using Layout = HopperForwardLayout<HS>;
    const int thread = static_cast<int>(threadIdx.x) % hopper_threads, warp = thread / warp_size, lane = thread % warp_size;
    const int first_row = hopper_rows * which, row = first_row + 16 * warp + lane / 4, column = 2 * (lane % 4);  // of this thread
    const AttentionScores<bf16>& scores = a.scores;
    const bool plain = scores.bias == AttentionBias::none && scores.softcap == 0 && scores.scale > 0;
    const float unit = plain ? scores.scale : 1.0f, unit_log2e = unit * attention_log2e;
    unsigned char* q = memory + Layout::q + first_row * panel_row_bytes;

    float s[64], o[HS / 2] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    uint32_t p[8][4];

    const auto arrive = [&](uint64_t* barrier) {
        __syncwarp();
        if (lane == 0) mbarrier_arrive(barrier);
    };
    const auto start_scores = [&](int i) {  // S of the i-th tile
        mbarrier_wait(barriers.k_full + i % 2, i / 2 % 2);
        wgmma_fence(s);
        hopper_product<hopper_tile, HS, hopper_tile, hopper_tile>(s, q, memory + Layout::k + i % 2 * Layout::tile, false);
        wgmma_commit();
    };
    const auto start_output = [&](int i) {  // O += P V of the i-th tile, whose probabilities are in p
        mbarrier_wait(barriers.v_full + i % 2, i / 2 % 2);
        wgmma_fence(o, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]);
        hopper_product_of_registers<HS, hopper_tile>(o, p, memory + Layout::v + i % 2 * Layout::tile);
        wgmma_commit();
    };
    // s of the i-th tile, `key` its first, becomes logits.
    const auto finish_logits = [&](int i, int key) {
        const int distance = queries.before + row - (key + column);
        const int least = queries.before + first_row - (key + hopper_tile - 1);  // of the warpgroup's tile
        if (!plain) {
            hopper_scale(s, scores.scale, scores.softcap);
            float* slice = slices + (2 * which + i % 2) * hopper_slice;
            if (scores.bias == AttentionBias::relative) {
                hopper_fill_slice(slice, scores.relative + head * relative_buckets, least, hopper_slice, thread, hopper_threads);
                named_barrier_sync(1 + which, hopper_threads);  // two slices: those before the last have been read
            }
            hopper_add_bias<false>(s, scores, head, distance, queries.position + row, slice + (distance - least));
        }
        if constexpr (factors) {
            mbarrier_wait(barriers.f_full + i % 2, i / 2 % 2);
            hopper_add_factors<hopper_tile>(s, memory + Layout::q_factors + first_row * panel_row_bytes,
                                            memory + Layout::k_factors + i % 2 * hopper_panel, scores.R);
            wgmma_wait<0>(s);
            arrive(barriers.f_empty + i % 2);
        }
        if (least < 0 || (scores.window > 0 && least + hopper_slice - 2 >= scores.window)) hopper_mask<false>(s, distance, scores.window);
    };
    const auto keep_probabilities = [&] {
#pragma unroll
        for (int k = 0; k < 8; k++) hopper_operand(p[k], s, k);
    };

    // The warpgroups take turns at the tensor cores: while one multiplies the other does its softmax.
    const int my_turn = 3 + which, others_turn = 4 - which, both = 2 * hopper_threads, tiles = queries.last_key - queries.first_key + 1;
    const bool alone = queries.count <= hopper_rows;
    float rescale[2];
    mbarrier_wait(barriers.q_full, 0);
    if (!alone && which == 1) named_barrier_arrive(others_turn, both);
    if (!alone) named_barrier_sync(my_turn, both);
    start_scores(0);
    if (!alone && (which == 0 || tiles > 1)) named_barrier_arrive(others_turn, both);
    wgmma_wait<0>(s);
    arrive(barriers.k_empty);
    finish_logits(0, queries.last_key * hopper_tile);
    hopper_softmax(s, top, sum, rescale, unit_log2e);
    keep_probabilities();
#pragma unroll 1
    for (int i = 1; i < tiles; i++) {
        if (!alone) named_barrier_sync(my_turn, both);
        start_scores(i);
        start_output(i - 1);
        if (!alone && (which == 0 || i + 1 < tiles)) named_barrier_arrive(others_turn, both);
        if constexpr (factors)
            wgmma_wait<0>(s, o);
        else
            wgmma_wait<1>(s);
        arrive(barriers.k_empty + i % 2);
        finish_logits(i, (queries.last_key - i) * hopper_tile);
        hopper_softmax(s, top, sum, rescale, unit_log2e);
        if constexpr (!factors) wgmma_wait<0>(o);
        arrive(barriers.v_empty + (i - 1) % 2);
#pragma unroll
        for (int x = 0; x < HS / 2; x++) o[x] *= rescale[x / 2 % 2];
        keep_probabilities();
    }
    start_output(tiles - 1);
    wgmma_wait<0>(o);

    // out = O / sum, through the gate; rows in shared memory (where this warpgroup's Q was), then to their places in pieces of 16 bytes
    named_barrier_sync(1 + which, hopper_threads);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = sum[r];
        total += __shfl_xor_sync(all_lanes, total, 1);
        total += __shfl_xor_sync(all_lanes, total, 2);
        float highest = unit * top[r], factor = 1;
        if (scores.sinks) {
            const float sink = to_float(scores.sinks[head]);
            highest = fmaxf(highest, sink);
            factor = exp2_approximate((unit * top[r] - highest) * attention_log2e);
            total = fmaf(total, factor, exp2_approximate((sink - highest) * attention_log2e));
        }
        factor /= total;
        const int at = row + 8 * r;
        const bool mine = at < queries.count;
        const int64_t token = queries.row + at;
        if (mine && lane % 4 == 0) a.lse[token * a.NH + head] = highest + logf(total);
        const bf16* gate = a.gate.data && mine ? a.gate.row(token, head, a.gate_width) : nullptr;
        const float whole_gate = gate && a.gate_width == 1 ? attention_sigmoid(to_float(gate[0])) : 1.0f;
        factor *= whole_gate;
#pragma unroll
        for (int j = 0; j < HS / 8; j++) {
            float x[2] = {o[4 * j + 2 * r] * factor, o[4 * j + 2 * r + 1] * factor};
            if (gate && a.gate_width > 1)
                for (int e = 0; e < 2; e++) x[e] *= attention_sigmoid(to_float(gate[8 * j + column + e]));
            *reinterpret_cast<uint32_t*>(q + j / 8 * hopper_panel + swizzled(at - first_row, (j % 8 * 8 + column) * 2)) =
                pack_bf16x2(x[0], x[1]);
        }
    }
    named_barrier_sync(1 + which, hopper_threads);
    constexpr int packs = HS / 8;
    for (int i = thread; i < hopper_rows * packs; i += hopper_threads) {
        const int r = i / packs, c = i % packs;
        if (first_row + r >= queries.count) break;
        const Pack<bf16> pack = load16(reinterpret_cast<const bf16*>(q + c / 8 * hopper_panel + swizzled(r, c % 8 * 16)));
        bf16* to = a.out.row(queries.row + first_row + r, head, HS) + 8 * c;
        if (a.out.aligned)
            store16(to, pack);
        else
            for (int e = 0; e < 8; e++) to[e] = pack[e];
    }
}

template <int HS, bool factors>
__global__ void __launch_bounds__(hopper_forward_threads, 1)
    attention_sm90_forward_kernel(HopperForward a, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                                  const __grid_constant__ TensorMap v) {
    unsigned char* memory = shared<unsigned char>();
    uint64_t(&b)[14] = shared_array<uint64_t, 14>();
    float(&slices)[4 * hopper_slice] = shared_array<float, 4 * hopper_slice>();
    const HopperForwardBarriers barriers{b, b + 2, b + 4, b + 6, b + 8, b + 10, b + 12, b + 1};
    const int head = static_cast<int>(blockIdx.x) % a.NH, kv_head = head / a.group;
    const HopperQueries queries(a.tiles[blockIdx.x / static_cast<unsigned>(a.NH)], a.segments, a.scores.window, hopper_tile);
    const int consumers = queries.count > hopper_rows ? 2 : 1;
    if (threadIdx.x == 0) {
        mbarrier_init(barriers.q_full, 1), mbarrier_init(barriers.tail, 1);
        for (int s = 0; s < 2; s++) {
            mbarrier_init(barriers.k_full + s, 1), mbarrier_init(barriers.v_full + s, 1);
            mbarrier_init(barriers.f_full + s, hopper_threads - warp_size);
            for (uint64_t* empty : {barriers.k_empty, barriers.v_empty, barriers.f_empty}) mbarrier_init(empty + s, 4 * consumers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int warpgroup = static_cast<int>(threadIdx.x) / hopper_threads;
    if (warpgroup == 0) {
        registers_release<40>();
        if (threadIdx.x < warp_size)
            hopper_forward_produce<HS>(memory, barriers, &q, &k, &v, queries, head, kv_head);
        else if (factors)
            hopper_forward_produce_factors<HS>(memory, barriers, a, queries, head, kv_head);
    } else {
        registers_claim<232>();
        if (warpgroup <= consumers) hopper_forward_consume<HS, factors>(memory, barriers, a, queries, head, warpgroup - 1, slices);
    }
}

bool hopper_attention_takes(const AttentionInputs& in) {
    const int64_t HS = in.q.shape[2];
    if (device_info().compute_capability != 90 || in.q.dtype != Dtype::bf16 || (HS != 64 && HS != 128)) return false;
    for (const Tensor& t : {in.q, in.k, in.v})
        if (!attention_heads<bf16>(t).aligned) return false;
    return !in.q_factors || in.q_factors.shape[2] <= hopper_largest_rank;
}

void hopper_attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments,
                              const AttentionParams& params, Stream& stream) {
    const int64_t NH = in.q.shape[1], HS = in.q.shape[2], tiles = segments.query_tiles.rows();
    const HopperForward a{attention_heads<bf16>(out),
                          lse.as<float>(),
                          attention_heads<const bf16>(in.gate),
                          in.gate ? static_cast<int>(in.gate.shape[2]) : 0,
                          attention_scores<bf16>(in, params),
                          in.q_factors ? in.q_factors.rows() : 0,
                          static_cast<const AttentionTile*>(segments.query_tiles.data),
                          static_cast<const Segment*>(segments.device.data),
                          static_cast<int>(NH),
                          static_cast<int>(NH / in.k.shape[1])};
    const auto run = [&]<int columns, bool factors>() {
        launch(attention_sm90_forward_kernel<columns, factors>, dim3(static_cast<unsigned>(tiles * NH)), dim3(hopper_forward_threads),
               HopperForwardLayout<columns>::bytes(factors), stream, a, hopper_map(in.q, hopper_tile), hopper_map(in.k, hopper_tile),
               hopper_map(in.v, hopper_tile));
    };
    const bool factors = a.scores.bias == AttentionBias::factors;
    if (HS == 64)
        factors ? run.operator()<64, true>() : run.operator()<64, false>();
    else
        factors ? run.operator()<128, true>() : run.operator()<128, false>();
}

}  // namespace traincu::gpu
