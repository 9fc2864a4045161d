// What a checkpoint holds: the model in Hugging Face's form, the optimizer's moments as they lie in the memory of one rank, and a manifest
// with everything else needed to go on (`meta`, which belongs to the caller: counters, data cursor, guard windows, options, tokenizer).
#pragma once

#include "src/base/tensor.h"
#include "src/checkpoint/commit.h"
#include "src/checkpoint/huggingface.h"
#include "src/model/params.h"

namespace traincu {

// params, m, v: flat f32 arenas of table.flat_size, whatever padding its parts have: what is written is the same for any number of ranks.
// Commits run_dir/step_<step> and returns its path; see commit_checkpoint(). meta may hold run_id, bos_token_id, eos_token_id, which are
// also written where other tools look for them. beside: files that stand beside the weights (tokenizer_files()), hashed like them.
// replica (flat, f32): the weights that ranks compute with, where these follow the masters (params) and are not those, rounded.
std::string write_checkpoint(Io& io, const std::string& run_dir, int64_t step, const ModelConfig& config, const ParamTable& table,
                             Tensor params, Tensor m, Tensor v, const nlohmann::ordered_json& meta,
                             const std::vector<TextFile>& beside = {}, Tensor replica = {});

// Restores a verified checkpoint bit for bit. A checkpoint of another model is refused with Error(checkpoint) that lists what differs.
// m and v may be absent (a checkpoint used for its weights only).
void read_checkpoint(const FoundCheckpoint& found, const ModelConfig& config, const ParamTable& table, Tensor params, Tensor m, Tensor v);
// False where the checkpoint has none.
bool read_replica(const FoundCheckpoint& found, const ModelConfig& config, const ParamTable& table, Tensor replica);

ModelConfig config_of_checkpoint(const FoundCheckpoint& found);

}  // namespace traincu
