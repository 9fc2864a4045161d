// Sums over ranks: the blocks that ranks sent for one range of elements become one, in the order of ranks.
//
//   out[i] = ((blocks[0][i] + blocks[1][i]) + blocks[2][i]) + ...      or the largest of them, where NaN counts as larger than all
//
// Shapes: out (n), contiguous; blocks (R,n), whose rows may be further apart than n. Both of f32, f64 or bf16. out may be a row of blocks.
// bf16 is summed in f32 and rounded once. The same bits as the MPI engine's sums (src/parallel/comm.h).
// Bytes per element: s (R + 1). FLOPs per element: R - 1.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

enum class RankReduction { sum, largest };

void reduce_ranks(Tensor out, Tensor blocks, RankReduction how, Stream& stream);

namespace gpu {
TRAINCU_GPU void reduce_ranks(Tensor out, Tensor blocks, RankReduction how, Stream& stream);
}

}  // namespace traincu
