// Faults in shared memory and of what goes through it.
#include "kernels/launch.h"
#include "tests/simt/faults/faults.h"

namespace traincu::simt_faults {

using namespace gpu;

// Each thread reads what thread `64 - 1 - i` wrote, twice: a barrier is missing before the reads (1), or before the second writes (2).
__global__ void reverse_kernel(float* out, int fault) {
    float* row = shared<float>();
    const int i = static_cast<int>(threadIdx.x);
    float sum = 0;
    for (int round = 0; round < 2; round++) {
        row[i] = static_cast<float>(i);
        if (fault != 1) __syncthreads();
        sum += row[63 - i];
        if (fault != 2) __syncthreads();
    }
    out[i] = sum;
}
void reverse(float* out, int fault, Stream& stream) { launch(reverse_kernel, 1, 64, 64 * 4, stream, out, fault); }

// The same within a warp, ordered by __syncwarp; a shuffle orders nothing.
__global__ void warp_reverse_kernel(float* out, int fault) {
    float(&row)[32] = shared_array<float, 32>();
    const int i = static_cast<int>(threadIdx.x);
    row[i] = static_cast<float>(i);
    if (fault == 1) __shfl_sync(all_lanes, i, 0);
    if (fault == 0) __syncwarp();
    out[i] = row[31 - i];
    __syncwarp();
    row[i] = 0;
    // halves of the warp, each in order
    if (i < 16)
        __syncwarp(0x0000FFFFu);
    else
        __syncwarp(0xFFFF0000u);
    out[i] += row[fault == 2 ? 31 - i : i ^ 8];
}
void warp_reverse(float* out, int fault, Stream& stream) { launch(warp_reverse_kernel, 1, 32, 0, stream, out, fault); }

__global__ void uninitialised_kernel(float* out, bool faulty) {
    float* row = shared<float>();
    if (!faulty || threadIdx.x != 7) row[threadIdx.x] = 1;
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = row[threadIdx.x];
}
void uninitialised_shared(float* out, bool faulty, Stream& stream) { launch(uninitialised_kernel, 2, 32, 32 * 4, stream, out, faulty); }

__global__ void beyond_shared_kernel(float* out, int at, bool of_array) {
    float* row = shared<float>();
    float(&array)[8] = shared_array<float, 8>();
    float* to = of_array ? array : row;
    to[at] = 1;
    *out = to[at];
}
void beyond_shared(float* out, int at, bool of_array, Stream& stream) { launch(beyond_shared_kernel, 1, 1, 16, stream, out, at, of_array); }

__global__ void idle_kernel() {}
void idle(unsigned gx, unsigned gy, int64_t shared_bytes, Stream& stream) { launch(idle_kernel, dim3(gx, gy), 32, shared_bytes, stream); }

// Together they are more than 48 KiB, for which launch() asks only where the dynamic memory alone is much.
__global__ void static_beside_dynamic_kernel(float* out) {
    float(&array)[5000] = shared_array<float, 5000>();
    array[4999] = 1, *out = array[4999];
}
void static_beside_dynamic(float* out, bool faulty, Stream& stream) {
    launch(static_beside_dynamic_kernel, 1, 1, (faulty ? 30 : 34) * 1024, stream, out);
}

// A row through cp.async. Faults: 1 no wait, 2 no barrier after it, 3 the next copy begins while others still read, 4 waits for too few.
__global__ void pipeline_kernel(float* out, const float* in, int tiles, int fault) {
    float* tile = shared<float>();  // (2, 64)
    const int i = static_cast<int>(threadIdx.x);
    const auto fetch = [=](int t) {
        if (i < 16) cp_async16(tile + t % 2 * 64 + i * 4, in + t * 64 + i * 4, t < tiles);
        cp_async_commit();
    };
    fetch(0);
    float sum = 0;
    for (int t = 0; t < tiles; t++) {
        fetch(t + 1);
        if (fault == 4)
            cp_async_wait<2>();
        else if (fault != 1)
            cp_async_wait<1>();
        if (fault != 2) __syncthreads();
        sum += tile[t % 2 * 64 + (i + 17) % 64];
        if (fault != 3) __syncthreads();
    }
    out[i] = sum;
}
void pipeline(float* out, const float* in, int tiles, int fault, Stream& stream) {
    launch(pipeline_kernel, 1, 64, 2 * 64 * 4, stream, out, in, tiles, fault);
}

__global__ void ldmatrix_kernel(uint32_t* out, bool faulty) {
    uint16_t* tile = shared<uint16_t>();
    const int lane = static_cast<int>(threadIdx.x);
    for (int i = 0; i < 8; i++) tile[lane * 8 + i] = static_cast<uint16_t>(lane * 8 + i);
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, tile + lane * 8 + (faulty ? 4 : 0));
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
}
void ldmatrix_rows(uint32_t* out, bool faulty, Stream& stream) { launch(ldmatrix_kernel, 1, 32, 33 * 16, stream, out, faulty); }

}  // namespace traincu::simt_faults
