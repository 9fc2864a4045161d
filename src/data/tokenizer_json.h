// Reading tokenizer.json, the vocabulary file of Hugging Face's tokenizers, where it describes byte-level byte-pair encoding:
//
//                   GPT-2                          Llama 3                            Qwen2, Qwen3
//   added_tokens    cut out of the text first; normalized: true after the normalizer, false before it
//   normalizer      none                           none                               NFC
//   pre_tokenizer   ByteLevel (use_regex)          Sequence of Split(Regex), ByteLevel   the same
//   model           BPE                            BPE (ignore_merges)                BPE
//
// Whatever else would change the ids (dropout, byte_fallback, affixes, other models, normalizers and pre-tokenizers, single_word, lstrip,
// rstrip) is refused by name. post_processor, truncation and padding are passed over: they say what is put around a text and cut from it
// when a model is asked something, not how text becomes tokens; training has its own end-of-text mark.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/data/bpe.h"

namespace traincu {

struct AddedToken {
    int32_t id = 0;
    std::string content;
    bool special = false;     // a mark, not text: decodes to nothing
    bool normalized = false;  // looked for after normalization
};

struct TokenizerFile {
    BpeVocabulary vocabulary;
    std::vector<AddedToken> added;  // some are in the vocabulary as well
    std::vector<std::pair<int32_t, std::string>>
        unspelled;             // tokens of the model that are not written in byte characters: no text becomes one
    int64_t vocab_size = 0;    // V: the largest id + 1
    bool whole_words = false;  // ignore_merges
    bool nfc = false;
    bool prefix_space = false;  // a space before each piece of text that begins with none
    std::string pattern;        // what a word is; empty: a piece of text is one word
};

constexpr size_t max_tokenizer_file = size_t{128} << 20;  // bytes

// text: the whole file. Error(data) with `path` for anything that is not such a file; the file is not trusted.
// Limits: 128 MiB, 2^21 tokens, 2^22 merges, depth 16, ids without more than 65,536 holes.
TokenizerFile parse_tokenizer_json(std::string_view text, const std::string& path);

}  // namespace traincu
