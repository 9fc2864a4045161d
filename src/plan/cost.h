// The cost table: which kernels an instruction of the schedule calls, at which sizes. It says of src/model/transformer.cpp,
// src/optim/optimizer.cpp and src/command/training_step.cpp what they do, and a test holds it to what they do.
#pragma once

#include <cstdint>
#include <vector>

#include "src/model/transformer.h"
#include "src/parallel/schedule.h"
#include "src/plan/kernel_call.h"

namespace traincu {

// What the steps of a run have in common.
struct StepShape {
    ModelOptions model;         // max_tokens: of a full micro-batch
    int64_t seq_len = 0;        // tokens of a row, one segment
    int64_t rows_per_step = 0;  // the last micro-batch may have fewer than the others

    int micro_batches() const;
    int64_t tokens_per_step() const { return rows_per_step * seq_len; }
    int64_t tokens_of(int micro_batch) const;
    int n_parts() const { return static_cast<int>(model.config.n_layer) + 2; }
};

// The calls of one instruction, in the order they are made. Verbs that compute nothing have none.
// `optimizer` includes clearing the gradients, which a step does before its first instruction.
std::vector<KernelCall> kernel_calls(const StepShape& shape, const Instruction& instruction);

}  // namespace traincu
