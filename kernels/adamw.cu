// AdamW on the GPU: a thread takes 4 neighbours of each array, 16 bytes (8 of bf16), at two places a block of threads apart, with all loads
// under way before the first is needed. The grid is as large as an H100 keeps running, since each block begins with two powers in double,
// by one thread.
//
// bf16 moments are rounded by 16 random bits each: of word i % 4 of Philox at (seed, RandomStream::rounding, step, i / 4) the lower half
// for m, the upper for v.
//
// Bytes per parameter: 28, with the copy 30; with bf16 moments 20 and 22. Floor: these over the memory's speed; 0.6 G parameters at 4.3
// TB/s: 4.2 ms with the copy. Fraction: not measured.
#include "kernels/adamw.h"

#include "kernels/packs.h"
#include "src/base/philox.h"

namespace traincu::gpu {

constexpr int adamw_threads = 256;
constexpr int adamw_in_flight = 2;
constexpr int64_t adamw_blocks = 132 * 4;

template <class Moment>
struct AdamwArrays {
    float* param;
    bf16* copy;
    Moment *m, *v;
    const float* grad;
    const int64_t* ranges;  // (R,2): end, decays
    int64_t range_count, n;
    const GuardState* guard;
};

struct AdamwFactors {
    double beta1_exact, beta2_exact;
    float beta1, beta2, rest1, rest2, lr, eps, decay;
    uint64_t seed;
};

// What depends on the step.
struct AdamwStep {
    float m_correction, v_correction, clip;
    uint32_t step;
};

// Does element i decay? Looks for the first range that ends beyond it.
inline __device__ bool decays(const int64_t* ranges, int64_t count, int64_t i) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (ranges[2 * middle] > i)
            high = middle;
        else
            low = middle + 1;
    }
    return ranges[2 * low + 1] != 0;
}

// One of the two bf16 beside x, by chance: 16 random bits are added below the last place and the rest is cut off. What is not finite stays
// so.
inline __device__ bf16 rounded_by_chance(float x, uint32_t random16) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7F800000u) == 0x7F800000u) return from_float<bf16>(x);
    return bf16{static_cast<uint16_t>((bits + random16) >> 16)};
}

// The moments of elements i + [0,width); width 4 begins at a multiple of 4.
template <int width>
__device__ void store_moments(float* to_m, float* to_v, const float (&m)[width], const float (&v)[width], uint64_t, uint32_t, int64_t) {
    store_floats(to_m, m), store_floats(to_v, v);
}
template <int width>
__device__ void store_moments(bf16* to_m, bf16* to_v, const float (&m)[width], const float (&v)[width], uint64_t seed, uint32_t step,
                              int64_t i) {
    const PhiloxBlock random = Random{seed, RandomStream::rounding}.bits(step, static_cast<uint64_t>(i / 4));
    if constexpr (width == 1) {
        const uint32_t low = i % 2 == 0 ? random[0] : random[1], high = i % 2 == 0 ? random[2] : random[3], word = i % 4 < 2 ? low : high;
        *to_m = rounded_by_chance(m[0], word & 0xFFFF), *to_v = rounded_by_chance(v[0], word >> 16);
    } else {
        HalfPack<bf16> m_pack, v_pack;
#pragma unroll
        for (int j = 0; j < width; j++) {
            m_pack.values[j] = rounded_by_chance(m[j], random[j] & 0xFFFF);
            v_pack.values[j] = rounded_by_chance(v[j], random[j] >> 16);
        }
        *reinterpret_cast<HalfPack<bf16>*>(to_m) = m_pack, *reinterpret_cast<HalfPack<bf16>*>(to_v) = v_pack;
    }
}

// Elements i + [0,width), which lie in one range.
template <int width>
struct Elements {
    int64_t i;
    float param[width], m[width], v[width], grad[width];

    template <class Moment>
    __device__ void load(const AdamwArrays<Moment>& a) {
        load_floats(grad, a.grad + i), load_floats(m, a.m + i), load_floats(v, a.v + i), load_floats(param, a.param + i);
    }
    template <class Moment>
    __device__ void update(const AdamwArrays<Moment>& a, const AdamwFactors& f, const AdamwStep& s) {
        const float decay = decays(a.ranges, a.range_count, i) ? f.decay : 0.0f;
#pragma unroll
        for (int j = 0; j < width; j++) {
            // Fused where written and nowhere else: the bits do not depend on `width`.
            const float g = s.clip * grad[j];
            m[j] = fmaf(f.beta1, m[j], f.rest1 * g), v[j] = fmaf(f.beta2, v[j], f.rest2 * (g * g));
            const float change = m[j] * s.m_correction / (sqrtf(v[j] * s.v_correction) + f.eps);
            param[j] = fmaf(-f.lr, fmaf(decay, param[j], change), param[j]);
        }
        store_floats(a.param + i, param);
        store_moments(a.m + i, a.v + i, m, v, f.seed, s.step, i);
        if (a.copy) store_floats(a.copy + i, param);
    }
};

template <class Moment, int width>
__global__ void __launch_bounds__(adamw_threads) adamw_kernel(AdamwArrays<Moment> a, AdamwFactors f) {
    if (a.guard->verdict != Verdict::accepted) return;
    AdamwStep(&shared_step)[1] = shared_array<AdamwStep, 1>();
    if (threadIdx.x == 0) {
        // In double: 1 - beta^step has few correct digits in float while step is small.
        const double step = static_cast<double>(a.guard->adam_steps);
        shared_step[0] = {static_cast<float>(1 / (1 - pow(f.beta1_exact, step))), static_cast<float>(1 / (1 - pow(f.beta2_exact, step))),
                          static_cast<float>(a.guard->clip), static_cast<uint32_t>(a.guard->adam_steps)};
    }
    __syncthreads();
    const AdamwStep s = shared_step[0];
    const int64_t packs = a.n / width;
    for (int64_t block = blockIdx.x; block * adamw_in_flight * adamw_threads < packs; block += gridDim.x) {
        const int64_t first = block * adamw_in_flight * adamw_threads + threadIdx.x;
        Elements<width> elements[adamw_in_flight];
#pragma unroll
        for (int k = 0; k < adamw_in_flight; k++) {
            const int64_t pack = first + k * adamw_threads;
            elements[k].i = pack * width;
            if (pack < packs) elements[k].load(a);
        }
#pragma unroll
        for (int k = 0; k < adamw_in_flight; k++)
            if (first + k * adamw_threads < packs) elements[k].update(a, f, s);
    }
    const int64_t rest = packs * width + threadIdx.x;  // fewer than `width` are left
    if (blockIdx.x == 0 && rest < a.n) {
        Elements<1> element;
        element.i = rest;
        element.load(a), element.update(a, f, s);
    }
}

void adamw_update(Tensor param, Tensor copy, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state, const AdamwParams& params,
                  Stream& stream) {
    const int64_t n = param.numel();
    if (n == 0) return;
    const AdamwFactors f{params.beta1,
                         params.beta2,
                         static_cast<float>(params.beta1),
                         static_cast<float>(params.beta2),
                         static_cast<float>(1 - params.beta1),
                         static_cast<float>(1 - params.beta2),
                         static_cast<float>(params.lr),
                         static_cast<float>(params.eps),
                         static_cast<float>(params.weight_decay),
                         params.seed};
    dispatch_stored(m.dtype, [&](auto stored) {
        using Moment = decltype(stored);
        const AdamwArrays<Moment> a{param.as<float>(),
                                    copy.as_or_null<bf16>(),
                                    m.as<Moment>(),
                                    v.as<Moment>(),
                                    grad.as<float>(),
                                    ranges.as<int64_t>(),
                                    ranges.rows(),
                                    n,
                                    reinterpret_cast<const GuardState*>(guard_state.as<double>())};
        dispatch_width<float>(pointers_aligned({param, copy, m, v, grad}), [&](auto w) {
            constexpr int width = decltype(w)::value;
            const int64_t blocks = div_ceil(n, width * adamw_in_flight * adamw_threads);
            launch(adamw_kernel<Moment, width>, grid_of(blocks < adamw_blocks ? blocks : adamw_blocks), dim3(adamw_threads), 0, stream, a,
                   f);
        });
    });
}

}  // namespace traincu::gpu
