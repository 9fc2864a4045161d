// The wrappers of kernels/launch.h for the SIMT runner. Included by launch.h alone, which says what they do.
#pragma once

#include <memory>
#include <tuple>
#include <utility>

namespace traincu::simt {

// Puts a launch in line; the arguments live in `call`, which begins with the kernel's pointer.
void enqueue_kernel(const void* kernel, dim3 grid, dim3 block, int64_t shared_bytes, gpu::StreamHandle stream, std::shared_ptr<void> call,
                    int64_t call_bytes, void (*invoke)(const void*));

void* dynamic_shared();
void* static_shared(const void* key, int64_t bytes, int64_t alignment);
void check_aligned(const void* address, int64_t alignment, const std::source_location& at);

void ldmatrix(uint32_t (&r)[4], const void* row, bool transposed, const std::source_location& at);
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16, const std::source_location& at);
void async_copy16(void* to, const void* from, bool valid, const std::source_location& at);
void async_commit();
void async_wait(int groups);

template <class... Params>
struct Call {
    void (*kernel)(Params...);
    std::tuple<Params...> arguments;
    static void invoke(const void* call) {
        const Call& self = *static_cast<const Call*>(call);
        std::apply(self.kernel, self.arguments);
    }
};

}  // namespace traincu::simt

#define TRAINCU_SIMT_HERE const std::source_location& at = std::source_location::current()

namespace traincu::gpu {

// ---- launching

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, int64_t shared_bytes, const Stream& stream, Args&&... args) {
    static_assert((sizeof(Params) + ... + 0) <= 4096, "parameters of a kernel: 4 KB at most");
    using Call = simt::Call<Params...>;
    auto call = std::make_shared<Call>(kernel, std::tuple<Params...>(std::forward<Args>(args)...));
    simt::enqueue_kernel(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream.handle(), call, sizeof(Call),
                         &Call::invoke);
}

// ---- shared memory

template <class T>
T* shared() {
    return static_cast<T*>(simt::dynamic_shared());
}
template <class T, int n, int tag>
inline constexpr char shared_array_key = 0;
template <class T, int n, int tag = 0>
T (&shared_array())
[n] {
    return *static_cast<T(*)[n]>(simt::static_shared(&shared_array_key<T, n, tag>, sizeof(T) * n, alignof(T) > 16 ? alignof(T) : 16));
}

// ---- 16-byte accesses, inline so that a failure names the line of the kernel

template <class T>
struct alignas(16) Pack {
    static constexpr int size = 16 / sizeof(T);
    T values[size];
    T& operator[](int i) { return values[i]; }
    const T& operator[](int i) const { return values[i]; }
};

typedef uint32_t Bits16 __attribute__((vector_size(16), may_alias));  // with volatile: one access, that stays one

template <class T>
__forceinline__ Pack<T> load16(const T* from, TRAINCU_SIMT_HERE) {
    simt::check_aligned(from, 16, at);
    return std::bit_cast<Pack<T>>(*reinterpret_cast<const volatile Bits16*>(from));
}
template <class T>
__forceinline__ Pack<T> load16_streaming(const T* from, TRAINCU_SIMT_HERE) {
    return load16(from, at);
}
template <class T>
__forceinline__ void store16(T* to, const Pack<T>& pack, TRAINCU_SIMT_HERE) {
    simt::check_aligned(to, 16, at);
    *reinterpret_cast<volatile Bits16*>(to) = std::bit_cast<Bits16>(pack);
}
template <class T>
__forceinline__ void store16_streaming(T* to, const Pack<T>& pack, TRAINCU_SIMT_HERE) {
    store16(to, pack, at);
}

// ---- types

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return bf16_to_float(x.bits); }
inline float to_float(f16 x) { return half_to_float(x.bits); }

template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline bf16 from_float<bf16>(float x) {
    return {float_to_bf16(x)};
}
template <>
inline f16 from_float<f16>(float x) {
    return {float_to_half(x)};
}
inline uint32_t pack_bf16x2(float low, float high) { return static_cast<uint32_t>(float_to_bf16(high)) << 16 | float_to_bf16(low); }

// ---- tensor cores

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, TRAINCU_SIMT_HERE) { simt::ldmatrix(r, row, false, at); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, TRAINCU_SIMT_HERE) { simt::ldmatrix(r, row, true, at); }

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], TRAINCU_SIMT_HERE) {
    static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>);
    simt::mma(d, a, b, std::is_same_v<T, bf16>, at);
}

// ---- copies from global to shared memory

inline void cp_async16(void* to, const void* from, bool valid, TRAINCU_SIMT_HERE) { simt::async_copy16(to, from, valid, at); }
inline void cp_async_commit() { simt::async_commit(); }
template <int n>
void cp_async_wait() {
    simt::async_wait(n);
}

}  // namespace traincu::gpu

#undef TRAINCU_SIMT_HERE
