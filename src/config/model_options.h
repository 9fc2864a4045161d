// Between the options and the shape of a model.
#pragma once

#include <string>

#include "src/config/options.h"

namespace traincu {

// The model that the options describe. vocab_size must be known by now (from the data if not given).
ModelConfig model_config(const Options& options);

// --attn-bias: what stands before and after its colon ("factors", "16"). Error(usage) that quotes a text of another form.
struct BiasOption {
    std::string kind, value;
};
BiasOption parse_attn_bias(const std::string& text);

// The model options of a shape, for a model that was loaded from a file: they replace whatever the options said.
void set_model_options(Options& options, const ModelConfig& config);
// Error(usage) where the options ask for another attention than that model has.
void check_attention_options(const Options& options, const ModelConfig& config, const std::string& model);

}  // namespace traincu
