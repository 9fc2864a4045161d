#include "tests/fuzz/targets.h"

namespace traincu::fuzz {

const std::vector<Target>& targets() {
    static const std::vector<Target> table = {
        {"safetensors", fuzz_safetensors, safetensors_seeds},
        {"config", fuzz_config, config_seeds},
        {"manifest", fuzz_manifest, manifest_seeds},
        {"run_directory", fuzz_run_directory, run_directory_seeds},
        {"llmc", fuzz_llmc, llmc_seeds},
        {"shard", fuzz_shard, shard_seeds},
        {"log", fuzz_log, log_seeds},
        {"options", fuzz_options, options_seeds},
        {"curve", fuzz_curve, curve_seeds},
        {"choices", fuzz_choices, choices_seeds},
        {"tokenizer", fuzz_tokenizer, tokenizer_seeds},
    };
    return table;
}

}  // namespace traincu::fuzz
