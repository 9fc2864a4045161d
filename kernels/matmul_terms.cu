// Products of f32 activations on tensor cores (kernels/matmul.h, F32Products): an operand in f32 becomes two or three bf16 terms, and the
// product the sum of the terms' products, the smallest first.
//
// matmul_split_kernel: a thread takes 8 neighbours, 32 bytes in and 16 bytes a term out. The terms lie in the workspace, one matrix behind
// the other, so the rows are split as many at a time as it has room for. Our own product (matmul_gpu.h) then makes all of a piece of K in
// one sequence of sums in registers; cuBLASLt makes one term's product a call and adds it to C.
//
// A tensor core adds with more bits cut off than an f32 addition rounds, and always towards zero; the error grows with the length of the
// sum. So K is cut into pieces of 1024, whose sums are added to C by ordinary f32 additions. What the library multiplies is cut in the
// largest terms alone forward and backward_input: the others are 2^-8 of them. To look at on a card: whether pieces of 512 give a smaller
// error, or one of all K the same.
//
// An element of our own product is the same sequence of operations whatever the number of rows, the tile and the workspace.
//
// Bytes of the split: 4 + 2 terms an element; forward and backward_input read the terms once more for each column of tiles, as they do any
// operand. FLOPs: those of the product, 2 or 3 times (backward_weight 3 or 6). Floor: these / 770 TFLOP/s (H200). Fraction: not measured.
#include <algorithm>

#include "kernels/gemm_cublaslt.h"
#include "kernels/matmul.h"
#include "kernels/matmul_gpu.h"

namespace traincu::gpu {

constexpr int64_t terms_depth = 1024;  // of K in a piece
constexpr int split_threads = 256, split_width = 8;

// The nearest bf16. A finite number has a finite one, so that what is left of it is finite, too.
inline __device__ float nearest_bf16(float x) {
    constexpr float largest = 0x1.FEp127f, largest_f32 = 0x1.FFFFFEp127f;
    if (fabsf(x) > largest && fabsf(x) <= largest_f32) return x < 0 ? -largest : largest;
    return to_float(from_float<bf16>(x));
}

// Term t of `from` (rows, width cols) lies at to + t term_stride, its rows `pitch` apart; n = rows cols packs of `width`.
template <int width>
__global__ void __launch_bounds__(split_threads) matmul_split_kernel(bf16* to, int64_t term_stride, int64_t pitch, int terms,
                                                                     const float* from, int64_t stride, int64_t n, int64_t cols) {
    const int64_t i = int64_t{blockIdx.x} * split_threads + threadIdx.x;
    if (i >= n) return;
    const int64_t row = i / cols, col = i % cols * width;
    float left[width];
    load_floats(left, from + row * stride + col);
    to += row * pitch + col;
    for (int t = 0; t < terms; t++, to += term_stride) {
        float term[width];
#pragma unroll
        for (int j = 0; j < width; j++) {
            term[j] = nearest_bf16(left[j]);
            left[j] = fabsf(left[j]) < INFINITY ? left[j] - term[j] : 0.0f;  // Inf - Inf would be NaN
        }
        store_floats(to, term);
    }
}

namespace {

// An f32 matrix as bf16 terms, the largest first.
struct Terms {
    Tensor first;
    int64_t stride;  // elements from a term to the next
    Tensor operator[](int i) const {
        Tensor term = first;
        term.data = first.as<bf16>() + i * stride;
        return term;
    }
};

int number_of_terms() { return f32_products() == F32Products::bf16x3 ? 3 : 2; }

// Rows of terms begin at multiples of 16 bytes.
int64_t pitch_of(int64_t cols) { return round_up(cols, Pack<bf16>::size); }
int64_t bytes_of_row(int64_t cols) { return number_of_terms() * pitch_of(cols) * size_of(Dtype::bf16); }

Terms split(const Tensor& x, std::byte* memory, Stream& stream) {
    const int64_t pitch = pitch_of(x.cols());
    Terms terms{Tensor(memory, Dtype::bf16, {x.rows(), x.cols()}), x.rows() * pitch};
    terms.first.row_stride = pitch;
    auto start = [&]<int width>(std::integral_constant<int, width>) {
        const int64_t cols = x.cols() / width, n = x.rows() * cols;
        launch(matmul_split_kernel<width>, grid_of(div_ceil(n, split_threads)), dim3(split_threads), 0, stream, terms.first.as<bf16>(),
               terms.stride, pitch, number_of_terms(), x.as<float>(), x.row_stride, n, cols);
    };
    if (x.cols() % split_width == 0 && rows_aligned({x}))
        start(std::integral_constant<int, split_width>());
    else
        start(std::integral_constant<int, 1>());
    return terms;
}

// Whose terms are multiplied, the smallest first; the digits of a hexadecimal number are read from the right. The weight is a term: 2 or 3
// products.
MatmulProducts products_with_weight(const Terms& a) {
    if (number_of_terms() == 2) return {2, 0x01, 0x00, a.stride, 0};
    return {3, 0x012, 0x000, a.stride, 0};
}
// Both are split: those of 2^-8 and larger, or of 2^-16 and larger.
MatmulProducts products_of_both(const Terms& a, const Terms& b) {
    if (number_of_terms() == 2) return {3, 0x001, 0x010, a.stride, b.stride};
    return {6, 0x001012, 0x010210, a.stride, b.stride};
}

// The workspace behind the library's part, where the library is in force.
struct Room {
    bool library;
    int64_t begin, bytes;
    explicit Room(const Stream& stream)
        : library(gemm_engine(Device::cuda) == GemmEngine::cublaslt),
          begin(library ? cublaslt_workspace_bytes(stream) : 0),
          bytes(stream.workspace_bytes() - begin) {}
    std::byte* take(int64_t count, const Stream& stream) const { return static_cast<std::byte*>(stream.workspace(begin + count)) + begin; }
};

// c (M,N) = a (M,K) weight + bias, by the library. False where it refuses: then c may hold some of the products.
template <bool weight_k_dense>
bool multiply_by_library(const Tensor& c, const Terms& a, const Tensor& weight, const Tensor& bias, Stream& stream) {
    const int64_t K = a.first.cols();
    bool accumulate = false;
    for (int t = number_of_terms() - 1; t >= 0; t--) {
        const int64_t piece = t == 0 ? terms_depth : K;
        for (int64_t k = 0; k < K; k += piece) {
            const int64_t depth = std::min(piece, K - k);
            const Tensor part = a[t].slice_cols(k, depth), last_bias = t == 0 && k + depth == K ? bias : Tensor();
            if (weight_k_dense ? !cublaslt_forward(c, part, weight.slice_cols(k, depth), last_bias, accumulate, stream)
                               : !cublaslt_backward_input(c, part, weight.slice_rows(k, depth), accumulate, stream))
                return false;
            accumulate = true;
        }
    }
    return true;
}

// c (M,N) = a (M,K) weight + bias. weight_k_dense: its rows run along N, otherwise along K.
template <bool weight_k_dense>
void multiply(const Tensor& c, const Tensor& a, const Tensor& weight, const Tensor& bias, Stream& stream) {
    const int64_t M = c.rows(), K = a.cols(), row_bytes = bytes_of_row(K);
    if (M == 0 || c.cols() == 0) return;
    ENSURE(c.dtype == Dtype::f32 && (!bias || bias.dtype == Dtype::f32));
    const Room room(stream);
    int64_t at_once = std::max(room.bytes / row_bytes, int64_t{1});
    if (at_once > MatmulLarge::height) at_once = at_once / MatmulLarge::height * MatmulLarge::height;  // whole tiles
    for (int64_t row = 0; row < M; row += at_once) {
        const int64_t rows = std::min(at_once, M - row);
        const Tensor part = c.slice_rows(row, rows);
        const Terms terms = split(a.slice_rows(row, rows), room.take(rows * row_bytes, stream), stream);
        if (room.library && multiply_by_library<weight_k_dense>(part, terms, weight, bias, stream)) continue;
        multiply_bf16<true, weight_k_dense, float>(part, terms.first, weight, bias, {rows, c.cols(), K, std::min(K, terms_depth)}, false,
                                                   products_with_weight(terms), stream);
    }
}

// dweight (OC,IC) += the products of dout (rows,OC) and inp (rows,IC), piece by piece.
void add_products(const Tensor& dweight, const Terms& dout, const Terms& inp, int64_t piece, bool library, Stream& stream) {
    const int64_t rows = dout.first.rows();
    const MatmulProducts products = products_of_both(dout, inp);
    auto by_library = [&](int64_t row, int64_t count) {
        for (int i = 0; i < products.count; i++) {
            const bool taken = cublaslt_backward_weight(dweight, nullptr, dout[products.a_term(i)].slice_rows(row, count),
                                                        inp[products.b_term(i)].slice_rows(row, count), 0, stream);
            ENSURE(taken || i == 0);  // they are alike
            if (!taken) return false;
        }
        return true;
    };
    auto by_us = [&](int64_t row, int64_t count) {
        multiply_bf16<false, false, float>(dweight, dout.first.slice_rows(row, count), inp.first.slice_rows(row, count), {},
                                           {dweight.rows(), dweight.cols(), count, std::min(count, piece)}, true, products, stream);
    };
    if (!library) return by_us(0, rows);
    for (int64_t row = 0; row < rows; row += piece) {
        const int64_t count = std::min(piece, rows - row);
        if (!by_library(row, count)) by_us(row, count);
    }
}

}  // namespace

bool multiplied_by_terms(const Tensor& activations, const Tensor& weight) {
    return activations.dtype == Dtype::f32 && (!weight || weight.dtype == Dtype::bf16) && f32_products() != F32Products::fp32;
}

void forward_by_terms(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream) {
    multiply<true>(out, inp, weight, bias, stream);
}

void backward_input_by_terms(Tensor dinp, Tensor dout, Tensor weight, Stream& stream) { multiply<false>(dinp, dout, weight, {}, stream); }

// A unit of more rows than a piece is cut into pieces. Rows are taken in whole pieces, and where not even one has room, columns of dout and
// of inp in blocks.
void backward_weight_by_terms(Tensor dweight, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream) {
    const int64_t N = dout.rows(), OC = dout.cols(), IC = inp.cols(), unit = unit_rows == 0 ? N : std::min(unit_rows, N);
    if (N == 0 || OC == 0 || IC == 0) return;
    const int64_t piece = std::min(unit, terms_depth), run = unit <= terms_depth ? N : unit;  // units of one piece: all of them in a run
    const Room room(stream);
    int64_t at_once = room.bytes / (bytes_of_row(OC) + bytes_of_row(IC)) / piece * piece, dout_width = OC, inp_width = IC;
    if (at_once == 0) {
        constexpr int64_t pack = Pack<bf16>::size;
        const int64_t columns = room.bytes / (piece * number_of_terms() * size_of(Dtype::bf16));
        at_once = piece;
        inp_width = std::min(IC, columns / 2 / pack * pack), dout_width = std::min(OC, (columns - pitch_of(inp_width)) / pack * pack);
        ENSURE(inp_width > 0 && dout_width > 0);
    }
    for (int64_t begin = 0; begin < N; begin += run)
        for (int64_t row = begin; row < std::min(begin + run, N); row += at_once)
            for (int64_t o = 0; o < OC; o += dout_width)
                for (int64_t i = 0; i < IC; i += inp_width) {
                    const int64_t rows = std::min({at_once, begin + run - row, N - row});
                    const int64_t o_count = std::min(dout_width, OC - o), i_count = std::min(inp_width, IC - i);
                    const int64_t dout_bytes = rows * bytes_of_row(o_count);
                    std::byte* memory = room.take(dout_bytes + rows * bytes_of_row(i_count), stream);
                    const Terms dout_terms = split(dout.slice_rows(row, rows).slice_cols(o, o_count), memory, stream);
                    const Terms inp_terms = split(inp.slice_rows(row, rows).slice_cols(i, i_count), memory + dout_bytes, stream);
                    add_products(dweight.slice_rows(o, o_count).slice_cols(i, i_count), dout_terms, inp_terms, piece, room.library, stream);
                }
}

}  // namespace traincu::gpu
