// How long a kernel takes here: calls are run on memory of the timer's own, and the clock is read.
//
// Cold or warm? Each repetition gets other operands. They walk in two rings (inputs, outputs) through as many bytes as the run that is
// planned takes (at most pool_bytes), so that an operand is about as far from the processor as it is in a step: a small model's stay in the
// cache, a large model's do not. Inputs are random and never written; what is updated in place begins as positive random numbers.
#pragma once

#include <vector>

#include "kernels/attention.h"
#include "src/base/arena.h"
#include "src/device/stream.h"
#include "src/plan/kernel_call.h"

namespace traincu {

class KernelTimer {
public:
    static constexpr int64_t pool_bytes = int64_t{192} << 20;

    // footprint: bytes that the operands walk through.
    explicit KernelTimer(int64_t footprint = pool_bytes);

    // Median seconds of one call, repeated for about `budget` seconds (three times at least, after one that is not counted). The call's
    // operands must fit in the pool: see of_timed_size().
    double seconds(const KernelCall& call, double budget = 0.05);

private:
    struct Ring {
        Tensor memory;
        int64_t limit = 0, next = 0;  // elements
        Tensor take(std::initializer_list<int64_t> shape);
    };
    void prepare(const KernelCall& call);
    void run(const KernelCall& call);

    Arena arena_{"kernel timing"};
    Ring inputs_, outputs_;
    Tensor total_, guard_state_, ranges_;
    std::vector<int32_t> ids_, positions_, order_;
    std::vector<float> ones_, angles_;
    std::vector<Segment> segments_;
    Stream stream_;
};

// The call itself if it is quick to time; else one of the same kind with fewer rows, a narrower matrix, fewer heads or a shorter context.
// Its time is scaled by KernelCall::work().
KernelCall of_timed_size(const KernelCall& call);

}  // namespace traincu
