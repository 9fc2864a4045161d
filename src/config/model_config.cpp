#include "src/config/model_config.h"

namespace traincu {

void ModelConfig::check() const {
    auto refuse = [](const std::string& what, const char* remedy) { throw Error(ExitCode::usage, what, remedy); };
    auto positive = [&](int64_t value, const char* flag) {
        if (value < 1) refuse(format("%s must be at least 1, not %lld", flag, static_cast<long long>(value)), "give a positive number");
    };
    positive(n_layer, "--n-layer"), positive(n_head, "--n-head"), positive(n_kv_head, "--n-kv-head"), positive(d_model, "--d-model");
    positive(d_ff, "--d-ff"), positive(head_size, "--head-size"), positive(vocab_size, "--vocab-size"),
        positive(max_seq_len, "--max-seq-len");
    if (n_head % n_kv_head != 0)
        refuse(format("--n-kv-head %lld does not divide --n-head %lld", static_cast<long long>(n_kv_head), static_cast<long long>(n_head)),
               "query heads are shared out evenly over key heads: choose a divisor");
    if (position == PositionKind::rope && head_size % 2 != 0)
        refuse(format("--position rope rotates pairs, but the head size is %lld, an odd number", static_cast<long long>(head_size)),
               "choose --d-model and --n-head so that the head size is even, or give --head-size");
    if (bias && norm == NormKind::rmsnorm)
        refuse("--bias 1 goes with --norm layernorm: RMSNorm has no bias", "use --bias 0 or --norm layernorm");
}

void ModelConfig::check_context(int64_t tokens, const char* flag) const {
    if (position != PositionKind::learned || tokens <= max_seq_len) return;
    throw Error(ExitCode::usage,
                format("%s %lld is longer than the model's position table (%lld rows)", flag, static_cast<long long>(tokens),
                       static_cast<long long>(max_seq_len)),
                "use a shorter one, or train a model with a larger --max-seq-len");
}

}  // namespace traincu
