// A model's tensors in Hugging Face's words: their names, the orientation they are stored in, and the files beside them.
// huggingface_config.h tells the families apart. GPT-2 stores the weights of linear layers transposed, (in,out), and q, k, v in one.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "src/base/tensor.h"
#include "src/checkpoint/huggingface_config.h"
#include "src/checkpoint/weight_files.h"
#include "src/data/tokenizer.h"
#include "src/model/params.h"

namespace traincu {

// A tensor of model.safetensors: a slice of a row of the parameter table.
struct ExportedTensor {
    std::string name;
    int row = 0;                 // index into table.rows
    ParamSlice slice;            // rows of a matrix, elements of a vector
    bool less_one = false;       // stored less 1: the gains of Qwen3-Next
    bool transposed = false;     // stored (cols, rows of the slice)
    std::vector<int64_t> shape;  // as stored
};
// family: family_of() or checkpoint_family(). The slices of a row are neighbours.
std::vector<ExportedTensor> exported_tensors(const ModelConfig& config, const ParamTable& table, const std::string& family);
inline std::vector<ExportedTensor> exported_tensors(const ModelConfig& config, const ParamTable& table) {
    return exported_tensors(config, table, family_of(config));
}

// Passes the values of `tensor`, as stored, to `sink` in pieces of at most a few MiB. row_values: the row's numel() values.
void export_values(const ExportedTensor& tensor, const ParamRow& row, const float* row_values,
                   const std::function<void(const float*, int64_t)>& sink);

// The weights of a model in Hugging Face's files, each tensor found and checked: Error(checkpoint) names the first that is missing, foreign
// or of another shape. GPT-2's names may lack "transformer."; constants that old versions stored (causal masks, rotary frequencies) are
// passed over; a stored head of a tied model must equal the embedding, which is found out when the embedding is read.
class HuggingfaceWeights {
public:
    HuggingfaceWeights(const std::string& path, const ModelConfig& config, const ParamTable& table, const std::string& family);

    void read_row(size_t row, float* out) const;                 // row.numel() values; padding, which is never stored, is zero
    StoredType type_of(const std::string& exported_name) const;  // F32, BF16 or F16
    const WeightFiles& files() const { return files_; }

private:
    struct Imported {
        ExportedTensor tensor;
        WeightFiles::Place place;
    };
    void check_tied_head(const Imported& embedding, const float* values) const;

    WeightFiles files_;
    const ParamTable& table_;
    std::vector<Imported> tensors_;
    WeightFiles::Place tied_head_;
};

struct TextFile {
    std::string name, text;
};
// What transformers and lm-eval look for beside the weights: tokenizer.json, tokenizer_config.json, generation_config.json. End-of-text
// stands before every document, so it is the beginning, the end and the padding. context: tokens that the model can look back on.
std::vector<TextFile> tokenizer_files(const Tokenizer& tokenizer, int64_t context);

}  // namespace traincu
