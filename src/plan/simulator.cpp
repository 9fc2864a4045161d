#include "src/plan/simulator.h"

#include <map>
#include <tuple>

namespace traincu {

namespace {

StepTime time_of(const Instruction& instruction, const StepShape& shape, Rates& rates) {
    StepTime time;
    for (const KernelCall& call : kernel_calls(shape, instruction)) {
        const double seconds = rates.seconds(call);
        time.seconds += seconds;
        time.by_group[static_cast<size_t>(call.group)] += seconds;
        if (instruction.op == Op::recompute) time.recompute += seconds;
        if (std::string(info(call.kernel).op) == "matmul") time.product_flops += call.flops();
    }
    return time;
}

}  // namespace

StepTime simulate(const std::vector<Instruction>& schedule, const StepShape& shape, Rates& rates) {
    // Blocks are alike but for the first, whose stream has no branch to join; so are micro-batches of as many tokens.
    std::map<std::tuple<Op, int, int64_t>, StepTime> known;
    StepTime step;
    for (const Instruction& i : schedule) {
        const bool is_inner_block = i.part > 1 && i.part < shape.n_parts() - 1;
        const std::tuple key{i.op, is_inner_block ? 2 : i.part, shape.tokens_of(i.micro_batch)};
        auto found = known.find(key);
        if (found == known.end()) found = known.emplace(key, time_of(i, shape, rates)).first;
        const StepTime& time = found->second;
        step.seconds += time.seconds, step.recompute += time.recompute, step.product_flops += time.product_flops;
        for (size_t g = 0; g < n_cost_groups; g++) step.by_group[g] += time.by_group[g];
    }
    return step;
}

}  // namespace traincu
