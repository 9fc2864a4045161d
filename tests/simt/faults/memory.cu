// Faults in global memory.
#include "kernels/launch.h"
#include "tests/simt/faults/faults.h"

namespace traincu::simt_faults {

using namespace gpu;

__global__ void shift_kernel(float* out, const float* in, int64_t n, int64_t shift) {
    const int64_t i = threadIdx.x;
    if (i < n) out[i] = in[i + shift];
}
void read_shifted(float* out, const float* in, int64_t n, int64_t shift, Stream& stream) {
    launch(shift_kernel, 1, 64, 0, stream, out, in, n, shift);
}

__global__ void pack_kernel(float* out, const float* in) { store16(out, load16(in)); }
void copy_pack(float* out, const float* in, Stream& stream) { launch(pack_kernel, 1, 1, 0, stream, out, in); }

__global__ void misaligned_kernel(double* out, const float* in) { *out = *reinterpret_cast<const double*>(in); }
void read_double(double* out, const float* in, Stream& stream) { launch(misaligned_kernel, 1, 1, 0, stream, out, in); }

// The producer leaves out element 5 if faulty.
__global__ void produce_kernel(float* out, int n, bool faulty) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < n && !(faulty && i == 5)) out[i] = 1;
}
void produce(float* out, int n, bool faulty, Stream& stream) { launch(produce_kernel, 1, 64, 0, stream, out, n, faulty); }
void consume(float* out, const float* in, int n, Stream& stream) {
    launch(shift_kernel, 1, 64, 0, stream, out, in, int64_t{n}, int64_t{0});
}

// Blocks write rows of their own, or all the first one.
__global__ void blocks_write_kernel(float* out, bool faulty) { out[(faulty ? 0 : blockIdx.x * 32) + threadIdx.x] = 1; }
void blocks_write(float* out, bool faulty, Stream& stream) { launch(blocks_write_kernel, 3, 32, 0, stream, out, faulty); }

// Neighbours in a row of bf16 belong to different threads: no race.
__global__ void neighbours_kernel(bf16* out) { out[blockIdx.x * 2 + threadIdx.x] = from_float<bf16>(1.0f); }
void write_neighbours(bf16* out, Stream& stream) { launch(neighbours_kernel, 3, 2, 0, stream, out); }

// One thread reads what another writes: in order only with the barrier.
__global__ void neighbour_read_kernel(float* out, float* scratch, bool faulty) {
    scratch[threadIdx.x] = 1;
    if (!faulty) __syncthreads();
    out[threadIdx.x] = scratch[threadIdx.x ^ 33];
}
void read_of_neighbour(float* out, float* scratch, bool faulty, Stream& stream) {
    launch(neighbour_read_kernel, 1, 64, 0, stream, out, scratch, faulty);
}

// The last block to come adds up what all have written: fenced, or faulty, not.
__global__ void last_block_kernel(float* out, float* partial, unsigned* counter, bool faulty) {
    bool(&last)[1] = shared_array<bool, 1>();
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = 1;
        if (!faulty) __threadfence();
        last[0] = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last[0] || threadIdx.x != 5) return;
    float sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += partial[i];
    *out = sum;
}
void last_block_sums(float* out, float* partial, unsigned* counter, bool faulty, Stream& stream) {
    launch(last_block_kernel, 4, 32, 0, stream, out, partial, counter, faulty);
}

// Atomics may meet; an atomic and a plain write may not.
__global__ void atomics_meet_kernel(float* sum, bool faulty) {
    if (faulty && blockIdx.x == 1)
        *sum += 1;
    else
        atomicAdd(sum, 1.0f);
}
void atomics_meet(float* sum, bool faulty, Stream& stream) { launch(atomics_meet_kernel, 3, 32, 0, stream, sum, faulty); }

__global__ void local_variable_kernel(float* out) {
    float*(&address)[1] = shared_array<float*, 1>();
    float mine = static_cast<float>(threadIdx.x);
    if (threadIdx.x == 0) address[0] = &mine;
    __syncthreads();
    out[threadIdx.x] = *address[0];
}
void read_local_of_other(float* out, Stream& stream) { launch(local_variable_kernel, 1, 2, 0, stream, out); }

}  // namespace traincu::simt_faults
