// <cuda_runtime.h> for kernels that g++ compiles and the SIMT runner executes: as much of CUDA C++ as the kernels use. What is a collective
// or a barrier is implemented in tests/simt/runner.cpp, atomics in tests/simt/atomics.cpp; the rest is arithmetic and stands here.
#pragma once

#include <algorithm>
#include <bit>
#include <math.h>  // CUDA has these names in the global namespace too: isfinite(), ...

#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// ---- vector types

#define TRAINCU_SIMT_VECTOR(T, name, alignment)                                          \
    struct alignas(2 * alignment) name##2 {                                              \
        T x, y;                                                                          \
    };                                                                                   \
    struct name##3 {                                                                     \
        T x, y, z;                                                                       \
    };                                                                                   \
    struct alignas(4 * alignment > 16 ? 16 : 4 * alignment) name##4 {                    \
        T x, y, z, w;                                                                    \
    };                                                                                   \
    static_assert(sizeof(name##2) == 2 * sizeof(T) && sizeof(name##4) == 4 * sizeof(T)); \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                           \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                   \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
TRAINCU_SIMT_VECTOR(float, float, 4)
TRAINCU_SIMT_VECTOR(int, int, 4)
TRAINCU_SIMT_VECTOR(unsigned, uint, 4)
TRAINCU_SIMT_VECTOR(short, short, 2)
TRAINCU_SIMT_VECTOR(unsigned short, ushort, 2)
TRAINCU_SIMT_VECTOR(unsigned char, uchar, 1)
TRAINCU_SIMT_VECTOR(double, double, 8)
TRAINCU_SIMT_VECTOR(long long, longlong, 8)
TRAINCU_SIMT_VECTOR(unsigned long long, ulonglong, 8)
#undef TRAINCU_SIMT_VECTOR

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// ---- where a thread stands: set by the runner whenever it switches

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- barriers and collectives

namespace traincu::simt {
enum class Shuffle { index, up, down, bits };
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int operand, int width, const char* what, const std::source_location& at);
unsigned ballot(unsigned mask, bool predicate, const char* what, const std::source_location& at);
unsigned match_any(unsigned mask, uint64_t value, const std::source_location& at);
void warp_barrier(unsigned mask, const std::source_location& at);
void block_barrier(const char* what, const std::source_location& at);
enum class Vote { any, all, count };
int block_vote(Vote vote, int predicate, const char* what, const std::source_location& at);

template <class T>
T shuffle_as(Shuffle kind, unsigned mask, T value, int operand, int width, const char* what, const std::source_location& at) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = shuffle(kind, mask, bits, operand, width, what, at);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
}  // namespace traincu::simt

#define TRAINCU_SIMT_HERE const std::source_location& at = std::source_location::current()
inline void __syncthreads(TRAINCU_SIMT_HERE) { traincu::simt::block_barrier("__syncthreads", at); }
inline int __syncthreads_or(int p, TRAINCU_SIMT_HERE) {
    return traincu::simt::block_vote(traincu::simt::Vote::any, p, "__syncthreads_or", at);
}
inline int __syncthreads_and(int p, TRAINCU_SIMT_HERE) {
    return traincu::simt::block_vote(traincu::simt::Vote::all, p, "__syncthreads_and", at);
}
inline int __syncthreads_count(int p, TRAINCU_SIMT_HERE) {
    return traincu::simt::block_vote(traincu::simt::Vote::count, p, "__syncthreads_count", at);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, TRAINCU_SIMT_HERE) { traincu::simt::warp_barrier(mask, at); }
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, TRAINCU_SIMT_HERE) {
    return traincu::simt::shuffle_as(traincu::simt::Shuffle::index, mask, value, source, width, "__shfl_sync", at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, TRAINCU_SIMT_HERE) {
    return traincu::simt::shuffle_as(traincu::simt::Shuffle::up, mask, value, static_cast<int>(delta), width, "__shfl_up_sync", at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, TRAINCU_SIMT_HERE) {
    return traincu::simt::shuffle_as(traincu::simt::Shuffle::down, mask, value, static_cast<int>(delta), width, "__shfl_down_sync", at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, TRAINCU_SIMT_HERE) {
    return traincu::simt::shuffle_as(traincu::simt::Shuffle::bits, mask, value, bits, width, "__shfl_xor_sync", at);
}
inline unsigned __ballot_sync(unsigned mask, int p, TRAINCU_SIMT_HERE) { return traincu::simt::ballot(mask, p != 0, "__ballot_sync", at); }
inline int __any_sync(unsigned mask, int p, TRAINCU_SIMT_HERE) { return traincu::simt::ballot(mask, p != 0, "__any_sync", at) != 0; }
inline int __all_sync(unsigned mask, int p, TRAINCU_SIMT_HERE) { return traincu::simt::ballot(mask, p != 0, "__all_sync", at) == mask; }
template <class T>
unsigned __match_any_sync(unsigned mask, T value, TRAINCU_SIMT_HERE) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return traincu::simt::match_any(mask, bits, at);
}
#undef TRAINCU_SIMT_HERE

// ---- memory: order, atomics, hints

void __threadfence();
void __threadfence_block();

int atomicAdd(int* address, int value);
unsigned atomicAdd(unsigned* address, unsigned value);
unsigned long long atomicAdd(unsigned long long* address, unsigned long long value);
float atomicAdd(float* address, float value);
double atomicAdd(double* address, double value);
int atomicMax(int* address, int value);
unsigned atomicMax(unsigned* address, unsigned value);
int atomicMin(int* address, int value);
unsigned atomicMin(unsigned* address, unsigned value);
int atomicExch(int* address, int value);
unsigned atomicExch(unsigned* address, unsigned value);
int atomicCAS(int* address, int compare, int value);
unsigned atomicCAS(unsigned* address, unsigned compare, unsigned value);
unsigned long long atomicCAS(unsigned long long* address, unsigned long long compare, unsigned long long value);
unsigned atomicInc(unsigned* address, unsigned limit);
unsigned atomicOr(unsigned* address, unsigned value);

template <class T>
__forceinline__ T __ldg(const T* address) {
    return *address;
}
template <class T>
__forceinline__ T __ldcs(const T* address) {
    return *address;
}
template <class T>
__forceinline__ T __ldcg(const T* address) {
    return *address;
}
template <class T>
__forceinline__ T __ldca(const T* address) {
    return *address;
}
template <class T>
__forceinline__ void __stcs(T* address, T value) {
    *address = value;
}
template <class T>
__forceinline__ void __stcg(T* address, T value) {
    *address = value;
}
template <class T>
__forceinline__ void __stwt(T* address, T value) {
    *address = value;
}

// ---- arithmetic. The approximations of the hardware (__expf and the like) are exact here: tolerances must not need them to be wrong.

using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.0f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }  // NaN gives 0, as on the card
// Never contracted into an FMA: that is what these are for.
[[gnu::noinline]] float __fmul_rn(float x, float y);
[[gnu::noinline]] float __fadd_rn(float x, float y);
[[gnu::noinline]] float __fsub_rn(float x, float y);
[[gnu::noinline]] double __dmul_rn(double x, double y);
[[gnu::noinline]] double __dadd_rn(double x, double y);

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(std::floor(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int bit = 0; bit < 32; bit++) result |= (x >> bit & 1u) << (31 - bit);
    return result;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(static_cast<uint64_t>(x) * y >> 32); }
inline int __mulhi(int x, int y) { return static_cast<int>(static_cast<int64_t>(x) * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned nibble = selector >> 4 * i & 15u;
        unsigned byte = static_cast<unsigned>(bytes >> 8 * (nibble & 7)) & 0xFFu;
        if (nibble & 8) byte = byte & 0x80u ? 0xFFu : 0;
        result |= byte << 8 * i;
    }
    return result;
}
