// A model in Hugging Face's words: tensor names, the orientation they are stored in, and config.json.
//
//   gpt2      layernorm, learned positions, gelu, biases: GPT2LMHeadModel; weights of linear layers are stored transposed, (in,out)
//   llama     rmsnorm, rope, swiglu, no biases:           LlamaForCausalLM
//   qwen3     llama with QK-norm:                         Qwen3ForCausalLM
//   traincu   every other combination, in Llama-like names; only this program computes it
//
// config.json also holds our own fields under "traincu", from which a ModelConfig comes back exactly, whatever the family.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/base/tensor.h"
#include "src/checkpoint/safetensors.h"
#include "src/model/params.h"

namespace traincu {

std::string family_of(const ModelConfig& config);

// A tensor of model.safetensors: a slice of a row of the parameter table.
struct ExportedTensor {
    std::string name;
    int row = 0;                 // index into table.rows
    ParamSlice slice;            // rows of a matrix, elements of a vector
    bool transposed = false;     // stored (cols, rows of the slice)
    std::vector<int64_t> shape;  // as stored
};
std::vector<ExportedTensor> exported_tensors(const ModelConfig& config, const ParamTable& table);

// `meta` may name bos_token_id and eos_token_id.
nlohmann::ordered_json huggingface_config(const ModelConfig& config, const nlohmann::ordered_json& meta);

nlohmann::ordered_json config_fields(const ModelConfig& config);  // {"n_layer": 4, ...}: every field by its name
// The inverse. Error(checkpoint) naming the field that is missing, of the wrong type, or makes no model; `file` is where it stands.
ModelConfig config_from_fields(const nlohmann::ordered_json& fields, const std::string& file);
ModelConfig read_config_json(const std::string& path);
nlohmann::ordered_json read_json_object(const std::string& path);

// Passes the values of `tensor`, as stored, to `sink` in pieces of at most a few MiB. params: the flat f32 arena.
void export_values(const ExportedTensor& tensor, const ParamRow& row, const Tensor& params,
                   const std::function<void(const float*, int64_t)>& sink);
// Checks that the file holds exactly the tensors of this model: Error(checkpoint) names the first that is missing, foreign or of another
// shape.
void check_tensors(const SafetensorsFile& file, const std::vector<ExportedTensor>& tensors);
// Fills the flat arena from the file; padding, which is never exported, becomes zero.
void read_weights(const SafetensorsFile& file, const ModelConfig& config, const ParamTable& table, const Tensor& params);

}  // namespace traincu
