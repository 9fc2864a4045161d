// Quantisation of what ranks send to one another: 4 or 8 bits a number, and a scale for each group of neighbours.
//
//   a = max |x| over a group,  L = 2^(bits-1) - 1,  k = L / a,  code = round(k x) clamped to [-L-1, L],  scale = factor / k
//   decoded: code * scale, close to factor * x                         (factor: 1 / ranks, to average a sum)
// a < 1e-30: codes 0, scale 1. A NaN or an infinity in a group: codes 0, scale NaN (0x7FC00000), so the whole group decodes to NaN: what
// went wrong on one rank is seen by whoever decodes it, after any number of hops and sums, without a flag of its own.
//
// Rounding: to the nearest, of two to the even code; or stochastic, so that the mean of many roundings is v = k x: with lo = floor(v), up
// if u < v - lo, where u = (r + 0.5) / 65536 and r are 16 random bits. They are a function of what QuantNoise says and of nothing else:
//   number i of shard s has index = first + s * stride + i;  r = half index % 2 (0: the lower) of word index / 2 % 4 of Philox at
//   (seed, RandomStream::quantization, step, index / 8 + 2^44 * (hop * 2^16 + rank))
// Two messages of a step never meet the same bits while their (hop, rank) or their indices differ. The index is that of the number in
// what is sent as a whole, so that cutting it into pieces (first moves on, stride stays) changes no bit.
//
// sixteen_levels: k = 8 / a, to the nearest, 4 bits: the largest number of a group, if positive, is clamped to 7/8 of itself (ZeRO++).
// hadamard: every 32 numbers are multiplied by H, the Sylvester matrix of +-1 (butterflies of 1, 2, 4, 8, 16), before they are encoded: an
// outlier is shared out over 32 numbers of equal size, and the group's scale shrinks. H is linear, so sums stay in the rotated domain; it
// is undone by H / 32 once, at the end.
//
// A message of n numbers, n a multiple of group: the codes, n * bits / 8 bytes, two's complement, of 4 bits the even one in the upper half
// of a byte; n / group scales, f32; zeros up to a multiple of 16 bytes.
//
// Shapes. messages: u8, `bytes` = message_bytes(n, format). Everything is contiguous and begins at a multiple of 16 bytes.
//   quantize             messages (bytes) of x (n) f32 or bf16, or (P,bytes) of (P,n), or (m,M,bytes) of (M,m,n): shards in the order of
//                        ranks, node by node, become the messages for each of a node's m ranks, side by side
//   quantize_difference  message (bytes) of main (n) f32 - model (n) f32 or bf16, in f32
//   dequantize           out (P,n) f32 or bf16 from messages (P,bytes)
//   dequantize_add       model (P,n) f32 or bf16 += messages (P,bytes), in f32, then rounded to the nearest even
//   reduce_quantize      out (M,bytes) = messages (m,M,bytes) decoded, summed over m, encoded again
//   reduce_dequantize    out (n) f32 = messages (M,bytes) decoded, summed over M, rotated back if hadamard
// Sums are f32, from 0, in the order of the messages.
//
// The same bits for any number of threads, on CPU and GPU: no product is fused with an addition (so numbers that cancel leave exactly 0),
// and a maximum has no order. Only which NaN a decoded NaN is may differ.
//
// Bytes per number: what is read and written. With groups of 128: quantize to 8 bits from f32 5.03, reduce_quantize of m messages of 8 bits
// to 4 bits 1.03 m + 0.53; dequantize_add of 4 bits to bf16 4.5. FLOPs: ~6, 5 more with hadamard; by chance ~15 integer operations more.
//
// Source: SDP4Bit (Jia et al. 2024): two hops, the difference of weights, H; ZeRO++ (Wang et al. 2023): sixteen_levels.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

struct QuantFormat {
    enum Rounding { nearest, stochastic };

    int bits = 8;         // 4 or 8
    int64_t group = 128;  // numbers that share a scale: a power of two, 32 to 8192
    Rounding rounding = nearest;
    bool hadamard = false;
    bool sixteen_levels = false;
};

// Which random bits stochastic rounding takes.
struct QuantNoise {
    uint64_t seed = 0;
    uint32_t step = 0;
    int hop = 0, rank = 0;          // in which exchange of a step, and who sends: below 16, below 65536
    int64_t first = 0, stride = 0;  // of the numbers' indices, below 2^47: multiples of 8
};

constexpr int64_t group_bytes(const QuantFormat& f) { return f.group * f.bits / 8 + 4; }
constexpr int64_t message_bytes(int64_t n, const QuantFormat& f) { return round_up(n / f.group * group_bytes(f), 16); }
// The n of a message: the padding is shorter than a group.
constexpr int64_t numbers_of(int64_t bytes, const QuantFormat& f) { return bytes / group_bytes(f) * f.group; }

void quantize(Tensor messages, Tensor x, double factor, const QuantFormat& format, const QuantNoise& noise, Stream& stream);
void quantize_difference(Tensor message, Tensor main, Tensor model, const QuantFormat& format, const QuantNoise& noise, Stream& stream);
void dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream);
void dequantize_add(Tensor model, Tensor messages, const QuantFormat& format, Stream& stream);
void reduce_quantize(Tensor out, Tensor messages, const QuantFormat& from, const QuantFormat& to, const QuantNoise& noise, Stream& stream);
void reduce_dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream);

namespace gpu {
TRAINCU_GPU void quantize(Tensor messages, Tensor x, double factor, const QuantFormat& format, const QuantNoise& noise, Stream& stream);
TRAINCU_GPU void quantize_difference(Tensor message, Tensor main, Tensor model, const QuantFormat& format, const QuantNoise& noise,
                                     Stream& stream);
TRAINCU_GPU void dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream);
TRAINCU_GPU void dequantize_add(Tensor model, Tensor messages, const QuantFormat& format, Stream& stream);
TRAINCU_GPU void reduce_quantize(Tensor out, Tensor messages, const QuantFormat& from, const QuantFormat& to, const QuantNoise& noise,
                                 Stream& stream);
TRAINCU_GPU void reduce_dequantize(Tensor out, Tensor messages, const QuantFormat& format, Stream& stream);
}  // namespace gpu

// What both sides compute with.
struct QuantCode {
    float levels, factor;  // k = levels / a, scale = factor / k
    float low, high;       // of the codes
    bool stochastic, hadamard;
    QuantCode(const QuantFormat& f, double factor_)
        : levels(f.sixteen_levels ? 8
                 : f.bits == 4    ? 7
                                  : 127),
          factor(static_cast<float>(factor_)),
          low(f.bits == 4 ? -8 : -128),
          high(f.bits == 4 ? 7 : 127),
          stochastic(f.rounding == QuantFormat::stochastic),
          hadamard(f.hadamard) {}
};
constexpr int hadamard_side = 32;
constexpr float least_magnitude = 1e-30f;                     // of a group that is not all zeros
constexpr uint32_t infinity_bits = 0x7F800000u;               // |x| as bits: from here on infinite or NaN
constexpr uint32_t quant_nan_bits = 0x7FC00000u;              // the scale of such a group
constexpr uint64_t quant_index_of(const QuantNoise& noise) {  // what is added to index / 8
    return static_cast<uint64_t>(noise.hop << 16 | noise.rank) << 44;
}

}  // namespace traincu
