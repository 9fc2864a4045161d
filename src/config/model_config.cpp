#include "src/config/model_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

namespace traincu {

// The shortest decimal from which the same double comes back.
static std::string shortest(double value) {
    std::array<char, 32> digits;
    return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr};
}

std::string RopeScaling::text() const {
    if (factor == 1) return "none";
    return "llama3:" + shortest(factor) + ":" + shortest(low_freq_factor) + ":" + shortest(high_freq_factor) + ":" +
           std::to_string(original_max_position);
}

std::string RopeScaling::fault() const {
    if (!(factor >= 1 && factor <= 1e6)) return "the factor must be from 1 to 1e6";
    if (!(low_freq_factor > 0 && low_freq_factor < high_freq_factor && high_freq_factor <= 1e6))
        return "the low-frequency factor must be above 0 and below the high-frequency factor";
    if (original_max_position < 1 || original_max_position > 1 << 28) return "the original context must be from 1 to 2^28 tokens";
    return "";
}

RopeScaling RopeScaling::parse(const std::string& text) {
    auto refuse = [&](const std::string& what) {
        throw Error(ExitCode::usage, "--rope-scaling '" + text + "': " + what,
                    "give none, or llama3:FACTOR:LOW:HIGH:ORIGINAL as in llama3:32:1:4:8192 (Llama 3.2)");
    };
    constexpr std::string_view lead = "llama3:";
    if (text == "none") return {};
    if (!text.starts_with(lead)) refuse("it is neither none nor begins with llama3:");
    std::array<double, 4> numbers;
    const char *at = text.data() + lead.size(), *end = text.data() + text.size();
    for (size_t i = 0; i < numbers.size(); i++) {
        auto [stop, error] = std::from_chars(at, end, numbers[i]);
        const bool last = i + 1 == numbers.size();
        if (error != std::errc() || (last ? stop != end : stop == end || *stop != ':')) refuse("four numbers must follow llama3:");
        at = stop + (last ? 0 : 1);
    }
    RopeScaling scaling{numbers[0], numbers[1], numbers[2], 0};
    if (numbers[3] >= 1 && numbers[3] <= 1 << 28) scaling.original_max_position = static_cast<int64_t>(numbers[3]);
    if (std::string fault = scaling.fault(); !fault.empty()) refuse(fault);
    return scaling.factor == 1 ? RopeScaling{} : scaling;
}

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
    if (qkv_bias && bias) refuse("--qkv-bias 1 goes with --bias 0: --bias 1 has these biases already", "use --bias 0 or --qkv-bias 0");
    if (rope_scaling.factor != 1 && position != PositionKind::rope)
        refuse("--rope-scaling needs --position rope: there are no wavelengths to stretch", "use --position rope or --rope-scaling none");
    if (std::string fault = rope_scaling.fault(); !fault.empty()) refuse("--rope-scaling: " + fault, "see ./train --help");
    if (has_factors() != (bias_rank > 0)) refuse("a bias of factors needs a rank, other biases have none", "write --attn-bias factors:R");
    if (bias_rank > std::min<int64_t>(head_size, 256))
        refuse(format("--attn-bias: the rank %lld is above the head size %lld or 256: the bias would cost more than attention itself",
                      static_cast<long long>(bias_rank), static_cast<long long>(head_size)),
               "choose a lower rank, or --attn-bias relative");
    if (window < 0) refuse("--window must be at least 1, or none", "give a positive number");
    if (!(attn_softcap >= 0 && attn_softcap <= 1e6)) refuse("--attn-softcap must be from 0 (none) to 1e6", "give such a number");
}

void ModelConfig::check_context(int64_t tokens, const char* flag) const {
    if (!has_position_tables() || tokens <= max_seq_len) return;
    throw Error(
        ExitCode::usage,
        format("%s %lld is longer than the model's %s (%lld rows)", flag, static_cast<long long>(tokens),
               position == PositionKind::learned ? "position table" : "tables of attention's bias", static_cast<long long>(max_seq_len)),
        "use a shorter one, or train a model with a larger --max-seq-len");
}

}  // namespace traincu
