// The embedding on the GPU.
//
// Forward: a warp takes a token and copies its row, several packs of 16 bytes under way. The tables are widened as they are read, each from
// its own type: that of wte is a parameter of the template, that of the small wpe a branch that all threads take alike.
//
// Backward: rows of dwte are owned, not shared: token_order brings the tokens of a row together, and the warp that stands where such a run
// begins walks it in ascending order, with the sums in registers. Other warps end at once; rows without a token are not touched. The
// columns are cut in slices of one pack a lane, blockIdx.y. A warp reads 32 indices of the run at a time, then rows four at a time. A token
// that makes up 5 % of 64k takes one warp ~800 rounds of memory, which is then the time of the call.
//
// Bytes per token, bf16: forward 4C (6C with wpe), backward 2C and 8C a row of dwte that is touched (the same again with wpe). Floor: these
// over the memory's speed; 64k tokens of 1024 at 4.3 TB/s: 0.06 ms forward, 0.03 ms and more backward. Fraction: not measured.
#include "kernels/embedding.h"

#include "kernels/packs.h"

namespace traincu::gpu {

constexpr int embedding_warps = 4;

// A table whose type is known when the kernel runs. data null: absent.
struct EmbeddingTable {
    const void* data;
    Dtype dtype;
    template <int width>
    __device__ void load(float (&x)[width], int64_t at) const {
        if (dtype == Dtype::f32)
            load_floats(x, static_cast<const float*>(data) + at);
        else if (dtype == Dtype::bf16)
            load_floats(x, static_cast<const bf16*>(data) + at);
        else
            load_floats(x, static_cast<const f16*>(data) + at);
    }
};

template <class T, class Wte, int width>
__global__ void __launch_bounds__(embedding_warps* warp_size, 8)
    embedding_forward_kernel(T* out, const int32_t* tokens, const int32_t* positions, const Wte* wte, EmbeddingTable wpe, int64_t n,
                             int64_t C) {
    const int64_t t = int64_t{blockIdx.x} * embedding_warps + static_cast<int>(threadIdx.x) / warp_size;
    if (t >= n) return;
    const Wte* token = wte + tokens[t] * C;
    const int64_t position = wpe.data ? positions[t] * C : 0;
#pragma unroll 4
    for (int64_t c = static_cast<int>(threadIdx.x) % warp_size * width; c < C; c += warp_size * width) {
        float x[width];
        load_floats(x, token + c);
        if (wpe.data) {
            float added[width];
            wpe.load(added, position + c);
            for (int i = 0; i < width; i++) x[i] += added[i];
        }
        store_floats(out + t * C + c, x);
    }
}

// dtable[ids[t]] += dout[t] for all t; order: the t sorted by id.
template <class T, int width>
__global__ void __launch_bounds__(embedding_warps* warp_size, 8)
    embedding_backward_kernel(float* dtable, const T* dout, const int32_t* ids, const int32_t* order, int64_t n, int64_t C) {
    constexpr int rows = 4;  // under way at once
    const int64_t begin = int64_t{blockIdx.x} * embedding_warps + static_cast<int>(threadIdx.x) / warp_size;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    if (begin >= n) return;
    const int32_t id = ids[order[begin]];
    if (begin > 0 && ids[order[begin - 1]] == id) return;  // within another warp's run

    const int64_t c = (int64_t{blockIdx.y} * warp_size + lane) * width;
    const bool owner = c < C;  // the other lanes help with the indices
    float* total = dtable + id * C + c;
    float sum[width] = {};
    if (owner) load_floats(sum, total);
    dout += c;
    int length = warp_size;  // of the run, within the 32 places from k
    for (int64_t k = begin; length == warp_size; k += warp_size) {
        const int32_t t = k + lane < n ? order[k + lane] : -1;
        const unsigned others = ~__ballot_sync(all_lanes, t >= 0 && ids[t] == id);
        length = others ? __ffs(static_cast<int>(others)) - 1 : warp_size;
        for (int first = 0; first < length; first += rows) {
            float dy[rows][width];
#pragma unroll
            for (int r = 0; r < rows; r++) {
                const int64_t row = __shfl_sync(all_lanes, t, (first + r) % warp_size);
                if (owner && first + r < length) load_floats(dy[r], dout + row * C);
            }
#pragma unroll
            for (int r = 0; r < rows; r++)
                if (owner && first + r < length)
                    for (int i = 0; i < width; i++) sum[i] += dy[r][i];
        }
    }
    if (owner) store_floats(total, sum);
}

void embedding_forward(Tensor out, Tensor tokens, Tensor positions, Tensor wte, Tensor wpe, Stream& stream) {
    const int64_t n = out.rows(), C = out.cols();
    if (n == 0) return;
    ENSURE(!wpe || wpe.dtype == Dtype::f32 || is_16_bit(wpe.dtype));
    dispatch_stored(out.dtype, [&](auto stored) {
        using T = decltype(stored);
        dispatch_width<T>(C % Pack<T>::size == 0 && rows_aligned({out, wte, wpe}), [&](auto w) {
            constexpr int width = decltype(w)::value;
            dispatch_weight(wte.dtype, [&](auto table) {
                using Wte = decltype(table);
                launch(embedding_forward_kernel<T, Wte, width>, grid_of(div_ceil(n, embedding_warps)), dim3(embedding_warps * warp_size), 0,
                       stream, out.as<T>(), tokens.as<int32_t>(), wpe ? positions.as<int32_t>() : nullptr, wte.as<Wte>(),
                       EmbeddingTable{wpe.data, wpe.dtype}, n, C);
            });
        });
    });
}

// dwte or dwpe
inline void add_rows(const Tensor& dtable, const Tensor& dout, const Tensor& ids, const Tensor& order, Stream& stream) {
    const int64_t n = dout.rows(), C = dout.cols();
    dispatch_stored(dout.dtype, [&](auto stored) {
        using T = decltype(stored);
        dispatch_width<T>(C % Pack<T>::size == 0 && rows_aligned({dtable, dout}), [&](auto w) {
            constexpr int width = decltype(w)::value;
            dim3 grid = grid_of(div_ceil(n, embedding_warps));
            grid.y = grid_of(div_ceil(C, warp_size * width)).x;
            launch(embedding_backward_kernel<T, width>, grid, dim3(embedding_warps * warp_size), 0, stream, dtable.as<float>(),
                   dout.as<T>(), ids.as<int32_t>(), order.as<int32_t>(), n, C);
        });
    });
}

void embedding_backward(Tensor dwte, Tensor dwpe, Tensor dout, Tensor tokens, Tensor positions, Tensor token_order, Tensor position_order,
                        Stream& stream) {
    if (dout.rows() == 0) return;
    add_rows(dwte, dout, tokens, token_order, stream);
    if (dwpe) add_rows(dwpe, dout, positions, position_order, stream);
}

}  // namespace traincu::gpu
