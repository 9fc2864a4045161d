// The sum of a step's gradients over logical workers, as one fixed binary tree: its bits do not depend on how many ranks share the workers
// out (--determinism ranks).
//
//   workers 0 1 2 3 4 5 6 7, each with an eighth of the step's micro-batches:   ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))
//
// One rank computes its workers one after the other and merges as a binary counter carries: after each worker, sums of equal height are
// added. So log2(workers) sums wait at most. A rank with an aligned run of workers ends with the root of their subtree.
#pragma once

#include <vector>

#include "src/base/arena.h"
#include "src/device/stream.h"

namespace traincu {

class GradientTree {
public:
    // Declares the waiting sums, each as large as the gradients (flat_size). workers: of this rank, a power of two.
    GradientTree(Arena& arena, int64_t flat_size, Dtype dtype, int workers);

    // Worker `worker` of this rank's (0, 1, ... in this order) is done: gradients (flat_size) and loss_sum (1) f64 hold its sums, and are
    // zeros for the next one afterwards; after the last one they hold the sums of all.
    void fold(int worker, Tensor gradients, Tensor loss_sum, Stream& stream);

    int workers() const { return workers_; }

private:
    int workers_;
    std::vector<Tensor> gradients_, losses_;  // waiting sums of 1, 2, 4 ... workers
};

}  // namespace traincu
