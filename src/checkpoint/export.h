// Models written for other programs: a folder as transformers, lm-eval and others load it, or llm.c's one file. The weights pass through
// memory a row of the parameter table at a time, the largest being the embedding: 4 bytes for each of its values.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "src/checkpoint/formats.h"
#include "src/checkpoint/io.h"

namespace traincu {

struct ExportOptions {
    std::optional<StoredType> type;  // F32, BF16 or F16; nothing: every tensor stays what it is
    bool replace = false;            // an older export of the same name goes
    std::function<void(int64_t done, int64_t of)> progress = [](int64_t, int64_t) {};  // tensors
};

// `out`: model.safetensors, config.json, and the tokenizer and generation files that stand beside the source. Committed by a rename.
// Error(usage) if out exists (or, with replace, holds anything that no export wrote), or if a value is too large for the type: then the
// tensor and the value are named and nothing is left behind.
void export_huggingface(Io& io, const ModelOnDisk& model, const std::string& out, const ExportOptions& options);

// `out`: one file of version 3 (F32) or 5 (BF16). Error(usage) naming what llm.c cannot express.
void export_llmc(Io& io, const ModelOnDisk& model, const std::string& out, const ExportOptions& options);

}  // namespace traincu
