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

class Shard;

class Tokenizer {
public:
    virtual ~Tokenizer() = default;
    virtual std::string name() const = 0;      // for people: "bytes"
    virtual int32_t kind() const = 0;          // how a shard's header names it; never 0
    virtual uint64_t fingerprint() const = 0;  // of json(): two tokenizers with the same one give the same ids; 0 for bytes
    virtual int64_t vocab_size() const = 0;    // V: ids are in [0, V)
    virtual int32_t eot() const = 0;           // end-of-text: stands before every document
    virtual bool takes_any_bytes() const = 0;  // else encode() mends text that is not UTF-8, see mend_utf8
    virtual std::vector<int32_t> encode(std::string_view text) const = 0;
    // end-of-text is a mark and not text: it decodes to nothing. An id outside the vocabulary is Error(data).
    virtual std::string decode(std::span<const int32_t> ids) const = 0;
    virtual std::string json() const = 0;  // as the tokenizer.json that Hugging Face's tokenizers load
};

// "bytes", a tokenizer.json (under any name that ends so), or a folder that holds one. Error(usage) where there is none, Error(data)
// where the file is not understood.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& where);

// The one that a shard's header names. A tokenizer.json is looked for beside the shard, as ./train tokenize leaves it (tokenizer_path);
// Error(data) if what stands there is another one. Null, and why in `note`, where the header names none or the file is missing.
std::unique_ptr<Tokenizer> tokenizer_of_shard(const Shard& shard, std::string& note);

// Error(usage) if the model, with its V, has no room for the tokenizer's ids.
void check_vocab_size(const Tokenizer& tokenizer, int64_t vocab_size);

// Where the tokenizer.json of a shard is: PREFIX_tokenizer.json for PREFIX_train_000000.bin and PREFIX_val_000000.bin.
std::string tokenizer_path(const std::string& shard);

// Byte-level vocabularies are written in text: every byte as a printable character of its own (Radford et al. 2019). Printable Latin-1
// stands for itself, the others for U+0100 onwards in their order. The characters of the 256 bytes, in UTF-8.
const std::vector<std::string>& byte_characters();

}  // namespace traincu
