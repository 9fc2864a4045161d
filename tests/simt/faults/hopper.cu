// Hopper's instructions, each used rightly and with one fault.
#include "kernels/hopper.h"
#include "tests/simt/faults/faults.h"

namespace traincu::simt_faults {

using namespace gpu;

// nvcc, which assembles these kernels to see that it can, gets them without the faults that make it insert what is missing.
#ifdef __CUDACC__
constexpr bool faults_of_wgmma = false;
#else
constexpr bool faults_of_wgmma = true;
#endif

// out (64,64) f32 = a (64,64) b^T, b (64,64), bf16: one load of each by TMA, four wgmma. Faults are those of HopperFault.
__global__ void __launch_bounds__(128)
    tma_product_kernel(float* out, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, HopperFault fault) {
    unsigned char* a_panel = shared<unsigned char>();
    unsigned char* b_panel = a_panel + 64 * panel_row_bytes;
    uint64_t(&loaded)[1] = shared_array<uint64_t, 1>();
    if (threadIdx.x == 0) {
        mbarrier_init(loaded, 1);
        if (fault != HopperFault::no_init_fence) fence_mbarrier_init();
    }
    if (fault != HopperFault::no_barrier_after_init) __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(loaded, 2 * 64 * panel_row_bytes + (fault == HopperFault::too_many_bytes ? 16 : 0));
        tma_load(a_panel, &a, 0, 0, loaded);
        tma_load(b_panel, &b, 0, 0, loaded);
    }
    if (fault == HopperFault::no_wait)
        __syncthreads();
    else if (fault != HopperFault::only_one_waits || threadIdx.x < 32)
        mbarrier_wait(loaded, fault == HopperFault::wrong_parity ? 1 : 0);

    float d[32];
    const uint64_t at = wgmma_operand(a_panel, 0), bt = wgmma_operand(fault == HopperFault::misplaced ? b_panel + 128 : b_panel, 0);
    if (!(faults_of_wgmma && fault == HopperFault::no_wgmma_fence)) wgmma_fence(d);
    for (int k = 0; k < 4; k++) wgmma_m64k16<64, false, false>(d, wgmma_advance(at, 32 * k), wgmma_advance(bt, 32 * k), k > 0);
    wgmma_commit();
    if (fault == HopperFault::overwritten_under_way) a_panel[threadIdx.x] = 0;
    const auto store = [&] {
        const int lane = static_cast<int>(threadIdx.x) % 32, row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4,
                  column = 2 * (lane % 4);
        for (int j = 0; j < 8; j++)
            for (int e = 0; e < 4; e++) out[(row + e / 2 * 8) * 64 + 8 * j + column + e % 2] = d[4 * j + e];
    };
    const bool too_early = faults_of_wgmma && fault == HopperFault::read_before_wgmma_wait;
    if (too_early) store();
    if (faults_of_wgmma && fault == HopperFault::unnamed_in_wait)
        wgmma_wait<0>();
    else if (faults_of_wgmma && fault == HopperFault::waits_for_too_few)
        wgmma_wait<1>(d);
    else if (!(faults_of_wgmma && fault == HopperFault::no_wgmma_wait))
        wgmma_wait<0>(d);
    if (!too_early) store();
}
void tma_product(float* out, const bf16* a, const bf16* b, HopperFault fault, Stream& stream) {
    launch(tma_product_kernel, 1, 128, 2 * 64 * panel_row_bytes, stream, out, tensor_map(a, Dtype::bf16, {64, 64}, {128}, {64, 64}),
           tensor_map(b, Dtype::bf16, {64, 64}, {128}, {64, 64}), fault);
}

// Operands stored by the threads, in every layout: out (64,n) = A (64,64) B (64,n), inputs row by row as A or A^T, B^T or B. A in registers
// if from_registers.
template <int n, bool a_transposed, bool b_transposed, bool from_registers>
__global__ void __launch_bounds__(128) stored_product_kernel(float* out, const bf16* a, const bf16* b, bool fenced) {
    constexpr int b_rows = b_transposed ? 64 : n, b_columns = b_transposed ? n : 64;
    constexpr int panel_bytes = b_rows * panel_row_bytes;
    unsigned char* a_panel = shared<unsigned char>();
    unsigned char* b_panels = a_panel + 64 * panel_row_bytes;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    for (int i = thread; i < 64 * 64; i += 128) *reinterpret_cast<bf16*>(a_panel + swizzled(i / 64, i % 64 * 2)) = a[i];
    for (int i = thread; i < b_rows * b_columns; i += 128) {
        const int row = i / b_columns, column = i % b_columns;
        *reinterpret_cast<bf16*>(b_panels + column / 64 * panel_bytes + swizzled(row, column % 64 * 2)) = b[i];
    }
    if (fenced) fence_proxy_async();
    __syncthreads();
    float d[n / 2];
    uint32_t fragment[4][4];
    const int g = lane / 4, c = 2 * (lane % 4);
    if constexpr (from_registers)
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < 4; i++)
                fragment[k][i] = *reinterpret_cast<const uint32_t*>(a + (16 * warp + g + i % 2 * 8) * 64 + 16 * k + c + i / 2 * 8);
    const uint64_t at = wgmma_operand(a_panel, 0), bt = wgmma_operand(b_panels, panel_bytes);
    wgmma_fence(d);
    for (int k = 0; k < 4; k++) {
        const uint64_t bk = wgmma_advance(bt, k * (b_transposed ? 16 * panel_row_bytes : 32));
        if constexpr (from_registers)
            wgmma_m64k16<n, b_transposed>(d, fragment[k], bk, k > 0);
        else
            wgmma_m64k16<n, a_transposed, b_transposed>(d, wgmma_advance(at, k * (a_transposed ? 16 * panel_row_bytes : 32)), bk, k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(d);
    for (int j = 0; j < n / 8; j++)
        for (int e = 0; e < 4; e++) out[(16 * warp + g + e / 2 * 8) * n + 8 * j + c + e % 2] = d[4 * j + e];
}
template <int n, bool a_transposed, bool b_transposed, bool from_registers>
static void launch_stored(float* out, const bf16* a, const bf16* b, bool fenced, Stream& stream) {
    launch(stored_product_kernel<n, a_transposed, b_transposed, from_registers>, 1, 128, (64 + n) * panel_row_bytes, stream, out, a, b,
           fenced);
}
void stored_product(float* out, const bf16* a, const bf16* b, int n, bool a_transposed, bool b_transposed, bool from_registers, bool fenced,
                    Stream& stream) {
    ENSURE(n == 64 || n == 128);
    ENSURE(!from_registers || !a_transposed);
    if (from_registers)
        (n == 64        ? b_transposed ? launch_stored<64, false, true, true> : launch_stored<64, false, false, true>
                : b_transposed ? launch_stored<128, false, true, true>
                        : launch_stored<128, false, false, true>)(out, a, b, fenced, stream);
    else if (a_transposed)
        (n == 64        ? b_transposed ? launch_stored<64, true, true, false> : launch_stored<64, true, false, false>
                : b_transposed ? launch_stored<128, true, true, false>
                        : launch_stored<128, true, false, false>)(out, a, b, fenced, stream);
    else
        (n == 64        ? b_transposed ? launch_stored<64, false, true, false> : launch_stored<64, false, false, false>
                : b_transposed ? launch_stored<128, false, true, false>
                        : launch_stored<128, false, false, false>)(out, a, b, fenced, stream);
}

// A producer warp and a consumer warpgroup over a ring of two stages: out (128) = for each thread the sum of its column, bf16, over all
// rows. in (tiles * 16, heads = 2, 64); head 1 is read, through a map of three dimensions; rows beyond `rows` count as 0.
__global__ void __launch_bounds__(160) ring_kernel(float* out, const __grid_constant__ TensorMap in, int tiles, RingFault fault) {
    unsigned char* stages = shared<unsigned char>();
    uint64_t(&full)[2] = shared_array<uint64_t, 2, 0>();
    uint64_t(&empty)[2] = shared_array<uint64_t, 2, 1>();
    constexpr int tile_rows = 16, stage_bytes = tile_rows * panel_row_bytes;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        for (int s = 0; s < 2; s++) mbarrier_init(full + s, 1), mbarrier_init(empty + s, fault == RingFault::too_few_arrivals ? 3 : 4);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (thread >= 128) {
        if (thread > 128) return;
        for (int t = 0; t < tiles; t++) {
            if (fault != RingFault::no_wait_for_empty) mbarrier_wait(empty + t % 2, (t / 2 + 1) % 2);
            mbarrier_arrive_expect(full + t % 2, stage_bytes);
            tma_load(stages + t % 2 * stage_bytes, &in, 0, 1, t * tile_rows, full + t % 2);
        }
        return;
    }
    const int column = thread % 64, half = thread / 64;
    float sum = 0;
    for (int t = 0; t < tiles; t++) {
        if (fault != RingFault::no_wait_for_full) mbarrier_wait(full + t % 2, t / 2 % 2);
        for (int row = 8 * half; row < 8 * half + 8; row++)
            sum += to_float(*reinterpret_cast<const bf16*>(stages + t % 2 * stage_bytes + swizzled(row, column * 2)));
        if (fault != RingFault::no_warp_barrier) __syncwarp();
        if (thread % 32 == 0 && !(fault == RingFault::one_warp_never_arrives && thread == 96)) mbarrier_arrive(empty + t % 2);
    }
    // the halves through named barriers: the upper one arrives, the lower one waits
    float* partial = reinterpret_cast<float*>(stages + 2 * stage_bytes);
    if (half == 1) {
        partial[column] = sum;
        if (fault != RingFault::no_named_barrier) named_barrier_arrive(1, 128);
    } else {
        if (fault != RingFault::no_named_barrier) named_barrier_sync(1, 128);
        out[column] = sum + partial[column];
    }
}
void ring_sums(float* out, const bf16* in, int64_t rows, int tiles, RingFault fault, Stream& stream) {
    launch(ring_kernel, 1, 160, 2 * 16 * panel_row_bytes + 64 * 4, stream, out,
           tensor_map(in, Dtype::bf16, {64, 2, rows}, {128, 256}, {64, 1, 16}), tiles, fault);
}

// A (rows,64) copy of f32, two panels of 32 columns, through TMA both ways; negated on the way by the threads.
__global__ void __launch_bounds__(128)
    tma_negate_kernel(const __grid_constant__ TensorMap out, const __grid_constant__ TensorMap in, StoreFault fault) {
    float* panels = shared<float>();
    constexpr int panel_floats = 8 * 32;
    uint64_t(&loaded)[1] = shared_array<uint64_t, 1>();
    const int first = static_cast<int>(blockIdx.x) * 8;
    if (threadIdx.x == 0) mbarrier_init(loaded, 1), fence_mbarrier_init();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(loaded, 2 * panel_floats * 4);
        for (int p = 0; p < 2; p++) tma_load(panels + p * panel_floats, &in, p * 32, first, loaded);
    }
    mbarrier_wait(loaded, 0);
    for (int i = static_cast<int>(threadIdx.x); i < 2 * panel_floats; i += 128) panels[i] = -panels[i];
    if (fault != StoreFault::no_proxy_fence) fence_proxy_async();
    if (fault != StoreFault::no_barrier) __syncthreads();
    if (threadIdx.x == 0) {
        for (int p = 0; p < 2; p++) tma_store(&out, p * 32, first, panels + p * panel_floats);
        if (fault != StoreFault::no_commit) tma_store_commit();
        if (fault != StoreFault::no_wait) tma_store_wait<0>();
        panels[0] = 0;
    }
}
void tma_negate(float* out, const float* in, int64_t rows, StoreFault fault, Stream& stream) {
    const auto map = [&](const float* memory) { return tensor_map(memory, Dtype::f32, {64, rows}, {256}, {32, 8}); };
    launch(tma_negate_kernel, static_cast<unsigned>((rows + 7) / 8), 128, 2 * 8 * 128, stream, map(out), map(in), fault);
}

}  // namespace traincu::simt_faults
