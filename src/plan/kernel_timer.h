// How long a kernel takes on a stream: calls are run on memory of the timer's own, and the clock is read (on a GPU: its events).
//
// Cold or warm? Each repetition gets other operands. They walk in two rings (inputs, outputs) through as many bytes as the run that is
// planned takes (at most pool_bytes()), so that an operand is about as far from the processor as it is in a step: a small model's stay in
// the cache, a large model's do not. Inputs are random and never written; what is updated in place begins as positive random numbers.
#pragma once

#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "src/base/arena.h"
#include "src/device/stream.h"
#include "src/plan/kernel_call.h"

namespace traincu {

class KernelTimer {
public:
    // Bytes of both rings together: 192 MiB on a CPU; on a GPU a quarter of what is free, at most 8 GiB.
    static int64_t pool_bytes(const Stream& stream);

    // dtype: of weights and activations. footprint: bytes that the operands walk through.
    KernelTimer(Stream& stream, Dtype dtype, int64_t footprint);

    // Median seconds of one call, repeated for about `budget` seconds (three times at least, after one that is not counted). The call's
    // operands must fit in the pool: see of_timed_size().
    double seconds(const KernelCall& call, double budget = 0.05);

    // The call itself if it is quick to time here; else one of the same kind with fewer rows, a narrower matrix, fewer heads or a shorter
    // context. Its time is scaled by KernelCall::work().
    KernelCall of_timed_size(const KernelCall& call) const;

private:
    struct Ring {
        Tensor memory;                // (bytes / 4) i32
        int64_t limit = 0, next = 0;  // bytes
        Tensor take(std::initializer_list<int64_t> shape, Dtype dtype);
    };
    // What a call reads besides: ids, positions and the like. On the stream's device.
    struct Indices {
        Arena arena{"kernel timing"};
        Tensor ids, positions, order, ones, angles, segment_rows, query_tiles, key_tiles;
        std::vector<Segment> segments;
    };
    void prepare(const KernelCall& call);
    void run(const KernelCall& call);

    Stream& stream_;
    Dtype type_, wide_;  // of activations; of gradients and statistics
    int64_t pool_bytes_;
    Arena arena_{"kernel timing"};
    Ring inputs_, outputs_;
    Tensor total_, guard_state_, ranges_;
    std::unique_ptr<Indices> indices_;
};

}  // namespace traincu
