// The tokenizer that a tokenizer.json describes: added tokens, normalization, words, byte-pair encoding.
#pragma once

#include <memory>
#include <string>

#include "src/data/tokenizer.h"

namespace traincu {

constexpr int32_t tokenizer_json_kind = 2;  // word 5 of a shard's header

// text: the file as it is; it comes back from json() byte for byte. path: for messages. Error(data) for a file that is not understood,
// Error(usage) where this build lacks the library that the file needs.
//
// encode() gives the ids that Hugging Face's tokenizers give (encode(text, add_special_tokens=False) of version 0.23). So the text of an
// added token, such as <|endoftext|>, becomes that token wherever it stands; documents are parted before that, by DocumentReader. Bytes
// that are not UTF-8 become U+FFFD, see mend_utf8.
//
// eot() is the first of these that the file has: <|endoftext|> (GPT-2, Qwen), <|begin_of_text|> (Llama 3: a document here begins with its
// mark, and llm.c's shards use 128000 in the same way), <|end_of_text|>, <|im_end|>, <s>, </s>. A file with none of them is Error(data).
//
// decode() gives the bytes of the tokens, as they are: what the library would replace by U+FFFD stays. eot() and special tokens decode to
// nothing, as with skip_special_tokens; so do ids that stand for nothing. An added token decodes to its text; the library reads it in byte
// characters where it can, so that it breaks an added "é".
std::unique_ptr<Tokenizer> make_bpe_tokenizer(std::string text, const std::string& path);

}  // namespace traincu
