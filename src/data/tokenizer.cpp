#include "src/data/tokenizer.h"

#include <fstream>
#include <iterator>

#include <nlohmann/json.hpp>

#include "src/base/error.h"

namespace traincu {

const std::vector<std::string>& byte_characters() {
    static const std::vector<std::string> table = [] {
        std::vector<std::string> characters;
        int next = 256;
        for (int byte = 0; byte < 256; byte++) {
            const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
            const int code = printable ? byte : next++;
            if (code < 0x80)
                characters.push_back({static_cast<char>(code)});
            else
                characters.push_back({static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))});
        }
        return characters;
    }();
    return table;
}

namespace {

class ByteTokenizer : public Tokenizer {
public:
    static constexpr int32_t kind_in_header = 1, end_of_text = 256;

    std::string name() const override { return "bytes"; }
    int32_t kind() const override { return kind_in_header; }
    uint64_t fingerprint() const override { return 0; }
    int64_t vocab_size() const override { return 257; }
    int32_t eot() const override { return end_of_text; }

    std::vector<int32_t> encode(std::string_view text) const override {
        const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
        return {bytes, bytes + text.size()};
    }

    std::string decode(std::span<const int32_t> ids) const override {
        std::string text;
        text.reserve(ids.size());
        for (int32_t id : ids) {
            if (id < 0 || id > end_of_text)
                throw Error(ExitCode::data, format("token id %d is outside the byte vocabulary of 257", id),
                            "these tokens were made with another tokenizer");
            if (id != end_of_text) text.push_back(static_cast<char>(id));
        }
        return text;
    }

    // A byte-level vocabulary without merges.
    std::string json() const override {
        using Json = nlohmann::ordered_json;
        Json vocab = Json::object();
        for (size_t byte = 0; byte < 256; byte++) vocab[byte_characters()[byte]] = byte;
        vocab["<|endoftext|>"] = end_of_text;
        const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
        Json special = {{"id", end_of_text}, {"content", "<|endoftext|>"}, {"single_word", false}, {"lstrip", false},
                        {"rstrip", false},   {"normalized", false},        {"special", true}};
        Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"vocab", vocab},
                      {"merges", Json::array()}};
        Json json = {
            {"version", "1.0"},      {"truncation", nullptr},       {"padding", nullptr},        {"added_tokens", Json::array({special})},
            {"normalizer", nullptr}, {"pre_tokenizer", byte_level}, {"post_processor", nullptr}, {"decoder", byte_level},
            {"model", model}};
        return json.dump(1) + "\n";
    }
};

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& where) {
    if (where == ByteTokenizer().name()) return std::make_unique<ByteTokenizer>();
    if (std::ifstream file(where, std::ios::binary); file) {
        const std::string text{std::istreambuf_iterator<char>(file), {}};
        if (text == ByteTokenizer().json()) return std::make_unique<ByteTokenizer>();
        throw Error(ExitCode::data, where + " is the vocabulary of a tokenizer that this version does not have", "the built-in tokenizer is: bytes")
            .file(where);
    }
    throw Error(ExitCode::usage, "unknown tokenizer '" + where + "'", "the built-in tokenizer is: bytes");
}

std::unique_ptr<Tokenizer> tokenizer_of_kind(int32_t kind) {
    if (kind == ByteTokenizer::kind_in_header) return std::make_unique<ByteTokenizer>();
    return nullptr;
}

}  // namespace traincu
