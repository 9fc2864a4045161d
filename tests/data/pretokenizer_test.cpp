#include <doctest/doctest.h>

#include <array>
#include <sstream>

#include "src/base/version.h"
#include "src/data/nfc.h"
#include "src/data/pretokenizer.h"
#include "src/data/utf8.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

using Words = std::vector<std::string>;

Words split(const std::string& pattern, const std::string& text) {
    Words words;
    Pretokenizer::for_pattern(pattern).split(text, [&](std::string_view word) { words.emplace_back(word); });
    return words;
}

std::string utf8(char32_t c) {
    auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
    if (c < 0x80) return {static_cast<char>(c)};
    if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), tail(0)};
    if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
    return {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
}

// Calls visit(c) for every code point that is a character.
void for_all_characters(const std::function<void(char32_t)>& visit) {
    for (char32_t c = 0; c < 0x110000; c++)
        if (c < 0xD800 || c > 0xDFFF) visit(c);
}

class Fnv {
public:
    void add(uint64_t value) { hash_ = (hash_ ^ value) * 0x100000001B3u; }
    std::string text() const { return format("%016llx", static_cast<unsigned long long>(hash_)); }

private:
    uint64_t hash_ = 0xCBF29CE484222325u;
};

// The rows of classes.txt: pattern (or nfc), count, hash.
std::vector<std::array<std::string, 3>> rows_of_classes() {
    std::vector<std::array<std::string, 3>> rows;
    std::istringstream file(read_file("tests/golden/tokenizers/classes.txt"));
    for (std::array<std::string, 3> row; file >> row[0] >> row[1] >> row[2];) rows.push_back(row);
    return rows;
}

}  // namespace

TEST_SUITE("data/pretokenizer") {
    TEST_CASE("the words of the three known patterns") {
        if (lacks_pcre2()) return;
        CHECK(split(gpt2_pattern, "Don't go  there, 1234 times\n\n now") ==
              Words{"Don", "'t", " go", " ", " there", ",", " 1234", " times", "\n\n", " now"});
        CHECK(split(llama3_pattern, "DON'T go  there, 1234 times\n\n now!\n") ==
              Words{"DON", "'T", " go", " ", " there", ",", " ", "123", "4", " times", "\n\n", " now", "!\n"});
        CHECK(split(qwen2_pattern, "x 12") == Words{"x", " ", "1", "2"});
        CHECK(split(gpt2_pattern, "").empty());
    }

    TEST_CASE("what matches nothing is a word too: the words together are the text") {
        if (lacks_pcre2()) return;
        CHECK(split("[a-z]+", "12ab3cd..") == Words{"12", "ab", "3", "cd", ".."});
    }

    TEST_CASE("white space is Unicode's, without U+180E") {
        if (lacks_pcre2()) return;
        CHECK(split(R"(\s+)", "a\u0085\u2028\u3000b") == Words{"a", "\u0085\u2028\u3000", "b"});
        CHECK(split(R"(\s+)", "a\u180Eb") == Words{"a\u180Eb"});
        CHECK(split(R"([^\s]+)", "a\u180Eb\u00A0c") == Words{"a\u180Eb", "\u00A0", "c"});
        CHECK(split(R"(\S+)", "a\u180Eb\u00A0c") == Words{"a\u180Eb", "\u00A0", "c"});
    }

    TEST_CASE("every code point falls on the same side of every class as in Hugging Face's tokenizers") {
        if (lacks_pcre2()) return;
        const std::string build = build_summary();
        if (std::stoi(build.substr(build.find("Unicode ", build.find("PCRE2")) + 8)) > 16) {
            MESSAGE("skipped: this PCRE2 knows a Unicode that the library does not");
            return;
        }
        int classes = 0;
        for (const auto& [pattern, count, hash] : rows_of_classes()) {
            if (pattern == "nfc" || pattern == "joins") continue;
            // A line break before every character: a match is one word with its line break.
            const Pretokenizer pretokenizer = Pretokenizer::for_pattern("\n" + pattern + "|\n");
            Fnv matched;
            int matches = 0;
            std::vector<char32_t> block;
            auto flush = [&] {
                std::string text;
                for (char32_t c : block) text += "\n" + utf8(c);
                size_t i = 0;
                pretokenizer.split(text, [&](std::string_view word) {
                    if (word[0] != '\n' || i == block.size()) return;
                    if (word.size() > 1) matched.add(block[i]), matches++;
                    i++;
                });
                block.clear();
            };
            for_all_characters([&](char32_t c) {
                block.push_back(c);
                if (c == '\n' - 1 || c == '\n' || block.size() == 4096) flush();
            });
            flush();
            CHECK_MESSAGE(std::to_string(matches) == count, pattern);
            CHECK_MESSAGE(matched.text() == hash, pattern);
            classes++;
        }
        CHECK(classes == 14);
    }

    TEST_CASE("patterns that two engines may read differently, or that make no words, are refused by name") {
        if (lacks_pcre2()) return;
        for (const auto& [pattern, phrase] : std::vector<std::pair<std::string, std::string>>{
                 {"^a", "the sign ^"},
                 {"a$", "the sign $"},
                 {"a.", "the sign ."},
                 {R"(\w+)", R"(the escape \w)"},
                 {R"(\bx)", R"(the escape \b)"},
                 {R"(\p{Han})", R"(\p or \P)"},
                 {R"(\p{Lu})", R"(\p or \P)"},
                 {R"(\P{L})", R"(\p or \P)"},
                 {"[a&&b]", "&&"},
                 {"[a[b]]", "a class inside"},
                 {"[]a]", "an empty class"},
                 {"[a", "an open ["},
                 {"(?<=a)b", "begins with (?<"},
                 {"(?>a)b", "begins with (?>"},
                 {"(*ACCEPT)a", "begins with (*A"},
                 {"a{,3}", "a { that"},
                 {"a{2}+", "behind {2}"},
                 {"a{2}?", "behind {2}"},
                 {"(a", "an open ("},
                 {"a)", "a ) without"},
                 {R"((?i:\p{L}))", "inside (?i:)"},
                 {R"([\s-z])", "a range that begins with"},
                 {R"([^\S])", R"(the escape \S)"},
                 {"a*", "match nothing"},
                 {"a|", "match nothing"},
                 {"+", "no regular expression"},
                 {R"(a\)", "the escape"},
                 {std::string("a\0b", 3), "a NUL byte"},
             })
            CHECK_MESSAGE(refuses(ExitCode::data, {phrase}, [&] { Pretokenizer::for_pattern(pattern); }), pattern);
    }

    TEST_CASE("a pattern that takes beyond all measure is an error, and long runs are not") {
        if (lacks_pcre2()) return;
        CHECK(refuses(ExitCode::data, {"cannot be matched"}, [] { split("(?:a|aa)+c", std::string(200, 'a') + "bc"); }));
        for (const char* pattern : {gpt2_pattern, llama3_pattern, qwen2_pattern})
            for (const std::string piece : {" ", "a", "\n", "1", "!", "\u3000", "\u6771", "\u0301", " \n"}) {
                std::string text;
                while (text.size() < size_t{1} << 20) text += piece;
                size_t bytes = 0;
                Pretokenizer::for_pattern(pattern).split(text, [&](std::string_view word) { bytes += word.size(); });
                CHECK(bytes == text.size());
            }
    }
}

TEST_SUITE("data/utf8") {
    TEST_CASE("broken UTF-8 becomes what Python makes of it") {
        const std::string mark = "\uFFFD";
        for (const auto& [text, marks] : std::vector<std::pair<std::string, int>>{{"\x80", 1},
                                                                                  {"\xC0\xAF", 2},
                                                                                  {"\xC3", 1},
                                                                                  {"\xE0\x80\xAF", 3},
                                                                                  {"\xE2\x82", 1},
                                                                                  {"\xED\xA0\x80", 3},
                                                                                  {"\xEF\xBF", 1},
                                                                                  {"\xF0\x9F\x98", 1},
                                                                                  {"\xF0\x8F\xBF\xBF", 4},
                                                                                  {"\xF4\x90\x80\x80", 4},
                                                                                  {"\xF5\x80", 2},
                                                                                  {"\xFE\xFF", 2}}) {
            std::string expected = "a";
            for (int i = 0; i < marks; i++) expected += mark;
            CHECK(mend_utf8("a" + text + "b") == expected + "b");
            CHECK(mend_utf8("a" + text) == expected);
            CHECK(!is_utf8("12345678" + text));
            CHECK(!is_utf8(text + "12345678"));
        }
        std::string all;
        for_all_characters([&](char32_t c) { all += utf8(c); });
        CHECK(is_utf8(all));
        CHECK(mend_utf8(all) == all);
    }

    TEST_CASE("a character that is not finished yet is told from one that never will be") {
        const std::string smile = "\U0001F600";
        for (size_t n = 0; n <= 4; n++) CHECK(unfinished_utf8("ab" + smile.substr(0, n)) == n % 4);
        CHECK(unfinished_utf8("") == 0);
        CHECK(unfinished_utf8("\xE2\x82") == 2);
        CHECK(unfinished_utf8("\xE0\x80") == 0);
        CHECK(unfinished_utf8("\xFF") == 0);
    }

    TEST_CASE("NFC of a million marks in disorder takes no more than n log n") {
        if (!nfc_built_in()) return;
        const std::string above = "\u0301", below = "\u0323";
        std::string mixed = "q", sorted = "q";
        for (int i = 0; i < 500'000; i++) mixed += above + below;
        for (const std::string& mark : {below, above})
            for (int i = 0; i < 500'000; i++) sorted += mark;
        CHECK(nfc(mixed) == sorted);
    }

    TEST_CASE("characters that NFC passes over never join the one before them") {
        int joining = 0;
        for (const auto& [name, count, list] : rows_of_classes()) {
            if (name != "joins") continue;
            std::istringstream codes(list);
            for (std::string code; std::getline(codes, code, ','); joining++)
                CHECK_MESSAGE(!nfc_is_quiet(static_cast<char32_t>(std::stoul(code, nullptr, 16))), code);
            CHECK(std::to_string(joining) == count);
        }
        CHECK(joining > 100);
    }

    TEST_CASE("NFC of every code point, alone and among marks, is that of Hugging Face's tokenizers") {
        if (!nfc_built_in()) {
            MESSAGE("skipped: built without utf8proc");
            return;
        }
        int rows = 0;
        const std::vector<std::pair<std::string, std::string>> contexts = {
            {"", ""}, {"q\u0301", ""}, {"q", "\u0323"}, {"a\u0301", "\u0323"}};
        for (const auto& [name, context, hash] : rows_of_classes()) {
            if (name != "nfc") continue;
            const auto& [before, after] = contexts.at(std::stoul(context));
            Fnv bytes;
            for_all_characters([&](char32_t c) {
                for (char byte : nfc(before + utf8(c) + after)) bytes.add(static_cast<unsigned char>(byte));
            });
            CHECK_MESSAGE(bytes.text() == hash, "context " << context);
            rows++;
        }
        CHECK(rows == 4);
    }
}
