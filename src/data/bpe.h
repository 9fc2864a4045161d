// Byte-pair encoding (Sennrich, Haddow, Birch 2016; over bytes: Radford et al. 2019): a word begins as its bytes, and as long as two
// neighbours are a merge of the vocabulary, the pair of the lowest rank (the leftmost of these) becomes one token.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace traincu {

struct BpeVocabulary {
    std::vector<std::string> tokens;                  // the bytes of id i; empty: this id is no token
    std::vector<std::pair<int32_t, int32_t>> merges;  // two ids, in rank order; their bytes together are a token too
};

}  // namespace traincu
