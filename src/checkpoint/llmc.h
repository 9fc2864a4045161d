// Models of llm.c: GPT-2 in one .bin file. 256 int32 of header (magic, version 3 = fp32 or 5 = bf16, maxT, V, L, NH, C, Vp), then
// 16 tensors in a fixed order, each stacked over the layers, weights (out,in).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "src/base/tensor.h"
#include "src/checkpoint/io.h"
#include "src/model/params.h"

namespace traincu {

constexpr int32_t llmc_model_magic = 20240326;

struct LlmcModel {
    InputFile file;
    ModelConfig config;
    int64_t padded_vocab = 0;  // rows of the embedding in the file
    Dtype dtype = Dtype::f32;
};

// Header and file size checked against each other; Error(checkpoint) otherwise.
LlmcModel open_llmc_model(const std::string& path);
void read_llmc_row(const LlmcModel& model, const ParamRow& row, float* out);  // row.numel() values; padding is zero

// Error(usage) naming what llm.c cannot express: it knows one GPT-2, with tied embeddings, a feed-forward layer of 4 C and norms of 1e-5.
void check_llmc_shape(const ModelConfig& config);
// The file: its header, then these rows of the table in order, each followed by zeros. f32 gives version 3, bf16 version 5. llm.c fills the
// vocabulary up to a multiple of 128.
struct LlmcPiece {
    size_t row;         // its used_numel() values
    int64_t zeros = 0;  // values
};
std::array<int32_t, 256> llmc_header(const ModelConfig& config, Dtype dtype);
std::vector<LlmcPiece> llmc_pieces(const ModelConfig& config, const ParamTable& table);

}  // namespace traincu
