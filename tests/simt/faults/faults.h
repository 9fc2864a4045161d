// Kernels with one fault each, and next to each the same kernel without it: what the runner must catch and what it must let pass. Host
// functions that put them in line; simt_test.cpp calls them.
#pragma once

#include <cstdint>

#include "src/device/stream.h"

namespace traincu::simt_faults {

void add(float* out, const float* a, const float* b, int64_t n, int64_t count, Stream& stream);  // threads for n, bound `count`
void coordinates(int32_t* out, unsigned bx, unsigned by, unsigned bz, Stream& stream);           // (3,2,2) blocks
void collectives(int32_t* out, Stream& stream);                                                  // (64, 12)
void sum_blocks(float* out, const float* in, int64_t n, int64_t blocks, Stream& stream);
void product_m16n8k16(float* out, const void* a, const void* b, bool is_bf16, Stream& stream);
void count_atomically(int32_t* counters, Stream& stream);

void shuffle_missing_lane(int32_t* out, bool faulty, Stream& stream);
void divergent_barrier(int32_t* out, bool faulty, Stream& stream);
void thread_leaves_before_barrier(int32_t* out, bool faulty, Stream& stream);
void half_a_warp(int32_t* out, Stream& stream);

}  // namespace traincu::simt_faults
