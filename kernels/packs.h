// What the kernels share that move memory rather than multiply: the choice of the stored type, rows in packs of 16 bytes that are widened
// to float on the way, and an exponential as exact as the stored type can tell. For .cu files.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/launch.h"

namespace traincu::gpu {

// ---- on the host

// body(float{}) or body(bf16{}): what activations are stored in.
template <class Body>
void dispatch_stored(Dtype dtype, Body&& body) {
    if (dtype == Dtype::f32) return body(float{});
    ENSURE(dtype == Dtype::bf16);
    body(bf16{});
}

// body(float{}), body(bf16{}) or body(f16{}): what weights are stored in.
template <class Body>
void dispatch_weight(Dtype dtype, Body&& body) {
    if (dtype == Dtype::f16) return body(f16{});
    dispatch_stored(dtype, body);
}

// body(std::integral_constant<int, width>{}) with as many elements as 16 bytes hold, or with 1 where rows cannot be read so.
template <class T, class Body>
void dispatch_width(bool packed, Body&& body) {
    if (packed) return body(std::integral_constant<int, Pack<T>::size>{});
    body(std::integral_constant<int, 1>{});
}

// Do the tensors, all of their rows, begin at multiples of 16 bytes? Absent ones do.
inline bool pointers_aligned(std::initializer_list<Tensor> tensors) {
    for (const Tensor& t : tensors)
        if (reinterpret_cast<uintptr_t>(t.data) % 16 != 0) return false;
    return true;
}
inline bool rows_aligned(std::initializer_list<Tensor> tensors) {
    for (const Tensor& t : tensors)
        if (t.rank > 1 && t.rows() > 1 && t.row_stride * size_of(t.dtype) % 16 != 0) return false;
    return pointers_aligned(tensors);
}

// As many threads as `work`, in whole warps, between one warp and `most`.
inline unsigned threads_for(int64_t work, int64_t most) {
    const int64_t whole = div_ceil(work, 32) * 32;
    return static_cast<unsigned>(whole < 32 ? 32 : whole > most ? most : whole);
}

inline dim3 grid_of(int64_t blocks) {
    ENSURE(blocks > 0 && blocks < (int64_t{1} << 31));
    return dim3(static_cast<unsigned>(blocks));
}

// ---- on the device

// What 4 neighbours in bf16 are read as, beside 16 bytes of others in f32.
template <class T>
struct alignas(8) HalfPack {
    T values[8 / sizeof(T)];
};

// `width` neighbours: 1, or 8 bytes, or a multiple of 16.
template <int width, class T>
__device__ void load_floats(float (&x)[width], const T* from) {
    if constexpr (width == 1) {
        x[0] = to_float(*from);
    } else if constexpr (width * sizeof(T) == 8) {
        const HalfPack<T> pack = *reinterpret_cast<const HalfPack<T>*>(from);
        for (int i = 0; i < width; i++) x[i] = to_float(pack.values[i]);
    } else {
        for (int p = 0; p < width; p += Pack<T>::size) {
            const Pack<T> pack = load16(from + p);
            for (int i = 0; i < Pack<T>::size; i++) x[p + i] = to_float(pack[i]);
        }
    }
}
template <int width, class T>
__device__ void store_floats(T* to, const float (&x)[width]) {
    if constexpr (width == 1) {
        *to = from_float<T>(x[0]);
    } else if constexpr (width * sizeof(T) == 8) {
        HalfPack<T> pack;
        for (int i = 0; i < width; i++) pack.values[i] = from_float<T>(x[i]);
        *reinterpret_cast<HalfPack<T>*>(to) = pack;
    } else {
        for (int p = 0; p < width; p += Pack<T>::size) {
            Pack<T> pack;
            for (int i = 0; i < Pack<T>::size; i++) pack[i] = from_float<T>(x[p + i]);
            store16(to + p, pack);
        }
    }
}

// A warp's tree over `lanes` neighbours, a power of two: all of them get the sum.
inline __device__ float team_sum(float x, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
    return x;
}

// The last bits of expf() and of an exact division do not reach a bf16, and would take longer than the memory.
template <class T>
__device__ float exponential(float x) {
    if constexpr (std::is_same_v<T, bf16>) return __expf(x);
    return expf(x);
}
template <class T>
__device__ float reciprocal(float x) {
    if constexpr (std::is_same_v<T, bf16>) return __fdividef(1.0f, x);
    return 1.0f / x;
}

}  // namespace traincu::gpu
