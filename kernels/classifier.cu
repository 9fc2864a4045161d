// The fused classifier on the GPU: a block takes a row and reads it twice. First: the largest logit and the sum of exponentials, online, so
// that one reading gives both. Then, backwards, since the end of the row is the likeliest to be in a cache still: the gradient, written in
// its place. A row of 152k bf16 is 300 KB: no block's shared memory holds it, but the L2 cache holds those of all blocks at work.
//
// Bytes per row, bf16: 4Vp, 2V without gradient; the second reading comes from the L2 cache. Floor: these over the memory's speed; 64k rows
// of 50,304 at 4.3 TB/s: 3.1 ms; the exponentials, two an element, take half of that. Fraction: not measured.
#include "kernels/classifier.h"

#include "kernels/packs.h"

namespace traincu::gpu {

struct ClassifierRow {
    int64_t V, Vp;
    float loss_scale, z_loss;
    bool write_gradient;
};

constexpr float lowest = -3.4028234e38f;  // finite: lowest - lowest is a number

// The `width` logits from column c, the lowest float beyond V.
template <int width, class T>
__device__ void load_logits(float (&x)[width], const T* logits, int64_t c, int64_t V) {
    load_floats(x, logits + c);
    if (c + width > V)
        for (int i = 0; i < width; i++)
            if (c + i >= V) x[i] = lowest;
}

template <class T, int width>
__global__ void __launch_bounds__(1024)
    classifier_kernel(float* losses, T* logits, const int32_t* targets, const float* weights, ClassifierRow p) {
    const int64_t n = blockIdx.x, first = int64_t{threadIdx.x} * width, step = int64_t{blockDim.x} * width;
    T* row = logits + n * p.Vp;
    const int32_t target = targets[n];
    const float weight = weights[n];
    if (target < 0 || weight == 0) {  // also where logits are NaN
        if (threadIdx.x == 0) losses[n] = 0;
        const float zeros[width] = {};
        if (p.write_gradient)
            for (int64_t c = first; c < p.Vp; c += step) store_floats(row + c, zeros);
        return;
    }

    const float target_logit = to_float(row[target]);
    float largest = lowest, sum = 0;  // of this thread, then of the block; sum: of e^(logit - largest)
#pragma unroll 4
    for (int64_t c = first; c < p.V; c += step) {
        float x[width], most = lowest;
        load_logits(x, row, c, p.V);
        for (int i = 0; i < width; i++) most = fmaxf(most, x[i]);
        if (most > largest) sum *= exponential<T>(largest - most), largest = most;
        for (int i = 0; i < width; i++) sum += c + i < p.V ? exponential<T>(x[i] - largest) : 0.0f;
    }
    const float block_largest = block_max(largest);
    sum = block_sum(sum * exponential<T>(largest - block_largest)), largest = block_largest;

    const float log_sum = logf(sum), lse = largest + log_sum;
    // largest - target_logit first: lse - target_logit would lose the digits of log_sum where logits are large.
    if (threadIdx.x == 0) losses[n] = weight * ((largest - target_logit) + log_sum + p.z_loss * lse * lse);
    if (!p.write_gradient) return;

    const float scale = p.loss_scale * weight, factor = scale * (1 + 2 * p.z_loss * lse) / sum;
    auto write = [&](const float(&x)[width], int64_t c) {
        float d[width];
        for (int i = 0; i < width; i++) {
            d[i] = c + i < p.V ? factor * exponential<T>(x[i] - largest) : 0.0f;
            if (c + i == target) d[i] -= scale;
        }
        store_floats(row + c, d);
    };
    const int64_t packs = div_ceil(p.Vp - first, step);  // of this thread
    int64_t k = packs - 1;
    for (; k > 0; k -= 2) {  // two at a time: stores would otherwise hold up the next load
        float x[width], y[width];
        load_floats(x, row + first + k * step), load_floats(y, row + first + (k - 1) * step);
        write(x, first + k * step), write(y, first + (k - 1) * step);
    }
    if (k == 0) {
        float x[width];
        load_floats(x, row + first);
        write(x, first);
    }
}

void classifier(Tensor losses, Tensor logits, Tensor targets, Tensor weights, const ClassifierParams& params, Stream& stream) {
    const int64_t N = logits.rows(), Vp = logits.cols();
    if (N == 0) return;
    const ClassifierRow p{params.vocab_size, Vp, static_cast<float>(params.loss_scale), static_cast<float>(params.z_loss),
                          params.write_gradient};
    dispatch_stored(logits.dtype, [&](auto stored) {
        using T = decltype(stored);
        dispatch_width<T>(Vp % Pack<T>::size == 0 && rows_aligned({logits}), [&](auto w) {
            constexpr int width = decltype(w)::value;
            launch(classifier_kernel<T, width>, grid_of(N), dim3(threads_for(div_ceil(Vp, width), 1024)), 0, stream, losses.as<float>(),
                   logits.as<T>(), targets.as<int32_t>(), weights.as<float>(), p);
        });
    });
}

}  // namespace traincu::gpu
