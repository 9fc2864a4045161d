// Models on disk, whatever their form: a run's folder (its newest checkpoint), a checkpoint's folder, a model.safetensors beside its
// config.json (or the folder of both), a .bin of llm.c.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "src/base/tensor.h"
#include "src/model/params.h"

namespace traincu {

enum class ModelFormat { checkpoint, safetensors, llmc };

struct ModelOnDisk {
    ModelFormat format = ModelFormat::checkpoint;
    std::string weights;  // the file that holds them
    std::string folder;   // of a checkpoint; empty otherwise
    int64_t step = -1;    // of a checkpoint; -1 otherwise
    ModelConfig config;
    nlohmann::ordered_json meta;  // an object: what the run kept about itself (tokenizer, options, counters); empty where there is none

    // Tokens of context that it was trained with; where it does not say, all that it has positions for.
    int64_t trained_context() const;
};

// Looks at `path` and verifies what it finds, sizes and hashes included, before anything is allocated for it.
// Error(usage) if nothing is there, Error(checkpoint) if it is damaged or of a kind that this program does not read.
ModelOnDisk find_model(const std::string& path);
void load_model(const ModelOnDisk& model, const ParamTable& table, Tensor params);

bool is_llmc_model(const std::string& file);  // by its first four bytes

}  // namespace traincu
