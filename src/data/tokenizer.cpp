#include "src/data/tokenizer.h"

#include <algorithm>
#include <filesystem>

#include "src/base/error.h"
#include "src/base/files.h"
#include "src/data/bpe_tokenizer.h"
#include "src/data/shard.h"
#include "src/data/tokenizer_json.h"
#include "src/data/tokenizer_json_writer.h"

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
    bool takes_any_bytes() const override { return true; }

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
        BpeVocabulary vocabulary;
        for (int byte = 0; byte < 256; byte++) vocabulary.tokens.push_back(std::string(1, static_cast<char>(byte)));
        return write_tokenizer_json(vocabulary, "");
    }
};

}  // namespace

namespace fs = std::filesystem;

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& where) {
    if (where == ByteTokenizer().name()) return std::make_unique<ByteTokenizer>();
    std::error_code ignored;
    const bool folder = fs::is_directory(where, ignored);
    const std::string path = folder ? (fs::path(where) / "tokenizer.json").string() : where;
    if (!fs::is_regular_file(path, ignored))
        throw Error(ExitCode::usage,
                    folder ? "the folder " + where + " holds no tokenizer.json"
                           : "'" + where + "' is no tokenizer: neither \"bytes\", nor a file, nor a folder that holds a tokenizer.json",
                    "give bytes, the path of a tokenizer.json, or a folder that holds one")
            .file(path);
    if (fs::file_size(path, ignored) > max_tokenizer_file)
        throw Error(ExitCode::data, path + " is longer than a vocabulary needs (128 MiB)", "give a tokenizer.json").file(path);
    std::string text = read_whole_file(path, ExitCode::data);
    if (text == ByteTokenizer().json()) return std::make_unique<ByteTokenizer>();
    return make_bpe_tokenizer(std::move(text), path);
}

void check_vocab_size(const Tokenizer& tokenizer, int64_t vocab_size) {
    if (tokenizer.vocab_size() > vocab_size)
        throw Error(ExitCode::usage,
                    format("the tokenizer (%s) has %lld tokens, the model only %lld", tokenizer.name().c_str(),
                           static_cast<long long>(tokenizer.vocab_size()), static_cast<long long>(vocab_size)),
                    "give the tokenizer that the model and its shards were made with");
}

std::string tokenizer_path(const std::string& shard) {
    const fs::path path(shard);
    const std::string name = path.filename().string();
    const size_t split = std::max(name.rfind("_train_") + 1, name.rfind("_val_") + 1);  // npos + 1 is 0
    const std::string prefix = split > 0 ? name.substr(0, split - 1) : path.stem().string();
    return (path.parent_path() / (prefix + "_tokenizer.json")).string();
}

std::unique_ptr<Tokenizer> tokenizer_of_shard(const Shard& shard, std::string& note) {
    const ShardHeader& header = shard.header();
    if (header.tokenizer == ByteTokenizer::kind_in_header) return std::make_unique<ByteTokenizer>();
    if (header.tokenizer != tokenizer_json_kind) {
        note = shard.path() + " does not say how its tokens become text";
        return nullptr;
    }
    const std::string path = tokenizer_path(shard.path());
    if (std::error_code ignored; !fs::exists(path, ignored)) {
        note = path + " is missing, the vocabulary of " + shard.path();
        return nullptr;
    }
    std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(path);
    if (tokenizer->fingerprint() != header.fingerprint)
        throw Error(ExitCode::data, path + " is not the vocabulary that " + shard.path() + " was written with",
                    "put the tokenizer.json back that belongs to these shards, or write the shards again")
            .file(path);
    return tokenizer;
}

}  // namespace traincu
