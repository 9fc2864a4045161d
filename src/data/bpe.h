// Byte-pair encoding (Sennrich, Haddow, Birch 2016; over bytes: Radford et al. 2019): a word begins as its bytes, and as long as two
// neighbours are a merge of the vocabulary, the pair of the lowest rank (the leftmost of these) becomes one token.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace traincu {

struct BpeVocabulary {
    std::vector<std::string> tokens;                  // the bytes of id i; empty: this id is no token
    std::vector<std::pair<int32_t, int32_t>> merges;  // two ids, in rank order; their bytes together are a token too
};

class Bpe {
public:
    // Every byte and every merge must have its token, no two tokens the same bytes. whole_words: a word that is a token becomes that token,
    // whatever the merges say ("ignore_merges" of Llama 3).
    Bpe(BpeVocabulary vocabulary, bool whole_words);
    Bpe(const Bpe&) = delete;
    Bpe& operator=(const Bpe&) = delete;

    // Appends the ids of one word. Time n log n in its bytes. Any number of threads at a time: each keeps the ids of the short words that
    // it met last (4 MB).
    void encode(std::string_view word, std::vector<int32_t>& ids) const;

    const BpeVocabulary& vocabulary() const { return vocabulary_; }

private:
    struct Merge {
        uint64_t pair;
        int32_t rank, merged;  // rank: no_rank in an empty slot
    };
    static constexpr int32_t no_rank = 0x7FFFFFFF;

    const Merge& merge_of(int32_t left, int32_t right) const;  // with rank no_rank where there is none
    size_t slot_of(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15) >> shift_; }
    void encode_afresh(std::string_view word, std::vector<int32_t>& ids) const;
    void merge_short(std::string_view word, std::vector<int32_t>& ids) const;
    void merge_long(std::string_view word, std::vector<int32_t>& ids) const;

    BpeVocabulary vocabulary_;
    std::array<int32_t, 256> id_of_byte_;
    std::unordered_map<std::string_view, int32_t> id_of_token_;  // views into vocabulary_; kept for whole_words only
    std::vector<Merge> merges_;                                  // open addressing, at most half full
    int shift_ = 63;
    uint64_t serial_;  // tells the threads' caches whose ids they hold
};

}  // namespace traincu
