// Kernels with one fault each, and next to each the same kernel without it: what the runner must catch and what it must let pass. Host
// functions that put them in line; simt_test.cpp calls them.
#pragma once

#include <cstdint>

#include "src/device/stream.h"

namespace traincu::simt_faults {

// basics.cu
void add(float* out, const float* a, const float* b, int64_t n, int64_t count, Stream& stream);  // threads for n, bound `count`
void coordinates(int32_t* out, unsigned bx, unsigned by, unsigned bz, Stream& stream);           // (3,2,2) blocks
void collectives(int32_t* out, Stream& stream);                                                  // (64, 12)
void sum_blocks(float* out, const float* in, int64_t n, int64_t blocks, Stream& stream);
void product_m16n8k16(float* out, const void* a, const void* b, bool is_bf16, Stream& stream);
void sum_pack(float* out, Stream& stream);
void count_atomically(int32_t* counters, Stream& stream);

void shuffle_from_outside(int32_t* out, bool faulty, Stream& stream);
void shuffle_missing_lane(int32_t* out, bool faulty, Stream& stream);
void divergent_barrier(int32_t* out, bool faulty, Stream& stream);
void thread_leaves_before_barrier(int32_t* out, bool faulty, Stream& stream);
void half_a_warp(int32_t* out, Stream& stream);

// memory.cu
void read_shifted(float* out, const float* in, int64_t n, int64_t shift, Stream& stream);
void copy_pack(float* out, const float* in, Stream& stream);
void read_double(double* out, const float* in, Stream& stream);
void produce(float* out, int n, bool faulty, Stream& stream);
void consume(float* out, const float* in, int n, Stream& stream);
void blocks_write(float* out, bool faulty, Stream& stream);                                        // (3,32)
void write_neighbours(bf16* out, Stream& stream);                                                  // (6)
void read_of_neighbour(float* out, float* scratch, bool faulty, Stream& stream);                   // (64)
void last_block_sums(float* out, float* partial, unsigned* counter, bool faulty, Stream& stream);  // partial (4)
void atomics_meet(float* sum, bool faulty, Stream& stream);
void read_local_of_other(float* out, Stream& stream);

// shared.cu; fault 0: none
void reverse(float* out, int fault, Stream& stream);       // (64)
void warp_reverse(float* out, int fault, Stream& stream);  // (32)
void uninitialised_shared(float* out, bool faulty, Stream& stream);
void beyond_shared(float* out, int at, bool of_array, Stream& stream);             // shared() has 4 floats, the array 8
void pipeline(float* out, const float* in, int tiles, int fault, Stream& stream);  // in (tiles,64)
void idle(unsigned gx, unsigned gy, int64_t shared_bytes, Stream& stream);         // asks for them, uses none
void static_beside_dynamic(float* out, bool faulty, Stream& stream);               // 20,000 bytes static beside 30 or 34 KiB
void ldmatrix_rows(uint32_t* out, bool faulty, Stream& stream);                    // (32,4)

// hopper.cu
enum class HopperFault {
    none,
    no_init_fence,
    no_barrier_after_init,
    too_many_bytes,
    no_wait,
    only_one_waits,
    wrong_parity,
    misplaced,
    no_wgmma_fence,
    no_wgmma_wait,
    read_before_wgmma_wait,
    unnamed_in_wait,
    waits_for_too_few,
    overwritten_under_way
};
void tma_product(float* out, const bf16* a, const bf16* b, HopperFault fault, Stream& stream);  // all (64,64)
void stored_product(float* out, const bf16* a, const bf16* b, int n, bool a_transposed, bool b_transposed, bool from_registers, bool fenced,
                    Stream& stream);
enum class RingFault {
    none,
    no_wait_for_empty,
    too_few_arrivals,
    no_wait_for_full,
    no_warp_barrier,
    one_warp_never_arrives,
    no_named_barrier
};
void ring_sums(float* out, const bf16* in, int64_t rows, int tiles, RingFault fault, Stream& stream);  // in (rows,2,64), out (64)
enum class StoreFault { none, no_proxy_fence, no_barrier, no_commit, no_wait };
void tma_negate(float* out, const float* in, int64_t rows, StoreFault fault, Stream& stream);  // (rows,64)

}  // namespace traincu::simt_faults
