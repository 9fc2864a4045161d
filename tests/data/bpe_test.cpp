#include <doctest/doctest.h>

#include <algorithm>

#include "src/base/philox.h"
#include "src/data/bpe.h"

using namespace traincu;

namespace {

// The definition, in the plainest loops: the leftmost pair of the lowest rank, again and again.
std::vector<int32_t> by_definition(const BpeVocabulary& vocabulary, const std::string& word) {
    std::vector<std::string> parts;
    for (char byte : word) parts.emplace_back(1, byte);
    auto text_of = [&](int32_t id) { return vocabulary.tokens[static_cast<size_t>(id)]; };
    for (bool merged = true; merged;) {
        merged = false;
        for (const auto& [left, right] : vocabulary.merges) {
            for (size_t i = 0; i + 1 < parts.size() && !merged; i++)
                if (parts[i] == text_of(left) && parts[i + 1] == text_of(right)) {
                    parts[i] += parts[i + 1];
                    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
                    merged = true;
                }
            if (merged) break;
        }
    }
    std::vector<int32_t> ids;
    for (const std::string& part : parts)
        ids.push_back(
            static_cast<int32_t>(std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), part) - vocabulary.tokens.begin()));
    return ids;
}

}  // namespace

TEST_SUITE("data/bpe") {
    TEST_CASE("random vocabularies and words: the ids are those of the definition, for short words and long ones") {
        const Random random{3, RandomStream::sampling};
        uint64_t draws = 0;
        auto draw = [&](size_t below) { return static_cast<size_t>(random.below(below, 0, draws++)); };
        size_t longest_token = 0;
        for (int trial = 0; trial < 40; trial++) {
            // 256 bytes, then merges of two tokens that begin with one of three letters, so that they meet often and overlap
            BpeVocabulary vocabulary;
            for (int byte = 255; byte >= 0; byte--) vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
            std::vector<int32_t> usable = {255 - 'a', 255 - 'b', 255 - 'c'};
            for (int merge = 0; merge < 30; merge++) {
                const int32_t left = usable[draw(usable.size())], right = usable[draw(usable.size())];
                const std::string text = vocabulary.tokens[static_cast<size_t>(left)] + vocabulary.tokens[static_cast<size_t>(right)];
                const std::pair<int32_t, int32_t> pair(left, right);
                if (std::find(vocabulary.merges.begin(), vocabulary.merges.end(), pair) != vocabulary.merges.end()) continue;
                if (std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), text) == vocabulary.tokens.end()) {
                    usable.push_back(static_cast<int32_t>(vocabulary.tokens.size()));
                    vocabulary.tokens.push_back(text);
                    longest_token = std::max(longest_token, text.size());
                }
                vocabulary.merges.push_back(pair);
            }
            const Bpe bpe(vocabulary, false);
            for (int words = 0; words < 30; words++) {
                std::string word;
                for (size_t n = draw(words % 2 ? 30 : 250); n > 0; n--) word += static_cast<char>('a' + draw(3));
                for (int again = 0; again < 2; again++) {  // the second time from the cache
                    std::vector<int32_t> ids;
                    bpe.encode(word, ids);
                    CHECK_MESSAGE(ids == by_definition(vocabulary, word), word);
                }
            }
        }
        CHECK(longest_token >= 8);
    }

    TEST_CASE("a word that is a token becomes that token, if asked for") {
        BpeVocabulary vocabulary;
        for (int byte = 0; byte < 256; byte++) vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
        vocabulary.tokens.insert(vocabulary.tokens.end(), {"", "bc", "abc"});  // 256 is no token
        vocabulary.merges = {{'b', 'c'}};
        std::vector<int32_t> ids;
        Bpe(vocabulary, false).encode("abc", ids);
        CHECK(ids == std::vector<int32_t>{'a', 257});
        ids.clear();
        Bpe(vocabulary, true).encode("abc", ids);
        CHECK(ids == std::vector<int32_t>{258});
        Bpe(vocabulary, true).encode("", ids);
        CHECK(ids.size() == 1);
    }
}
