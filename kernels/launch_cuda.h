// The wrappers of launch.h for the GPU. Included by launch.h alone, which says what they do.
#pragma once

#include <string>
#include <utility>

namespace traincu::gpu {

// ---- launching

[[noreturn]] void launch_failed(const void* kernel, cudaError_t error);  // src/device/gpu.cpp

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, int64_t shared_bytes, const Stream& stream, Args&&... args) {
    const void* function = reinterpret_cast<const void*>(kernel);
    if (shared_bytes > shared_asked_from) {
        const cudaError_t error =
            cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (error != cudaSuccess) launch_failed(function, error);
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream.handle();
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
    if (error != cudaSuccess) launch_failed(function, error);
}

// ---- shared memory

template <class T>
__device__ T* shared() {
    extern __shared__ __align__(1024) unsigned char bytes[];
    return reinterpret_cast<T*>(bytes);
}
template <class T, int n, int tag = 0>
__device__ T (&shared_array())[n] {
    __shared__ __align__(16) T array[n];
    return array;
}

// ---- 16-byte accesses

template <class T>
struct alignas(16) Pack {
    static constexpr int size = 16 / sizeof(T);
    T values[size];
    __device__ T& operator[](int i) { return values[i]; }
    __device__ const T& operator[](int i) const { return values[i]; }
};

template <class T>
__device__ Pack<T> load16(const T* from) {
    const int4 bits = *reinterpret_cast<const int4*>(from);  // as one word: the compiler might take a struct apart
    return *reinterpret_cast<const Pack<T>*>(&bits);
}
template <class T>
__device__ Pack<T> load16_streaming(const T* from) {
    const int4 bits = __ldcs(reinterpret_cast<const int4*>(from));
    return *reinterpret_cast<const Pack<T>*>(&bits);
}
template <class T>
__device__ void store16(T* to, const Pack<T>& pack) {
    *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(&pack);
}
template <class T>
__device__ void store16_streaming(T* to, const Pack<T>& pack) {
    __stcs(reinterpret_cast<int4*>(to), *reinterpret_cast<const int4*>(&pack));
}

// ---- types

inline __device__ float to_float(float x) { return x; }
inline __device__ float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

inline __device__ float to_float(f16 x) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
    return result;
}

template <class T>
__device__ T from_float(float x);
template <>
inline __device__ float from_float<float>(float x) {
    return x;
}
template <>
inline __device__ bf16 from_float<bf16>(float x) {
    bf16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
}
template <>
inline __device__ f16 from_float<f16>(float x) {
    f16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
}
inline __device__ uint32_t pack_bf16x2(float low, float high) {
    uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

// ---- tensor cores (sm_80 and up)

// Four 8x8 matrices of 16-bit numbers: lane 8 i + r gives the address of row r of matrix i; lane l receives from each the elements 2 (l % 4), + 1
// of row l / 4.
inline __device__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
// The same with each matrix transposed on the way.
inline __device__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// d (16,8) += a (16,16) b (16,8). With g = lane / 4 and c = 2 (lane % 4), a lane holds, two neighbours of a row in a register:
//   a[0] = (g, c)  a[1] = (g+8, c)  a[2] = (g, c+8)  a[3] = (g+8, c+8)      b[0] = (c, g), (c+1, g)  b[1] = (c+8, g), (c+9, g)
//   d[0], d[1] = (g, c), (g, c+1)   d[2], d[3] = (g+8, c), (g+8, c+1)
template <class T>
__device__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
inline __device__ void mma_m16n8k16<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
inline __device__ void mma_m16n8k16<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- copies from global to shared memory that run beside the computation (sm_80 and up)

inline __device__ void cp_async16(void* to, const void* from, bool valid) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
inline __device__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n>
__device__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

}  // namespace traincu::gpu
