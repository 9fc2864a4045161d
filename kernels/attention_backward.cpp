#include <omp.h>

#include "kernels/attention_cpu.h"
#include "kernels/gemm_cpu.h"
#include "kernels/vmath.h"

namespace traincu {
namespace cpu {
namespace {

template <class T>
struct Backward {
    Heads<T> dq, dk, dv;
    Heads<const T> dout, out;
    const T* lse;  // (T,NH)
    Heads<const T> q, k, v;
    int64_t NH, group;  // group = NH / NKV
    T scale;
};

// A tile of queries of one head: q times scale and dout, as they are and transposed, and the gradient so far.
template <class T>
struct QueryTile {
    TilePlace place;
    T *q = nullptr, *dout = nullptr, *dq = nullptr;  // (query_tile,width)
    T *q_t = nullptr, *dout_t = nullptr;             // (HS,query_tile)
    T lse[query_tile], dot[query_tile];              // dot: D[i] = dout[i] . out[i]
};

// The tiles of one thread.
template <class T>
struct BackwardTiles {
    int64_t width;  // HS filled up
    TileMemory<T> memory;
    T *k, *v, *dk, *dv;  // (key_tile,width)
    T *p, *ds;           // (key_tile,query_tile): scores, then probabilities; dP, then dS
    QueryTile<T> queries[tiles_together];

    explicit BackwardTiles(int64_t HS) : width(round_up(HS, lane_pad)), memory(numbers(HS)) {
        for (T** tile : {&k, &v, &dk, &dv}) *tile = memory.take(key_tile, width);
        for (T** tile : {&p, &ds}) *tile = memory.take(key_tile, query_tile);
        for (QueryTile<T>& tile : queries) {
            for (T** rows : {&tile.q, &tile.dout, &tile.dq}) *rows = memory.take(query_tile, width);
            for (T** transposed : {&tile.q_t, &tile.dout_t}) *transposed = memory.take(HS, query_tile);
        }
    }
    static int64_t numbers(int64_t HS) {
        const auto size = TileMemory<T>::tile_size;
        return 4 * size(key_tile, HS) + 2 * size(key_tile, query_tile) +
               tiles_together * (3 * size(query_tile, HS) + 2 * size(HS, query_tile));
    }
};

// What one call of the kernel computes: the tiles [first, last) of queries that read one key head, against the keys
// [key_begin, key_end) of the segment, a multiple of key_tile from its start.
struct Part {
    const Segment* segment;
    int64_t kv_head, first, last;
    int64_t key_begin, key_end;
    bool want_dq, want_dkv;
};

template <class T>
[[gnu::always_inline]] inline void load(QueryTile<T>& tile, const Backward<T>& b, int64_t width) {
    const TilePlace& at = tile.place;
    const int64_t HS = b.q.size;
    const T *q = b.q.row(at.row, at.head), *dout = b.dout.row(at.row, at.head), *out = b.out.row(at.row, at.head);
    copy_rows(tile.q, width, q, b.q.stride, at.rows, HS, b.scale);
    copy_rows(tile.dout, width, dout, b.dout.stride, at.rows, HS);
    transpose_rows(tile.q_t, q, b.q.stride, at.rows, at.lanes, HS, b.scale);
    transpose_rows(tile.dout_t, dout, b.dout.stride, at.rows, at.lanes, HS);
    std::fill(tile.dq, tile.dq + at.rows * width, T(0));
    for (int64_t i = 0; i < at.lanes; i++) {
        T dot = 0;
        if (i < at.rows)
#pragma omp simd reduction(+ : dot)
            for (int64_t d = 0; d < HS; d++) dot += dout[i * b.dout.stride + d] * out[i * b.out.stride + d];
        tile.dot[i] = dot;
        tile.lse[i] = i < at.rows ? b.lse[(at.row + i) * b.NH + at.head] : T(0);
    }
}

// One tile of keys and values, `first_key` of the segment, with one tile of queries: five products.
template <class T, int W>
[[gnu::always_inline]] inline void backward_pair(QueryTile<T>& tile, const BackwardTiles<T>& t, const Part& part, int64_t first_key,
                                                 int64_t keys, int64_t HS) {
    const int64_t shift = tile.place.before - first_key, rows = tile.place.rows, lanes = tile.place.lanes;
    score_product<T, W>(t.p, t.k, t.width, tile.q_t, keys, lanes, HS, shift);
    score_product<T, W>(t.ds, t.v, t.width, tile.dout_t, keys, lanes, HS, shift);
    for (int64_t j = 0; j < keys; j++) {
        T *p = t.p + j * query_tile, *ds = t.ds + j * query_tile;
        const int64_t masked = masked_lanes(j, shift, lanes);
#pragma omp simd
        for (int64_t i = masked / lane_pad * lane_pad; i < lanes; i++) {
            p[i] = vexp(p[i] - tile.lse[i]);
            ds[i] = p[i] * (ds[i] - tile.dot[i]);
        }
        std::fill(p, p + masked, T(0));
        std::fill(ds, ds + masked, T(0));
    }
    const int64_t padding =
        (round_up(keys, block_rows<T, W>) - keys) * query_tile;  // of the last block of rows: other tiles may see these keys
    std::fill_n(t.p + keys * query_tile, padding, T(0));
    std::fill_n(t.ds + keys * query_tile, padding, T(0));
    if (part.want_dkv) {
        sum_over_queries<T, W>(t.dv, t.p, tile.dout, t.width, keys, rows, shift);
        sum_over_queries<T, W>(t.dk, t.ds, tile.q, t.width, keys, rows, shift);
    }
    if (part.want_dq) sum_over_keys<T, W>(tile.dq, t.ds, t.k, t.width, keys, rows, shift);
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
    const int64_t HS = b.q.size, kv_head = part.kv_head;
    const std::span<QueryTile<T>> tiles(t.queries, static_cast<size_t>(part.last - part.first));
    int64_t end = 0;  // of the keys that any of the tiles sees
    for (size_t n = 0; n < tiles.size(); n++) {
        tiles[n].place = TilePlace(segment, kv_head, b.group, part.first + static_cast<int64_t>(n));
        end = std::max(end, tiles[n].place.end());
    }
    end = std::min(end, part.key_end);
    if (end <= part.key_begin) return;
    for (QueryTile<T>& tile : tiles) load(tile, b, t.width);
    for (int64_t key = part.key_begin; key < end; key += key_tile) {
        const int64_t keys = std::min(key_tile, end - key), kv_row = segment.kv_start + key;
        copy_rows(t.k, t.width, b.k.row(kv_row, kv_head), b.k.stride, keys, HS);
        copy_rows(t.v, t.width, b.v.row(kv_row, kv_head), b.v.stride, keys, HS);
        std::fill(t.dk, t.dk + keys * t.width, T(0));
        std::fill(t.dv, t.dv + keys * t.width, T(0));
        for (QueryTile<T>& tile : tiles)
            if (key < tile.place.end()) backward_pair<T, W>(tile, t, part, key, std::min(keys, tile.place.end() - key), HS);
        if (part.want_dkv) {
            add_rows(b.dk.row(kv_row, kv_head), b.dk.stride, t.dk, t.width, keys, HS);
            add_rows(b.dv.row(kv_row, kv_head), b.dv.stride, t.dv, t.width, keys, HS);
        }
    }
    if (part.want_dq)
        for (const QueryTile<T>& tile : tiles)
            copy_rows(b.dq.row(tile.place.row, tile.place.head), b.dq.stride, tile.dq, t.width, tile.place.rows, HS, b.scale);
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

// A key's gradient is a sum over the queries that see it: segment by segment, head by head, tile by tile. One thread adds them all, so
// that the sum has one order. Where there are too few pairs (run of segments, key head) for the threads, the work is done in two passes,
// one over keys for dk and dv and one over queries for dq: 7 products instead of 5, with the same bits.
template <class T>
void attention_backward(const Backward<T>& b, std::span<const Segment> segments) {
    const int64_t NKV = b.NH / b.group;
    const std::vector<KeyRun> runs = key_runs(segments);
    double flops = 0;
    for (const Segment& s : segments) flops += 10.0 * double(b.NH * b.q.size) * double(s.q_len) * double(s.kv_len);
    const int threads = flops > 1e6 ? omp_get_max_threads() : 1;
    std::vector<BackwardTiles<T>> tiles;
    tiles.reserve(static_cast<size_t>(threads));
    for (int t = 0; t < threads; t++) tiles.emplace_back(b.q.size);
    const BackwardKernel<T> kernel = best_backward<T>();

    // All queries of a segment and a key head against the keys [key_begin, key_end).
    auto all_queries = [&](const Segment& s, int64_t kv_head, int64_t key_begin, int64_t key_end, bool want_dq) {
        const int64_t count = b.group * div_ceil(s.q_len, query_tile);
        for (int64_t n = 0; n < count; n += tiles_together)
            kernel(b, {&s, kv_head, n, std::min(n + tiles_together, count), key_begin, key_end, want_dq, true},
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
                kernel(b, {&s, n / count, n % count, n % count + 1, 0, s.kv_len, true, false},
                       tiles[static_cast<size_t>(omp_get_thread_num())]);
        }
    }
}

}  // namespace
}  // namespace cpu

void attention_backward(const AttentionGradients& d, Tensor dout, Tensor out, Tensor lse, const AttentionInputs& in,
                        const AttentionScratch& scratch, const SegmentTable& segments, const AttentionParams& params, Stream& stream) {
    cpu::check_attention(out, lse, in, segments, params, stream);
    cpu::check_attention_gradients(d, dout, in, scratch);
    if (stream.on_gpu()) return gpu::attention_backward(d, dout, out, lse, in, scratch, segments, params, stream);
    ENSURE(wanted_attention_kernel() != AttentionKernel::hopper);
    if (wanted_attention_kernel() == AttentionKernel::simple) return cpu::plain_attention_backward(d, dout, out, lse, in, segments, params);
    ENSURE(!in.gate && !in.sinks && !in.slopes && !in.relative && !in.q_factors && !in.dense && params.window == 0 && params.softcap == 0);
    dispatch_real(out.dtype, [&](auto real) {
        using T = decltype(real);
        using cpu::Heads;
        using In = Heads<const T>;
        const Tensor& q = in.q;
        cpu::attention_backward<T>({Heads<T>(d.dq), Heads<T>(d.dk), Heads<T>(d.dv), In(dout), In(out), lse.as<T>(), In(q), In(in.k),
                                    In(in.v), q.shape[1], q.shape[1] / in.k.shape[1], static_cast<T>(params.scale)},
                                   segments.host);
    });
}

}  // namespace traincu
