// Models written by llm.c: GPT-2 in one .bin file. 256 int32 of header (magic, version 3 = fp32 or 5 = bf16, maxT, V, L, NH, C, Vp), then
// 16 tensors in a fixed order, each stacked over the layers, weights (out,in).
#pragma once

#include <string>

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
void read_llmc_weights(const LlmcModel& model, const ParamTable& table, const Tensor& params);

}  // namespace traincu
