// A step is a list of instructions. Whoever wants to know what a step does, in which order, reads this list; the executor runs it.
#pragma once

#include <string>
#include <vector>

namespace traincu {

enum class Op {
    load,      // a micro-batch's tokens into the slot
    prefetch,  // a part's weights will be needed soon
    acquire,   // a part's weights are needed from here
    release,   // until here
    forward,
    recompute,        // what the forward of a part did not keep
    backward_input,   // gradient of the part's input
    backward_weight,  // gradients of its weights
    commit,           // a part's gradients of this micro-batch are complete; last: of this worker's share of the step
    fold,             // a logical worker's share is done: its gradients join the tree (gradient_tree.h)
    optimizer,        // norm, guard, update
};

struct Instruction {
    Op op;
    int part = 0;  // 0 = embedding, 1..L = blocks, L+1 = head
    int micro_batch = 0;
    bool last = false;  // commit: the last micro-batch of the share
    int worker = 0;     // fold
};

// Forward through all parts, then backward, for one micro-batch after the other, then the optimizer: the schedule of one rank.
// workers > 1: each has an equal run of the micro-batches, and its gradients are folded before the next one begins.
std::vector<Instruction> training_schedule(int n_parts, int micro_batches, bool recompute, int workers = 1);
// Forward only, losses at the end.
std::vector<Instruction> evaluation_schedule(int n_parts);

std::string to_string(const Instruction& instruction);  // "backward_input part 3 micro-batch 0"

}  // namespace traincu
