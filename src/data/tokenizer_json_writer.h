// Writing a vocabulary of our own as the tokenizer.json that Hugging Face's tokenizers load; tokenizer_json.h reads it.
#pragma once

#include <string>

#include "src/data/bpe.h"

namespace traincu {

// pattern: what a word is (pretokenizer.h); empty: no splitting into words. <|endoftext|> gets the id after the last token. Nothing changes
// the text before it is split (no normalizer), so that decoding gives it back.
std::string write_tokenizer_json(const BpeVocabulary& vocabulary, const std::string& pattern);

}  // namespace traincu
