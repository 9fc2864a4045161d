// The wrappers of kernels/hopper.h for the SIMT runner. Included by hopper.h alone, which says what they do.
#pragma once

#include <cmath>
#include <initializer_list>
#include <vector>

namespace traincu::simt {

using Where = std::source_location;

void encode_tensor_map(unsigned char (&bits)[128], const void* memory, Dtype dtype, std::initializer_list<int64_t> sizes,
                       std::initializer_list<int64_t> byte_strides, std::initializer_list<int> box);
void mbarrier_init(uint64_t* barrier, int arrivals, const Where& at);
void mbarrier_fence();
void mbarrier_arrive(uint64_t* barrier, int bytes, const Where& at);
void mbarrier_wait(uint64_t* barrier, int parity, const Where& at);
void tma_load(void* panel, const unsigned char (&map)[128], std::initializer_list<int> at_element, uint64_t* barrier, const Where& at);
void tma_store(const unsigned char (&map)[128], std::initializer_list<int> at_element, const void* panel, const Where& at);
void tma_store_commit();
void tma_store_wait(int groups, const Where& at);
void fence_async();
uint64_t wgmma_operand(const void* panel, int panel_bytes, const Where& at);
struct Wgmma {
    int columns;
    uint64_t a;              // if a is in shared memory
    const uint32_t* a_regs;  // else these
    uint64_t b;
    bool a_transposed, b_transposed, accumulate;
};
void wgmma(float* d, const Wgmma& product, const Where& at);
void wgmma_fence(std::initializer_list<const void*> arrays);
void wgmma_commit();
void wgmma_wait(int groups, std::initializer_list<const void*> arrays);
void named_barrier(int id, int threads, bool wait, const Where& at);

}  // namespace traincu::simt

#define TRAINCU_SIMT_HERE const std::source_location& at = std::source_location::current()

namespace traincu::gpu {

inline TensorMap tensor_map(const void* memory, Dtype dtype, std::initializer_list<int64_t> sizes,
                            std::initializer_list<int64_t> byte_strides, std::initializer_list<int> box) {
    TensorMap map;
    simt::encode_tensor_map(map.bits, memory, dtype, sizes, byte_strides, box);
    return map;
}

inline void mbarrier_init(uint64_t* barrier, int arrivals, TRAINCU_SIMT_HERE) { simt::mbarrier_init(barrier, arrivals, at); }
inline void fence_mbarrier_init() { simt::mbarrier_fence(); }
inline void mbarrier_arrive(uint64_t* barrier, TRAINCU_SIMT_HERE) { simt::mbarrier_arrive(barrier, 0, at); }
inline void mbarrier_arrive_expect(uint64_t* barrier, int bytes, TRAINCU_SIMT_HERE) { simt::mbarrier_arrive(barrier, bytes, at); }
inline void mbarrier_wait(uint64_t* barrier, int parity, TRAINCU_SIMT_HERE) { simt::mbarrier_wait(barrier, parity, at); }

inline void tma_load(void* panel, const TensorMap* map, int x, int y, uint64_t* barrier, TRAINCU_SIMT_HERE) {
    simt::tma_load(panel, map->bits, {x, y}, barrier, at);
}
inline void tma_load(void* panel, const TensorMap* map, int x, int y, int z, uint64_t* barrier, TRAINCU_SIMT_HERE) {
    simt::tma_load(panel, map->bits, {x, y, z}, barrier, at);
}
inline void tma_store(const TensorMap* map, int x, int y, const void* panel, TRAINCU_SIMT_HERE) {
    simt::tma_store(map->bits, {x, y}, panel, at);
}
inline void tma_store(const TensorMap* map, int x, int y, int z, const void* panel, TRAINCU_SIMT_HERE) {
    simt::tma_store(map->bits, {x, y, z}, panel, at);
}
inline void tma_store_commit() { simt::tma_store_commit(); }
template <int n>
void tma_store_wait(TRAINCU_SIMT_HERE) {
    simt::tma_store_wait(n, at);
}
inline void fence_proxy_async() { simt::fence_async(); }

inline uint64_t wgmma_operand(const void* panel, int panel_bytes, TRAINCU_SIMT_HERE) { return simt::wgmma_operand(panel, panel_bytes, at); }
inline uint64_t wgmma_advance(uint64_t operand, int bytes) { return operand + static_cast<uint64_t>(bytes >> 4); }
template <int columns, bool a_transposed, bool b_transposed>
void wgmma_m64k16(float (&d)[columns / 2], uint64_t a, uint64_t b, bool accumulate, TRAINCU_SIMT_HERE) {
    static_assert(columns % 32 == 0 && columns >= 32 && columns <= 256);
    simt::wgmma(d, {columns, a, nullptr, b, a_transposed, b_transposed, accumulate}, at);
}
template <int columns, bool b_transposed>
void wgmma_m64k16(float (&d)[columns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate, TRAINCU_SIMT_HERE) {
    static_assert(columns % 32 == 0 && columns >= 32 && columns <= 256);
    simt::wgmma(d, {columns, 0, a, b, false, b_transposed, accumulate}, at);
}
template <class... Arrays>
void wgmma_fence(Arrays&... arrays) {
    simt::wgmma_fence({arrays...});
}
inline void wgmma_commit() { simt::wgmma_commit(); }
template <int n, class... Arrays>
__forceinline__ void wgmma_wait(Arrays&... arrays) {
    simt::wgmma_wait(n, {arrays...});
}

inline void named_barrier_sync(int id, int threads, TRAINCU_SIMT_HERE) { simt::named_barrier(id, threads, true, at); }
inline void named_barrier_arrive(int id, int threads, TRAINCU_SIMT_HERE) { simt::named_barrier(id, threads, false, at); }
inline float exp2_approximate(float x) {
    const float result = std::exp2(x);
    return result < 0x1p-126f ? 0.0f : result;
}
template <int n>
void registers_release() {
    static_assert(n % 8 == 0 && n >= 24 && n <= 256);
}
template <int n>
void registers_claim() {
    static_assert(n % 8 == 0 && n >= 24 && n <= 256);
}

}  // namespace traincu::gpu

#undef TRAINCU_SIMT_HERE
