// Sums of what several ranks sent, in the order of ranks.
//
//   out[i] = ((blocks[0][i] + blocks[1][i]) + blocks[2][i]) + ...      or the largest of them, where NaN counts as larger than all
//
// bf16 is summed in f32 and rounded once, to the nearest. Types: f32, f64, bf16, i32, i64. All blocks have `bytes` bytes; out may be one of
// them. On the host, by OpenMP threads: each element is one thread's, so their number shows in no bit.
#pragma once

#include <cstddef>
#include <vector>

#include "src/base/dtype.h"
#include "src/parallel/comm.h"

namespace traincu {

void reduce_blocks(Dtype dtype, std::byte* out, const std::vector<const std::byte*>& blocks, int64_t bytes, Reduce how);

}  // namespace traincu
