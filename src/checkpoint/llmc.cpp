#include "src/checkpoint/llmc.h"

#include <algorithm>

#include "src/checkpoint/huggingface_config.h"

namespace traincu {

constexpr int64_t header_bytes = 256 * 4;

// One of the 16: what it is here, how many values a layer has, and whether it is stacked over layers.
struct LlmcTensor {
    ParamKind kind;
    bool is_bias;
    int64_t values;  // of one layer
    bool per_layer;
};

static std::vector<LlmcTensor> llmc_tensors(const ModelConfig& c, int64_t padded_vocab) {
    const int64_t C = c.d_model;
    return {{ParamKind::token_embedding, false, padded_vocab * C, false},
            {ParamKind::position_embedding, false, c.max_seq_len * C, false},
            {ParamKind::norm1, false, C, true},
            {ParamKind::norm1, true, C, true},
            {ParamKind::qkv, false, 3 * C * C, true},
            {ParamKind::qkv, true, 3 * C, true},
            {ParamKind::attention_out, false, C * C, true},
            {ParamKind::attention_out, true, C, true},
            {ParamKind::norm2, false, C, true},
            {ParamKind::norm2, true, C, true},
            {ParamKind::fc, false, 4 * C * C, true},
            {ParamKind::fc, true, 4 * C, true},
            {ParamKind::mlp_out, false, 4 * C * C, true},
            {ParamKind::mlp_out, true, C, true},
            {ParamKind::final_norm, false, C, false},
            {ParamKind::final_norm, true, C, false}};
}

LlmcModel open_llmc_model(const std::string& path) {
    InputFile file(path);
    auto refuse = [&](const std::string& what, int64_t offset) {
        throw Error(ExitCode::checkpoint, path + " is not a sound llm.c model: " + what,
                    "models of llm.c's versions 3 (fp32) and 5 (bf16) are read")
            .file(path)
            .offset(offset);
    };
    if (file.size() < header_bytes) refuse(format("it has %lld bytes, fewer than its header", static_cast<long long>(file.size())), 0);
    std::array<int32_t, 8> h;
    file.read(h.data(), sizeof h, 0);
    if (h[0] != llmc_model_magic) refuse(format("it begins with %d, not with %d", h[0], llmc_model_magic), 0);
    if (h[1] != 3 && h[1] != 5) refuse(format("its version is %d", h[1]), 4);
    // Bounds that keep every product below 2^63 and are far beyond any file of this kind.
    const std::array<int32_t, 6> largest = {1 << 24, 1 << 24, 10'000, 65'536, 1 << 20, 1 << 24};
    const char* names[] = {"max_seq_len", "vocab_size", "n_layer", "n_head", "channels", "padded_vocab_size"};
    for (size_t i = 0; i < largest.size(); i++)
        if (h[i + 2] < 1 || h[i + 2] > largest[i]) refuse(format("%s is %d", names[i], h[i + 2]), static_cast<int64_t>(i + 2) * 4);

    ModelConfig c;  // GPT-2's kinds are the defaults
    c.max_seq_len = h[2], c.vocab_size = h[3], c.n_layer = h[4], c.n_head = c.n_kv_head = h[5], c.d_model = h[6], c.d_ff = 4 * c.d_model;
    const int64_t padded_vocab = h[7];
    if (c.d_model % c.n_head != 0) refuse(format("%d channels are not shared out evenly over %d heads", h[6], h[5]), 20);
    if (padded_vocab < c.vocab_size) refuse(format("padded_vocab_size %d is below vocab_size %d", h[7], h[3]), 28);
    c.head_size = c.d_model / c.n_head;

    const Dtype dtype = h[1] == 3 ? Dtype::f32 : Dtype::bf16;
    int64_t expected = 0;
    for (const LlmcTensor& tensor : llmc_tensors(c, padded_vocab)) expected += tensor.values * (tensor.per_layer ? c.n_layer : 1);
    expected = header_bytes + expected * size_of(dtype);
    if (file.size() != expected)
        refuse(format("it has %lld bytes, its header makes %lld", static_cast<long long>(file.size()), static_cast<long long>(expected)),
               std::min(file.size(), expected));
    return {std::move(file), c, padded_vocab, dtype};
}

void read_llmc_row(const LlmcModel& model, const ParamRow& row, float* out) {
    int64_t at = header_bytes;
    for (const LlmcTensor& tensor : llmc_tensors(model.config, model.padded_vocab)) {
        if (tensor.kind != row.kind || tensor.is_bias != row.is_bias) {
            at += tensor.values * (tensor.per_layer ? model.config.n_layer : 1) * size_of(model.dtype);
            continue;
        }
        if (tensor.per_layer) at += tensor.values * row.layer * size_of(model.dtype);
        const int64_t count = row.used_numel();  // the file's padding rows are left behind
        ENSURE(count <= tensor.values);
        std::fill(out + count, out + row.numel(), 0.0f);
        if (model.dtype == Dtype::f32) return model.file.read(out, count * 4, at);
        std::vector<uint16_t> narrow(static_cast<size_t>(count));
        model.file.read(narrow.data(), count * 2, at);
        for (int64_t i = 0; i < count; i++) out[i] = bf16_to_float(narrow[static_cast<size_t>(i)]);
        return;
    }
    ENSURE(!"a row that llm.c's models have");
}

// ----------------------------------------------------------------------------------------------------------------------
// writing

static int64_t padded_vocab_of(const ModelConfig& c) { return (c.vocab_size + 127) / 128 * 128; }

void check_llmc_shape(const ModelConfig& c) {
    std::string what;
    if (family_of(c) != "gpt2") what = "this is a model of the family " + family_of(c);
    if (what.empty() && !c.tie_embeddings) what = "this model has a head of its own (tie_word_embeddings is false)";
    if (what.empty() && c.d_ff != 4 * c.d_model)
        what = format("this model's feed-forward layer is %lld wide, not 4 x %lld", static_cast<long long>(c.d_ff),
                      static_cast<long long>(c.d_model));
    if (what.empty() && c.norm_eps != 1e-5) what = format("this model's norms have an epsilon of %g, llm.c's always 1e-5", c.norm_eps);
    if (!what.empty())
        throw Error(ExitCode::usage, "llm.c has one architecture, GPT-2's with tied embeddings: " + what, "use --format huggingface");
}

std::array<int32_t, 256> llmc_header(const ModelConfig& c, Dtype dtype) {
    ENSURE(dtype == Dtype::f32 || dtype == Dtype::bf16);
    std::array<int32_t, 256> header{};
    const int64_t fields[] = {llmc_model_magic, dtype == Dtype::f32 ? 3 : 5, c.max_seq_len, c.vocab_size, c.n_layer, c.n_head,
                              c.d_model,        padded_vocab_of(c)};
    for (size_t i = 0; i < std::size(fields); i++) header[i] = static_cast<int32_t>(fields[i]);
    return header;
}

std::vector<LlmcPiece> llmc_pieces(const ModelConfig& c, const ParamTable& table) {
    std::vector<LlmcPiece> pieces;
    for (const LlmcTensor& tensor : llmc_tensors(c, padded_vocab_of(c)))
        for (int layer = tensor.per_layer ? 0 : -1; layer < (tensor.per_layer ? c.n_layer : 0); layer++) {
            const size_t row = static_cast<size_t>(table.find(tensor.kind, tensor.is_bias, layer));
            pieces.push_back({row, tensor.values - table.rows[row].used_numel()});
        }
    return pieces;
}

}  // namespace traincu
