#include <doctest/doctest.h>

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
}
