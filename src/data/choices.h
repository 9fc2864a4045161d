// Multiple-choice sets (HellaSwag and its like): questions as tokens, for scoring by the likelihood of their answers.
//
// The file is llm.c's (its dev/data/data_common.py, write_evalfile): 256 little-endian int32, then the examples one after another.
//
//   word   what                                                    written by
//   [0,1]  20240522, 1: units of uint16; 2: units of uint32        1: everyone, 2: ./train tokenize
//   [2]    number of examples                                      everyone
//   [3]    bytes of the longest example                            everyone
//   [4]    vocabulary size, 0 = not stated                         ./train tokenize
//
//   An example, in units:  the largest unit (65535; 4294967295), bytes of the whole example, its index from 0, label,
//   number of completions n, length of the context, the context's tokens, then n times: length of the completion, its tokens.
//
// llm.c's own reader takes n = 4 only; here it is 2 or more, and may differ between examples. Contexts and completions hold at least
// one token. Version 2 is for what 16 bits cannot hold: ids from 65535 on, more than 65535 examples, an example of 64 KiB.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/data/tokenizer.h"

namespace traincu {

struct ChoiceExample {
    int64_t label = 0;                              // which completion is right
    std::vector<int32_t> context;                   // not empty
    std::vector<std::vector<int32_t>> completions;  // at least 2, none empty

    bool operator==(const ChoiceExample&) const = default;
};

// Reads a set whole, and believes nothing in it: Error(data) with file and offset for whatever is no such file, does not fit its own
// counts, or holds an id that is not below vocab_size, the model's V (0: whatever the file has).
std::vector<ChoiceExample> read_choices(const std::string& path, int64_t vocab_size);

// Writes version 1 where it can hold the set, else 2. Error(io).
void write_choices(const std::string& path, std::span<const ChoiceExample> examples, int64_t vocab_size);

// A question of a JSON-lines file as tokens: {"ctx"|"context"|"question": text, "endings"|"choices": [text, ...], "label"|"answer": which,
// from 0, or "A", "B", ...}; other keys are passed over. The context is encode(text), a completion encode(" " + text), as in llm.c;
// an empty context becomes the end-of-text id, with which a document begins. Error(data) names `file` and line `number`.
ChoiceExample parse_choice(std::string_view line, const Tokenizer& tokenizer, const std::string& file, int64_t number);

bool is_choice_set(const std::string& path);  // by its first four bytes

// The text of `./train inspect`; reads and checks the whole set.
std::string describe_choices(const std::string& path);

}  // namespace traincu
