// The wrappers of hopper.h for the GPU. Included by hopper.h alone, which says what they do.
#pragma once

#include <cuda.h>

#include <string>

namespace traincu::gpu {

// Of the architectures of a build, sm_90a alone has these instructions.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define TRAINCU_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else
#define TRAINCU_HOPPER_ASM(...) __trap()
#endif

// ---- host: tensor maps, made by the driver

inline TensorMap tensor_map(const void* memory, Dtype dtype, std::initializer_list<int64_t> sizes,
                            std::initializer_list<int64_t> byte_strides, std::initializer_list<int> box) {
    ENSURE((dtype == Dtype::bf16 || dtype == Dtype::f32) && (sizes.size() == 2 || sizes.size() == 3));
    ENSURE(byte_strides.size() + 1 == sizes.size() && box.size() == sizes.size() && *box.begin() * size_of(dtype) == panel_row_bytes);
    using Encode = decltype(&cuTensorMapEncodeTiled);
    static const Encode encode = [] {
        void* function = nullptr;
        cudaDriverEntryPointQueryResult found;
        const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
        if (error != cudaSuccess || found != cudaDriverEntryPointSuccess)
            throw Error(ExitCode::hardware, "the driver has no cuTensorMapEncodeTiled", "it needs a driver of CUDA 12 or later");
        return reinterpret_cast<Encode>(function);
    }();
    cuuint64_t size[3], stride[2];
    cuuint32_t side[3], step[3] = {1, 1, 1};
    for (size_t i = 0; i < sizes.size(); i++)
        size[i] = static_cast<cuuint64_t>(sizes.begin()[i]), side[i] = static_cast<cuuint32_t>(box.begin()[i]);
    for (size_t i = 0; i < byte_strides.size(); i++) stride[i] = static_cast<cuuint64_t>(byte_strides.begin()[i]);
    TensorMap map;
    static_assert(sizeof map == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
    const CUresult result = encode(
        reinterpret_cast<CUtensorMap*>(&map), dtype == Dtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        static_cast<cuuint32_t>(sizes.size()), const_cast<void*>(memory), size, stride, side, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        throw Error(ExitCode::hardware, format("the driver refuses a tensor map (error %d)", static_cast<int>(result)));
    return map;
}

inline __device__ uint32_t shared_address(const void* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); }

// ---- mbarriers

inline __device__ void mbarrier_init(uint64_t* barrier, int arrivals) {
    TRAINCU_HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
inline __device__ void fence_mbarrier_init() { TRAINCU_HOPPER_ASM("fence.mbarrier_init.release.cluster;" ::: "memory"); }
inline __device__ void mbarrier_arrive(uint64_t* barrier) {
    TRAINCU_HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
inline __device__ void mbarrier_arrive_expect(uint64_t* barrier, int bytes) {
    TRAINCU_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
inline __device__ void mbarrier_wait(uint64_t* barrier, int parity) {
    uint32_t past = 0;
    while (!past)
        TRAINCU_HOPPER_ASM("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                           : "=r"(past)
                           : "r"(shared_address(barrier)), "r"(parity)
                           : "memory");
}

// ---- TMA

inline __device__ void tma_load(void* panel, const TensorMap* map, int x, int y, uint64_t* barrier) {
    TRAINCU_HOPPER_ASM("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                           shared_address(panel)),
                       "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
                       : "memory");
}
inline __device__ void tma_load(void* panel, const TensorMap* map, int x, int y, int z, uint64_t* barrier) {
    TRAINCU_HOPPER_ASM("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
                           shared_address(panel)),
                       "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
                       : "memory");
}
inline __device__ void tma_store(const TensorMap* map, int x, int y, const void* panel) {
    TRAINCU_HOPPER_ASM("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y),
                       "r"(shared_address(panel))
                       : "memory");
}
inline __device__ void tma_store(const TensorMap* map, int x, int y, int z, const void* panel) {
    TRAINCU_HOPPER_ASM("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(x), "r"(y), "r"(z),
                       "r"(shared_address(panel))
                       : "memory");
}
inline __device__ void tma_store_commit() { TRAINCU_HOPPER_ASM("cp.async.bulk.commit_group;" ::: "memory"); }
template <int n>
__device__ void tma_store_wait() {
    TRAINCU_HOPPER_ASM("cp.async.bulk.wait_group.read %0;" ::"n"(n) : "memory");
}
inline __device__ void fence_proxy_async() { TRAINCU_HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- products of a warpgroup

// Bits 0-13: address / 16. 16-29: from one panel to the next, / 16; only transposed operands use it. 32-45: from 8 rows to the next 8,
// / 16. 62-63: 1 = 128-byte swizzle.
inline __device__ uint64_t wgmma_operand(const void* panel, int panel_bytes) {
    return static_cast<uint64_t>((shared_address(panel) & 0x3FFFF) >> 4) | static_cast<uint64_t>(panel_bytes >> 4) << 16 |
           uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline __device__ uint64_t wgmma_advance(uint64_t operand, int bytes) { return operand + static_cast<uint64_t>(bytes >> 4); }

// An empty instruction that "changes" each element: the compiler, which does not know that wgmma goes on beside it, moves no use of it
// across.
template <int n>
__device__ void pin(float (&d)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int n>
__device__ void pin(uint32_t (&a)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+r"(a[i])::"memory");
}
template <class... Arrays>
__device__ void wgmma_fence(Arrays&... arrays) {
    (pin(arrays), ...);
    TRAINCU_HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory");
}
inline __device__ void wgmma_commit() { TRAINCU_HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int n, class... Arrays>
__device__ void wgmma_wait(Arrays&... arrays) {
    TRAINCU_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
    (pin(arrays), ...);
}

// The n / 2 sums of a thread as operands of an instruction, 16 at a time.
#define TRAINCU_D16(o)                                                                                                              \
    "+f"(d[o + 0]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3]), "+f"(d[o + 4]), "+f"(d[o + 5]), "+f"(d[o + 6]), "+f"(d[o + 7]), \
        "+f"(d[o + 8]), "+f"(d[o + 9]), "+f"(d[o + 10]), "+f"(d[o + 11]), "+f"(d[o + 12]), "+f"(d[o + 13]), "+f"(d[o + 14]),        \
        "+f"(d[o + 15])
#define TRAINCU_R0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define TRAINCU_R1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define TRAINCU_R2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define TRAINCU_R3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define TRAINCU_R4 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define TRAINCU_R5 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define TRAINCU_R6 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define TRAINCU_R7 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define TRAINCU_NAMES32 TRAINCU_R0
#define TRAINCU_SUMS32 TRAINCU_D16(0)
#define TRAINCU_NAMES64 TRAINCU_R0 "," TRAINCU_R1
#define TRAINCU_SUMS64 TRAINCU_D16(0), TRAINCU_D16(16)
#define TRAINCU_NAMES96 TRAINCU_R0 "," TRAINCU_R1 "," TRAINCU_R2
#define TRAINCU_SUMS96 TRAINCU_D16(0), TRAINCU_D16(16), TRAINCU_D16(32)
#define TRAINCU_NAMES128 TRAINCU_R0 "," TRAINCU_R1 "," TRAINCU_R2 "," TRAINCU_R3
#define TRAINCU_SUMS128 TRAINCU_D16(0), TRAINCU_D16(16), TRAINCU_D16(32), TRAINCU_D16(48)
#define TRAINCU_NAMES160 TRAINCU_R0 "," TRAINCU_R1 "," TRAINCU_R2 "," TRAINCU_R3 "," TRAINCU_R4
#define TRAINCU_SUMS160 TRAINCU_D16(0), TRAINCU_D16(16), TRAINCU_D16(32), TRAINCU_D16(48), TRAINCU_D16(64)
#define TRAINCU_NAMES192 TRAINCU_R0 "," TRAINCU_R1 "," TRAINCU_R2 "," TRAINCU_R3 "," TRAINCU_R4 "," TRAINCU_R5
#define TRAINCU_SUMS192 TRAINCU_D16(0), TRAINCU_D16(16), TRAINCU_D16(32), TRAINCU_D16(48), TRAINCU_D16(64), TRAINCU_D16(80)
#define TRAINCU_NAMES224 TRAINCU_R0 "," TRAINCU_R1 "," TRAINCU_R2 "," TRAINCU_R3 "," TRAINCU_R4 "," TRAINCU_R5 "," TRAINCU_R6
#define TRAINCU_SUMS224 TRAINCU_D16(0), TRAINCU_D16(16), TRAINCU_D16(32), TRAINCU_D16(48), TRAINCU_D16(64), TRAINCU_D16(80), TRAINCU_D16(96)
#define TRAINCU_NAMES256 TRAINCU_R0 "," TRAINCU_R1 "," TRAINCU_R2 "," TRAINCU_R3 "," TRAINCU_R4 "," TRAINCU_R5 "," TRAINCU_R6 "," TRAINCU_R7
#define TRAINCU_SUMS256 \
    TRAINCU_D16(0), TRAINCU_D16(16), TRAINCU_D16(32), TRAINCU_D16(48), TRAINCU_D16(64), TRAINCU_D16(80), TRAINCU_D16(96), TRAINCU_D16(112)

// i0, i1, ...: the numbers of the operands behind the sums.
#define TRAINCU_WGMMA_SHARED(n, i0, i1, i2, i3, i4)                                                                    \
    if constexpr (columns == n)                                                                                        \
    TRAINCU_HOPPER_ASM("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n           \
                       "k16.f32.bf16.bf16 {" TRAINCU_NAMES##n "}, %" #i0 ", %" #i1 ", p, 1, 1, %" #i3 ", %" #i4 ";\n}" \
                       : TRAINCU_SUMS##n                                                                               \
                       : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(a_transposed), "n"(b_transposed))
#define TRAINCU_WGMMA_REGISTERS(n, i0, i1, i2, i3, i4, i5, i6)                                                                            \
    if constexpr (columns == n)                                                                                                           \
    TRAINCU_HOPPER_ASM("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n                              \
                       "k16.f32.bf16.bf16 {" TRAINCU_NAMES##n "}, {%" #i0 ",%" #i1 ",%" #i2 ",%" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}" \
                       : TRAINCU_SUMS##n                                                                                                  \
                       : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), "n"(b_transposed))

template <int columns, bool a_transposed, bool b_transposed>
__device__ void wgmma_m64k16(float (&d)[columns / 2], uint64_t a, uint64_t b, bool accumulate) {
    static_assert(columns % 32 == 0 && columns >= 32 && columns <= 256);
    TRAINCU_WGMMA_SHARED(32, 16, 17, 18, 19, 20);
    TRAINCU_WGMMA_SHARED(64, 32, 33, 34, 35, 36);
    TRAINCU_WGMMA_SHARED(96, 48, 49, 50, 51, 52);
    TRAINCU_WGMMA_SHARED(128, 64, 65, 66, 67, 68);
    TRAINCU_WGMMA_SHARED(160, 80, 81, 82, 83, 84);
    TRAINCU_WGMMA_SHARED(192, 96, 97, 98, 99, 100);
    TRAINCU_WGMMA_SHARED(224, 112, 113, 114, 115, 116);
    TRAINCU_WGMMA_SHARED(256, 128, 129, 130, 131, 132);
}
template <int columns, bool b_transposed>
__device__ void wgmma_m64k16(float (&d)[columns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    static_assert(columns % 32 == 0 && columns >= 32 && columns <= 256);
    TRAINCU_WGMMA_REGISTERS(32, 16, 17, 18, 19, 20, 21, 22);
    TRAINCU_WGMMA_REGISTERS(64, 32, 33, 34, 35, 36, 37, 38);
    TRAINCU_WGMMA_REGISTERS(96, 48, 49, 50, 51, 52, 53, 54);
    TRAINCU_WGMMA_REGISTERS(128, 64, 65, 66, 67, 68, 69, 70);
    TRAINCU_WGMMA_REGISTERS(160, 80, 81, 82, 83, 84, 85, 86);
    TRAINCU_WGMMA_REGISTERS(192, 96, 97, 98, 99, 100, 101, 102);
    TRAINCU_WGMMA_REGISTERS(224, 112, 113, 114, 115, 116, 117, 118);
    TRAINCU_WGMMA_REGISTERS(256, 128, 129, 130, 131, 132, 133, 134);
}
#undef TRAINCU_D16
#undef TRAINCU_WGMMA_SHARED
#undef TRAINCU_WGMMA_REGISTERS
#undef TRAINCU_R0
#undef TRAINCU_R1
#undef TRAINCU_R2
#undef TRAINCU_R3
#undef TRAINCU_R4
#undef TRAINCU_R5
#undef TRAINCU_R6
#undef TRAINCU_R7
#undef TRAINCU_NAMES32
#undef TRAINCU_SUMS32
#undef TRAINCU_NAMES64
#undef TRAINCU_SUMS64
#undef TRAINCU_NAMES96
#undef TRAINCU_SUMS96
#undef TRAINCU_NAMES128
#undef TRAINCU_SUMS128
#undef TRAINCU_NAMES160
#undef TRAINCU_SUMS160
#undef TRAINCU_NAMES192
#undef TRAINCU_SUMS192
#undef TRAINCU_NAMES224
#undef TRAINCU_SUMS224
#undef TRAINCU_NAMES256
#undef TRAINCU_SUMS256

// ---- barriers of a part of the block, registers

inline __device__ void named_barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
inline __device__ void named_barrier_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
template <int n>
__device__ void registers_release() {
    static_assert(n % 8 == 0 && n >= 24 && n <= 256);
    TRAINCU_HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
__device__ void registers_claim() {
    static_assert(n % 8 == 0 && n >= 24 && n <= 256);
    TRAINCU_HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

#undef TRAINCU_HOPPER_ASM

inline __device__ float exp2_approximate(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

}  // namespace traincu::gpu
