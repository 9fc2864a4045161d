// Learning a vocabulary: against a trainer that counts every pair anew before each merge.
#include "src/data/bpe_trainer.h"

#include <doctest/doctest.h>

#include <map>

#include "src/base/philox.h"
#include "src/data/tokenizer.h"
#include "src/data/tokenizer_json.h"
#include "src/data/tokenizer_json_writer.h"
#include "tests/data/fixture.h"

namespace traincu::test {

namespace {

struct BruteForce {
    std::vector<std::pair<int32_t, int32_t>> merges;
    std::map<std::string, std::vector<int32_t>> words;  // as tokens, in the end
};

// The definition, word by word: count all neighbours, merge the best pair everywhere from the left, again.
BruteForce brute_force(const WordCounts& counts, const BpeVocabulary& bytes, int64_t merges) {
    BruteForce result;
    for (const auto& [word, count] : counts)
        for (char c : word)
            result.words[word].push_back(static_cast<int32_t>(
                std::find(bytes.tokens.begin(), bytes.tokens.begin() + 256, std::string(1, c)) - bytes.tokens.begin()));
    for (int64_t m = 0; m < merges; m++) {
        std::map<std::pair<int32_t, int32_t>, int64_t> pairs;  // ascending: the first of the greatest count is the one
        for (const auto& [word, ids] : result.words)
            for (size_t i = 0; i + 1 < ids.size(); i++) pairs[{ids[i], ids[i + 1]}] += counts.find(word)->second;
        auto best = std::max_element(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
        if (best == pairs.end() || best->second < 2) break;
        const auto [left, right] = best->first;
        result.merges.emplace_back(left, right);
        for (auto& [word, ids] : result.words) {
            std::vector<int32_t> merged;
            for (size_t i = 0; i < ids.size(); i++) {
                const bool here = i + 1 < ids.size() && ids[i] == left && ids[i + 1] == right;
                merged.push_back(here ? 256 + static_cast<int32_t>(m) : ids[i]);
                i += here;
            }
            ids = merged;
        }
    }
    return result;
}

// Words over few letters: many ties, many repeated letters.
WordCounts random_words(uint64_t seed, int words, int letters, int longest, int largest_count) {
    Random random{seed, RandomStream::sampling};
    WordCounts counts;
    for (int w = 0; w < words; w++) {
        std::string word;
        const uint64_t length = 1 + random.below(static_cast<uint64_t>(longest), 0, static_cast<uint64_t>(w));
        for (uint64_t i = 0; i < length; i++)  // 0xFF and on around to 0x00: bytes whose characters are not in their order
            word.push_back(static_cast<char>(0x1E + random.below(static_cast<uint64_t>(letters), 1, static_cast<uint64_t>(w) * 1000 + i)));
        counts[word] += 1 + static_cast<int64_t>(random.below(static_cast<uint64_t>(largest_count), 2, static_cast<uint64_t>(w)));
    }
    return counts;
}

}  // namespace

TEST_SUITE("data/bpe trainer") {
    TEST_CASE("trainer: the merges of counting everything anew, and the words that encoding makes of them") {
        int ties = 0;
        for (uint64_t seed = 0; seed < 40; seed++) {
            CAPTURE(seed);
            const int letters = 1 + static_cast<int>(seed % 7), longest = seed % 3 == 0 ? 60 : 9;
            const WordCounts counts = random_words(seed, 30 + static_cast<int>(seed) * 3, letters, longest, seed % 2 ? 1 : 4);
            const int64_t wanted = seed % 4 == 0 ? 10'000 : 25;
            BpeVocabulary learned = train_bpe(counts, wanted);
            const BruteForce expected = brute_force(counts, learned, wanted);
            CHECK(learned.merges == expected.merges);
            ties += seed % 2;
            for (size_t i = 0; i < learned.merges.size(); i++) {
                const auto [left, right] = learned.merges[i];
                CHECK(learned.tokens[256 + i] == learned.tokens[static_cast<size_t>(left)] + learned.tokens[static_cast<size_t>(right)]);
            }
            const Bpe bpe(learned, false);
            for (const auto& [word, ids] : expected.words) {
                std::vector<int32_t> encoded;
                bpe.encode(word, encoded);
                CHECK(encoded == ids);
            }
        }
        CHECK(ties == 20);
    }

    TEST_CASE("trainer: bytes in GPT-2's order, ties by id, a pair of one place is left alone") {
        const BpeVocabulary v = train_bpe({{"ab", 5}, {"cd", 5}, {" a", 5}, {"!a", 5}, {"xy", 1}}, 100);
        CHECK(v.tokens[0] == "!");
        CHECK(v.tokens[93] == "~");
        CHECK(v.tokens[188] == std::string(1, '\0'));  // the first without a character of its own
        CHECK(v.tokens[220] == " ");                   // as in GPT-2
        std::vector<std::string> made(v.tokens.begin() + 256, v.tokens.end());
        CHECK(made == std::vector<std::string>{"!a", "ab", "cd", " a"});
    }

    TEST_CASE("trainer: in a run of one letter the pair stands at every place, and is merged from the left") {
        const BpeVocabulary v = train_bpe({{std::string(1'000'000, 'a'), 1}, {"aab", 2}}, 50);
        CHECK(v.tokens[256] == "aa");
        CHECK(v.tokens[257] == "aaaa");
        CHECK(v.merges.size() > 15);
        CHECK(train_bpe({}, 10).merges.empty());
        CHECK(train_bpe({{"a", 9}}, 10).merges.empty());
        CHECK(train_bpe({{"ab", 9}}, 0).tokens.size() == 256);
    }

    TEST_CASE("trainer: words are counted alike by any number of threads; what is not UTF-8 is mended") {
        if (!Pretokenizer::built_in()) {
            MESSAGE("skipped: built without PCRE2");
            return;
        }
        const Pretokenizer pretokenizer = Pretokenizer::for_pattern(gpt2_pattern);
        std::vector<std::string> documents;
        for (int i = 0; i < 50; i++) documents.push_back("It's the " + std::to_string(i % 7) + " th, the\n\nend \xff");
        WordCounts first;
        for (int threads : {1, 2, 5}) {
            WordCounter counter(pretokenizer, threads);
            counter.add(std::span(documents).first(20));
            counter.add(std::span(documents).subspan(20));
            const WordCounts counts = counter.take();
            if (threads == 1) first = counts;
            CHECK(counts == first);
        }
        CHECK(first.at("'s") == 50);
        CHECK(first.at(" the") == 100);
        CHECK(first.at(" \uFFFD") == 50);
    }

    TEST_CASE("a learned vocabulary as tokenizer.json is read back as it was, with its pattern") {
        if (!Pretokenizer::built_in()) {
            MESSAGE("skipped: built without PCRE2");
            return;
        }
        BpeVocabulary v = train_bpe(random_words(3, 60, 5, 12, 4), 40);
        for (const std::string pattern : {"", gpt2_pattern, llama3_pattern, qwen2_pattern}) {
            const TokenizerFile file = parse_tokenizer_json(write_tokenizer_json(v, pattern), "learned");
            CHECK(file.pattern == pattern);
            CHECK(file.vocabulary.merges == v.merges);
            CHECK(file.vocab_size == static_cast<int64_t>(v.tokens.size()) + 1);
            REQUIRE(file.vocabulary.tokens.size() >= v.tokens.size());
            CHECK(std::equal(v.tokens.begin(), v.tokens.end(), file.vocabulary.tokens.begin()));
            REQUIRE(file.added.size() == 1);
            CHECK(file.added[0].content == "<|endoftext|>");
            CHECK(file.added[0].id == static_cast<int32_t>(v.tokens.size()));
            CHECK(!file.nfc);
            CHECK(!file.whole_words);
        }
    }
}

}  // namespace traincu::test
