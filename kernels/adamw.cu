// AdamW on the GPU: a thread takes 4 neighbours of each array, 16 bytes (8 of 16-bit numbers), at two places a block of threads apart, with
// all loads under way before the first is needed. How their weights are kept is looked up in the table of ranges, which stays in the
// caches; a warp's elements are of one range, but at its ends. The grid is as large as an H100 keeps running, since each block begins with
// two powers in double, by one thread.
//
// Bytes per parameter: kernels/adamw.h. Floor: these over the memory's speed; 0.6 G parameters with masters at 4.3 TB/s: 4.2 ms. Fraction:
// not measured.
#include "kernels/adamw.h"

#include "kernels/packs.h"
#include "src/base/philox.h"

namespace traincu::gpu {

constexpr int adamw_threads = 256;
constexpr int adamw_in_flight = 2;
constexpr int64_t adamw_blocks = 132 * 4;

template <class Moment>
struct AdamwArrays {
    std::byte* weights;
    float* masters;   // or null
    int16_t* lowers;  // or null
    Moment *m, *v;
    const float* grad;
    const WeightRange* ranges;
    int64_t range_count, n;
    GuardState* guard;
};

struct AdamwFactors {
    double beta1_exact, beta2_exact;
    float beta1, beta2, rest1, rest2, lr, eps, decay;
    uint64_t seed;
    int64_t first_index;
};

// What depends on the step.
struct AdamwStep {
    float m_correction, v_correction, clip;
    uint32_t step;
};

// Where element i of the flat index has its weight.
struct WeightPlace {
    Dtype stored;
    bool decays;
    void* weight;    // of the stored type
    float* master;   // or null
    int16_t* lower;  // or null
};
template <class Moment>
__device__ WeightPlace weight_place(const AdamwArrays<Moment>& a, int64_t i) {
    int64_t low = 0, high = a.range_count - 1;  // the first range that ends beyond i
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (a.ranges[middle].end > i)
            high = middle;
        else
            low = middle + 1;
    }
    const WeightRange& range = a.ranges[low];
    const int64_t offset = i - (low > 0 ? a.ranges[low - 1].end : 0);
    if (range.stored == master_alone) return {Dtype::f32, range.decays != 0, a.masters + range.kept_at + offset, nullptr, nullptr};
    const Dtype stored = static_cast<Dtype>(range.stored);
    const bool keeps = range.kept_at >= 0;
    return {stored, range.decays != 0, a.weights + range.stored_at + offset * (stored == Dtype::f32 ? 4 : 2),
            keeps && a.masters ? a.masters + range.kept_at + offset : nullptr,
            keeps && a.lowers ? a.lowers + range.kept_at + offset : nullptr};
}

// One of the two bf16 beside x, by chance: 16 random bits are added below the last place and the rest is cut off. What is not finite stays
// so.
inline __device__ bf16 rounded_by_chance(float x, uint32_t random16) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7F800000u) == 0x7F800000u) return from_float<bf16>(x);
    return bf16{static_cast<uint16_t>((bits + random16) >> 16)};
}

// Of the random block of elements i / 4: the word of element i + j, i a multiple of `width`.
template <int width>
__device__ uint32_t random_word(const PhiloxBlock& random, int64_t i, int j) {
    if constexpr (width == 4) return random[static_cast<size_t>(j)];
    const uint32_t low = i % 2 == 0 ? random[0] : random[1], high = i % 2 == 0 ? random[2] : random[3];
    return i % 4 < 2 ? low : high;
}

template <int width, class T>
__device__ void store_narrow(T* to, const T (&x)[width]) {
    if constexpr (width == 1) {
        *to = x[0];
    } else {
        HalfPack<T> pack;
#pragma unroll
        for (int j = 0; j < width; j++) pack.values[j] = x[j];
        *reinterpret_cast<HalfPack<T>*>(to) = pack;
    }
}

// The moments of elements i + [0,width).
template <int width>
__device__ void store_moments(float* to_m, float* to_v, const float (&m)[width], const float (&v)[width], uint64_t, uint32_t, int64_t) {
    store_floats(to_m, m), store_floats(to_v, v);
}
template <int width>
__device__ void store_moments(bf16* to_m, bf16* to_v, const float (&m)[width], const float (&v)[width], uint64_t seed, uint32_t step,
                              int64_t i) {
    const PhiloxBlock random = Random{seed, RandomStream::rounding}.bits(step, static_cast<uint64_t>(i / 4));
    bf16 narrow_m[width], narrow_v[width];
#pragma unroll
    for (int j = 0; j < width; j++) {
        const uint32_t word = random_word<width>(random, i, j);
        narrow_m[j] = rounded_by_chance(m[j], word & 0xFFFF), narrow_v[j] = rounded_by_chance(v[j], word >> 16);
    }
    store_narrow(to_m, narrow_m), store_narrow(to_v, narrow_v);
}

inline __device__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u; }

// Elements i + [0,width), which lie in one range.
template <int width>
struct Elements {
    int64_t i;
    WeightPlace place;
    float w[width], m[width], v[width], grad[width];

    template <class Moment>
    __device__ void load(const AdamwArrays<Moment>& a) {
        load_floats(grad, a.grad + i), load_floats(m, a.m + i), load_floats(v, a.v + i);
        place = weight_place(a, i);
        if (place.stored == Dtype::f32) {
            load_floats(w, static_cast<const float*>(place.weight));
        } else if (place.master) {
            load_floats(w, place.master);
        } else {
            load_floats(w, static_cast<const bf16*>(place.weight));
            if (place.lower)
#pragma unroll
                for (int j = 0; j < width; j++)
                    w[j] = __uint_as_float(joined_master({static_cast<uint16_t>(__float_as_uint(w[j]) >> 16), place.lower[j]}));
        }
    }

    template <class Moment>
    __device__ void update(const AdamwArrays<Moment>& a, const AdamwFactors& f, const AdamwStep& s) {
        const float decay = place.decays ? f.decay : 0.0f;
#pragma unroll
        for (int j = 0; j < width; j++) {
            // Fused where written and nowhere else: the bits do not depend on `width`.
            const float g = s.clip * grad[j];
            m[j] = fmaf(f.beta1, m[j], f.rest1 * g), v[j] = fmaf(f.beta2, v[j], f.rest2 * (g * g));
            const float change = m[j] * s.m_correction / (sqrtf(v[j] * s.v_correction) + f.eps);
            w[j] = fmaf(-f.lr, fmaf(decay, w[j], change), w[j]);
        }
        store_moments(a.m + i, a.v + i, m, v, f.seed, s.step, f.first_index + i);
        if (place.stored == Dtype::f32) return store_floats(static_cast<float*>(place.weight), w);
        if (place.master) store_floats(place.master, w);
        if (place.stored == Dtype::f16)
            store_weights<f16>(a, [&](int j) { return from_float<f16>(w[j]); });
        else if (place.master)
            store_weights<bf16>(a, [&](int j) { return from_float<bf16>(w[j]); });
        else if (place.lower)
            store_weights<bf16>(a, [&](int j) {
                const SplitMaster split = split_master(__float_as_uint(w[j]));
                place.lower[j] = split.lower;
                return bf16{split.upper};
            });
        else
            store_by_chance(a, f.seed, s.step, f.first_index + i);
    }

private:
    template <class Moment>
    __device__ void store_by_chance(const AdamwArrays<Moment>& a, uint64_t seed, uint32_t step, int64_t index) {
        const PhiloxBlock random = Random{seed, RandomStream::weight_rounding}.bits(step, static_cast<uint64_t>(index / 4));
        store_weights<bf16>(a, [&](int j) { return rounded_by_chance(w[j], random_word<width>(random, index, j) & 0xFFFF); });
    }

    // narrowed(j): the weight stored for w[j].
    template <class T, class Moment, class Narrowed>
    __device__ void store_weights(const AdamwArrays<Moment>& a, Narrowed narrowed) {
        T narrow[width];
        unsigned long long overflows = 0;
#pragma unroll
        for (int j = 0; j < width; j++) {
            narrow[j] = narrowed(j);
            overflows += is_finite(w[j]) && !is_finite(to_float(narrow[j]));
        }
        store_narrow(static_cast<T*>(place.weight), narrow);
        if (overflows) atomicAdd(reinterpret_cast<unsigned long long*>(&a.guard->overflows), overflows);
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

void adamw_update(Tensor weights, Tensor kept, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state,
                  const AdamwParams& params, Stream& stream) {
    const int64_t n = grad.numel();
    if (n == 0) return;
    ENSURE(!kept || kept.dtype == Dtype::f32 || kept.dtype == Dtype::i16);
    const AdamwFactors f{params.beta1,
                         params.beta2,
                         static_cast<float>(params.beta1),
                         static_cast<float>(params.beta2),
                         static_cast<float>(1 - params.beta1),
                         static_cast<float>(1 - params.beta2),
                         static_cast<float>(params.lr),
                         static_cast<float>(params.eps),
                         static_cast<float>(params.weight_decay),
                         params.seed,
                         params.first_index};
    dispatch_stored(m.dtype, [&](auto stored) {
        using Moment = decltype(stored);
        const AdamwArrays<Moment> a{static_cast<std::byte*>(weights.data),
                                    kept.dtype == Dtype::f32 ? kept.as_or_null<float>() : nullptr,
                                    kept.dtype == Dtype::i16 ? kept.as_or_null<int16_t>() : nullptr,
                                    m.as<Moment>(),
                                    v.as<Moment>(),
                                    grad.as<float>(),
                                    reinterpret_cast<const WeightRange*>(ranges.as<int64_t>()),
                                    ranges.rows(),
                                    n,
                                    reinterpret_cast<GuardState*>(guard_state.as<double>())};
        dispatch_width<float>(pointers_aligned({weights, kept, m, v, grad}), [&](auto w) {
            constexpr int width = decltype(w)::value;
            const int64_t blocks = div_ceil(n, width * adamw_in_flight * adamw_threads);
            launch(adamw_kernel<Moment, width>, grid_of(blocks < adamw_blocks ? blocks : adamw_blocks), dim3(adamw_threads), 0, stream, a,
                   f);
        });
    });
}

}  // namespace traincu::gpu
