// Models on disk, whatever their form: a run's folder (its newest checkpoint), a checkpoint's folder, a folder from Hugging Face (or the
// model.safetensors or its index in it), a .bin of llm.c.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "src/base/tensor.h"
#include "src/checkpoint/huggingface.h"
#include "src/checkpoint/llmc.h"
#include "src/model/params.h"

namespace traincu {

enum class ModelFormat { checkpoint, safetensors, llmc };

struct ModelOnDisk {
    ModelFormat format = ModelFormat::checkpoint;
    std::string weights;    // the file that holds them, or the index of several
    std::string folder;     // of a checkpoint; empty otherwise
    std::string tokenizer;  // the tokenizer.json beside them; empty where there is none
    int64_t step = -1;      // of a checkpoint; -1 otherwise
    ModelConfig config;
    std::string family;           // of its files: which names and forms the tensors have there
    nlohmann::ordered_json meta;  // an object: what the run kept about itself (tokenizer, options, counters); empty where there is none

    // Tokens of context that it was trained with; where it does not say, all that it has positions for, up to 2048: memory is by context.
    int64_t trained_context() const;
};

// The tokenizer that lies beside the model, or the one that its run named; null where there is neither. Error(data) if it cannot be used.
std::unique_ptr<Tokenizer> tokenizer_of_model(const ModelOnDisk& model);

// Looks at `path` and verifies what it finds, sizes and hashes included, before anything is allocated for it.
// Error(usage) if nothing is there, Error(checkpoint) if it is damaged or of a kind that this program does not read.
ModelOnDisk find_model(const std::string& path);
void load_model(const ModelOnDisk& model, const ParamTable& table, Tensor params);

// The weights of a model on disk, a row of the parameter table at a time: no more of them is ever in memory than is asked for.
class ModelSource {
public:
    ModelSource(const ModelOnDisk& model, const ParamTable& table);

    void read_row(size_t row, float* out) const;                 // row.numel() values; padding is zero
    StoredType type_of(const std::string& exported_name) const;  // what the tensor is stored in: F32, BF16 or F16

private:
    const ParamTable& table_;
    std::optional<HuggingfaceWeights> huggingface_;  // one of the two
    std::optional<LlmcModel> llmc_;
};

bool is_llmc_model(const std::string& file);  // by its first four bytes

}  // namespace traincu
