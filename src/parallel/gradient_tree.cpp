#include "src/parallel/gradient_tree.h"

#include <bit>

#include "kernels/add.h"
#include "kernels/copy.h"

namespace traincu {

GradientTree::GradientTree(Arena& arena, int64_t flat_size, Dtype dtype, int workers) : workers_(workers) {
    ENSURE(workers >= 1 && std::has_single_bit(static_cast<unsigned>(workers)));
    const size_t heights = static_cast<size_t>(std::countr_zero(static_cast<unsigned>(workers)));
    gradients_.resize(heights), losses_.resize(heights);
    for (size_t height = 0; height < heights; height++) {
        arena.add(gradients_[height], format("sum of %d workers", 1 << height), dtype, {flat_size});
        arena.add(losses_[height], format("loss of %d workers", 1 << height), Dtype::f64, {1});
    }
}

void GradientTree::fold(int worker, Tensor gradients, Tensor loss_sum, Stream& stream) {
    size_t height = 0;
    for (; worker >> height & 1; height++) add(gradients, gradients_[height], stream), add(loss_sum, losses_[height], stream);
    if (worker + 1 == workers_) return;
    copy(gradients_[height], gradients, stream), copy(losses_[height], loss_sum, stream);
    zero(gradients, stream), zero(loss_sum, stream);
}

}  // namespace traincu
