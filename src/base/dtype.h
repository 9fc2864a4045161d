// Element types. A tensor carries its type at run time; kernels are templates chosen by dispatch().
#pragma once

#include <bit>
#include <cstdint>

#include "src/base/error.h"

namespace traincu {

enum class Dtype { f64, f32, bf16, i32, i64 };  // f64: checks, and sums over whole tensors; bf16: storage, on the GPU

// What a bf16 computes in: it is only stored. The upper half of an fp32.
struct bf16 {
    uint16_t bits;
};

constexpr int64_t size_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::f64:
            return 8;
        case Dtype::f32:
            return 4;
        case Dtype::bf16:
            return 2;
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
