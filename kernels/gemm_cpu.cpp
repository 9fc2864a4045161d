// Blocked matrix product (the scheme of Goto and van de Geijn 2008).
//
// A processor multiplies far faster than it loads, so each loaded number must be used many times:
//   - in registers: the innermost loop holds a tile of C, 12 x 32 (or the part of it that fits), and per step of K loads 12 + 32
//     numbers for 12 * 32 multiplications;
//   - in the L1 and L2 caches: K is cut in blocks of at most KC, so that the operands of many tiles stay there;
//   - in order: a block of A is copied ("packed") into panels of 12 rows, [k][12], a block of B into panels of 32 columns, [k][32].
//     The innermost loop then reads both front to back, whatever the strides were; edges are filled up with zeros.
//
// Threads: the shorter of M and N is packed once, by all threads, into memory that all read; the longer is cut in strips, handed
// out one by one. A thread packs its strip and multiplies it by all that is shared. K is never split over threads.
//
// An operand in 16 bits becomes f32 when it is packed; what comes after does not know of it.
//
// Packing moves M K + K N numbers for 2 M N K FLOPs: some 7 % of the time at 1024^3, 11 % at M = 4096, N = 384. Measured on one
// thread of a Zen 4 (118 GFLOP/s, tests/bench/gemm_bench.cpp): 80 to 90 % of the peak on the layers of a GPT-2.
#include "kernels/gemm_cpu.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/widened_cpu.h"
#include "src/base/error.h"

namespace traincu::cpu {
namespace {

constexpr int MR = 12, NR = 32;                       // the tile of C; also the widths of the panels
constexpr int64_t KC = 384;                           // a panel of A: 18 KB, half of L1
constexpr int64_t strip_rows = 96, strip_cols = 128;  // with KC: 150 and 200 KB, part of L2
constexpr int64_t shared_side = 4096;                 // what is shared: at most 4096 x KC, 6 MB, part of L3
constexpr int64_t shared_floats = shared_side * KC;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return div_ceil(n, multiple) * multiple; }

// ---------------------------------------------------------------------------------------------------------------- the tile

// W floats in one register. Loads and stores are memcpy: one instruction each, wherever in an array the floats lie.
template <int W>
struct Vector {
    typedef float Register __attribute__((vector_size(W * 4)));
};

// c (ROWS, VECS * W) = or += a^T b over kc steps: step k reads a[k * MR + 0..ROWS) and b[k * NR + 0..VECS*W).
// Inlined into functions compiled for one instruction set; there the sums are registers.
template <int W, int ROWS, int VECS>
[[gnu::always_inline]] inline void multiply(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, bool add) {
    using Register = typename Vector<W>::Register;
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECS * W; v += 16) __builtin_prefetch(c + r * c_stride + v, 1);  // wanted at the end, fetched meanwhile
    Register sum[ROWS][VECS] = {};
    for (int64_t k = 0; k < kc; k++, a += MR, b += NR) {
        Register line[VECS];
#pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) std::memcpy(&line[v], b + v * W, sizeof line[v]);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            Register factor = a[r] - Register{};  // a[r] in every lane
#pragma GCC unroll 8
            for (int v = 0; v < VECS; v++) sum[r][v] += factor * line[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) {
            float* out = c + r * c_stride + v * W;
            Register total = sum[r][v];
            if (add) {
                std::memcpy(&total, out, sizeof total);
                total += sum[r][v];
            }
            std::memcpy(out, &total, sizeof total);
        }
}

// A whole tile, or its first rows and cols at an edge of C: the parts that fit the registers, one after another.
// An edge is computed beside C and then copied, so that nothing outside is touched.
template <int W, int ROWS, int VECS>
[[gnu::always_inline]] inline void tile(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int64_t rows, int64_t cols,
                                        bool add) {
    for (int c0 = 0; c0 < cols; c0 += VECS * W)
        for (int r0 = 0; r0 < rows; r0 += ROWS) {
            float* corner = c + r0 * c_stride + c0;
            int64_t height = std::min<int64_t>(ROWS, rows - r0), width = std::min<int64_t>(VECS * W, cols - c0);
            if (height == ROWS && width == VECS * W) {
                multiply<W, ROWS, VECS>(kc, a + r0, b + c0, corner, c_stride, add);
            } else {
                float edge[ROWS * VECS * W];
                multiply<W, ROWS, VECS>(kc, a + r0, b + c0, edge, VECS * W, false);
                for (int64_t r = 0; r < height; r++)
                    for (int64_t n = 0; n < width; n++) {
                        float sum = edge[r * VECS * W + n];
                        corner[r * c_stride + n] = add ? corner[r * c_stride + n] + sum : sum;
                    }
            }
        }
}

using Tile = void (*)(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int64_t rows, int64_t cols, bool add);

// 16 registers of 4 floats: 6 x 8.
void tile_portable(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int64_t rows, int64_t cols, bool add) {
    tile<4, 6, 2>(kc, a, b, c, c_stride, rows, cols, add);
}

#if defined(__x86_64__)
// 16 registers of 8 floats: 6 x 16.
[[gnu::target("avx2,fma")]] void tile_avx2(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int64_t rows,
                                           int64_t cols, bool add) {
    tile<8, 6, 2>(kc, a, b, c, c_stride, rows, cols, add);
}

// 32 registers of 16 floats: 12 x 32 at once.
[[gnu::target("avx512f")]] void tile_avx512(int64_t kc, const float* a, const float* b, float* c, int64_t c_stride, int64_t rows,
                                            int64_t cols, bool add) {
    tile<16, 12, 2>(kc, a, b, c, c_stride, rows, cols, add);
}

Tile tile_for(Simd simd) { return simd == Simd::avx512 ? tile_avx512 : simd == Simd::avx2 ? tile_avx2 : tile_portable; }
#else
Tile tile_for(Simd) { return tile_portable; }
#endif

// ------------------------------------------------------------------------------------------------------------- packing

using Quad = Vector<4>::Register;

// Lanes I... of a (0-3) and b (4-7).
template <int... I>
Quad lanes(Quad a, Quad b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, I...);
#else
    typedef int Index __attribute__((vector_size(16)));
    return __builtin_shuffle(a, b, Index{I...});
#endif
}

// to[j * to_stride + i] = from[i * from_stride + j] for i, j in 0..3
void transpose_4x4(float* to, int64_t to_stride, const float* from, int64_t from_stride) {
    Quad r0, r1, r2, r3;
    auto load = [&](Quad& row, int i) { std::memcpy(&row, from + i * from_stride, sizeof row); };
    auto store = [&](int j, Quad row) { std::memcpy(to + j * to_stride, &row, sizeof row); };
    load(r0, 0), load(r1, 1), load(r2, 2), load(r3, 3);
    Quad low01 = lanes<0, 4, 1, 5>(r0, r1), low23 = lanes<0, 4, 1, 5>(r2, r3);
    Quad high01 = lanes<2, 6, 3, 7>(r0, r1), high23 = lanes<2, 6, 3, 7>(r2, r3);
    store(0, lanes<0, 1, 4, 5>(low01, low23));
    store(1, lanes<2, 3, 6, 7>(low01, low23));
    store(2, lanes<0, 1, 4, 5>(high01, high23));
    store(3, lanes<2, 3, 6, 7>(high01, high23));
}

// COUNT neighbours.
template <int COUNT, class S>
[[gnu::always_inline]] inline void copy_widened(float* to, const S* from) {
    if constexpr (is_real<S>)
        std::memcpy(to, from, COUNT * sizeof(float));
    else
        for (int i = 0; i < COUNT; i++) to[i] = widened(from[i]);
}

// One panel whose source runs along k: panel[k * WIDTH + w] = from[w * stride + k], zeros for w in [width, WIDTH).
template <int WIDTH, class S>
void pack_transposed(float* panel, const S* from, int64_t stride, int64_t width, int64_t kc) {
    constexpr int64_t line = 16;  // floats of a cache line: read whole before the next row may push it out
    for (int64_t k0 = 0; k0 < kc; k0 += line)
        for (int64_t w = 0; w < WIDTH; w += 4) {
            for (int64_t i = w; i < w + 4; i++)
                __builtin_prefetch(from + (WIDTH + i) * stride + k0, 0, 2);  // the next panel; a prefetch outside A or B is harmless
            float* to = panel + k0 * WIDTH + w;
            const S* corner = from + w * stride + k0;
            const int64_t steps = std::min(line, kc - k0);
            if (w + 4 > width || steps < line) {
                for (int64_t i = 0; i < 4; i++)
                    for (int64_t k = 0; k < steps; k++) to[k * WIDTH + i] = w + i < width ? widened(corner[i * stride + k]) : 0.0f;
            } else if constexpr (is_real<S>) {
                for (int64_t k = 0; k < line; k += 4) transpose_4x4(to + k * WIDTH, WIDTH, corner + k, stride);
            } else {
                float rows[4 * line];
                for (int64_t i = 0; i < 4; i++) copy_widened<line>(rows + i * line, corner + i * stride);
                for (int64_t k = 0; k < line; k += 4) transpose_4x4(to + k * WIDTH, WIDTH, rows + k, line);
            }
        }
}

// Consecutive panels whose source runs across them: panels[(w / WIDTH) * WIDTH * kc + k * WIDTH + w % WIDTH] = from[k * stride + w].
template <int WIDTH, class S>
void pack_straight(float* panels, const S* from, int64_t stride, int64_t width, int64_t kc) {
    for (int64_t k = 0; k < kc; k++)
        for (int64_t w = 0; w < width; w += WIDTH) {
            float* to = panels + w * kc + k * WIDTH;
            for (int64_t i = 0; i < WIDTH; i += 64 / sizeof(S)) __builtin_prefetch(from + (k + 8) * stride + w + i);
            if (w + WIDTH <= width) {
                copy_widened<WIDTH>(to, from + k * stride + w);
            } else {
                for (int64_t i = 0; i < WIDTH; i++) to[i] = w + i < width ? widened(from[k * stride + w + i]) : 0.0f;
            }
        }
}

// `count` rows of A or columns of B, `across` apart, over kc steps of K that are `along` apart.
template <int WIDTH, class S>
void pack_panels(float* panels, const S* from, int64_t across, int64_t along, int64_t count, int64_t kc) {
    if (across == 1) return pack_straight<WIDTH>(panels, from, along, count, kc);
    for (int64_t w = 0; w < count; w += WIDTH)
        pack_transposed<WIDTH>(panels + w * kc, from + w * across, across, std::min<int64_t>(WIDTH, count - w), kc);
}

// -------------------------------------------------------------------------------------------------------------- blocks

struct KBlock {
    int64_t begin, length;
};

// K in blocks of at most KC, about equal within a unit, that never cross from one unit to the next.
std::vector<KBlock> cut_k(int64_t K, int64_t unit) {
    std::vector<KBlock> blocks;
    for (int64_t u = 0; u < K; u += unit) {
        const int64_t end = std::min(u + unit, K), length = div_ceil(end - u, div_ceil(end - u, KC));
        for (int64_t k = u; k < end; k += length) blocks.push_back({k, std::min(length, end - k)});
    }
    return blocks;
}

// The rows of A or the columns of B: what the two operands have in common but for the width of their panels.
struct Side {
    const void* data;
    Dtype dtype;
    int64_t size, across, along;  // M or N; the stride from one row or column to the next, and the stride along K
    int64_t panel;                // MR or NR

    void pack(float* to, int64_t begin, int64_t count, KBlock k) const {
        auto pack_as = [&]<class S>(S) {
            const S* from = static_cast<const S*>(data) + begin * across + k.begin * along;
            panel == MR ? pack_panels<MR>(to, from, across, along, count, k.length)
                        : pack_panels<NR>(to, from, across, along, count, k.length);
        };
        dtype == Dtype::f32 ? pack_as(float{}) : dtype == Dtype::bf16 ? pack_as(bf16{}) : pack_as(f16{});
    }
};

// Memory of the calling thread; kept, because fresh memory costs a page fault per 4 KB.
class Scratch {
public:
    template <class T>
    T* of(int64_t count) {
        const int64_t bytes = round_up(count * static_cast<int64_t>(sizeof(T)), 4096);
        if (size_ < bytes) {
            size_ = bytes;
            memory_.reset(std::aligned_alloc(4096, static_cast<size_t>(bytes)));
            if (!memory_) throw Error(ExitCode::memory, "no memory for the blocks of a matrix product", "free some memory");
        }
        return static_cast<T*>(memory_.get());
    }

private:
    std::unique_ptr<void, decltype(&std::free)> memory_{nullptr, std::free};
    int64_t size_ = 0;
};

thread_local Scratch packed_blocks, pieces_of_c, turned_blocks;

}  // namespace

bool has_simd(Simd simd) {
#if defined(__x86_64__)
    if (simd == Simd::avx512) return __builtin_cpu_supports("avx512f");
    if (simd == Simd::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return simd == Simd::portable;
}

Simd best_simd() {
    static const Simd best = has_simd(Simd::avx512) ? Simd::avx512 : has_simd(Simd::avx2) ? Simd::avx2 : Simd::portable;
    return best;
}

void gemm(int64_t M, int64_t N, int64_t K, Operand a, Operand b, float* c, int64_t c_stride, const GemmOptions& options) {
    ENSURE(K > 0 && has_simd(options.simd) && !(options.bias && options.accumulate));
    ENSURE((a.row_stride == 1 || a.col_stride == 1) && (b.row_stride == 1 || b.col_stride == 1));
    for (const Operand& x : {a, b}) ENSURE(x.dtype == Dtype::f32 || is_16_bit(x.dtype));
    if (M == 0 || N == 0) return;

    const Side rows{a.data, a.dtype, M, a.row_stride, a.col_stride, MR}, cols{b.data, b.dtype, N, b.col_stride, b.row_stride, NR};
    const bool share_b = M >= N;  // the shorter side
    const Side &shared = share_b ? cols : rows, &cut = share_b ? rows : cols;
    const std::vector<KBlock> blocks = cut_k(K, options.unit > 0 ? options.unit : K);
    const Tile tile = tile_for(options.simd);

    const bool worth_waking = static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K) > 5e5;  // ~10 us of one thread
    const int threads = worth_waking ? omp_get_max_threads() : 1;
    int64_t strip = share_b ? strip_rows : strip_cols;
    while (strip > cut.panel && div_ceil(cut.size, strip) < 4 * threads) strip -= cut.panel;

    for (int64_t s0 = 0; s0 < shared.size; s0 += shared_side) {
        const int64_t width = std::min(shared_side, shared.size - s0), padded = round_up(width, shared.panel);
        for (size_t first = 0, last; first < blocks.size(); first = last) {
            // As many blocks of K at once as fit: threads meet less often.
            auto k_until = [&](size_t block) { return blocks[block].begin + blocks[block].length - blocks[first].begin; };
            for (last = first + 1; last < blocks.size() && k_until(last) * padded <= shared_floats; last++) {
            }
            float* const packed = packed_blocks.of<float>(round_up(k_until(last - 1) * padded, 16) + threads * strip * KC);
            float* const strips = packed + round_up(k_until(last - 1) * padded, 16);
            auto packed_block = [&](size_t i) { return packed + (blocks[i].begin - blocks[first].begin) * padded; };

            // A strip of C, `size` rows (or columns) from t0, takes the products of the blocks [first, last) of K.
            auto multiply_strip = [&](float* mine, int64_t t0, int64_t size) {
                const int64_t row_begin = share_b ? t0 : s0, row_end = row_begin + (share_b ? size : width);
                const int64_t col_begin = share_b ? s0 : t0, col_end = col_begin + (share_b ? width : size);
                if (options.bias && first == 0)
                    for (int64_t r = row_begin; r < row_end; r++)
                        std::copy(options.bias + col_begin, options.bias + col_end, c + r * c_stride + col_begin);
                for (size_t i = first; i < last; i++) {
                    const int64_t kc = blocks[i].length;
                    const bool add = options.accumulate || options.bias || i > 0;
                    cut.pack(mine, t0, size, blocks[i]);
                    for (int64_t s = 0; s < width; s += shared.panel)
                        for (int64_t t = 0; t < size; t += cut.panel) {
                            const float *theirs = packed_block(i) + s * kc, *own = mine + t * kc;
                            const int64_t row = row_begin + (share_b ? t : s), col = col_begin + (share_b ? s : t);
                            tile(kc, share_b ? own : theirs, share_b ? theirs : own, c + row * c_stride + col, c_stride,
                                 std::min<int64_t>(MR, row_end - row), std::min<int64_t>(NR, col_end - col), add);
                        }
                }
            };

#pragma omp parallel num_threads(threads)
            {
                const int64_t group = 4 * shared.panel;  // packed at a time: enough to read whole cache lines, small enough to spread
#pragma omp for collapse(2) schedule(dynamic)
                for (size_t i = first; i < last; i++)
                    for (int64_t g = 0; g < width; g += group)
                        shared.pack(packed_block(i) + g * blocks[i].length, s0 + g, std::min(group, width - g), blocks[i]);
#pragma omp for schedule(dynamic)
                for (int64_t t0 = 0; t0 < cut.size; t0 += strip)
                    multiply_strip(strips + omp_get_thread_num() * strip * KC, t0, std::min(strip, cut.size - t0));
            }
        }
    }
}

void gemm_rounded(Gemm product, int64_t M, int64_t N, int64_t K, Operand a, Operand b, bf16* c, int64_t c_stride,
                  const GemmOptions& options) {
    // gemm() cuts the shorter side of C at shared_side, and packs it anew for each piece: the longer one's must not be short.
    constexpr int64_t numbers = 2 << 20;
    const int64_t across = std::min({std::min(M, N), shared_side}), along = std::max<int64_t>(numbers / std::max<int64_t>(across, 1), 1);
    const int64_t rows = M <= N ? across : along, cols = M <= N ? along : across;
    for (int64_t m = 0; m < M; m += rows)
        for (int64_t n = 0; n < N; n += cols) {
            const int64_t height = std::min(rows, M - m), width = std::min(cols, N - n);
            float* piece = pieces_of_c.of<float>(height * width);
            GemmOptions part = options;
            if (options.bias) part.bias = options.bias + n;
            product(height, width, K, a.from(m, 0), b.from(0, n), piece, width, part);
#pragma omp parallel for schedule(static) if (height * width > 10000)
            for (int64_t r = 0; r < height; r++) narrow(c + (m + r) * c_stride + n, piece + r * width, width);
        }
}

void gemm_by_blocks(Gemm product, int64_t longest, int64_t M, int64_t N, int64_t K, Operand a, Operand b, float* c, int64_t c_stride,
                    const GemmOptions& options) {
    const int64_t unit = options.unit > 0 ? options.unit : K;
    for (int64_t u = 0; u < K; u += unit)
        for (int64_t k = u, length; k < std::min(u + unit, K); k += length) {
            length = std::min({longest, u + unit - k, K - k});
            Operand block = a.from(0, k);
            if (a.col_stride != 1) {
                bf16* turned = turned_blocks.of<bf16>(M * length);  // (M,length)
                const bf16* from = block.as<bf16>();
                constexpr int64_t line = 32;  // numbers of a cache line
#pragma omp parallel for schedule(static)
                for (int64_t m0 = 0; m0 < M; m0 += line)
                    for (int64_t i = 0; i < length; i++)
                        for (int64_t m = m0; m < std::min(m0 + line, M); m++) turned[m * length + i] = from[i * a.col_stride + m];
                block = {turned, length, 1};
            }
            GemmOptions part{.accumulate = options.accumulate || k > 0, .simd = options.simd};
            if (k == 0) part.bias = options.bias;
            product(M, N, length, block, b.from(k, 0), c, c_stride, part);
        }
}

}  // namespace traincu::cpu
