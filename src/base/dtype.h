// Element types. A tensor carries its type at run time; kernels are templates chosen by dispatch().
#pragma once

#include <bit>
#include <cstdint>

#include "src/base/error.h"

namespace traincu {

// f64: checks, and sums over whole tensors. bf16: weights and activations. f16: weights alone. i16: the lower halves of split masters.
// u8: bytes of several types.
enum class Dtype { f64, f32, bf16, f16, i16, i32, i64, u8 };

// The 16-bit types are stored, not computed in. bf16: the upper half of an fp32.
struct bf16 {
    uint16_t bits;
};
struct f16 {  // IEEE binary16: 11 bits of precision, largest number 65504, smallest normal one 2^-14
    uint16_t bits;
};

constexpr int64_t size_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::f64:
            return 8;
        case Dtype::f32:
            return 4;
        case Dtype::bf16:
        case Dtype::f16:
        case Dtype::i16:
            return 2;
        case Dtype::u8:
            return 1;
        case Dtype::i32:
            return 4;
        case Dtype::i64:
            return 8;
    }
    return 0;
}

constexpr const char* name_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::f64:
            return "f64";
        case Dtype::f32:
            return "f32";
        case Dtype::bf16:
            return "bf16";
        case Dtype::f16:
            return "f16";
        case Dtype::i16:
            return "i16";
        case Dtype::u8:
            return "u8";
        case Dtype::i32:
            return "i32";
        case Dtype::i64:
            return "i64";
    }
    return "?";
}

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<double> {
    static constexpr Dtype value = Dtype::f64;
};
template <>
struct DtypeOf<float> {
    static constexpr Dtype value = Dtype::f32;
};
template <>
struct DtypeOf<int32_t> {
    static constexpr Dtype value = Dtype::i32;
};

template <>
struct DtypeOf<bf16> {
    static constexpr Dtype value = Dtype::bf16;
};
template <>
struct DtypeOf<f16> {
    static constexpr Dtype value = Dtype::f16;
};
template <>
struct DtypeOf<int16_t> {
    static constexpr Dtype value = Dtype::i16;
};
template <>
struct DtypeOf<uint8_t> {
    static constexpr Dtype value = Dtype::u8;
};
template <>
struct DtypeOf<int64_t> {
    static constexpr Dtype value = Dtype::i64;
};

// The type of what is summed or saved beside activations of a type: row statistics, losses, gradients of weights.
constexpr Dtype statistics_of(Dtype activations) { return activations == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

// bf16 is the upper half of an fp32: widening is exact.
inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Rounded to the nearest, to the even one of two. A large value may become infinite; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | ((bits & 0x007F0000) ? 0 : 1));
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// IEEE binary16: widening is exact.
inline float half_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13);             // infinity, NaN
    if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);  // bias 15 becomes 127
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;                                 // subnormal in 16 bits, normal in 32
    return sign ? -magnitude : magnitude;
}

// Rounded to the nearest, to the even one of two; from 65520 on that is infinity. NaN stays NaN.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) {
        const uint32_t payload = magnitude >> 13 & 0x3FF;
        return static_cast<uint16_t>(sign | 0x7C00 | (payload ? payload : 1));
    }
    if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
    if (magnitude < 0x38800000) {                                         // below 2^-14: a multiple of 2^-24; the addition rounds
        const float shifted = std::bit_cast<float>(magnitude) + 0x1p-1f;  // 0.5 has 24 bits of fraction down to 2^-24
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) & 0x7FF));
    }
    const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);    // half a step, and to the even one of two
    return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));  // bias 127 becomes 15
}

// A stored number as the CPU computes with it: exact. And back: rounded to the nearest.
inline double widened(double x) { return x; }
inline float widened(float x) { return x; }
inline float widened(bf16 x) { return bf16_to_float(x.bits); }
inline float widened(f16 x) { return half_to_float(x.bits); }
template <class T>
T narrowed(float x) {
    return x;
}
template <>
inline bf16 narrowed<bf16>(float x) {
    return {float_to_bf16(x)};
}
template <>
inline f16 narrowed<f16>(float x) {
    return {float_to_half(x)};
}

constexpr bool is_16_bit(Dtype dtype) { return dtype == Dtype::bf16 || dtype == Dtype::f16; }

// Calls body(float{}) or body(double{}): the CPU's two compute types.
template <class Body>
void dispatch_real(Dtype dtype, Body&& body) {
    switch (dtype) {
        case Dtype::f32:
            body(float{});
            return;
        case Dtype::f64:
            body(double{});
            return;
        default:
            ENSURE(!"a CPU kernel computes in f32 or f64");
    }
}

}  // namespace traincu
