// Linear layers on the GPU: our own matrix product.
//
// All three passes are C (M,N) = A (M,K) B (K,N), and differ in how their operands lie in memory, always row by row:
//   forward          C = out      (N,OC)    A = inp,  its rows along M      B = weight, its rows along N
//   backward_input   C = dinp     (N,IC)    A = dout, its rows along M      B = weight, its rows along K
//   backward_weight  C = dweight  (OC,IC)   A = dout, its rows along K      B = inp,    its rows along K
// An operand whose rows run along M or N has K dense; otherwise its rows run along K, and ldmatrix transposes it on the way to the
// registers.
//
// bf16: matmul_kernel, on tensor cores (matmul_gpu.h).
//
// f32 (matmul_f32_kernel): no tensor cores, since they would round the factors to TF32. A block makes 128x128, a thread 8x8 of it in
// registers: per step of K, 16 numbers from shared memory for 64 fused multiply-adds. A weight may be stored in 16 bits (LayerCast): it is
// widened between its load and shared memory, so the result has the bits that a weight widened beforehand gives.
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
#include "kernels/matmul_gpu.h"

namespace traincu::gpu {

// ---- f32

constexpr int matmul_f32_tile = 128, matmul_f32_depth = 8, matmul_f32_threads = 256;
constexpr int matmul_f32_pitch = matmul_f32_tile + 4;
constexpr int matmul_f32_share = matmul_f32_tile * matmul_f32_depth / matmul_f32_threads;  // of a tile of A or B: numbers a thread brings

// Brings the tiles of an operand, x along M or N: thread's number i lies at (x0 + i dx, k0 + i dk) of the tile. Lanes that are neighbours
// take numbers that are neighbours in memory. A number is widened as soon as it is in a register.
template <class T>
struct MatmulF32Loader {
    const T* data;               // of number 0 at K = 0
    int64_t k_stride, i_stride;  // from one k to the next; from one number to the next
    int x_left;                  // rows or columns of the matrix from x0 on, as far as this tile goes
    int x0, k0, dx, dk;

    __device__ MatmulF32Loader(const MatmulOperand<T>& from, bool k_dense, int64_t tile_x, int64_t end_x) {
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
        const T* from = data + k * k_stride;
        const int k_left = (end_k - k < matmul_f32_depth ? static_cast<int>(end_k - k) : matmul_f32_depth) - k0;
#pragma unroll
        for (int i = 0; i < matmul_f32_share; i++, from += i_stride)
            numbers[i] = i * dx < x_left && i * dk < k_left ? to_float(*from) : 0.0f;
    }
    // tile: (depth, pitch)
    __device__ void store(float* tile, const float (&numbers)[matmul_f32_share]) const {
#pragma unroll
        for (int i = 0; i < matmul_f32_share; i++) tile[(k0 + i * dk) * matmul_f32_pitch + x0 + i * dx] = numbers[i];
    }
};

// Thread (y, x) of 16x16 makes the rows 4 y + {0..3}, 64 + 4 y + {0..3} of the tile and the same columns of x: its 16-byte reads of a step
// are then neighbours of the next thread's.
template <class B>
__global__ void __launch_bounds__(matmul_f32_threads) matmul_f32_kernel(MatmulResult<float> c, MatmulOperand<float> a, bool a_k_dense,
                                                                        MatmulOperand<B> b, bool b_k_dense, MatmulSizes sizes) {
    constexpr int size = matmul_f32_depth * matmul_f32_pitch, half = matmul_f32_tile / 2;
    float(&a_tile)[size] = shared_array<float, size, 0>();
    float(&b_tile)[size] = shared_array<float, size, 1>();
    const MatmulTile tile(sizes, matmul_f32_tile, matmul_f32_tile);
    const MatmulF32Loader<float> a_loader(a, a_k_dense, tile.m, sizes.M);
    const MatmulF32Loader<B> b_loader(b, b_k_dense, tile.n, sizes.N);
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

// C (M,N) = A (M,K) B (K,N) + bias, or += unit by unit. K dense: the operand's rows run along M or N, otherwise along K.
template <bool a_k_dense, bool b_k_dense, class OutBf16>
void multiply(Tensor c, Tensor a, Tensor b, Tensor bias, int64_t K, int64_t unit, bool accumulate, Stream& stream) {
    const MatmulSizes sizes{c.rows(), c.cols(), K, unit == 0 ? K : unit};
    if (sizes.M == 0 || sizes.N == 0) return;
    ENSURE(!bias || bias.dtype == a.dtype);
    if (a.dtype == Dtype::bf16)
        return multiply_bf16<a_k_dense, b_k_dense, OutBf16>(c, a, b, bias, sizes, accumulate, MatmulOneProduct(), stream);
    const int64_t blocks = div_ceil(sizes.M, matmul_f32_tile) * div_ceil(sizes.N, matmul_f32_tile);
    dispatch_weight(b.dtype, [&](auto stored) {
        using B = decltype(stored);
        launch(matmul_f32_kernel<B>, grid_of(blocks), dim3(matmul_f32_threads), 0, stream, result<float>(c, bias, accumulate),
               operand<float>(a), a_k_dense, operand<B>(b), b_k_dense, sizes);
    });
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
               unit, chunks_per_unit, rows_aligned({dout}));
        launch(bias_add_partial_sums_kernel, dim3(static_cast<unsigned>(div_ceil(width, 256))), dim3(256), 0, stream,
               dbias.as<float>() + col, partial, width, chunks, chunks_per_unit);
    }
}

bool use_cublaslt() { return gemm_engine(Device::cuda) == GemmEngine::cublaslt; }

}  // namespace

// What the library does not take (rows that do not begin at multiples of 16 bytes, a weight of another type) is ours.

void linear_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream) {
    if (multiplied_by_terms(inp, weight)) return forward_by_terms(out, inp, weight, bias, stream);
    if (use_cublaslt() && cublaslt_forward(out, inp, weight, bias, false, stream)) return;
    multiply<true, true, bf16>(out, inp, weight, bias, inp.cols(), 0, false, stream);
}

void linear_backward_input(Tensor dinp, Tensor dout, Tensor weight, Stream& stream) {
    if (multiplied_by_terms(dout, weight)) return backward_input_by_terms(dinp, dout, weight, stream);
    if (use_cublaslt() && cublaslt_backward_input(dinp, dout, weight, false, stream)) return;
    multiply<true, false, bf16>(dinp, dout, weight, {}, dout.cols(), 0, false, stream);
}

void linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream) {
    const int64_t rows = dout.rows(), OC = dout.cols();
    if (rows == 0) return;
    const bool by_terms = multiplied_by_terms(dout, {});
    if (use_cublaslt() && !by_terms) {
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
    if (by_terms)
        backward_weight_by_terms(dweight, dout, inp, unit_rows, stream);
    else if (!(use_cublaslt() && cublaslt_backward_weight(dweight, nullptr, dout, inp, unit_rows, stream)))
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
