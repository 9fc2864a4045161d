// ./train tokenize --train-vocab: a vocabulary learned from the text that is tokenized with it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/data/corpus.h"

namespace traincu {

// What --pattern may be, and the regular expression that it stands for. The default is Llama 3's (after GPT-4's): unlike GPT-2's it keeps
// contractions of every case together and cuts numbers into at most three digits, so that no merges go to common long numbers.
extern const std::vector<std::string> pattern_names;
std::string pattern_named(const std::string& name);

// A byte-level BPE of `size` tokens: the bytes, merges, <|endoftext|>. It is learned from the documents of the training split, so that what
// is held out stays unseen. Prints what it did. Where the text has too few pairs of neighbours that occur twice the vocabulary is smaller,
// and a note says so.
std::unique_ptr<Tokenizer> learn_vocabulary(const TokenizeConfig& config, int64_t size, const std::string& pattern_name);

}  // namespace traincu
