// Quantisation on the GPU. A thread has 8 neighbours: 16 or 32 bytes of numbers, a word of codes or two. The threads of a group, 4 to 1024,
// find its largest number by shuffles, beyond a warp through shared memory, and encode what is still in their registers: each number is
// read once. Butterflies of 1, 2 and 4 stay in a thread, those of 8 and 16 are shuffles. A block has 256 threads, more where a group does,
// so that no group is shared by two; blockIdx.y is the message. One kernel encodes, whatever is read: numbers, a difference, the sum of
// messages. One Philox block rounds a thread's 8 numbers. Of f32 a thread has a whole sector, in two halves: L1 has the second by then.
//
// Bytes per number: kernels/quantize.h. Floor: these over the memory's speed; 1 G numbers from f32 to 8 bits at 4.3 TB/s: 1.2 ms; from two
// messages of 8 bits to one of 4: 0.6 ms. Fraction: not measured.
#include "kernels/quantize.h"

#include "kernels/packs.h"
#include "src/base/philox.h"

namespace traincu::gpu {

constexpr int quantize_width = 8;  // numbers of a thread
constexpr int64_t quantize_threads = 256;
constexpr int most_quantize_threads = 1024;

// ---- messages

struct MessageLayout {
    int64_t n, bytes, codes;  // numbers; bytes of all, of the codes
    int group, group_shift;   // 2^shift
    MessageLayout(int64_t numbers, const QuantFormat& f)
        : n(numbers), bytes(message_bytes(numbers, f)), codes(numbers * f.bits / 8), group(static_cast<int>(f.group)), group_shift(0) {
        while ((1 << group_shift) < group) group_shift++;
    }
    __device__ float* scales(uint8_t* message) const { return reinterpret_cast<float*>(message + codes); }
    __device__ float scale(const uint8_t* message, int64_t i) const {
        return reinterpret_cast<const float*>(message + codes)[i >> group_shift];
    }
};

// 8 codes: 32 bits of them, or 64.
template <int bits>
using CodeWord = std::conditional_t<bits == 4, uint32_t, uint2>;

inline __device__ uint32_t packed_bytes(const int* codes) {
    return (codes[0] & 255) | (codes[1] & 255) << 8 | (codes[2] & 255) << 16 | static_cast<uint32_t>(codes[3]) << 24;
}
template <int bits>
__device__ void store_codes(uint8_t* message, int64_t i, const int (&codes)[quantize_width]) {
    CodeWord<bits>& to = *reinterpret_cast<CodeWord<bits>*>(message + i * bits / 8);
    if constexpr (bits == 8) {
        to = {packed_bytes(codes), packed_bytes(codes + 4)};
    } else {
        uint32_t word = 0;
#pragma unroll
        for (int j = 0; j < quantize_width; j++) word |= static_cast<uint32_t>(codes[j] & 15) << (4 * (j ^ 1));  // even: the upper half
        to = word;
    }
}
template <int bits>
__device__ void load_codes(float (&codes)[quantize_width], const uint8_t* message, int64_t i) {
    const CodeWord<bits> word = *reinterpret_cast<const CodeWord<bits>*>(message + i * bits / 8);
#pragma unroll
    for (int j = 0; j < quantize_width; j++) {
        uint32_t bytes;
        if constexpr (bits == 8)
            bytes = j < 4 ? word.x : word.y;
        else
            bytes = word;
        const int place = bits == 8 ? 8 * (j % 4) : 4 * (j ^ 1);
        codes[j] = static_cast<float>(static_cast<int>(bytes << (32 - bits - place)) >> (32 - bits));
    }
}

// ---- what is encoded: load(x, shard, i) brings numbers i + [0,8) of a shard

template <class T>
struct QuantValues {
    const T* x;
    int64_t n;
    __device__ void load(float (&to)[quantize_width], int64_t shard, int64_t i) const { load_floats(to, x + shard * n + i); }
};
template <class T>
struct QuantDifference {
    const float* main;
    const T* model;
    __device__ void load(float (&to)[quantize_width], int64_t, int64_t i) const {
        float replica[quantize_width];
        load_floats(to, main + i), load_floats(replica, model + i);
#pragma unroll
        for (int j = 0; j < quantize_width; j++) to[j] -= replica[j];
    }
};
// The sum of the messages of `sources`, each of which sent `shards`.
template <int bits>
struct QuantSum {
    const uint8_t* messages;
    int64_t sources, shards;
    MessageLayout layout;
    __device__ void load(float (&to)[quantize_width], int64_t shard, int64_t i) const {
#pragma unroll
        for (int j = 0; j < quantize_width; j++) to[j] = 0;
#pragma unroll 4
        for (int64_t source = 0; source < sources; source++) {
            const uint8_t* message = messages + (source * shards + shard) * layout.bytes;
            float codes[quantize_width];
            load_codes<bits>(codes, message, i);
            const float scale = layout.scale(message, i);
#pragma unroll
            for (int j = 0; j < quantize_width; j++) to[j] += __fmul_rn(codes[j], scale);
        }
    }
};

// ---- of a group

// x <- H x over the 32 numbers of 4 neighbouring lanes; butterflies in the order of the contract.
inline __device__ void rotate(float (&x)[quantize_width]) {
#pragma unroll
    for (int half = 1; half < quantize_width; half *= 2)
#pragma unroll
        for (int j = 0; j < quantize_width; j++)
            if ((j & half) == 0) {
                const float a = x[j], b = x[j + half];
                x[j] = a + b, x[j + half] = a - b;
            }
    const unsigned lane = threadIdx.x;
#pragma unroll
    for (int half = 1; half < hadamard_side / quantize_width; half *= 2)
#pragma unroll
        for (int j = 0; j < quantize_width; j++) {
            const float other = __shfl_xor_sync(all_lanes, x[j], half);
            x[j] = (lane & static_cast<unsigned>(half)) ? other - x[j] : x[j] + other;
        }
}

// The largest |x| of a group of `size` numbers, as bits: NaN is above infinity. Every thread of the block must come here.
inline __device__ uint32_t group_magnitude(const float (&x)[quantize_width], int size) {
    uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < quantize_width; j++) largest = max(largest, __float_as_uint(x[j]) & 0x7FFFFFFFu);
    const int threads = size / quantize_width;
    for (int offset = (threads < warp_size ? threads : warp_size) / 2; offset > 0; offset /= 2)
        largest = max(largest, __shfl_xor_sync(all_lanes, largest, offset));
    if (threads <= warp_size) return largest;
    uint32_t(&of_warps)[warp_size] = shared_array<uint32_t, warp_size>();
    const int warp = static_cast<int>(threadIdx.x) / warp_size, warps = threads / warp_size;
    if (threadIdx.x % warp_size == 0) of_warps[warp] = largest;
    __syncthreads();
    for (int w = 0; w < warps; w++) largest = max(largest, of_warps[warp / warps * warps + w]);
    return largest;
}

inline __device__ int clamped(float code, const QuantCode& c) { return __float2int_rn(fminf(fmaxf(code, c.low), c.high)); }

// index: of the first number, for the noise
inline __device__ void encode(int (&codes)[quantize_width], const float (&x)[quantize_width], float k, const QuantCode& c,
                              const QuantNoise& noise, int64_t index) {
    if (!c.stochastic) {
#pragma unroll
        for (int j = 0; j < quantize_width; j++) codes[j] = clamped(rintf(x[j] * k), c);
        return;
    }
    const PhiloxBlock words = Random{noise.seed, RandomStream::quantization}.bits(
        noise.step, static_cast<uint64_t>(index / quantize_width) + quant_index_of(noise));
#pragma unroll
    for (int j = 0; j < quantize_width; j++) {
        const uint32_t word = words[static_cast<size_t>(j / 2)];
        const float u = (static_cast<float>(j % 2 == 0 ? word & 0xFFFF : word >> 16) + 0.5f) * 0x1p-16f;
        const float v = __fmul_rn(x[j], k), lower = floorf(v);
        codes[j] = clamped(u < v - lower ? lower + 1 : lower, c);
    }
}

// Shards (across,peers), and their messages (peers,across).
struct QuantPlaces {
    MessageLayout layout;
    int64_t across, peers;
};

template <class Source, int bits>
__global__ void __launch_bounds__(most_quantize_threads)
    quantize_kernel(uint8_t* messages, Source source, QuantPlaces places, QuantCode c, QuantNoise noise) {
    const MessageLayout& layout = places.layout;
    const int64_t slot = blockIdx.y, shard = slot % places.across * places.peers + slot / places.across;
    const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * quantize_width;
    float x[quantize_width] = {};
    if (i < layout.n) source.load(x, shard, i);
    if (c.hadamard) rotate(x);
    const uint32_t largest = group_magnitude(x, layout.group);
    if (i >= layout.n) return;  // no barrier follows

    uint8_t* message = messages + slot * layout.bytes;
    const float a = __uint_as_float(largest);
    int codes[quantize_width] = {};
    float scale = largest >= infinity_bits ? __uint_as_float(quant_nan_bits) : 1.0f;
    if (largest < infinity_bits && a >= least_magnitude) {
        const float k = c.levels / a;
        encode(codes, x, k, c, noise, noise.first + shard * noise.stride + i);
        scale = c.factor / k;
    }
    store_codes<bits>(message, i, codes);
    float* scales = layout.scales(message);
    if ((i & (layout.group - 1)) == 0) scales[i >> layout.group_shift] = scale;
    if (i == 0)
        for (float* pad = scales + (layout.n >> layout.group_shift); pad < reinterpret_cast<float*>(message + layout.bytes); pad++)
            *pad = 0;
}

// Messages of n numbers each become rows of n numbers; `add`: they are added to them.
template <class T, int bits, bool add>
__global__ void __launch_bounds__(quantize_threads) dequantize_kernel(T* out, const uint8_t* messages, MessageLayout layout) {
    const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * quantize_width;
    if (i >= layout.n) return;
    const uint8_t* message = messages + int64_t{blockIdx.y} * layout.bytes;
    T* to = out + int64_t{blockIdx.y} * layout.n + i;
    float codes[quantize_width], x[quantize_width];
    load_codes<bits>(codes, message, i);
    if constexpr (add) load_floats(x, to);
    const float scale = layout.scale(message, i);
#pragma unroll
    for (int j = 0; j < quantize_width; j++) x[j] = add ? x[j] + __fmul_rn(codes[j], scale) : codes[j] * scale;
    store_floats(to, x);
}

template <int bits>
__global__ void __launch_bounds__(quantize_threads) reduce_dequantize_kernel(float* out, QuantSum<bits> sum, bool hadamard) {
    const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * quantize_width;
    float x[quantize_width] = {};
    if (i < sum.layout.n) sum.load(x, 0, i);
    if (hadamard) {
        rotate(x);
#pragma unroll
        for (int j = 0; j < quantize_width; j++) x[j] *= 1.0f / hadamard_side;
    }
    if (i < sum.layout.n) store_floats(out + i, x);
}

// ---- launching

template <class Body>
void dispatch_bits(const QuantFormat& format, Body&& body) {
    if (format.bits == 4) return body(std::integral_constant<int, 4>{});
    body(std::integral_constant<int, 8>{});
}

// Blocks of whole groups over n numbers, times messages.
struct QuantGrid {
    dim3 grid, block;
    QuantGrid(int64_t n, int64_t messages, int64_t group = 0) {
        const int64_t most = group / quantize_width > quantize_threads ? group / quantize_width : quantize_threads;
        block = dim3(threads_for(n / quantize_width, most));
        grid = grid_of(div_ceil(n, quantize_width * int64_t{block.x}));
        grid.y = static_cast<unsigned>(messages);
    }
};

template <class Source>
void encode_all(const Tensor& messages, const Source& source, int64_t n, int64_t across, int64_t peers, const QuantFormat& format,
                const QuantCode& code, const QuantNoise& noise, Stream& stream) {
    const QuantGrid over(n, across * peers, format.group);
    dispatch_bits(format, [&](auto b) {
        launch(quantize_kernel<Source, decltype(b)::value>, over.grid, over.block, 0, stream, messages.as<uint8_t>(), source,
               QuantPlaces{MessageLayout(n, format), across, peers}, code, noise);
    });
}

void quantize(Tensor messages, Tensor x, double factor, const QuantFormat& format, const QuantNoise& noise, Stream& stream) {
    const int64_t n = x.shape[static_cast<size_t>(x.rank - 1)], across = x.rank == 3 ? x.shape[0] : 1;
    dispatch_stored(x.dtype, [&]<class T>(T) {
        encode_all(messages, QuantValues<T>{x.as<T>(), n}, n, across, x.numel() / n / across, format, QuantCode(format, factor), noise,
                   stream);
    });
}

void quantize_difference(Tensor message, Tensor main, Tensor model, const QuantFormat& format, const QuantNoise& noise, Stream& stream) {
    dispatch_stored(model.dtype, [&]<class T>(T) {
        encode_all(message, QuantDifference<T>{main.as<float>(), model.as<T>()}, main.numel(), 1, 1, format, QuantCode(format, 1.0), noise,
                   stream);
    });
}

template <bool add>
void decode_all(const Tensor& out, const Tensor& messages, const QuantFormat& format, Stream& stream) {
    const int64_t n = out.shape[static_cast<size_t>(out.rank - 1)];
    const QuantGrid over(n, out.numel() / n);
    dispatch_stored(out.dtype, [&]<class T>(T) {
        dispatch_bits(format, [&](auto b) {
            launch(dequantize_kernel<T, decltype(b)::value, add>, over.grid, over.block, 0, stream, out.as<T>(), messages.as<uint8_t>(),
                   MessageLayout(n, format));
        });
    });
}
void dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream) {
    decode_all<false>(out, messages, format, stream);
}
void dequantize_add(Tensor model, Tensor messages, const QuantFormat& format, Stream& stream) {
    decode_all<true>(model, messages, format, stream);
}

void reduce_quantize(Tensor out, Tensor messages, const QuantFormat& from, const QuantFormat& to, const QuantNoise& noise, Stream& stream) {
    const int64_t shards = out.rows(), n = numbers_of(out.cols(), to);
    QuantCode code(to, 1.0);
    code.hadamard = false;  // the sum is rotated already
    dispatch_bits(from, [&](auto b) {
        const QuantSum<decltype(b)::value> sum{messages.as<uint8_t>(), messages.rows(), shards, MessageLayout(n, from)};
        encode_all(out, sum, n, 1, shards, to, code, noise, stream);
    });
}

void reduce_dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream) {
    const int64_t n = out.numel();
    const QuantGrid over(n, 1);
    dispatch_bits(format, [&](auto b) {
        constexpr int bits = decltype(b)::value;
        launch(reduce_dequantize_kernel<bits>, over.grid, over.block, 0, stream, out.as<float>(),
               QuantSum<bits>{messages.as<uint8_t>(), messages.rows(), 1, MessageLayout(n, format)}, format.hadamard);
    });
}

}  // namespace traincu::gpu
