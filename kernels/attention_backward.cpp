#include <omp.h>

#include "kernels/attention_cpu.h"
#include "kernels/gemm_cpu.h"
#include "kernels/vmath.h"

namespace traincu {
namespace cpu {
namespace {

template <class T>
struct Backward {
    Heads<T> dq, dk, dv, dq_factors, dk_factors;
    Heads<const T> dout;   // dO, after the first pass
    const T *lse, *delta;  // (T,NH); delta: D
    Heads<const T> q, k, v;
    int64_t NH, group;  // group = NH / NKV
    Scores<T> scores;
    T* drelative;  // (tiles of queries,NH,relative_buckets): what each adds; or null
};

// A tile of queries of one head: q times scale, dO and the factors, as they are and transposed, and the gradients so far.
template <class T>
struct QueryTile {
    TilePlace place;
    T *q = nullptr, *dout = nullptr, *dq = nullptr;  // (query_tile,width)
    T *q_t = nullptr, *dout_t = nullptr;             // (HS,query_tile)
    T *q_factors = nullptr, *dq_factors = nullptr;   // (query_tile,r_width)
    T* q_factors_t = nullptr;                        // (R,query_tile)
    T lse[query_tile], delta[query_tile];
    T* drelative = nullptr;  // (relative_buckets)
};

// The tiles of one thread.
template <class T>
struct BackwardTiles {
    int64_t width, r_width;  // HS and R filled up
    TileMemory<T> memory;
    T *k, *v, *dk, *dv;         // (key_tile,width)
    T *k_factors, *dk_factors;  // (key_tile,r_width)
    T *p, *ds, *slope;          // (key_tile,query_tile): scores, then probabilities; dP, then dS; cap'
    QueryTile<T> queries[tiles_together];

    BackwardTiles(int64_t HS, int64_t R) : width(round_up(HS, lane_pad)), r_width(round_up(R, lane_pad)), memory(numbers(HS, R)) {
        for (T** tile : {&k, &v, &dk, &dv}) *tile = memory.take(key_tile, width);
        for (T** tile : {&k_factors, &dk_factors}) *tile = memory.take(key_tile, r_width);
        for (T** tile : {&p, &ds, &slope}) *tile = memory.take(key_tile, query_tile);
        for (QueryTile<T>& tile : queries) {
            for (T** rows : {&tile.q, &tile.dout, &tile.dq}) *rows = memory.take(query_tile, width);
            for (T** rows : {&tile.q_factors, &tile.dq_factors}) *rows = memory.take(query_tile, r_width);
            for (T** transposed : {&tile.q_t, &tile.dout_t}) *transposed = memory.take(HS, query_tile);
            tile.q_factors_t = memory.take(R, query_tile);
        }
    }
    static int64_t numbers(int64_t HS, int64_t R) {
        const auto size = TileMemory<T>::tile_size;
        return 4 * size(key_tile, HS) + 2 * size(key_tile, R) + 3 * size(key_tile, query_tile) +
               tiles_together * (3 * size(query_tile, HS) + 2 * size(query_tile, R) + 2 * size(HS, query_tile) + size(R, query_tile));
    }
};

// What one call of the kernel computes: the tiles [first, last) of queries that read one key head, against the keys
// [key_begin, key_end) of the segment, a multiple of key_tile from its start.
struct Part {
    const Segment* segment;
    int64_t kv_head, first, last;
    int64_t key_begin, key_end;
    int64_t tile;  // the segment's first, among all tiles of queries
    bool want_dq, want_dkv;
    int64_t origin() const { return segment->first_position - (segment->kv_len - segment->q_len); }  // position of the first key
};

template <class T>
[[gnu::always_inline]] inline void load(QueryTile<T>& tile, const Backward<T>& b, const Part& part, const BackwardTiles<T>& t) {
    const TilePlace& at = tile.place;
    const Scores<T>& scores = b.scores;
    const int64_t HS = b.q.size, R = scores.R;
    const T *q = b.q.row(at.row, at.head), *dout = b.dout.row(at.row, at.head);
    copy_rows(tile.q, t.width, q, b.q.stride, at.rows, HS, scores.scale);
    copy_rows(tile.dout, t.width, dout, b.dout.stride, at.rows, HS);
    transpose_rows(tile.q_t, q, b.q.stride, at.rows, at.lanes, HS, scores.scale);
    transpose_rows(tile.dout_t, dout, b.dout.stride, at.rows, at.lanes, HS);
    std::fill(tile.dq, tile.dq + at.rows * t.width, T(0));
    for (int64_t i = 0; i < at.lanes; i++) {
        tile.delta[i] = i < at.rows ? b.delta[(at.row + i) * b.NH + at.head] : T(0);
        tile.lse[i] = i < at.rows ? b.lse[(at.row + i) * b.NH + at.head] : T(0);
    }
    if (b.drelative) tile.drelative = b.drelative + ((part.tile + at.number) * b.NH + at.head) * relative_buckets;
    if (R == 0) return;
    const T* factors = scores.q_factors.row(part.origin() + at.before, at.head);
    copy_rows(tile.q_factors, t.r_width, factors, scores.q_factors.stride, at.rows, R);
    transpose_rows(tile.q_factors_t, factors, scores.q_factors.stride, at.rows, at.lanes, R);
    std::fill(tile.dq_factors, tile.dq_factors + at.rows * t.r_width, T(0));
}

// What the pairs of a tile of dS add to the buckets of their distances: diagonal by diagonal.
template <class T>
[[gnu::always_inline]] inline void add_distances(T* buckets, const T* ds, const Sight& sight) {
    T sum[tile_distances] = {};
    for (int64_t j = 0; j < sight.keys; j++) {
        const T* row = ds + j * query_tile;
        T* diagonals = sum + sight.keys - 1 - j;
#pragma omp simd
        for (int64_t i = sight.lanes_begin(j); i < sight.lanes_end(j); i++) diagonals[i] += row[i];
    }
    for (int64_t n = 0; n < sight.keys + sight.lanes - 1; n++)
        if (distance(sight, n) >= 0) buckets[relative_bucket(distance(sight, n))] += sum[n];
}

// One tile of keys and values, `first_key` of the segment, with one tile of queries: five products, and three of the factors.
template <class T, int W>
[[gnu::always_inline]] inline void backward_pair(QueryTile<T>& tile, const Backward<T>& b, const BackwardTiles<T>& t, const Part& part,
                                                 int64_t first_key, int64_t key_count) {
    const Scores<T>& scores = b.scores;
    const Sight sight(tile.place, first_key, key_count, scores.window);
    const int64_t lanes = sight.lanes, keys = sight.keys;
    score_product<T, W>(t.p, t.k, t.width, tile.q_t, sight, b.q.size, false);
    if (scores.softcap > 0) cap_scores<T>(t.p, t.slope, scores.softcap, sight);
    add_bias<T, W>(t.p, scores, tile.place, sight, t.k_factors, t.r_width, tile.q_factors_t, part.origin() + first_key);
    score_product<T, W>(t.ds, t.v, t.width, tile.dout_t, sight, b.q.size, false);
    for (int64_t j = 0; j < keys; j++) {
        T *p = t.p + j * query_tile, *ds = t.ds + j * query_tile;
        const int64_t end = sight.lanes_end(j);
#pragma omp simd
        for (int64_t i = sight.lanes_begin(j); i < end; i++) {
            p[i] = vexp(p[i] - tile.lse[i]);
            ds[i] = p[i] * (ds[i] - tile.delta[i]);
        }
        for (T* row : {p, ds}) std::fill(row, row + sight.begin(j), T(0)), std::fill(row + sight.end(j), row + lanes, T(0));
    }
    const int64_t padding =
        (round_up(keys, block_rows<T, W>) - keys) * query_tile;  // of the last block of rows: other tiles may see these keys
    std::fill_n(t.p + keys * query_tile, padding, T(0));
    std::fill_n(t.ds + keys * query_tile, padding, T(0));
    if (part.want_dq && b.drelative) add_distances(tile.drelative, t.ds, sight);
    if (part.want_dkv && b.dk_factors.data) sum_over_queries<T, W>(t.dk_factors, t.ds, tile.q_factors, t.r_width, sight);
    if (part.want_dq && b.dq_factors.data) sum_over_keys<T, W>(tile.dq_factors, t.ds, t.k_factors, t.r_width, sight);
    if (scores.softcap > 0)  // from here on dX
        for (int64_t j = 0; j < keys; j++)
#pragma omp simd
            for (int64_t i = j * query_tile + sight.lanes_begin(j); i < j * query_tile + sight.lanes_end(j); i++) t.ds[i] *= t.slope[i];
    if (part.want_dkv) {
        sum_over_queries<T, W>(t.dv, t.p, tile.dout, t.width, sight);
        sum_over_queries<T, W>(t.dk, t.ds, tile.q, t.width, sight);
    }
    if (part.want_dq) sum_over_keys<T, W>(tile.dq, t.ds, t.k, t.width, sight);
}

template <class T>
[[gnu::always_inline]] inline void add_rows(T* to, int64_t stride, const T* from, int64_t width, int64_t rows, int64_t HS) {
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
        for (int64_t d = 0; d < HS; d++) to[r * stride + d] += from[r * width + d];
}

template <class T, int W>
[[gnu::always_inline]] inline void backward_tiles(const Backward<T>& b, const Part& part, BackwardTiles<T>& t) {
    const Segment& segment = *part.segment;
    const Scores<T>& scores = b.scores;
    const int64_t HS = b.q.size, R = scores.R, kv_head = part.kv_head;
    const std::span<QueryTile<T>> tiles(t.queries, static_cast<size_t>(part.last - part.first));
    int64_t begin = INT64_MAX, end = 0;  // of the keys that the tiles see
    for (size_t n = 0; n < tiles.size(); n++) {
        const TilePlace& at = tiles[n].place = TilePlace(segment, kv_head, b.group, part.first + static_cast<int64_t>(n));
        begin = std::min(begin, at.begin(scores.window)), end = std::max(end, at.end());
    }
    begin = std::max(begin / key_tile * key_tile, part.key_begin), end = std::min(end, part.key_end);
    if (end <= begin) return;
    for (QueryTile<T>& tile : tiles) load(tile, b, part, t);
    for (int64_t key = begin; key < end; key += key_tile) {
        const int64_t keys = std::min(key_tile, end - key), kv_row = segment.kv_start + key;
        copy_rows(t.k, t.width, b.k.row(kv_row, kv_head), b.k.stride, keys, HS);
        copy_rows(t.v, t.width, b.v.row(kv_row, kv_head), b.v.stride, keys, HS);
        if (R > 0) copy_rows(t.k_factors, t.r_width, scores.k_factors.row(part.origin() + key, kv_head), scores.k_factors.stride, keys, R);
        for (T* sums : {t.dk, t.dv}) std::fill(sums, sums + keys * t.width, T(0));
        std::fill(t.dk_factors, t.dk_factors + keys * t.r_width, T(0));
        for (QueryTile<T>& tile : tiles)
            if (tile.place.sees(key, keys, scores.window)) backward_pair<T, W>(tile, b, t, part, key, keys);
        if (part.want_dkv) {
            add_rows(b.dk.row(kv_row, kv_head), b.dk.stride, t.dk, t.width, keys, HS);
            add_rows(b.dv.row(kv_row, kv_head), b.dv.stride, t.dv, t.width, keys, HS);
            if (b.dk_factors.data) add_rows(b.dk_factors.row(kv_row, kv_head), b.dk_factors.stride, t.dk_factors, t.r_width, keys, R);
        }
    }
    if (!part.want_dq) return;
    for (const QueryTile<T>& tile : tiles) {
        const TilePlace& at = tile.place;
        copy_rows(b.dq.row(at.row, at.head), b.dq.stride, tile.dq, t.width, at.rows, HS, scores.scale);
        if (b.dq_factors.data) copy_rows(b.dq_factors.row(at.row, at.head), b.dq_factors.stride, tile.dq_factors, t.r_width, at.rows, R);
    }
}

template <class T>
using BackwardKernel = void (*)(const Backward<T>&, const Part&, BackwardTiles<T>&);

template <class T>
void backward_plain(const Backward<T>& b, const Part& part, BackwardTiles<T>& tiles) {
    backward_tiles<T, plain_bytes / sizeof(T)>(b, part, tiles);
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512dq,avx512bw,avx512vl,fma")]] void backward_avx512(const Backward<float>& b, const Part& part,
                                                                               BackwardTiles<float>& tiles) {
    backward_tiles<float, 16>(b, part, tiles);
}
#endif

template <class T>
BackwardKernel<T> best_backward() {
#if defined(__x86_64__)
    if constexpr (std::is_same_v<T, float>)
        if (best_simd() == Simd::avx512) return backward_avx512;
#endif
    return backward_plain<T>;
}

// For each segment the tiles of queries before its own, and last all of them: gradients that sum over tokens are added up tile by tile, so
// that splitting a batch between segments changes no bit.
std::vector<int64_t> first_query_tiles(std::span<const Segment> segments) {
    std::vector<int64_t> first = {0};
    for (const Segment& s : segments) first.push_back(first.back() + div_ceil(s.q_len, query_tile));
    return first;
}

// A key's gradient is a sum over the queries that see it: segment by segment, head by head, tile by tile. One thread adds them all, so
// that the sum has one order. Where there are too few pairs (run of segments, key head) for the threads, the work is done in two passes,
// one over keys for dk and dv and one over queries for dq: 7 products instead of 5, with the same bits.
template <class T>
void tiled_backward(const Backward<T>& b, std::span<const Segment> segments) {
    const int64_t NKV = b.NH / b.group;
    const std::vector<KeyRun> runs = key_runs(segments);
    double flops = 0;
    for (const Segment& s : segments) flops += 10.0 * double(b.NH * b.q.size) * double(s.q_len) * double(s.kv_len);
    const int threads = flops > 1e6 ? omp_get_max_threads() : 1;
    std::vector<BackwardTiles<T>> tiles;
    tiles.reserve(static_cast<size_t>(threads));
    for (int t = 0; t < threads; t++) tiles.emplace_back(b.q.size, b.scores.R);
    const BackwardKernel<T> kernel = best_backward<T>();

    const std::vector<int64_t> first_tiles = first_query_tiles(segments);

    // All queries of a segment and a key head against the keys [key_begin, key_end).
    auto all_queries = [&](const Segment& s, int64_t kv_head, int64_t key_begin, int64_t key_end, bool want_dq) {
        const int64_t count = b.group * div_ceil(s.q_len, query_tile);
        for (int64_t n = 0; n < count; n += tiles_together)
            kernel(b,
                   {&s, kv_head, n, std::min(n + tiles_together, count), key_begin, key_end,
                    first_tiles[static_cast<size_t>(&s - segments.data())], want_dq, true},
                   tiles[static_cast<size_t>(omp_get_thread_num())]);
    };

    const int64_t pairs = static_cast<int64_t>(runs.size()) * NKV;
    if (2 * pairs > threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int64_t pair = 0; pair < pairs; pair++) {
            const KeyRun& run = runs[static_cast<size_t>(pair / NKV)];
            for (const Segment& s : segments.subspan(run.begin, run.end - run.begin)) all_queries(s, pair % NKV, 0, s.kv_len, true);
        }
        return;
    }
    for (const Segment& s : segments) {
        const int64_t key_tiles = div_ceil(s.kv_len, key_tile), count = b.group * div_ceil(s.q_len, query_tile);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(dynamic) nowait
            for (int64_t n = 0; n < NKV * key_tiles; n++)
                all_queries(s, n / key_tiles, n % key_tiles * key_tile, std::min(n % key_tiles * key_tile + key_tile, s.kv_len), false);
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < NKV * count; n++)
                kernel(b,
                       {&s, n / count, n % count, n % count + 1, 0, s.kv_len, first_tiles[static_cast<size_t>(&s - segments.data())], true,
                        false},
                       tiles[static_cast<size_t>(omp_get_thread_num())]);
        }
    }
}

// D = dout . out; dgate; dout becomes dO.
template <class T>
void first_pass(const Tensor& delta, const Tensor& dgate, const Tensor& dout_tensor, const Tensor& out_tensor, const Tensor& gate_tensor) {
    const Heads<T> dout(dout_tensor), gradient(dgate);
    const Heads<const T> out(out_tensor), gate(gate_tensor);
    const int64_t rows = delta.shape[0], NH = delta.shape[1], HS = out.size;
#pragma omp parallel for if (rows * NH * HS > 100000)
    for (int64_t at = 0; at < rows * NH; at++) {
        T* dy = dout.row(at / NH, at % NH);
        const T* y = out.row(at / NH, at % NH);
        T D = 0;
#pragma omp simd reduction(+ : D)
        for (int64_t d = 0; d < HS; d++) D += dy[d] * y[d];
        delta.as<T>()[at] = D;
        if (!gate.data) continue;
        const T* z = gate.row(at / NH, at % NH);
        T* dz = gradient.row(at / NH, at % NH);
        if (gate.size == 1)
            *dz = D * vsigmoid(-*z);
        else
#pragma omp simd
            for (int64_t d = 0; d < HS; d++) dz[d] = dy[d] * y[d] * vsigmoid(-z[d]);
        open_gate(dy, z, gate.size, HS);
    }
}

// One sum for each tile of queries of a segment, the tiles ascending.
template <class T>
void sink_gradient(T* dsinks, const T* sinks, const T* lse, const T* delta, int64_t NH, std::span<const Segment> segments) {
#pragma omp parallel for
    for (int64_t h = 0; h < NH; h++)
        for (const Segment& s : segments)
            for (int64_t begin = s.q_start; begin < s.q_start + s.q_len; begin += query_tile) {
                T sum = 0;
                for (int64_t row = begin; row < std::min(begin + query_tile, s.q_start + s.q_len); row++)
                    sum += vexp(sinks[h] - lse[row * NH + h]) * delta[row * NH + h];
                dsinks[h] -= sum;
            }
}

// partial (tiles,n): what each tile of queries adds to gradient (n).
template <class T>
void add_partials(T* gradient, const std::vector<T>& partial, int64_t n) {
    const int64_t tiles = static_cast<int64_t>(partial.size()) / n;
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++)
        for (int64_t tile = 0; tile < tiles; tile++) gradient[i] += partial[static_cast<size_t>(tile * n + i)];
}

}  // namespace
}  // namespace cpu

void attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                        const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params, Stream& stream) {
    cpu::check_attention(out, lse, in, segments, params, stream);
    cpu::check_attention_gradients(d, dout, in, scratch);
    if (stream.on_gpu()) return gpu::attention_backward(d, dout, out, lse, in, scratch, segments, params, stream);
    ENSURE(wanted_attention_kernel() != AttentionKernel::hopper);
    if (out.dtype == Dtype::bf16) return cpu::widened_attention_backward(d, dout, out, lse, in, scratch, segments, params, stream);
    if (wanted_attention_kernel() == AttentionKernel::simple) return cpu::plain_attention_backward(d, dout, out, lse, in, segments, params);
    dispatch_real(out.dtype, [&](auto real) {
        using T = decltype(real);
        using cpu::Heads;
        using In = Heads<const T>;
        const Tensor& q = in.q;
        const int64_t NH = q.shape[1];
        cpu::first_pass<T>(scratch.delta, d.dgate, dout, out, in.gate);
        if (in.sinks) cpu::sink_gradient<T>(d.dsinks.as<T>(), in.sinks.as<T>(), lse.as<T>(), scratch.delta.as<T>(), NH, segments.host);
        std::vector<T> drelative;
        if (d.drelative) drelative.resize(static_cast<size_t>(cpu::first_query_tiles(segments.host).back() * NH * relative_buckets));
        cpu::tiled_backward<T>({Heads<T>(d.dq), Heads<T>(d.dk), Heads<T>(d.dv), Heads<T>(d.dq_factors), Heads<T>(d.dk_factors), In(dout),
                                lse.as<T>(), scratch.delta.as<T>(), In(q), In(in.k), In(in.v), NH, NH / in.k.shape[1],
                                cpu::Scores<T>(in, params), d.drelative ? drelative.data() : nullptr},
                               segments.host);
        if (d.drelative) cpu::add_partials(d.drelative.as<T>(), drelative, NH * relative_buckets);
    });
}

}  // namespace traincu
