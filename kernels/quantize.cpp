#include "kernels/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "src/base/philox.h"

namespace traincu {
namespace cpu {
namespace {

constexpr int64_t largest_group = 8192;

// A message in memory: codes, then scales.
struct Layout {
    int64_t n, group, codes, bytes;  // numbers; bytes of the codes, of all
    Layout(int64_t numbers, const QuantFormat& f) : n(numbers), group(f.group), codes(n * f.bits / 8), bytes(message_bytes(numbers, f)) {}
    int64_t groups() const { return n / group; }
    float* scales(uint8_t* message) const { return reinterpret_cast<float*>(message + codes); }
    const float* scales(const uint8_t* message) const { return reinterpret_cast<const float*>(message + codes); }
};

// a * b rounded. The compiler would fuse a plain product with an addition that follows; this one cannot be fused again.
inline float product(float a, float b) { return std::fma(a, b, -0.0f); }

typedef float Quad __attribute__((vector_size(16)));

// Butterflies between numbers `half` apart, of 4: x[i] + x[i + half] and x[i] - x[i + half].
template <int half>
Quad butterflies(Quad x) {
#if defined(__clang__)
    const Quad other = __builtin_shufflevector(x, x, half, 1 ^ half, 2 ^ half, 3 ^ half);
#else
    typedef int Index __attribute__((vector_size(16)));
    const Quad other = __builtin_shuffle(x, Index{half, 1 ^ half, 2 ^ half, 3 ^ half});
#endif
    return other + x * Quad{1, half == 1 ? -1.0f : 1.0f, half == 2 ? -1.0f : 1.0f, -1};  // an exact product: fused or not
}
// x <- H x for every 32 of `count` numbers, by butterflies of 1, 2, 4, 8, 16.
void hadamard(float* x, int64_t count) {
    constexpr int quads = hadamard_side / 4;
    for (float* block = x; block < x + count; block += hadamard_side) {
        Quad v[quads];
        for (int q = 0; q < quads; q++) {
            Quad y;
            std::memcpy(&y, block + 4 * q, sizeof y);
            v[q] = butterflies<2>(butterflies<1>(y));
        }
        for (int half = 1; half < quads; half *= 2)
            for (int q = 0; q < quads; q++)
                if ((q & half) == 0) {
                    const Quad a = v[q], b = v[q + half];
                    v[q] = a + b, v[q + half] = a - b;
                }
        for (int q = 0; q < quads; q++) {
            const Quad y = v[q];
            std::memcpy(block + 4 * q, &y, sizeof y);
        }
    }
}

// The random bits of `count` numbers from `index` on, both multiples of 8.
void random_bits(uint16_t* to, const QuantNoise& noise, int64_t index, int64_t count) {
    const Random random{noise.seed, RandomStream::quantization};
    const uint64_t begin = static_cast<uint64_t>(index / 8) + quant_index_of(noise);
    for (int64_t block = 0; block < count / 8; block++) {
        const PhiloxBlock words = random.bits(noise.step, begin + static_cast<uint64_t>(block));
        for (uint32_t word : words) *to++ = static_cast<uint16_t>(word), *to++ = static_cast<uint16_t>(word >> 16);
    }
}

// Scratch of a thread: the numbers of a group.
struct Group {
    alignas(64) float x[largest_group];
    alignas(64) int8_t codes[largest_group];
    alignas(64) uint16_t random[largest_group];
};

// |x| as bits grows with |x|, and NaN is above infinity: one maximum of integers finds both.
uint32_t largest_magnitude(const float* x, int64_t count) {
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < count; i++) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
    return largest;
}

// Fills codes from x; returns the scale. index: of the first number, for the noise.
float encode(Group& g, int64_t count, const QuantCode& code, const QuantNoise& noise, int64_t index) {
    if (code.hadamard) hadamard(g.x, count);
    const uint32_t largest = largest_magnitude(g.x, count);
    const float a = std::bit_cast<float>(largest);
    if (largest >= infinity_bits || a < least_magnitude) {
        std::memset(g.codes, 0, static_cast<size_t>(count));
        return largest >= infinity_bits ? std::bit_cast<float>(quant_nan_bits) : 1.0f;
    }
    const float k = code.levels / a, low = code.low, high = code.high;
    if (code.stochastic) {
        random_bits(g.random, noise, index, count);
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            const float v = product(g.x[i], k), lower = std::floor(v);
            const float u = (static_cast<float>(g.random[i]) + 0.5f) * 0x1p-16f;
            const float rounded = u < v - lower ? lower + 1 : lower;
            g.codes[i] = static_cast<int8_t>(std::min(std::max(rounded, low), high));
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) g.codes[i] = static_cast<int8_t>(std::min(std::max(std::rint(g.x[i] * k), low), high));
    }
    return code.factor / k;
}

// ---- codes in memory

void pack(uint8_t* to, const int8_t* codes, int64_t count, int bits) {
    if (bits == 8) {
        std::memcpy(to, codes, static_cast<size_t>(count));
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < count / 2; i++) to[i] = static_cast<uint8_t>((codes[2 * i] & 15) << 4 | (codes[2 * i + 1] & 15));
}
// body(i, value) for each of `count` codes
template <class Body>
void decode(const uint8_t* from, int64_t count, int bits, float scale, Body body) {
    if (bits == 8) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) body(i, product(static_cast<int8_t>(from[i]), scale));
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < count / 2; i++) {
        body(2 * i, product(static_cast<float>(static_cast<int8_t>(from[i]) >> 4), scale));
        body(2 * i + 1, product(static_cast<float>(static_cast<int8_t>(from[i] << 4) >> 4), scale));
    }
}

// ---- what is encoded: load(to, shard, begin, count) brings numbers of a shard

template <class T>
struct Values {
    const T* x;
    int64_t n;
    void load(float* to, int64_t shard, int64_t begin, int64_t count) const {
        const T* from = x + shard * n + begin;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = widened(from[i]);
    }
};
template <class T>
struct Difference {
    const float* main;
    const T* model;
    void load(float* to, int64_t, int64_t begin, int64_t count) const {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = main[begin + i] - widened(model[begin + i]);
    }
};
// The sum of the messages of `sources`, each of which sent `shards`.
struct Sum {
    const uint8_t* messages;
    int64_t sources, shards;
    Layout layout;
    int bits;
    void load(float* to, int64_t shard, int64_t begin, int64_t count) const {
        std::fill(to, to + count, 0.0f);
        const int64_t run = std::min(count, layout.group);  // of one scale
        for (int64_t source = 0; source < sources; source++) {
            const uint8_t* message = messages + (source * shards + shard) * layout.bytes;
            for (int64_t i = begin; i < begin + count; i += run) {
                const float scale = layout.scales(message)[i / layout.group];
                float* sum = to + i - begin;
                decode(message + i * bits / 8, run, bits, scale, [&](int64_t j, float value) { sum[j] += value; });
            }
        }
    }
};

// Shards (across,peers), and their messages (peers,across).
template <class Source>
void encode_all(Tensor messages, const Source& source, int64_t n, int64_t across, int64_t peers, const QuantFormat& format, double factor,
                const QuantNoise& noise) {
    const Layout layout(n, format);
    const QuantCode code(format, factor);
    const int64_t groups = layout.groups();
#pragma omp parallel
    {
        Group group;
#pragma omp for schedule(static)
        for (int64_t job = 0; job < across * peers * groups; job++) {
            const int64_t slot = job / groups, shard = slot % across * peers + slot / across, begin = job % groups * layout.group;
            uint8_t* message = messages.as<uint8_t>() + slot * layout.bytes;
            source.load(group.x, shard, begin, layout.group);
            layout.scales(message)[begin / layout.group] =
                encode(group, layout.group, code, noise, noise.first + shard * noise.stride + begin);
            pack(message + begin * format.bits / 8, group.codes, layout.group, format.bits);
            if (begin == 0) std::fill(layout.scales(message) + groups, reinterpret_cast<float*>(message + layout.bytes), 0.0f);
        }
    }
}

// put(number, value) for each number of the messages
template <class Put>
void decode_all(Tensor messages, int64_t n, int64_t shards, const QuantFormat& format, Put put) {
    const Layout layout(n, format);
    const int64_t groups = layout.groups();
#pragma omp parallel for schedule(static)
    for (int64_t job = 0; job < shards * groups; job++) {
        const uint8_t* message = messages.as<uint8_t>() + job / groups * layout.bytes;
        const int64_t begin = job % groups * layout.group, number = job / groups * n + begin;
        decode(message + begin * format.bits / 8, layout.group, format.bits, layout.scales(message)[begin / layout.group],
               [&](int64_t i, float value) { put(number + i, value); });
    }
}

// body(float{}) or body(bf16{})
template <class Body>
void dispatch_sent(Dtype dtype, Body body) {
    if (dtype == Dtype::bf16) return body(bf16{});
    ENSURE(dtype == Dtype::f32);
    body(float{});
}

}  // namespace
}  // namespace cpu

namespace {

bool aligned(const Tensor& t) { return t.contiguous() && reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

void check(const QuantFormat& f) {
    ENSURE((f.bits == 4 || f.bits == 8) && f.group >= hadamard_side && f.group <= cpu::largest_group);
    ENSURE(std::has_single_bit(static_cast<uint64_t>(f.group)));
    ENSURE(!f.sixteen_levels || (f.bits == 4 && f.rounding == QuantFormat::nearest));
}
// shards of n numbers
void check(const QuantNoise& noise, int64_t shards, int64_t n) {
    ENSURE(noise.hop >= 0 && noise.hop < 16 && noise.rank >= 0 && noise.rank < 65536);
    ENSURE(noise.first >= 0 && noise.first % 8 == 0 && noise.stride % 8 == 0 && (shards == 1 || noise.stride >= n));
    ENSURE(noise.first + (shards - 1) * noise.stride + n <= int64_t{1} << 47);
}
void check_messages(const Tensor& messages, int64_t shards, int64_t n, const QuantFormat& format) {
    check(format);
    ENSURE(messages.dtype == Dtype::u8 && aligned(messages) && shards < 65536 && n % format.group == 0);
    ENSURE(messages.shape[static_cast<size_t>(messages.rank - 1)] == message_bytes(n, format));
    ENSURE(messages.numel() == shards * message_bytes(n, format));
}

// Numbers of a message, the last dimension of x; and how many.
int64_t last(const Tensor& x) { return x.rank > 0 ? x.shape[static_cast<size_t>(x.rank - 1)] : 0; }
int64_t shards_of(const Tensor& x) { return last(x) > 0 ? x.numel() / last(x) : 0; }

}  // namespace

void quantize(Tensor messages, Tensor x, double factor, const QuantFormat& format, const QuantNoise& noise, Stream& stream) {
    const int64_t n = last(x), shards = shards_of(x), across = x.rank == 3 ? x.shape[0] : 1;
    if (x.numel() == 0) return;
    ENSURE(aligned(x) && messages.rank == x.rank && (x.rank < 3 || (messages.shape[0] == x.shape[1] && messages.shape[1] == x.shape[0])));
    check_messages(messages, shards, n, format), check(noise, shards, n);
    if (stream.on_gpu()) return gpu::quantize(messages, x, factor, format, noise, stream);
    cpu::dispatch_sent(x.dtype, [&]<class T>(T) {
        cpu::encode_all(messages, cpu::Values<T>{x.as<T>(), n}, n, across, shards / across, format, factor, noise);
    });
}

void quantize_difference(Tensor message, Tensor main, Tensor model, const QuantFormat& format, const QuantNoise& noise, Stream& stream) {
    const int64_t n = main.numel();
    if (n == 0) return;
    ENSURE(aligned(main) && aligned(model) && model.numel() == n && !format.hadamard);
    check_messages(message, 1, n, format), check(noise, 1, n);
    if (stream.on_gpu()) return gpu::quantize_difference(message, main, model, format, noise, stream);
    cpu::dispatch_sent(model.dtype, [&]<class T>(T) {
        cpu::encode_all(message, cpu::Difference<T>{main.as<float>(), model.as<T>()}, n, 1, 1, format, 1.0, noise);
    });
}

void dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream) {
    if (out.numel() == 0) return;
    ENSURE(aligned(out) && !format.hadamard);
    check_messages(messages, shards_of(out), last(out), format);
    if (stream.on_gpu()) return gpu::dequantize(out, messages, format, stream);
    cpu::dispatch_sent(out.dtype, [&]<class T>(T) {
        T* to = out.as<T>();
        cpu::decode_all(messages, last(out), shards_of(out), format, [&](int64_t i, float value) { to[i] = narrowed<T>(value); });
    });
}

void dequantize_add(Tensor model, Tensor messages, const QuantFormat& format, Stream& stream) {
    if (model.numel() == 0) return;
    ENSURE(aligned(model) && !format.hadamard);
    check_messages(messages, shards_of(model), last(model), format);
    if (stream.on_gpu()) return gpu::dequantize_add(model, messages, format, stream);
    cpu::dispatch_sent(model.dtype, [&]<class T>(T) {
        T* to = model.as<T>();
        cpu::decode_all(messages, last(model), shards_of(model), format,
                        [&](int64_t i, float value) { to[i] = narrowed<T>(widened(to[i]) + value); });
    });
}

void reduce_quantize(Tensor out, Tensor messages, const QuantFormat& from, const QuantFormat& to, const QuantNoise& noise, Stream& stream) {
    if (out.numel() == 0) return;
    const int64_t shards = out.rows(), n = numbers_of(last(out), to);
    ENSURE(messages.rank == 3 && messages.shape[1] == shards && messages.rows() > 0 && from.hadamard == to.hadamard);
    check_messages(messages, messages.rows() * shards, n, from), check_messages(out, shards, n, to), check(noise, shards, n);
    if (stream.on_gpu()) return gpu::reduce_quantize(out, messages, from, to, noise, stream);
    QuantFormat still = to;  // the sum is rotated already
    still.hadamard = false;
    const cpu::Sum sum{messages.as<uint8_t>(), messages.rows(), shards, cpu::Layout(n, from), from.bits};
    cpu::encode_all(out, sum, n, 1, shards, still, 1.0, noise);
}

void reduce_dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream) {
    const int64_t n = out.numel();
    if (n == 0) return;
    ENSURE(aligned(out) && messages.rank == 2 && messages.rows() > 0);
    check_messages(messages, messages.rows(), n, format);
    if (stream.on_gpu()) return gpu::reduce_dequantize(out, messages, format, stream);
    const cpu::Sum sum{messages.as<uint8_t>(), messages.rows(), 1, cpu::Layout(n, format), format.bits};
    float* to = out.as<float>();
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < n; begin += format.group) {
        sum.load(to + begin, 0, begin, format.group);
        if (!format.hadamard) continue;
        cpu::hadamard(to + begin, format.group);
        for (int64_t i = begin; i < begin + format.group; i++) to[i] *= 1.0f / hadamard_side;
    }
}

}  // namespace traincu
