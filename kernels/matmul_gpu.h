// What our matrix products on a GPU share (matmul.cu, matmul_terms.cu): operands and results, and the product of bf16 on tensor cores.
//
// C (M,N) = A (M,K) B (K,N). A block makes a tile of C, 128x128 with 8 warps or 64x64 with 4 where there would be too few blocks for the
// multiprocessors. It walks along K in steps of 64: cp.async brings the tiles of A and B into a ring of three in shared memory while the
// tensor cores work on the one before. A warp's part of C, 64x32 or 32x32, stays in its registers as f32. At the end the tile goes through
// shared memory, so that it is written in whole rows, 16 bytes a thread.
// Shared memory without conflicts: rows of 128 or 256 bytes, of which the 16-byte chunk c of row r lies at place c ^ (r % 8). The eight
// rows that ldmatrix reads at once, at the same c, then lie in different banks.
//
// C may also be the sum of several products, each of another term of A and of B: the steps of one follow those of the one before, into the
// same sums in registers.
#pragma once

#include "kernels/packs.h"

namespace traincu::gpu {

// A matrix in memory: rows `stride` elements apart.
template <class T>
struct MatmulOperand {
    const T* data;
    int64_t stride;
};

// Where the result goes.
template <class Out>
struct MatmulResult {
    Out* data;
    int64_t stride;
    const Out* bias;  // (N), or null
    bool accumulate;  // += instead of =
    bool aligned;     // rows begin at multiples of 16 bytes
};

struct MatmulSizes {
    int64_t M, N, K;
    int64_t unit;  // of K: each is summed on its own before it is added to C; K: one
};

// The products whose sum C is.
struct MatmulOneProduct {};  // A B
struct MatmulProducts {      // for i = 0, 1, ...: a term of A times a term of B
    int count;
    uint32_t a, b;               // 4 bits a product, the lowest first: which term
    int64_t a_stride, b_stride;  // elements from a term to the next
    constexpr int a_term(int i) const { return static_cast<int>(a >> 4 * i & 15); }
    constexpr int b_term(int i) const { return static_cast<int>(b >> 4 * i & 15); }
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
template <class Out>
__device__ void matmul_store(const MatmulResult<Out>& c, const MatmulSizes& sizes, int64_t row, int64_t col, const float* sums) {
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

    // The tile that begins at (first_row, first_col); zeros for what lies from end_row or end_col on. offset: of the term.
    __device__ void load(bf16* tile, int64_t offset, int64_t first_row, int64_t end_row, int64_t first_col, int64_t end_col) const {
        const int64_t r = first_row + row, c = first_col + col, step = row_step * from.stride;
        const int64_t rows_left = end_row - r, cols_left = end_col - c;
        const bf16* source = from.data + offset + r * from.stride + c;
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

template <class Shape, bool a_k_dense, bool b_k_dense, bool aligned, class Out, class Products>
__global__ void __launch_bounds__(Shape::threads, 256 / Shape::threads * 2)
    matmul_kernel(MatmulResult<Out> c, MatmulOperand<bf16> a, MatmulOperand<bf16> b, MatmulSizes sizes, Products products) {
    constexpr bool by_terms = std::is_same_v<Products, MatmulProducts>;
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
        const int64_t steps_each = div_ceil(end - begin, matmul_depth);
        int64_t steps = steps_each;
        if constexpr (by_terms) steps *= products.count;

        auto load_step = [&](int64_t step) {
            bf16 *a_tile = a_tiles + step % matmul_stages * Shape::a_size, *b_tile = b_tiles + step % matmul_stages * Shape::b_size;
            int64_t k = begin + step * matmul_depth, a_offset = 0, b_offset = 0;
            if (step < steps) {
                if constexpr (by_terms) {
                    const int each = static_cast<int>(steps_each), product = static_cast<int>(step) / each;
                    k -= int64_t{product} * each * matmul_depth;
                    a_offset = products.a_term(product) * products.a_stride, b_offset = products.b_term(product) * products.b_stride;
                }
                if constexpr (a_k_dense)
                    a_loader.load(a_tile, a_offset, tile.m, sizes.M, k, end);
                else
                    a_loader.load(a_tile, a_offset, k, end, tile.m, sizes.M);
                if constexpr (b_k_dense)
                    b_loader.load(b_tile, b_offset, tile.n, sizes.N, k, end);
                else
                    b_loader.load(b_tile, b_offset, k, end, tile.n, sizes.N);
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

        MatmulResult<Out> to = c;
        if constexpr (by_terms) {  // its units are pieces of K too, which need not add to what C was
            if (begin > 0) to.accumulate = true;
            if (end < sizes.K) to.bias = nullptr;  // added once, at the end
        }
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
            matmul_store(to, sizes, tile.m + row, tile.n + col, values);
        }
        __syncthreads();  // C's tile has been read: the next unit's operands may take its place
    }
}

// ---- on the host

template <class T>
MatmulOperand<T> operand(const Tensor& t) {
    return {t.as<T>(), t.row_stride};
}

template <class Out>
MatmulResult<Out> result(const Tensor& c, const Tensor& bias, bool accumulate) {
    return {c.as<Out>(), c.row_stride, bias.as_or_null<Out>(), accumulate, rows_aligned({c})};
}

// K dense: the operand's rows run along M or N, otherwise along K.
template <bool a_k_dense, bool b_k_dense, class Out, class Products>
void multiply_bf16(const Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias, const MatmulSizes& sizes, bool accumulate,
                   const Products& products, Stream& stream) {
    auto start = [&]<class Shape, bool aligned>(Shape, std::bool_constant<aligned>) {
        const int64_t blocks = div_ceil(sizes.M, Shape::height) * div_ceil(sizes.N, Shape::width);
        launch(matmul_kernel<Shape, a_k_dense, b_k_dense, aligned, Out, Products>, grid_of(blocks), dim3(Shape::threads),
               Shape::shared_bytes, stream, result<Out>(c, bias, accumulate), operand<bf16>(a), operand<bf16>(b), sizes, products);
    };
    // All 16-byte chunks of the operands lie within their rows.
    const bool aligned = rows_aligned({a, b}) && a.cols() % Pack<bf16>::size == 0 && b.cols() % Pack<bf16>::size == 0;
    const int64_t large_tiles = div_ceil(sizes.M, MatmulLarge::height) * div_ceil(sizes.N, MatmulLarge::width);
    if (!aligned)
        start(MatmulSmall(), std::false_type());
    else if (large_tiles < device_info().multiprocessors)
        start(MatmulSmall(), std::true_type());
    else
        start(MatmulLarge(), std::true_type());
}

// ---- f32 activations as bf16 terms (matmul_terms.cu): F32Products of matmul.h

// Whether that is how activations of this type and a weight are multiplied; weight absent: two tensors of activations.
bool multiplied_by_terms(const Tensor& activations, const Tensor& weight);

void forward_by_terms(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream);
void backward_input_by_terms(Tensor dinp, Tensor dout, Tensor weight, Stream& stream);
void backward_weight_by_terms(Tensor dweight, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream);

}  // namespace traincu::gpu
