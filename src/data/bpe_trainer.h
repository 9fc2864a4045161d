// Learns a byte-level BPE vocabulary (Gage 1994; Sennrich, Haddow, Birch 2016; over bytes: Radford et al. 2019): every word begins as its
// bytes, and again and again the most frequent pair of neighbours becomes a token.
//
// The count of a pair is the number of places where its two tokens stand side by side inside a word, times the count of the word; in "aaa"
// the pair (a,a) stands at two. Among equally frequent pairs the one with the smaller left id wins, then the one with the smaller right
// id. Ids are in GPT-2's order: the 256 bytes by the code points of their characters (byte_characters() in tokenizer.h), then the merges
// as they are learned. The order is total, so the vocabulary is a function of the word counts alone: not of threads, not of hash tables.
// A pair that stands in one place only is not worth a token and is never merged. Hugging Face's BpeTrainer, given the bytes as its
// alphabet and min_frequency 2, follows the same rules.
//
// Time: every place of a pair is visited once when the pair is made and once when it is merged, and a merge costs the places it changes,
// not the length of the words they are in. Memory: 12 bytes a byte of the distinct words, and the places of the pairs seen twice or more.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/data/bpe.h"
#include "src/data/pretokenizer.h"

namespace traincu {

// Words and how often each occurs.
struct WordHash {
    using is_transparent = void;  // a view finds its word without a copy
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
};
using WordCounts = std::unordered_map<std::string, int64_t, WordHash, std::equal_to<>>;

// Splits documents into words by a pattern and counts them, with several threads. Bytes that are not UTF-8 become U+FFFD first, as when
// the text is encoded.
class WordCounter {
public:
    WordCounter(const Pretokenizer& pretokenizer, int threads) : pretokenizer_(pretokenizer), of_thread_(static_cast<size_t>(threads)) {}
    void add(std::span<const std::string> documents);
    WordCounts take();  // what was added so far

private:
    const Pretokenizer& pretokenizer_;
    std::vector<WordCounts> of_thread_;
};

// At most `merges` merges; fewer where no pair is left that stands in two places. Ids 0..255 are the bytes, 256+i is what merge i makes.
// Error(data) where the distinct words have 2 GiB or more. progress: the share done, 0 to 1.
BpeVocabulary train_bpe(const WordCounts& words, int64_t merges, const std::function<void(double)>& progress = {});

}  // namespace traincu
