#include "kernels/attention.h"

#include <omp.h>

#include <cmath>
#include <limits>

#include "kernels/attention_cpu.h"
#include "kernels/gemm_cpu.h"
#include "kernels/vmath.h"

namespace traincu {
namespace cpu {
namespace {

template <class T>
struct Forward {
    Heads<T> out;
    T* lse;  // (T,NH)
    Heads<const T> q, k, v, gate;
    int64_t NH, group;  // group = NH / NKV
    Scores<T> scores;
};

// A tile of queries of one head, and what is known so far of its softmax and its output.
template <class T>
struct QueryTile {
    TilePlace place;
    T *q_t = nullptr, *out = nullptr;    // (HS,query_tile), (query_tile,width)
    T* q_factors_t = nullptr;            // (R,query_tile)
    T top[query_tile], sum[query_tile];  // the largest score; the sum of exp(score - top), as also in out
};

// The tiles of one thread.
template <class T>
struct ForwardTiles {
    int64_t width, r_width;  // HS and R filled up
    TileMemory<T> memory;
    T *k, *v;      // (key_tile,width)
    T* k_factors;  // (key_tile,r_width)
    T* s;          // (key_tile,query_tile): scores, then probabilities
    QueryTile<T> queries[tiles_together];

    ForwardTiles(int64_t HS, int64_t R) : width(round_up(HS, lane_pad)), r_width(round_up(R, lane_pad)), memory(numbers(HS, R)) {
        k = memory.take(key_tile, width), v = memory.take(key_tile, width), s = memory.take(key_tile, query_tile);
        k_factors = memory.take(key_tile, r_width);
        for (QueryTile<T>& tile : queries) {
            tile.q_t = memory.take(HS, query_tile), tile.out = memory.take(query_tile, width);
            tile.q_factors_t = memory.take(R, query_tile);
        }
    }
    static int64_t numbers(int64_t HS, int64_t R) {
        const auto size = TileMemory<T>::tile_size;
        return 2 * size(key_tile, HS) + size(key_tile, R) + size(key_tile, query_tile) +
               tiles_together * (size(HS + R, query_tile) + size(query_tile, HS));
    }
};

// One tile of keys and values, `first_key` of the segment, joins what a tile of queries has seen: the online softmax.
// When the tile raises `top`, what was summed is scaled down to the new one. A query that sees no key of the tile keeps its bits.
template <class T, int W>
[[gnu::always_inline]] inline void attend(QueryTile<T>& tile, const Forward<T>& f, const ForwardTiles<T>& t, int64_t first_key,
                                          int64_t key_count, int64_t origin) {
    const Scores<T>& scores = f.scores;
    const Sight sight(tile.place, first_key, key_count, scores.window);
    const int64_t rows = sight.rows, lanes = sight.lanes, keys = sight.keys;
    score_product<T, W>(t.s, t.k, t.width, tile.q_t, sight, f.q.size, false);
    if (scores.softcap > 0) cap_scores<T>(t.s, nullptr, scores.softcap, sight);
    add_bias<T, W>(t.s, scores, tile.place, sight, t.k_factors, t.r_width, tile.q_factors_t, origin + first_key);
    T top[query_tile], rescale[query_tile], sum[query_tile];
    std::copy(tile.top, tile.top + lanes, top);
    for (int64_t j = 0; j < keys; j++) {
        T* s = t.s + j * query_tile;
        const int64_t begin = sight.lanes_begin(j), end = sight.lanes_end(j);
        for (int64_t i = begin; i < sight.begin(j); i++) s[i] = -std::numeric_limits<T>::infinity();
        for (int64_t i = sight.end(j); i < end; i++) s[i] = -std::numeric_limits<T>::infinity();
#pragma omp simd
        for (int64_t i = begin; i < end; i++) top[i] = s[i] > top[i] ? s[i] : top[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < lanes; i++) {
        rescale[i] = vexp(tile.top[i] - top[i]);
        sum[i] = tile.sum[i] * rescale[i];
    }
    for (int64_t j = 0; j < keys; j++) {
        T* s = t.s + j * query_tile;
        const int64_t begin = sight.lanes_begin(j), end = sight.lanes_end(j);
        std::fill(s, s + begin, T(0));
        std::fill(s + end, s + lanes, T(0));
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            s[i] = vexp(s[i] - top[i]);
            sum[i] += s[i];
        }
    }
    for (int64_t i = 0; i < rows; i++)
        if (rescale[i] != T(1))
#pragma omp simd
            for (int64_t d = 0; d < t.width; d++) tile.out[i * t.width + d] *= rescale[i];
    sum_over_keys<T, W>(tile.out, t.s, t.v, t.width, sight);
    std::copy(top, top + lanes, tile.top);
    std::copy(sum, sum + lanes, tile.sum);
}

// The tiles [first, last) of queries that read one key head; they share each tile of keys that is fetched.
template <class T, int W>
[[gnu::always_inline]] inline void forward_tiles(const Forward<T>& f, const Segment& segment, int64_t kv_head, int64_t first, int64_t last,
                                                 ForwardTiles<T>& t) {
    const Scores<T>& scores = f.scores;
    const int64_t HS = f.q.size, origin = segment.first_position - (segment.kv_len - segment.q_len);  // the first key's position
    int64_t begin = INT64_MAX, end = 0;                                                               // of the keys that the tiles see
    for (int64_t n = first; n < last; n++) {
        QueryTile<T>& tile = t.queries[n - first];
        const TilePlace& at = tile.place = TilePlace(segment, kv_head, f.group, n);
        begin = std::min(begin, at.begin(scores.window)), end = std::max(end, at.end());
        transpose_rows(tile.q_t, f.q.row(at.row, at.head), f.q.stride, at.rows, at.lanes, HS, scores.scale);
        if (scores.R > 0)
            transpose_rows(tile.q_factors_t, scores.q_factors.row(origin + at.before, at.head), scores.q_factors.stride, at.rows, at.lanes,
                           scores.R);
        std::fill(tile.out, tile.out + at.rows * t.width, T(0));
        // Finite, so that e^(top - top) is 1 while nothing is seen. A sink is a key with a score and no value.
        const T lowest = std::numeric_limits<T>::lowest();
        std::fill(tile.top, tile.top + at.lanes, scores.sinks ? std::max(scores.sinks[at.head], lowest) : lowest);
        std::fill(tile.sum, tile.sum + at.lanes, scores.sinks ? T(1) : T(0));
    }
    const std::span<QueryTile<T>> tiles(t.queries, static_cast<size_t>(last - first));
    for (int64_t key = begin / key_tile * key_tile; key < end; key += key_tile) {
        const int64_t keys = std::min(key_tile, end - key), kv_row = segment.kv_start + key;
        copy_rows(t.k, t.width, f.k.row(kv_row, kv_head), f.k.stride, keys, HS);
        copy_rows(t.v, t.width, f.v.row(kv_row, kv_head), f.v.stride, keys, HS);
        if (scores.R > 0)
            copy_rows(t.k_factors, t.r_width, scores.k_factors.row(origin + key, kv_head), scores.k_factors.stride, keys, scores.R);
        for (QueryTile<T>& tile : tiles)
            if (tile.place.sees(key, keys, scores.window)) attend<T, W>(tile, f, t, key, keys, origin);
    }
    for (const QueryTile<T>& tile : tiles) {
        const TilePlace& at = tile.place;
        for (int64_t i = 0; i < at.rows; i++) {
            f.lse[(at.row + i) * f.NH + at.head] = tile.top[i] + std::log(tile.sum[i]);
            T* out = f.out.row(at.row + i, at.head);
            copy_rows(out, HS, tile.out + i * t.width, t.width, 1, HS, T(1) / tile.sum[i]);
            if (f.gate.data) open_gate(out, f.gate.row(at.row + i, at.head), f.gate.size, HS);
        }
    }
}

template <class T>
using ForwardKernel = void (*)(const Forward<T>&, const Segment&, int64_t kv_head, int64_t first, int64_t last, ForwardTiles<T>&);

template <class T>
void forward_plain(const Forward<T>& f, const Segment& segment, int64_t kv_head, int64_t first, int64_t last, ForwardTiles<T>& tiles) {
    forward_tiles<T, plain_bytes / sizeof(T)>(f, segment, kv_head, first, last, tiles);
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512dq,avx512bw,avx512vl,fma")]] void forward_avx512(const Forward<float>& f, const Segment& segment,
                                                                              int64_t kv_head, int64_t first, int64_t last,
                                                                              ForwardTiles<float>& tiles) {
    forward_tiles<float, 16>(f, segment, kv_head, first, last, tiles);
}
#endif

template <class T>
ForwardKernel<T> best_forward() {
#if defined(__x86_64__)
    if constexpr (std::is_same_v<T, float>)
        if (best_simd() == Simd::avx512) return forward_avx512;
#endif
    return forward_plain<T>;
}

template <class T>
void tiled_forward(const Forward<T>& f, std::span<const Segment> segments) {
    struct Work {
        const Segment* segment;
        int64_t kv_head, first, last;  // tiles of queries
    };
    std::vector<Work> work;
    double flops = 0;
    for (const Segment& s : segments) {
        const int64_t count = f.group * div_ceil(s.q_len, query_tile);
        for (int64_t kv_head = 0; kv_head < f.NH / f.group; kv_head++)
            for (int64_t n = 0; n < count; n += tiles_together) work.push_back({&s, kv_head, n, std::min(n + tiles_together, count)});
        flops += 4.0 * double(f.NH * f.q.size) * double(s.q_len) * double(s.kv_len);
    }
    const int threads = flops > 1e6 ? omp_get_max_threads() : 1;
    std::vector<ForwardTiles<T>> tiles;
    tiles.reserve(static_cast<size_t>(threads));
    for (int t = 0; t < threads; t++) tiles.emplace_back(f.q.size, f.scores.R);
    const ForwardKernel<T> kernel = best_forward<T>();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t n = 0; n < work.size(); n++)
        kernel(f, *work[n].segment, work[n].kv_head, work[n].first, work[n].last, tiles[static_cast<size_t>(omp_get_thread_num())]);
}

}  // namespace

void check_attention(const Tensor& out, const Tensor& lse, const AttentionInputs& in, const SegmentTable& segments,
                     const AttentionParams& params, const Stream& stream) {
    const Tensor &q = in.q, &k = in.k, &v = in.v;
    ENSURE(q.rank == 3 && k.rank == 3 && v.rank == 3);
    const int64_t T = q.shape[0], NH = q.shape[1], HS = q.shape[2], NKV = k.shape[1];
    ENSURE(NKV > 0 && NH % NKV == 0 && k.is({k.shape[0], NKV, HS}) && v.is({k.shape[0], NKV, HS}) && out.is({T, NH, HS}));
    const Dtype type = q.dtype, statistics = statistics_of(type);
    ENSURE(lse.is({T, NH}) && lse.contiguous() && lse.dtype == statistics);
    ENSURE(!in.gate || in.gate.is({T, NH, 1}) || in.gate.is({T, NH, HS}));
    ENSURE(!in.sinks || in.sinks.is({NH}));
    ENSURE(!in.slopes || (in.slopes.is({NH}) && in.slopes.dtype == statistics));
    ENSURE(!in.relative || in.relative.is({NH, relative_buckets}));
    ENSURE(!in.q_factors == !in.k_factors);
    int64_t positions = INT64_MAX;  // that the bias knows
    if (in.q_factors) {
        const int64_t R = in.q_factors.shape[2];
        positions = in.q_factors.shape[0];
        ENSURE(in.q_factors.is({positions, NH, R}) && in.k_factors.is({positions, NKV, R}) && R >= 1 && R <= 256);
    }
    if (in.dense) {
        positions = in.dense.shape[1];
        ENSURE(in.dense.is({NH, positions, positions}));
    }
    ENSURE(!!in.slopes + !!in.relative + !!in.q_factors + !!in.dense <= 1);
    for (const Tensor& t : {k, v, out, in.gate, in.sinks, in.relative, in.q_factors, in.k_factors, in.dense}) ENSURE(!t || t.dtype == type);
    for (const Tensor& t : {in.sinks, in.slopes, in.relative, in.q_factors, in.k_factors, in.dense}) ENSURE(!t || t.contiguous());
    ENSURE(params.window >= 0 && params.softcap >= 0);
    int64_t covered = 0;
    for (const Segment& s : segments.host) {
        ENSURE(!stream.on_gpu() || s.q_start == covered);  // ascending, so that the GPU can search
        ENSURE(s.q_len >= 1 && s.kv_len >= s.q_len && s.q_start >= 0 && s.q_start + s.q_len <= T);
        ENSURE(s.kv_start >= 0 && s.kv_start + s.kv_len <= k.shape[0]);
        ENSURE(positions == INT64_MAX || (s.first_position >= s.kv_len - s.q_len && s.first_position + s.q_len <= positions));
        covered += s.q_len;
    }
    ENSURE(covered == T);
    ENSURE(!stream.on_gpu() || segments.device.is({static_cast<int64_t>(segments.host.size()), 5}));
}

void check_attention_gradients(const AttentionGradients& d, const Tensor& dout, const AttentionInputs& in,
                               const AttentionScratch& scratch) {
    const int64_t T = in.q.shape[0], NH = in.q.shape[1], HS = in.q.shape[2], Tk = in.k.shape[0], NKV = in.k.shape[1];
    const Dtype type = in.q.dtype, statistics = statistics_of(type);
    for (const Tensor& t : {d.dq, dout}) ENSURE(t.is({T, NH, HS}) && t.dtype == type);
    for (const Tensor& t : {d.dk, d.dv}) ENSURE(t.is({Tk, NKV, HS}) && t.dtype == type);
    ENSURE(!d.dgate == !in.gate && (!in.gate || (d.dgate.is({T, NH, in.gate.shape[2]}) && d.dgate.dtype == type)));
    ENSURE(!d.dsinks == !in.sinks && (!in.sinks || (d.dsinks.is({NH}) && d.dsinks.dtype == statistics)));
    ENSURE(!d.drelative || (in.relative && d.drelative.is({NH, relative_buckets}) && d.drelative.dtype == statistics));
    ENSURE(!d.dq_factors == !d.dk_factors && (!d.dq_factors || in.q_factors));
    if (d.dq_factors) {
        const int64_t R = in.q_factors.shape[2];
        ENSURE(d.dq_factors.is({T, NH, R}) && d.dk_factors.is({Tk, NKV, R}) && d.dq_factors.dtype == type && d.dk_factors.dtype == type);
    }
    ENSURE(scratch.delta.is({T, NH}) && scratch.delta.contiguous() && scratch.delta.dtype == statistics);
    ENSURE(!scratch.dq || (scratch.dq.is({T, NH, HS}) && scratch.dq.contiguous() && scratch.dq.dtype == Dtype::f32));
}

static AttentionKernel wanted_kernel = AttentionKernel::automatic;

}  // namespace cpu

void set_attention_kernel(AttentionKernel kernel) { cpu::wanted_kernel = kernel; }
AttentionKernel wanted_attention_kernel() { return cpu::wanted_kernel; }

void attention_forward(Tensor out, Tensor lse, const AttentionInputs& in, const SegmentTable& segments, const AttentionParams& params,
                       Stream& stream) {
    cpu::check_attention(out, lse, in, segments, params, stream);
    if (stream.on_gpu()) return gpu::attention_forward(out, lse, in, segments, params, stream);
    ENSURE(wanted_attention_kernel() != AttentionKernel::hopper);
    if (out.dtype == Dtype::bf16) return cpu::widened_attention_forward(out, lse, in, segments, params, stream);
    if (wanted_attention_kernel() == AttentionKernel::simple) return cpu::plain_attention_forward(out, lse, in, segments, params);
    dispatch_real(out.dtype, [&](auto real) {
        using T = decltype(real);
        using cpu::Heads;
        const Tensor& q = in.q;
        cpu::tiled_forward<T>({Heads<T>(out), lse.as<T>(), Heads<const T>(q), Heads<const T>(in.k), Heads<const T>(in.v),
                               Heads<const T>(in.gate), q.shape[1], q.shape[1] / in.k.shape[1], cpu::Scores<T>(in, params)},
                              segments.host);
    });
}

}  // namespace traincu
