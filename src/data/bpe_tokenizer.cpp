#include "src/data/bpe_tokenizer.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/base/error.h"
#include "src/data/bpe.h"
#include "src/data/nfc.h"
#include "src/data/pretokenizer.h"
#include "src/data/tokenizer_json.h"
#include "src/data/utf8.h"

namespace traincu {

namespace {

// Finds tokens in a text as they are written: the leftmost first, of these the longest.
class TokenFinder {
public:
    void add(std::string content, int32_t id) {
        begins_[static_cast<unsigned char>(content[0])] = true;
        tokens_.emplace_back(std::move(content), id);
    }
    void finish() { std::sort(tokens_.begin(), tokens_.end()); }

    // Calls on_text with what lies between tokens (never empty) and on_token with the ids, in the order of the text.
    void cut(std::string_view text, const std::function<void(std::string_view)>& on_text,
             const std::function<void(int32_t)>& on_token) const {
        size_t done = 0;
        for (size_t i = 0; i < text.size() && !tokens_.empty();) {
            const Token* token = begins_[static_cast<unsigned char>(text[i])] ? longest_at(text.substr(i)) : nullptr;
            if (!token) {
                i++;
                continue;
            }
            if (i > done) on_text(text.substr(done, i - done));
            on_token(token->second);
            done = i += token->first.size();
        }
        if (done < text.size()) on_text(text.substr(done));
    }

private:
    using Token = std::pair<std::string, int32_t>;

    // Narrows the sorted list, byte by byte, to the tokens that begin like `text`.
    const Token* longest_at(std::string_view text) const {
        const Token* found = nullptr;
        auto first = tokens_.begin(), last = tokens_.end();
        for (size_t n = 0; first != last; n++) {
            if (first->first.size() == n) found = &*first++;  // the shortest stands first; contents are unique
            if (n == text.size()) break;
            auto byte = [n](const Token& token) { return static_cast<unsigned char>(token.first[n]); };
            const auto wanted = static_cast<unsigned char>(text[n]);
            first = std::lower_bound(first, last, wanted, [&](const Token& token, unsigned char c) { return byte(token) < c; });
            last = std::upper_bound(first, last, wanted, [&](unsigned char c, const Token& token) { return c < byte(token); });
        }
        return found;
    }

    std::vector<Token> tokens_;
    std::array<bool, 256> begins_{};
};

constexpr std::array<const char*, 6> end_of_text_names = {"<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|im_end|>", "<s>",
                                                          "</s>"};

class BpeTokenizer : public Tokenizer {
public:
    BpeTokenizer(std::string text, TokenizerFile&& file, const std::string& path)
        : text_(std::move(text)),
          vocab_size_(file.vocab_size),
          nfc_(file.nfc),
          prefix_space_(file.prefix_space),
          bpe_(std::move(file.vocabulary), file.whole_words),
          token_texts_(bpe_.vocabulary().tokens) {
        if (!file.pattern.empty()) words_ = Pretokenizer::for_pattern(file.pattern);
        if (nfc_ && !nfc_built_in())
            throw Error(ExitCode::usage, path + " needs Unicode normalization (NFC), and ./train was built without utf8proc",
                        "install the package libutf8proc-dev (sh scripts/setup.sh) and run make again")
                .file(path);
        fingerprint_ = std::max<uint64_t>(1, XXH64(text_.data(), text_.size(), 0));
        token_texts_.resize(static_cast<size_t>(vocab_size_));
        for (const auto& [id, token] : file.unspelled) token_texts_[static_cast<size_t>(id)] = token;
        for (const AddedToken& token : file.added) {
            const std::string content = token.normalized && nfc_ ? nfc(token.content) : token.content;
            (token.normalized ? normalized_tokens_ : raw_tokens_).add(content, token.id);
            token_texts_[static_cast<size_t>(token.id)] = token.special ? "" : content;
        }
        raw_tokens_.finish(), normalized_tokens_.finish();
        eot_ = find_end_of_text(file, path);
        token_texts_[static_cast<size_t>(eot_)] = "";
    }

    std::string name() const override { return "tokenizer.json"; }
    int32_t kind() const override { return tokenizer_json_kind; }
    uint64_t fingerprint() const override { return fingerprint_; }
    int64_t vocab_size() const override { return vocab_size_; }
    int32_t eot() const override { return eot_; }
    bool takes_any_bytes() const override { return false; }
    std::string json() const override { return text_; }

    std::vector<int32_t> encode(std::string_view text) const override {
        std::string mended, normalized, spaced;
        if (!is_utf8(text)) text = mended = mend_utf8(text);
        std::vector<int32_t> ids;
        ids.reserve(text.size() / 3);
        auto on_token = [&](int32_t id) { ids.push_back(id); };
        auto on_word = [&](std::string_view word) { bpe_.encode(word, ids); };
        auto on_text = [&](std::string_view piece) {
            if (prefix_space_ && piece[0] != ' ') piece = spaced = " " + std::string(piece);
            if (words_)
                words_->split(piece, on_word);
            else
                on_word(piece);
        };
        raw_tokens_.cut(
            text,
            [&](std::string_view piece) {
                if (nfc_) piece = normalized = nfc(piece);
                normalized_tokens_.cut(piece, on_text, on_token);
            },
            on_token);
        return ids;
    }

    std::string decode(std::span<const int32_t> ids) const override {
        std::string text;
        for (int32_t id : ids) {
            if (id < 0 || id >= vocab_size_)
                throw Error(ExitCode::data,
                            format("token id %d is outside the vocabulary of %lld", id, static_cast<long long>(vocab_size_)),
                            "these tokens were made with another tokenizer");
            text += token_texts_[static_cast<size_t>(id)];
        }
        return text;
    }

private:
    int32_t find_end_of_text(const TokenizerFile& file, const std::string& path) const {
        std::string names;
        for (const std::string name : end_of_text_names) {
            for (const AddedToken& token : file.added)
                if (token.content == name) return token.id;
            const auto& tokens = bpe_.vocabulary().tokens;
            if (const auto found = std::find(tokens.begin(), tokens.end(), name); found != tokens.end())
                return static_cast<int32_t>(found - tokens.begin());
            names += (names.empty() ? "" : ", ") + name;
        }
        throw Error(ExitCode::data, path + " has no end-of-text token to part documents with",
                    "add one of these to its added_tokens: " + names)
            .file(path);
    }

    std::string text_;
    int64_t vocab_size_;
    bool nfc_, prefix_space_;
    Bpe bpe_;
    std::vector<std::string> token_texts_;  // what an id decodes to
    std::optional<Pretokenizer> words_;     // none: a piece of text is one word
    TokenFinder raw_tokens_, normalized_tokens_;
    uint64_t fingerprint_ = 0;
    int32_t eot_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(std::string text, const std::string& path) {
    TokenizerFile file = parse_tokenizer_json(text, path);
    return std::make_unique<BpeTokenizer>(std::move(text), std::move(file), path);
}

}  // namespace traincu
