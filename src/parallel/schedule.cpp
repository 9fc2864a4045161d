#include "src/parallel/schedule.h"

#include "src/base/error.h"

namespace traincu {

namespace {

void forward_pass(std::vector<Instruction>& list, int n_parts, int micro_batch) {
    list.push_back({Op::load, 0, micro_batch});
    for (int part = 0; part < n_parts; part++) {
        list.push_back({Op::acquire, part, micro_batch});
        if (part + 1 < n_parts) list.push_back({Op::prefetch, part + 1, micro_batch});
        list.push_back({Op::forward, part, micro_batch});
        list.push_back({Op::release, part, micro_batch});
    }
}

}  // namespace

std::vector<Instruction> training_schedule(int n_parts, int micro_batches, bool recompute, int workers) {
    ENSURE(micro_batches % workers == 0);
    const int share = micro_batches / workers;
    std::vector<Instruction> list;
    for (int mb = 0; mb < micro_batches; mb++) {
        forward_pass(list, n_parts, mb);
        for (int part = n_parts - 1; part >= 0; part--) {
            const bool is_block = part > 0 && part < n_parts - 1;
            list.push_back({Op::acquire, part, mb});
            if (part > 0) list.push_back({Op::prefetch, part - 1, mb});
            if (recompute && is_block) list.push_back({Op::recompute, part, mb});
            list.push_back({Op::backward_input, part, mb});
            list.push_back({Op::release, part, mb});
            list.push_back({Op::backward_weight, part, mb});
            list.push_back({Op::commit, part, mb, (mb + 1) % share == 0});
        }
        if (workers > 1 && (mb + 1) % share == 0) list.push_back({.op = Op::fold, .micro_batch = mb, .worker = mb / share});
    }
    list.push_back({Op::optimizer});
    return list;
}

std::vector<Instruction> evaluation_schedule(int n_parts) {
    std::vector<Instruction> list;
    forward_pass(list, n_parts, 0);
    return list;
}

std::string to_string(const Instruction& i) {
    static const char* names[] = {"load",           "prefetch",        "acquire", "release", "forward",  "recompute",
                                  "backward_input", "backward_weight", "commit",  "fold",    "optimizer"};
    return format("%s part %d micro-batch %d%s", names[static_cast<int>(i.op)], i.part, i.micro_batch, i.last ? " last" : "");
}

}  // namespace traincu
