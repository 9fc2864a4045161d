// A model's config.json in Hugging Face's words, and our own fields.
//
//   gpt2      layernorm, learned positions, gelu, biases: GPT2LMHeadModel
//   llama     rmsnorm, rope, swiglu, no biases:           LlamaForCausalLM
//   qwen2     llama with biases of q, k and v:            Qwen2ForCausalLM
//   qwen3     llama with QK-norm:                         Qwen3ForCausalLM
//   qwen3_next  qwen3 with an output gate for each element: Qwen3NextForCausalLM, all layers full attention, no experts
//   traincu   every other combination; only this program computes it, and config.json holds our own fields under "traincu"
//
// For all families but the last config.json says everything in Hugging Face's fields and nothing twice: what another tool changed there is
// what is read. A field that is missing has the default of transformers; one that changes the computation in a way that is not done here is
// refused.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "src/config/model_config.h"

namespace traincu {

std::string family_of(const ModelConfig& config);
// What checkpoints are stored as: Qwen3-Next's gains lose bits, since it stores them less 1, so these are kept as traincu's.
std::string checkpoint_family(const ModelConfig& config);

// `meta` may name bos_token_id and eos_token_id. dtype: what the weights are stored in, as torch calls it. family: family_of() if
// empty.
nlohmann::ordered_json huggingface_config(const ModelConfig& config, const nlohmann::ordered_json& meta,
                                          const std::string& dtype = "float32", const std::string& family = "");

// The model that a config.json describes. Error(checkpoint) naming the field that is of the wrong type, makes no model, or is not done
// here.
ModelConfig config_from_huggingface(const nlohmann::json& fields, const std::string& file);
ModelConfig read_config_json(const std::string& path);
nlohmann::json read_json_object(const std::string& path);

nlohmann::ordered_json config_fields(const ModelConfig& config);  // {"n_layer": 4, ...}: every field by its name
// The inverse. Error(checkpoint) naming the field that is missing, of the wrong type, or makes no model; `file` is where it stands. Fields
// that came later (qkv_bias, rope_scaling, those of attention) may be missing: then there is no such thing in the model.
ModelConfig config_from_fields(const nlohmann::json& fields, const std::string& file);

}  // namespace traincu
