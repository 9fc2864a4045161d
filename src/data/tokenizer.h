// Tokenizers: text to ids and back. One is built in: the bytes themselves, 256 ids and an end-of-text mark. It needs no
// vocabulary file, knows every language and every file, and decode(encode(text)) == text always.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace traincu {

class Tokenizer {
public:
    virtual ~Tokenizer() = default;
    virtual std::string name() const = 0;      // for people: "bytes"
    virtual int32_t kind() const = 0;          // how a shard's header names it; never 0
    virtual uint64_t fingerprint() const = 0;  // of json(): two tokenizers with the same one give the same ids; 0 for bytes
    virtual int64_t vocab_size() const = 0;    // V: ids are in [0, V)
    virtual int32_t eot() const = 0;           // end-of-text: stands before every document
    virtual std::vector<int32_t> encode(std::string_view text) const = 0;
    // end-of-text is a mark and not text: it decodes to nothing. An id outside the vocabulary is Error(data).
    virtual std::string decode(std::span<const int32_t> ids) const = 0;
    virtual std::string json() const = 0;  // as the tokenizer.json that Hugging Face's tokenizers load
};

// "bytes"; another name is Error(usage).
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& where);

// The one a shard's header names; null where it names none that is known.
std::unique_ptr<Tokenizer> tokenizer_of_kind(int32_t kind);

// Byte-level vocabularies are written in text: every byte as a printable character of its own (Radford et al. 2019). Printable Latin-1
// stands for itself, the others for U+0100 onwards in their order. The characters of the 256 bytes, in UTF-8.
const std::vector<std::string>& byte_characters();

}  // namespace traincu
