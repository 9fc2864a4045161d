// Layernorm and rmsnorm on the GPU.
//
// Forward. Rows up to 2048 elements: a warp takes a row and keeps it in registers, all loads under way before the first is needed, no
// barrier. Longer ones, and those that do not lie on 16 bytes: a block takes a row and reads it three times; memory sees the first.
//
// Backward. A block takes a part of the rows (kernels/fold.h) and each thread fixed columns, so that its share of dweight and dbias stays
// in registers over all rows. Four rows are under way at once (two where a thread has two packs of each): they share the barrier that their
// sums need. The parts' sums go to the workspace, (parts, 2: dweight and dbias, C), and fold_units() adds them. Rows that do not fit this
// scheme are read twice, and their sums are kept in the workspace instead of registers.
//
// Bytes per row, bf16: forward 4C (8C with branch), backward 6C (8C with dresidual), plus 16C a part for the sums. Floor: these over the
// memory's speed; 64k rows of 1024 with branch or dresidual at 4.3 TB/s: 0.13 ms. Fraction: not measured.
#include "kernels/norm.h"

#include "kernels/fold.h"

namespace traincu::gpu {

// ---- forward

template <class T>
struct NormForward {
    T *residual, *out;
    float *mean, *rstd;
    const T *inp, *branch, *weight, *bias;
    float eps;
    int64_t N, C;
};

constexpr int norm_warps = 4;  // rows of a block

template <class T, int rounds>
__global__ void __launch_bounds__(norm_warps* warp_size) norm_forward_warp_kernel(NormForward<T> p) {
    constexpr int width = Pack<T>::size;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t n = int64_t{blockIdx.x} * norm_warps + static_cast<int>(threadIdx.x) / warp_size, C = p.C;
    if (n >= p.N) return;
    Pack<T> row[rounds];  // columns (32 r + lane) width + [0,width)
#pragma unroll
    for (int r = 0; r < rounds; r++) {
        const int64_t c = (r * warp_size + lane) * width;
        if (c < C) row[r] = load16_streaming(p.inp + n * C + c);
    }
    if (p.branch) {
        Pack<T> added[rounds];
#pragma unroll
        for (int r = 0; r < rounds; r++) {
            const int64_t c = (r * warp_size + lane) * width;
            if (c < C) added[r] = load16_streaming(p.branch + n * C + c);
        }
#pragma unroll
        for (int r = 0; r < rounds; r++) {
            const int64_t c = (r * warp_size + lane) * width;
            if (c >= C) continue;
            // rounded here: the statistics are those of the row that backward will read
            for (int i = 0; i < width; i++) row[r][i] = from_float<T>(to_float(row[r][i]) + to_float(added[r][i]));
            store16(p.residual + n * C + c, row[r]);
        }
    }
    float mean = 0, squares = 0;
    if (p.mean) {
#pragma unroll
        for (int r = 0; r < rounds; r++)
            if ((r * warp_size + lane) * width < C)
                for (int i = 0; i < width; i++) mean += to_float(row[r][i]);
        mean = warp_sum(mean) / static_cast<float>(C);
    }
#pragma unroll
    for (int r = 0; r < rounds; r++)
        if ((r * warp_size + lane) * width < C)
            for (int i = 0; i < width; i++) squares += (to_float(row[r][i]) - mean) * (to_float(row[r][i]) - mean);
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(C) + p.eps);
    if (lane == 0) {
        if (p.mean) p.mean[n] = mean;
        p.rstd[n] = rstd;
    }
#pragma unroll
    for (int r = 0; r < rounds; r++) {
        const int64_t c = (r * warp_size + lane) * width;
        if (c >= C) continue;
        float w[width], b[width] = {}, normed[width];
        load_floats(w, p.weight + c);
        if (p.bias) load_floats(b, p.bias + c);
        for (int i = 0; i < width; i++) normed[i] = (to_float(row[r][i]) - mean) * rstd * w[i] + b[i];
        store_floats(p.out + n * C + c, normed);
    }
}

// A thread reads again only what it read or wrote itself: no barrier but those of the sums.
template <class T, int width>
__global__ void __launch_bounds__(512) norm_forward_block_kernel(NormForward<T> p) {
    const int64_t n = blockIdx.x, C = p.C, first = int64_t{threadIdx.x} * width, step = int64_t{blockDim.x} * width;
    const T* row = p.inp + n * C;
    float mean = 0, squares = 0;
    for (int64_t c = first; c < C; c += step) {
        float x[width];
        load_floats(x, row + c);
        if (p.branch) {
            float added[width];
            load_floats(added, p.branch + n * C + c);
            for (int i = 0; i < width; i++) x[i] = to_float(from_float<T>(x[i] + added[i]));
            store_floats(p.residual + n * C + c, x);
        }
        for (int i = 0; i < width; i++) mean += x[i];
    }
    if (p.branch) row = p.residual + n * C;
    mean = p.mean ? block_sum(mean) / static_cast<float>(C) : 0.0f;
    for (int64_t c = first; c < C; c += step) {
        float x[width];
        load_floats(x, row + c);
        for (int i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
    }
    const float rstd = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(C) + p.eps);
    if (threadIdx.x == 0) {
        if (p.mean) p.mean[n] = mean;
        p.rstd[n] = rstd;
    }
    for (int64_t c = first; c < C; c += step) {
        float x[width], w[width], b[width] = {};
        load_floats(x, row + c);
        load_floats(w, p.weight + c);
        if (p.bias) load_floats(b, p.bias + c);
        for (int i = 0; i < width; i++) x[i] = (x[i] - mean) * rstd * w[i] + b[i];
        store_floats(p.out + n * C + c, x);
    }
}

// Calls run(std::integral_constant<int, rounds>{}) with the fewest of 1, 2, 4, ... that suffice; false where more than `most` would be
// needed.
template <int most, class Run>
bool dispatch_rounds(int64_t needed, Run&& run) {
    if constexpr (most > 1)
        if (needed <= most / 2) return dispatch_rounds<most / 2>(needed, run);
    if (needed > most) return false;
    run(std::integral_constant<int, most>{});
    return true;
}

void norm_forward(Tensor residual, Tensor out, Tensor mean, Tensor rstd, Tensor inp, Tensor branch, Tensor weight, Tensor bias, double eps,
                  Stream& stream) {
    const int64_t N = out.rows(), C = out.cols();
    if (N == 0) return;
    dispatch_stored(out.dtype, [&](auto stored) {
        using T = decltype(stored);
        constexpr int width = Pack<T>::size, most_rounds = 64 / width;
        const NormForward<T> p{(branch ? residual : Tensor()).as_or_null<T>(),
                               out.as<T>(),
                               mean.as_or_null<float>(),
                               rstd.as<float>(),
                               inp.as<T>(),
                               branch.as_or_null<T>(),
                               weight.as<T>(),
                               bias.as_or_null<T>(),
                               static_cast<float>(eps),
                               N,
                               C};
        const bool packed = C % width == 0 && rows_aligned({branch ? residual : Tensor(), out, inp, branch, weight, bias});
        if (packed && dispatch_rounds<most_rounds>(div_ceil(C, warp_size * width), [&](auto rounds) {
                launch(norm_forward_warp_kernel<T, decltype(rounds)::value>, grid_of(div_ceil(N, norm_warps)), dim3(norm_warps * warp_size),
                       0, stream, p);
            }))
            return;
        dispatch_width<T>(packed, [&](auto w) {
            constexpr int columns = decltype(w)::value;
            launch(norm_forward_block_kernel<T, columns>, grid_of(N), dim3(threads_for(div_ceil(C, columns), 512)), 0, stream, p);
        });
    });
}

// ---- backward

template <class T>
struct NormBackward {
    T* dinp;
    const T *dout, *dresidual, *inp, *weight;
    const float *mean, *rstd;
    float* partials;  // (parts of this launch, 2 or 1 without dbias, C)
    bool with_bias;
    Parts parts;
    int64_t first_part, C;
};

// Each of `values` numbers summed over the block; all threads get all sums. In a warp each round adds pairs of lanes and halves the numbers
// that a lane keeps, so 8 numbers take 9 shuffles and not 40. One barrier: calls that follow one another use the two halves of `buffer` in
// turns, and whoever writes a half again has passed the barrier between.
template <int values>
__device__ void block_sums(float (&x)[values], float* buffer) {  // buffer (32 warps, values)
    constexpr int lanes = warp_size / values;                    // that share a number in the end
    const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
    const int warps = static_cast<int>(blockDim.x) / warp_size, mine = lane / lanes;
    int offset = warp_size / 2;
#pragma unroll
    for (int half = values / 2; half > 0; half /= 2, offset /= 2) {
        const bool upper = lane & offset;
#pragma unroll
        for (int i = 0; i < half; i++) {
            const float sent = upper ? x[i] : x[i + half], kept = upper ? x[i + half] : x[i];
            x[i] = kept + __shfl_xor_sync(all_lanes, sent, offset);
        }
    }
    float sum = team_sum(x[0], lanes);
    if (warps > 1) {
        if (lane % lanes == 0) buffer[warp * values + mine] = sum;
        __syncthreads();
        sum = 0;
        for (int w = lane % lanes; w < warps; w += lanes) sum += buffer[w * values + mine];
        sum = team_sum(sum, lanes);
    }
#pragma unroll
    for (int i = 0; i < values; i++) x[i] = __shfl_sync(all_lanes, sum, i * lanes);
}

constexpr int norm_backward_threads = 512;

template <class T, int packs>
__global__ void __launch_bounds__(norm_backward_threads) norm_backward_kernel(NormBackward<T> p) {
    constexpr int width = Pack<T>::size, rows = 4 / packs, values = 2 * rows;
    float(&buffers)[2 * warp_size * values] = shared_array<float, 2 * warp_size * values>();
    const int64_t C = p.C, step = int64_t{blockDim.x} * width, first = int64_t{threadIdx.x} * width;
    const PartRows part(p.parts, p.first_part + blockIdx.x);
    float dweight[packs][width] = {}, dbias[packs][width] = {};  // columns first + s step + [0,width)

    int turn = 0;
    for (int64_t begin = part.begin; begin < part.end; begin += rows, turn ^= 1) {
        Pack<T> x[rows][packs], dy[rows][packs], dres[rows][packs];
        float mean[rows], rstd[rows], sums[values];  // of g, then of g xhat
#pragma unroll
        for (int r = 0; r < rows; r++) {
            const int64_t n = begin + r;
            const bool there = n < part.end;
            mean[r] = there && p.mean ? p.mean[n] : 0.0f, rstd[r] = there ? p.rstd[n] : 0.0f;
#pragma unroll
            for (int s = 0; s < packs; s++) {
                const int64_t c = first + s * step;
                if (!there || c >= C) continue;
                x[r][s] = load16_streaming(p.inp + n * C + c), dy[r][s] = load16_streaming(p.dout + n * C + c);
                if (p.dresidual) dres[r][s] = load16_streaming(p.dresidual + n * C + c);
            }
        }
#pragma unroll
        for (int i = 0; i < values; i++) sums[i] = 0;
#pragma unroll
        for (int s = 0; s < packs; s++) {
            if (first + s * step >= C) continue;
            const Pack<T> weight = load16(p.weight + first + s * step);
#pragma unroll
            for (int r = 0; r < rows; r++) {
                if (begin + r >= part.end) continue;
#pragma unroll
                for (int i = 0; i < width; i++) {
                    const float g = to_float(dy[r][s][i]) * to_float(weight[i]), xhat = (to_float(x[r][s][i]) - mean[r]) * rstd[r];
                    sums[r] += g, sums[rows + r] += g * xhat;
                }
            }
        }
        block_sums(sums, buffers + turn * warp_size * values);
#pragma unroll
        for (int s = 0; s < packs; s++) {
            const int64_t c = first + s * step;
            if (c >= C) continue;
            const Pack<T> weight = load16(p.weight + c);  // again, from the L1 cache: registers are short
#pragma unroll
            for (int r = 0; r < rows; r++) {
                if (begin + r >= part.end) continue;
                const float g_average = p.mean ? sums[r] / static_cast<float>(C) : 0.0f,
                            gx_average = sums[rows + r] / static_cast<float>(C);
                float dx[width];
#pragma unroll
                for (int i = 0; i < width; i++) {
                    const float d = to_float(dy[r][s][i]), xhat = (to_float(x[r][s][i]) - mean[r]) * rstd[r];
                    dweight[s][i] += d * xhat, dbias[s][i] += d;
                    dx[i] = rstd[r] * (d * to_float(weight[i]) - g_average - xhat * gx_average);
                    if (p.dresidual) dx[i] += to_float(dres[r][s][i]);
                }
                store_floats(p.dinp + (begin + r) * C + c, dx);
            }
        }
    }

    float* partial = p.partials + blockIdx.x * (p.with_bias ? 2 : 1) * C;
#pragma unroll
    for (int s = 0; s < packs; s++) {
        const int64_t c = first + s * step;
        if (c >= C) continue;
        store_floats(partial + c, dweight[s]);
        if (p.with_bias) store_floats(partial + C + c, dbias[s]);
    }
}

// For rows of any length and place.
template <class T>
__global__ void __launch_bounds__(norm_backward_threads) norm_backward_any_kernel(NormBackward<T> p) {
    const int64_t C = p.C;
    const PartRows part(p.parts, p.first_part + blockIdx.x);
    float *dweight = p.partials + blockIdx.x * (p.with_bias ? 2 : 1) * C, *dbias = dweight + C;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
        dweight[c] = 0;
        if (p.with_bias) dbias[c] = 0;
    }
    for (int64_t n = part.begin; n < part.end; n++) {
        const T *x = p.inp + n * C, *dy = p.dout + n * C;
        const float mean = p.mean ? p.mean[n] : 0.0f, rstd = p.rstd[n];
        float g_average = 0, gx_average = 0;
        for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
            const float g = to_float(dy[c]) * to_float(p.weight[c]);
            g_average += g, gx_average += g * ((to_float(x[c]) - mean) * rstd);
        }
        g_average = p.mean ? block_sum(g_average) / static_cast<float>(C) : 0.0f;
        gx_average = block_sum(gx_average) / static_cast<float>(C);
#pragma unroll 1  // no load may pass the stores of the one before
        for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
            const float d = to_float(dy[c]), xhat = (to_float(x[c]) - mean) * rstd;
            dweight[c] += d * xhat;
            if (p.with_bias) dbias[c] += d;
            const float dx = rstd * (d * to_float(p.weight[c]) - g_average - xhat * gx_average);
            p.dinp[n * C + c] = from_float<T>(p.dresidual ? to_float(p.dresidual[n * C + c]) + dx : dx);
        }
    }
}

void norm_backward(Tensor dinp, Tensor dweight, Tensor dbias, Tensor dout, Tensor dresidual, Tensor inp, Tensor mean, Tensor rstd,
                   Tensor weight, int64_t unit_rows, Stream& stream) {
    const int64_t N = dinp.rows(), C = dinp.cols();
    if (N == 0) return;
    dispatch_stored(dinp.dtype, [&](auto stored) {
        using T = decltype(stored);
        constexpr int width = Pack<T>::size;
        const int64_t packs = div_ceil(C, norm_backward_threads * width);  // of a thread
        const bool packed = C % width == 0 && packs <= 2 && rows_aligned({dinp, dout, dresidual, inp, weight});
        const unsigned threads = threads_for(packed ? div_ceil(C, width * packs) : C, norm_backward_threads);
        const int64_t planes = dbias ? 2 : 1, part_bytes = planes * C * size_of(Dtype::f32);
        // Without units: as many parts as an H100 runs side by side at 128 registers a thread. A constant, so that all GPUs have the same
        // bits.
        int64_t most = int64_t{132} * (512 / threads);
        if (most > stream.workspace_bytes() / part_bytes) most = stream.workspace_bytes() / part_bytes;
        ENSURE(most > 0);
        const Parts parts = Parts::of(N, unit_rows, most, 4);
        const int64_t count = parts.count(), at_once = parts.at_once(stream.workspace_bytes(), part_bytes);
        for (int64_t first = 0; first < count; first += at_once) {
            const int64_t here = count - first < at_once ? count - first : at_once;
            float* partials = static_cast<float*>(stream.workspace(here * part_bytes));
            const NormBackward<T> p{dinp.as<T>(),
                                    dout.as<T>(),
                                    dresidual.as_or_null<T>(),
                                    inp.as<T>(),
                                    weight.as<T>(),
                                    mean.as_or_null<float>(),
                                    rstd.as<float>(),
                                    partials,
                                    bool(dbias),
                                    parts,
                                    first,
                                    C};
            if (!packed)
                launch(norm_backward_any_kernel<T>, grid_of(here), dim3(threads), 0, stream, p);
            else if (packs == 1)
                launch(norm_backward_kernel<T, 1>, grid_of(here), dim3(threads), 0, stream, p);
            else
                launch(norm_backward_kernel<T, 2>, grid_of(here), dim3(threads), 0, stream, p);
            fold_units(dweight.as<float>(), partials, here, parts.per_unit(), planes * C, C, stream);
            if (dbias) fold_units(dbias.as<float>(), partials + C, here, parts.per_unit(), planes * C, C, stream);
        }
    });
}

}  // namespace traincu::gpu
