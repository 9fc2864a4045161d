#include "src/config/rank_options.h"

#include <bit>

#include "src/base/error.h"

namespace traincu {

namespace {

void check_group(int64_t group, const char* name) {
    if (!std::has_single_bit(static_cast<uint64_t>(group)))
        throw Error(ExitCode::usage, format("--%s %lld is no power of two", name, static_cast<long long>(group)),
                    format("choose %lld", static_cast<long long>(std::bit_floor(static_cast<uint64_t>(group)))));
}

// What is refused, in one place: the condition, why, and what to do instead.
void check_combinations(const Options& o) {
    const bool weights = o.quant_weights != "none", grads = o.quant_grads != "none";
    const std::string named = weights ? "--quant-weights " + o.quant_weights : "--quant-grads " + o.quant_grads;
    const struct {
        bool refused;
        std::string why;
        const char* remedy;
    } rules[] = {
        {weights && o.zero == 0,
         named + " sends each rank's share of the new weights to the others, and with --zero 0 every rank has them all", "choose --zero 1"},
        {grads && o.zero == 0, named + " sums each rank's share of the gradients alone, and with --zero 0 every rank needs them all",
         "choose --zero 1"},
        {(weights || grads) && o.determinism == "ranks",
         named + " loses digits that depend on who sends to whom, and --determinism ranks promises the same bits for any number of ranks",
         "choose --determinism batch, or leave out what is sent in few bits"},
    };
    for (const auto& rule : rules)
        if (rule.refused) throw Error(ExitCode::usage, rule.why, rule.remedy);
}

}  // namespace

void resolve_rank_options(Options& o) {
    if (o.quant_weights == "auto") o.quant_weights = o.comm_quant == "zeropp" ? "int8" : o.comm_quant == "sdp4bit" ? "diff4" : "none";
    if (o.quant_grads == "auto")
        o.quant_grads = o.comm_quant == "zeropp" ? "int4" : o.comm_quant == "sdp4bit" ? "two-level-hadamard" : "none";
    check_group(o.quant_weights_group, "quant-weights-group");
    check_group(o.quant_grads_group, "quant-grads-group");
    check_combinations(o);
}

CommQuant comm_quant(const Options& o) {
    CommQuant quant;
    quant.weights = o.quant_weights == "int8"    ? CommQuant::Weights::int8
                    : o.quant_weights == "int4"  ? CommQuant::Weights::int4
                    : o.quant_weights == "diff4" ? CommQuant::Weights::diff4
                                                 : CommQuant::Weights::none;
    quant.grads = o.quant_grads == "int4"                 ? CommQuant::Grads::int4
                  : o.quant_grads == "int8"               ? CommQuant::Grads::int8
                  : o.quant_grads == "two-level"          ? CommQuant::Grads::two_level
                  : o.quant_grads == "two-level-hadamard" ? CommQuant::Grads::two_level_hadamard
                                                          : CommQuant::Grads::none;
    quant.weights_group = o.quant_weights_group, quant.grads_group = o.quant_grads_group;
    quant.seed = static_cast<uint64_t>(o.seed);
    return quant;
}

}  // namespace traincu
