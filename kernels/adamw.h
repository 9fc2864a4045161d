// AdamW: the update of all weights and moments, over the flat arenas.
//
//   g = clip * grad
//   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
//   w <- w - lr ( (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay w )
// step = adam_steps and clip are the guard's (kernels/guard.h); where its verdict is not `accepted`, nothing is touched.
//
// The model computes with the stored weights; what AdamW updates, w in f32, is kept in one of five ways, for each range of elements:
//   stored in f32    w is the stored weight
//   master           w is kept beside a 16-bit weight, which becomes w rounded to the nearest: 4 bytes more
//   split master     w is kept as two halves: the upper is the bf16 weight, the lower 16 bits lie beside it: 2 bytes more (split_master())
//   master alone     w is kept, and no weight is stored here: it follows by what ranks send to one another (src/parallel/sharding.h)
//   by chance        w is the bf16 weight itself: after the update it becomes one of the two bf16 beside w, by chance, so that on average
//                    nothing is lost (stochastic rounding)
//
// Shapes, n elements of the flat index: weights, the bytes of all stored weights, contiguous, of any type; kept (k) f32, masters, or i16,
// lower halves, or absent; m, v (n) f32, or both bf16; grad (n) f32; all f64 on a CPU for checks, then stored weights are f64 or 16-bit
// with a master. ranges (R,5) i64: WeightRange. They ascend by multiples of 16 elements and end at n; stored_at is a multiple of 16
// elements' bytes and kept_at of 16.
// Rounding by chance adds 16 random bits below the last place and cuts off the rest. The bits are a function of (seed, step, index i, from
// first_index on): of word i % 4 of Philox at (seed, RandomStream::rounding, step, i / 4) the lower half for m, the upper for v; at (seed,
// RandomStream::weight_rounding, step, i / 4) the lower half for the weight. So the result depends on nothing else.
// A finite w whose 16-bit neighbour is infinite (f16: from 65520 on) is counted in the guard's `overflows`: the run must end.
// Elementwise: the same bits for any split or thread count.
// Bytes per parameter: 28 in f32 (four read, three written); with a master 30, with a split master 28, by chance 24; with bf16 moments 8
// less. FLOPs per parameter: ~17. Source: Loshchilov, Hutter 2019; stochastic rounding in training: Gupta et al. 2015.
#pragma once

#include "kernels/guard.h"
#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

struct AdamwParams {
    double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
    uint64_t seed = 0;        // of the stochastic rounding
    int64_t first_index = 0;  // of element 0, for that rounding: a piece of the arenas is rounded as in the whole. A multiple of 4
};

// A row of `ranges`. Every member is 8 bytes long.
struct WeightRange {
    int64_t end;        // the elements up to here, from the range before
    int64_t decays;     // 1: weight decay applies
    int64_t stored;     // the Dtype of the stored weights; master_alone: none are
    int64_t stored_at;  // where they begin in `weights`, in bytes
    int64_t kept_at;    // where masters or lower halves begin in `kept`, in elements; -1: none
};
constexpr int64_t weight_range_size = sizeof(WeightRange) / sizeof(int64_t);
constexpr int64_t master_alone = -1;

// w as two halves: bits(w) = (upper << 16) + lower, upper = (bits + 0x8000) >> 16, lower signed. upper is w rounded to the nearest bf16 (of
// two, to the larger in magnitude: to the even one, lower would not always fit), infinite where that is.
struct SplitMaster {
    uint16_t upper;
    int16_t lower;
};
constexpr SplitMaster split_master(uint32_t bits) {
    const uint32_t upper = (bits + 0x8000) >> 16;
    return {static_cast<uint16_t>(upper), static_cast<int16_t>(static_cast<uint16_t>(bits - (upper << 16)))};
}
constexpr uint32_t joined_master(SplitMaster s) {
    return (static_cast<uint32_t>(s.upper) << 16) + static_cast<uint32_t>(static_cast<int32_t>(s.lower));
}

void adamw_update(Tensor weights, Tensor kept, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state,
                  const AdamwParams& params, Stream& stream);

namespace gpu {
TRAINCU_GPU void adamw_update(Tensor weights, Tensor kept, Tensor m, Tensor v, Tensor grad, Tensor ranges, Tensor guard_state,
                              const AdamwParams& params, Stream& stream);
}

}  // namespace traincu
