// Linear layers on the GPU: our own matrix product.
//
// All three passes are C (M,N) = A (M,K) B (K,N), and differ in how their operands lie in memory, always row by row:
//   forward          C = out      (N,OC)    A = inp,  its rows along M      B = weight, its rows along N
//   backward_input   C = dinp     (N,IC)    A = dout, its rows along M      B = weight, its rows along K
//   backward_weight  C = dweight  (OC,IC)   A = dout, its rows along K      B = inp,    its rows along K
// An operand whose rows run along M or N has K dense; otherwise its rows run along K, and ldmatrix transposes it on the way to the
// registers.
//
// bf16 (matmul_kernel): a block makes a tile of C, 128x128 with 8 warps or 64x64 with 4 where there would be too few blocks for the
// multiprocessors. It walks along K in steps of 64: cp.async brings the tiles of A and B into a ring of three in shared memory while the
// tensor cores work on the one before. A warp's part of C, 64x32 or 32x32, stays in its registers as f32. At the end the tile goes through
// shared memory, so that it is written in whole rows, 16 bytes a thread.
// Shared memory without conflicts: rows of 128 or 256 bytes, of which the 16-byte chunk c of row r lies at place c ^ (r % 8). The eight
// rows that ldmatrix reads at once, at the same c, then lie in different banks.
//
// f32 (matmul_f32_kernel): no tensor cores, since they would round the factors to TF32. A block makes 128x128, a thread 8x8 of it in
// registers: per step of K, 16 numbers from shared memory for 64 fused multiply-adds.
//
// An element's sum has one order, ascending in K, whatever the tile and however many rows there are; so its bits depend on its row of A and
// its column of B alone. The bias gradient is summed apart: blocks of 256 rows first, then these in ascending order.
//
// FLOPs: 2 M N K. Bytes: s (M K + K N) + size of C, more where tiles do not stay in L2. Floor: FLOPs / 770 TFLOP/s (H200, bf16), bound by
// arithmetic from M, N, K of about 400; f32: FLOPs / 60 TFLOP/s. Fraction: not measured. (mma.sync reaches about 60 % of what Hopper's
// wgmma does; on sm_80 to sm_89 it is the only instruction there is.)
#include "kernels/matmul.h"

#include "kernels/activation.h"
#include "kernels/gemm_cublaslt.h"
#include "kernels/launch.h"

namespace traincu::gpu {

// ---- what both products share

// A matrix in memory: rows `stride` elements apart.
template <class T>
struct MatmulOperand {
    const T* data;
    int64_t stride;
};

// Where the result goes.
template <class Out, class In>
struct MatmulResult {
    Out* data;
    int64_t stride;
    const In* bias;   // (N), or null
    bool accumulate;  // += instead of =
    bool aligned;     // rows begin at multiples of 16 bytes
};

struct MatmulSizes {
    int64_t M, N, K;
    int64_t unit;  // of K: each is summed on its own before it is added to C; K: one
};

// The tile that this block makes. Blocks that run at the same time take tiles that lie together, 8 high: they share operands in L2.
struct MatmulTile {
    int64_t m, n;  // its first row and column
    __device__ MatmulTile(const MatmulSizes& sizes, int height, int width) {
        constexpr int64_t group = 8;
        const int64_t rows = div_ceil(sizes.M, height), cols = div_ceil(sizes.N, width);
        const int64_t block = blockIdx.x, first = block / (group * cols) * group;
        const int64_t here = rows - first < group ? rows - first : group;  // rows of tiles in this group
        m = (first + block % (group * cols) % here) * height;
        n = block % (group * cols) / here * width;
    }
};

// C's elements (row, col...) from `sums`, one Pack of them; those beyond the matrix are left out.
template <class Out, class In>
__device__ void matmul_store(const MatmulResult<Out, In>& c, const MatmulSizes& sizes, int64_t row, int64_t col, const float* sums) {
    constexpr int width = Pack<Out>::size;
    if (row >= sizes.M || col >= sizes.N) return;
    Out* to = c.data + row * c.stride + col;
    const int count = sizes.N - col < width ? static_cast<int>(sizes.N - col) : width;
    const bool whole = c.aligned && count == width;
    Pack<Out> pack = {};
    if (c.accumulate) {
        if (whole)
            pack = load16(to);
        else
#pragma unroll
            for (int i = 0; i < width; i++)
                if (i < count) pack[i] = to[i];
    }
#pragma unroll
    for (int i = 0; i < width; i++) {
        float value = c.accumulate ? to_float(pack[i]) + sums[i] : sums[i];
        if (c.bias && i < count) value += to_float(c.bias[col + i]);
        pack[i] = from_float<Out>(value);
    }
    if (whole)
        store16(to, pack);
    else
#pragma unroll
        for (int i = 0; i < width; i++)
            if (i < count) to[i] = pack[i];
}

// ---- bf16, on tensor cores

constexpr int matmul_depth = 64;  // of K in a step: 128 bytes
constexpr int matmul_stages = 3;  // of the ring: one being read, two on their way

// The shape of a block's tile and of a warp's part of it.
template <int height_, int width_, int warp_height_, int warp_width_>
struct MatmulShape {
    static constexpr int height = height_, width = width_, warp_height = warp_height_, warp_width = warp_width_;
    static constexpr int warps_across = width / warp_width, threads = height / warp_height * warps_across * warp_size;
    static constexpr int a_size = height * matmul_depth, b_size = width * matmul_depth;  // elements of a stage
    static constexpr int pitch = width + 8;  // floats between rows of C's tile: 8 rows, 4 lanes each, meet all banks
    static constexpr int ring_bytes = matmul_stages * (a_size + b_size) * 2, tile_bytes = height * pitch * 4;
    static constexpr int shared_bytes = ring_bytes > tile_bytes ? ring_bytes : tile_bytes;
};
using MatmulLarge = MatmulShape<128, 128, 64, 32>;
using MatmulSmall = MatmulShape<64, 64, 32, 32>;

// The place of 16-byte chunk `chunk` of row `row` in a tile whose rows are `chunks` long, in elements.
template <int chunks>
__device__ int matmul_place(int row, int chunk) {
    return (row * chunks + (chunk ^ (row & 7))) * Pack<bf16>::size;
}

// Brings tiles of `rows` rows of `chunks` chunks into shared memory; a thread always the same chunk of every `row_step`-th row.
// aligned: all rows of the matrix begin and end at multiples of 16 bytes. Otherwise element by element.
template <int rows, int chunks, int threads, bool aligned>
struct MatmulLoader {
    static constexpr int row_step = threads / chunks, size = Pack<bf16>::size;
    static_assert(rows % row_step == 0 && row_step % 8 == 0);  // the chunk's place in its row is the same in all of them

    MatmulOperand<bf16> from;
    int row, col;  // of this thread's first chunk in a tile

    __device__ explicit MatmulLoader(const MatmulOperand<bf16>& matrix)
        : from(matrix), row(static_cast<int>(threadIdx.x) / chunks), col(static_cast<int>(threadIdx.x) % chunks * size) {}

    // The tile that begins at (first_row, first_col); zeros for what lies from end_row or end_col on.
    __device__ void load(bf16* tile, int64_t first_row, int64_t end_row, int64_t first_col, int64_t end_col) const {
        const int64_t r = first_row + row, c = first_col + col, step = row_step * from.stride;
        const int64_t rows_left = end_row - r, cols_left = end_col - c;
        const bf16* source = from.data + r * from.stride + c;
        bf16* place = tile + matmul_place<chunks>(row, col / size);
        if constexpr (aligned) {
#pragma unroll
            for (int i = 0; i < rows / row_step; i++, source += step, place += row_step * chunks * size) {
                const bool valid = i * row_step < rows_left && cols_left > 0;
                cp_async16(place, valid ? source : from.data, valid);
            }
        } else {
#pragma unroll 1
            for (int i = 0; i < rows / row_step; i++, source += step, place += row_step * chunks * size) {
                Pack<bf16> pack;
#pragma unroll
                for (int j = 0; j < size; j++) pack[j] = i * row_step < rows_left && j < cols_left ? source[j] : bf16{0};
                store16(place, pack);
            }
        }
    }
};

// 16x16 elements of an operand at (x, k), x along M or N, as four 8x8 matrices with K along their rows. halves_of_x: matrices 0 and 1 are
// neighbours along x and 2, 3 the next 8 of K, as a[] of mma wants it; otherwise the other way round, for two neighbouring b[].
template <bool k_dense, int extent, bool halves_of_x>
__device__ void matmul_fragment(uint32_t (&r)[4], const bf16* tile, int x, int k) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int first = lane / 8 % 2 * 8, second = lane / 16 * 8;  // of the matrix whose row this lane names
    const int x0 = x + (halves_of_x ? first : second), k0 = k + (halves_of_x ? second : first);
    if constexpr (k_dense)
        ldmatrix_x4(r, tile + matmul_place<matmul_depth / 8>(x0 + lane % 8, k0 / 8));
    else
        ldmatrix_x4_trans(r, tile + matmul_place<extent / 8>(k0 + lane % 8, x0 / 8));
}

template <class Shape, bool a_k_dense, bool b_k_dense, bool aligned, class Out>
__global__ void __launch_bounds__(Shape::threads, 256 / Shape::threads * 2)
    matmul_kernel(MatmulResult<Out, bf16> c, MatmulOperand<bf16> a, MatmulOperand<bf16> b, MatmulSizes sizes) {
    constexpr int m_steps = Shape::warp_height / 16, n_steps = Shape::warp_width / 8;
    bf16* a_tiles = shared<bf16>();
    bf16* b_tiles = a_tiles + matmul_stages * Shape::a_size;
    const MatmulTile tile(sizes, Shape::height, Shape::width);
    const MatmulLoader<a_k_dense ? Shape::height : matmul_depth, (a_k_dense ? matmul_depth : Shape::height) / 8, Shape::threads, aligned>
        a_loader(a);
    const MatmulLoader<b_k_dense ? Shape::width : matmul_depth, (b_k_dense ? matmul_depth : Shape::width) / 8, Shape::threads, aligned>
        b_loader(b);
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int warp_m = warp / Shape::warps_across * Shape::warp_height, warp_n = warp % Shape::warps_across * Shape::warp_width;

    for (int64_t begin = 0; begin < sizes.K; begin += sizes.unit) {
        const int64_t end = sizes.K - begin < sizes.unit ? sizes.K : begin + sizes.unit;
        const int64_t steps = div_ceil(end - begin, matmul_depth);

        auto load_step = [&](int64_t step) {
            bf16 *a_tile = a_tiles + step % matmul_stages * Shape::a_size, *b_tile = b_tiles + step % matmul_stages * Shape::b_size;
            const int64_t k = begin + step * matmul_depth;
            if (step < steps) {
                if constexpr (a_k_dense)
                    a_loader.load(a_tile, tile.m, sizes.M, k, end);
                else
                    a_loader.load(a_tile, k, end, tile.m, sizes.M);
                if constexpr (b_k_dense)
                    b_loader.load(b_tile, tile.n, sizes.N, k, end);
                else
                    b_loader.load(b_tile, k, end, tile.n, sizes.N);
            }
            cp_async_commit();  // an empty group too: the count of groups is the count of steps
        };

        float sums[m_steps][n_steps][4] = {};
        for (int step = 0; step < matmul_stages - 1; step++) load_step(step);
        for (int64_t step = 0; step < steps; step++) {
            cp_async_wait<matmul_stages - 2>();  // this step's tiles have arrived, as far as this thread brought them;
            __syncthreads();                     // all of them; and all threads are done with the step before, whose place is next
            load_step(step + matmul_stages - 1);
            const bf16 *a_tile = a_tiles + step % matmul_stages * Shape::a_size, *b_tile = b_tiles + step % matmul_stages * Shape::b_size;
#pragma unroll
            for (int k = 0; k < matmul_depth; k += 16) {
                uint32_t a_part[m_steps][4], b_part[n_steps / 2][4];
#pragma unroll
                for (int m = 0; m < m_steps; m++) matmul_fragment<a_k_dense, Shape::height, true>(a_part[m], a_tile, warp_m + m * 16, k);
#pragma unroll
                for (int n = 0; n < n_steps / 2; n++)
                    matmul_fragment<b_k_dense, Shape::width, false>(b_part[n], b_tile, warp_n + n * 16, k);
#pragma unroll
                for (int m = 0; m < m_steps; m++)
#pragma unroll
                    for (int n = 0; n < n_steps; n++)
                        mma_m16n8k16<bf16>(sums[m][n], a_part[m], {b_part[n / 2][n % 2 * 2], b_part[n / 2][n % 2 * 2 + 1]});
            }
        }
        cp_async_wait<0>();
        __syncthreads();  // the ring's memory is free

        float* c_tile = shared<float>();
#pragma unroll
        for (int m = 0; m < m_steps; m++)
#pragma unroll
            for (int n = 0; n < n_steps; n++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = warp_m + m * 16 + half * 8 + lane / 4, col = warp_n + n * 8 + lane % 4 * 2;
                    *reinterpret_cast<float2*>(c_tile + row * Shape::pitch + col) =
                        make_float2(sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
                }
        __syncthreads();
        constexpr int size = Pack<Out>::size, packs = Shape::width / size;
        for (int at = static_cast<int>(threadIdx.x); at < Shape::height * packs; at += Shape::threads) {
            const int row = at / packs, col = at % packs * size;
            float values[size];
#pragma unroll
            for (int i = 0; i < size; i += 4) {
                const Pack<float> four = load16(c_tile + row * Shape::pitch + col + i);
#pragma unroll
                for (int j = 0; j < 4; j++) values[i + j] = four[j];
            }
            matmul_store(c, sizes, tile.m + row, tile.n + col, values);
        }
        __syncthreads();  // C's tile has been read: the next unit's operands may take its place
    }
}

// ---- f32

constexpr int matmul_f32_tile = 128, matmul_f32_depth = 8, matmul_f32_threads = 256;
constexpr int matmul_f32_pitch = matmul_f32_tile + 4;
constexpr int matmul_f32_share = matmul_f32_tile * matmul_f32_depth / matmul_f32_threads;  // of a tile of A or B: numbers a thread brings

// Brings the tiles of an operand, x along M or N: thread's number i lies at (x0 + i dx, k0 + i dk) of the tile. Lanes that are neighbours
// take numbers that are neighbours in memory.
struct MatmulF32Loader {
    const float* data;           // of number 0 at K = 0
    int64_t k_stride, i_stride;  // from one k to the next; from one number to the next
    int x_left;                  // rows or columns of the matrix from x0 on, as far as this tile goes
    int x0, k0, dx, dk;

    __device__ MatmulF32Loader(const MatmulOperand<float>& from, bool k_dense, int64_t tile_x, int64_t end_x) {
        const int thread = static_cast<int>(threadIdx.x);
        x0 = k_dense ? thread / matmul_f32_depth : thread % matmul_f32_tile, dx = k_dense ? matmul_f32_threads / matmul_f32_depth : 0;
        k0 = k_dense ? thread % matmul_f32_depth : thread / matmul_f32_tile, dk = k_dense ? 0 : matmul_f32_threads / matmul_f32_tile;
        const int64_t x_stride = k_dense ? from.stride : 1;
        k_stride = k_dense ? 1 : from.stride, i_stride = dx * x_stride + dk * k_stride;
        data = from.data + (tile_x + x0) * x_stride + k0 * k_stride;
        x_left = (end_x - tile_x < matmul_f32_tile ? static_cast<int>(end_x - tile_x) : matmul_f32_tile) - x0;
    }
    // of the tile that begins at k, zeros from end_k on
    __device__ void load(float (&numbers)[matmul_f32_share], int64_t k, int64_t end_k) const {
        const float* from = data + k * k_stride;
        const int k_left = (end_k - k < matmul_f32_depth ? static_cast<int>(end_k - k) : matmul_f32_depth) - k0;
#pragma unroll
        for (int i = 0; i < matmul_f32_share; i++, from += i_stride) numbers[i] = i * dx < x_left && i * dk < k_left ? *from : 0.0f;
    }
    // tile: (depth, pitch)
    __device__ void store(float* tile, const float (&numbers)[matmul_f32_share]) const {
#pragma unroll
        for (int i = 0; i < matmul_f32_share; i++) tile[(k0 + i * dk) * matmul_f32_pitch + x0 + i * dx] = numbers[i];
    }
};

// Thread (y, x) of 16x16 makes the rows 4 y + {0..3}, 64 + 4 y + {0..3} of the tile and the same columns of x: its 16-byte reads of a step
// are then neighbours of the next thread's.
__global__ void __launch_bounds__(matmul_f32_threads)
    matmul_f32_kernel(MatmulResult<float, float> c, MatmulOperand<float> a, bool a_k_dense, MatmulOperand<float> b, bool b_k_dense,
                      MatmulSizes sizes) {
    constexpr int size = matmul_f32_depth * matmul_f32_pitch, half = matmul_f32_tile / 2;
    float(&a_tile)[size] = shared_array<float, size, 0>();
    float(&b_tile)[size] = shared_array<float, size, 1>();
    const MatmulTile tile(sizes, matmul_f32_tile, matmul_f32_tile);
    const MatmulF32Loader a_loader(a, a_k_dense, tile.m, sizes.M), b_loader(b, b_k_dense, tile.n, sizes.N);
    const int y = static_cast<int>(threadIdx.x) / 16, x = static_cast<int>(threadIdx.x) % 16;

    for (int64_t begin = 0; begin < sizes.K; begin += sizes.unit) {
        const int64_t end = sizes.K - begin < sizes.unit ? sizes.K : begin + sizes.unit;
        float sums[8][8] = {}, a_next[matmul_f32_share], b_next[matmul_f32_share];
        a_loader.load(a_next, begin, end), b_loader.load(b_next, begin, end);
        for (int64_t k0 = begin; k0 < end; k0 += matmul_f32_depth) {
            __syncthreads();  // the tiles of the step before have been read
            a_loader.store(a_tile, a_next), b_loader.store(b_tile, b_next);
            __syncthreads();
            const int64_t next = k0 + matmul_f32_depth;
            a_loader.load(a_next, next, end), b_loader.load(b_next, next, end);  // they arrive during the sums below
#pragma unroll
            for (int k = 0; k < matmul_f32_depth; k++) {
                float a_part[8], b_part[8];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const Pack<float> a_four = load16(a_tile + k * matmul_f32_pitch + i * half + 4 * y);
                    const Pack<float> b_four = load16(b_tile + k * matmul_f32_pitch + i * half + 4 * x);
#pragma unroll
                    for (int j = 0; j < 4; j++) a_part[4 * i + j] = a_four[j], b_part[4 * i + j] = b_four[j];
                }
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int j = 0; j < 8; j++) sums[i][j] = fmaf(a_part[i], b_part[j], sums[i][j]);
            }
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                matmul_store(c, sizes, tile.m + i / 4 * half + 4 * y + i % 4, tile.n + j * half + 4 * x, sums[i] + 4 * j);
    }
}

// ---- the bias gradient: column sums of dout (rows, cols)

constexpr int bias_rows = 256, bias_warps = 8;  // rows of a partial sum; warps of a block, each taking every 8th of them

// partial (chunks, width) = sums over up to 256 rows of columns [first_col, first_col + width). A chunk lies within one unit. A block makes
// one chunk for 32 packs of columns, a warp reading whole rows of them.
template <class T>
__global__ void __launch_bounds__(bias_warps* warp_size)
    bias_partial_sums_kernel(float* partial, MatmulOperand<T> dout, int64_t rows, int64_t first_col, int64_t width, int64_t unit,
                             int64_t chunks_per_unit, bool aligned) {
    constexpr int size = Pack<T>::size, block_width = warp_size * size;
    float(&sums)[bias_warps * block_width] = shared_array<float, bias_warps * block_width>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t chunk = blockIdx.x, col = int64_t{blockIdx.y} * block_width + lane * size;
    const int64_t unit_begin = chunk / chunks_per_unit * unit, begin = unit_begin + chunk % chunks_per_unit * bias_rows;
    int64_t end = begin + bias_rows;
    if (end > unit_begin + unit) end = unit_begin + unit;
    if (end > rows) end = rows;

    float sum[size] = {};
    for (int64_t row = begin + warp; row < end; row += bias_warps) {
        const T* from = dout.data + row * dout.stride + first_col + col;
        if (aligned && col + size <= width) {
            const Pack<T> pack = load16_streaming(from);
#pragma unroll
            for (int i = 0; i < size; i++) sum[i] += to_float(pack[i]);
        } else {
#pragma unroll
            for (int i = 0; i < size; i++)
                if (col + i < width) sum[i] += to_float(from[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < size; i++) sums[(warp * size + i) * warp_size + lane] = sum[i];
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < block_width; at += bias_warps * warp_size) {
        const int64_t to = int64_t{blockIdx.y} * block_width + at % warp_size * size + at / warp_size;
        float total = 0;
        for (int w = 0; w < bias_warps; w++) total += sums[w * block_width + at];
        if (to < width) partial[chunk * width + to] = total;
    }
}

// dbias (width) += the chunks of a unit, added in ascending order, unit by unit. One thread a column.
__global__ void __launch_bounds__(256)
    bias_add_partial_sums_kernel(float* dbias, const float* partial, int64_t width, int64_t chunks, int64_t chunks_per_unit) {
    const int64_t col = int64_t{blockIdx.x} * 256 + threadIdx.x;
    if (col >= width) return;
    float total = dbias[col];
    for (int64_t begin = 0; begin < chunks; begin += chunks_per_unit) {
        float sum = 0;
        for (int64_t chunk = begin; chunk < begin + chunks_per_unit && chunk < chunks; chunk++) sum += partial[chunk * width + col];
        total += sum;
    }
    dbias[col] = total;
}

// ---- launching

namespace {

bool aligned16(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.row_stride * size_of(t.dtype) % 16 == 0; }

// All of its 16-byte chunks lie within its rows.
bool whole_chunks(const Tensor& t) { return aligned16(t) && t.cols() * size_of(t.dtype) % 16 == 0; }

template <class T>
MatmulOperand<T> operand(const Tensor& t) {
    return {t.as<T>(), t.row_stride};
}

template <class Out, class In>
MatmulResult<Out, In> result(const Tensor& t, const Tensor& bias, bool accumulate) {
    return {t.as<Out>(), t.row_stride, bias ? bias.as<In>() : nullptr, accumulate, aligned16(t)};
}

template <bool a_k_dense, bool b_k_dense, class Out>
void multiply_bf16(Tensor c, Tensor a, Tensor b, Tensor bias, const MatmulSizes& sizes, bool accumulate, Stream& stream) {
    auto start = [&]<class Shape, bool aligned>(Shape, std::bool_constant<aligned>) {
        const int64_t blocks = div_ceil(sizes.M, Shape::height) * div_ceil(sizes.N, Shape::width);
        launch(matmul_kernel<Shape, a_k_dense, b_k_dense, aligned, Out>, dim3(static_cast<unsigned>(blocks)), dim3(Shape::threads),
               Shape::shared_bytes, stream, result<Out, bf16>(c, bias, accumulate), operand<bf16>(a), operand<bf16>(b), sizes);
    };
    const int64_t large_tiles = div_ceil(sizes.M, MatmulLarge::height) * div_ceil(sizes.N, MatmulLarge::width);
    if (!whole_chunks(a) || !whole_chunks(b))
        start(MatmulSmall(), std::false_type());
    else if (large_tiles < device_info().multiprocessors)
        start(MatmulSmall(), std::true_type());
    else
        start(MatmulLarge(), std::true_type());
}

// C (M,N) = A (M,K) B (K,N) + bias, or += unit by unit. K dense: the operand's rows run along M or N, otherwise along K.
template <bool a_k_dense, bool b_k_dense, class OutBf16>
void multiply(Tensor c, Tensor a, Tensor b, Tensor bias, int64_t K, int64_t unit, bool accumulate, Stream& stream) {
    const MatmulSizes sizes{c.rows(), c.cols(), K, unit == 0 ? K : unit};
    if (sizes.M == 0 || sizes.N == 0) return;
    ENSURE(a.dtype == b.dtype && (!bias || bias.dtype == a.dtype));
    if (a.dtype == Dtype::bf16) return multiply_bf16<a_k_dense, b_k_dense, OutBf16>(c, a, b, bias, sizes, accumulate, stream);
    const int64_t blocks = div_ceil(sizes.M, matmul_f32_tile) * div_ceil(sizes.N, matmul_f32_tile);
    launch(matmul_f32_kernel, dim3(static_cast<unsigned>(blocks)), dim3(matmul_f32_threads), 0, stream,
           result<float, float>(c, bias, accumulate), operand<float>(a), a_k_dense, operand<float>(b), b_k_dense, sizes);
}

template <class T>
void add_column_sums(Tensor dbias, Tensor dout, int64_t unit, Stream& stream) {
    const int64_t rows = dout.rows(), cols = dout.cols();
    if (unit == 0 || unit > rows) unit = rows;
    const int64_t chunks_per_unit = div_ceil(unit, bias_rows), last = rows % unit;
    const int64_t chunks = rows / unit * chunks_per_unit + div_ceil(last, bias_rows);
    constexpr int64_t block_width = warp_size * Pack<T>::size;
    // As many columns at once as the workspace has room for.
    const int64_t room = stream.workspace_bytes() / (chunks * int64_t{sizeof(float)}) / block_width * block_width;
    const int64_t at_once = room > 0 ? room : block_width;
    for (int64_t col = 0; col < cols; col += at_once) {
        const int64_t width = cols - col < at_once ? cols - col : at_once;
        float* partial = static_cast<float*>(stream.workspace(chunks * width * int64_t{sizeof(float)}));
        const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(div_ceil(width, block_width)));
        launch(bias_partial_sums_kernel<T>, grid, dim3(bias_warps * warp_size), 0, stream, partial, operand<T>(dout), rows, col, width,
               unit, chunks_per_unit, aligned16(dout));
        launch(bias_add_partial_sums_kernel, dim3(static_cast<unsigned>(div_ceil(width, 256))), dim3(256), 0, stream,
               dbias.as<float>() + col, partial, width, chunks, chunks_per_unit);
    }
}

bool use_cublaslt() { return gemm_engine(Device::cuda) == GemmEngine::cublaslt; }

}  // namespace

// A shape that the library does not take (rows that do not begin at multiples of 16 bytes) is ours.

void linear_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream) {
    if (use_cublaslt() && cublaslt_forward(out, inp, weight, bias, stream)) return;
    multiply<true, true, bf16>(out, inp, weight, bias, inp.cols(), 0, false, stream);
}

void linear_backward_input(Tensor dinp, Tensor dout, Tensor weight, Stream& stream) {
    if (use_cublaslt() && cublaslt_backward_input(dinp, dout, weight, stream)) return;
    multiply<true, false, bf16>(dinp, dout, weight, {}, dout.cols(), 0, false, stream);
}

void linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream) {
    const int64_t rows = dout.rows(), OC = dout.cols();
    if (rows == 0) return;
    if (use_cublaslt()) {
        // The library's sums of dout overwrite: they go into the workspace, one row a unit, and are added from there.
        const int64_t units = div_ceil(rows, unit_rows == 0 ? rows : unit_rows), begin = cublaslt_workspace_bytes(stream);
        const int64_t end = begin + units * OC * int64_t{sizeof(float)};
        if (dbias && end <= stream.workspace_bytes()) {
            float* sums = reinterpret_cast<float*>(static_cast<std::byte*>(stream.workspace(end)) + begin);
            if (cublaslt_backward_weight(dweight, sums, dout, inp, unit_rows, stream))
                return launch(bias_add_partial_sums_kernel, dim3(static_cast<unsigned>(div_ceil(OC, 256))), dim3(256), 0, stream,
                              dbias.as<float>(), sums, OC, units, int64_t{1});
        }
    }
    if (!(use_cublaslt() && cublaslt_backward_weight(dweight, nullptr, dout, inp, unit_rows, stream)))
        multiply<false, false, float>(dweight, dout, inp, {}, rows, unit_rows, true, stream);
    if (!dbias) return;
    if (dout.dtype == Dtype::bf16)
        add_column_sums<bf16>(dbias, dout, unit_rows, stream);
    else
        add_column_sums<float>(dbias, dout, unit_rows, stream);
}

// Our own product does not end with GELU: the activation is a kernel of its own. Qualified names: traincu has operations of the same name.

void linear_gelu_forward(Tensor out, Tensor pre, Tensor inp, Tensor weight, Tensor bias, Stream& stream) {
    if (use_cublaslt() && cublaslt_gelu_forward(out, pre, inp, weight, bias, stream)) return;
    gpu::linear_forward(pre, inp, weight, bias, stream);
    gpu::gelu_forward(out, pre, stream);
}

void linear_gelu_backward_input(Tensor dpre, Tensor dout, Tensor weight, Tensor pre, Stream& stream) {
    if (use_cublaslt() && cublaslt_gelu_backward_input(dpre, dout, weight, pre, stream)) return;
    gpu::linear_backward_input(dpre, dout, weight, stream);
    gpu::gelu_backward(dpre, dpre, pre, stream);
}

}  // namespace traincu::gpu
