#include "src/data/tokenizer.h"

#include "src/base/error.h"

namespace traincu {

namespace {

class ByteTokenizer : public Tokenizer {
public:
    static constexpr int32_t kind_in_header = 1, end_of_text = 256;

    std::string name() const override { return "bytes"; }
    int32_t kind() const override { return kind_in_header; }
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
};

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_named(std::string_view name) {
    if (name == ByteTokenizer().name()) return std::make_unique<ByteTokenizer>();
    throw Error(ExitCode::usage, "unknown tokenizer '" + std::string(name) + "'", "the built-in tokenizer is: bytes");
}

std::unique_ptr<Tokenizer> tokenizer_of_kind(int32_t kind) {
    if (kind == ByteTokenizer::kind_in_header) return std::make_unique<ByteTokenizer>();
    return nullptr;
}

}  // namespace traincu
