#include <doctest/doctest.h>

#include "src/data/tokenizer.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;

TEST_SUITE("data/tokenizer") {
    TEST_CASE("bytes: every string comes back, ids are the bytes, end-of-text is no text") {
        auto tokenizer = tokenizer_named("bytes");
        std::string all;
        for (int i = 0; i < 256; i++) all.push_back(static_cast<char>(i));
        for (const std::string& text : {std::string(), std::string("A\0z", 3), std::string("Zürich 東京\r\n"), all}) {
            std::vector<int32_t> ids = tokenizer->encode(text);
            REQUIRE(ids.size() == text.size());
            for (size_t i = 0; i < ids.size(); i++) CHECK(ids[i] == static_cast<unsigned char>(text[i]));
            CHECK(tokenizer->decode(ids) == text);
        }
        CHECK(tokenizer->vocab_size() == 257);
        CHECK(tokenizer->eot() == 256);
        CHECK(tokenizer->decode(std::vector<int32_t>{256, 72, 256, 105}) == "Hi");
    }

    TEST_CASE("tokenizers are found by name and by the number in a shard's header") {
        CHECK(tokenizer_named("bytes")->name() == "bytes");
        CHECK(tokenizer_of_kind(tokenizer_named("bytes")->kind())->name() == "bytes");
        CHECK(tokenizer_named("bytes")->kind() == 1);
        CHECK(tokenizer_of_kind(0) == nullptr);
        CHECK(tokenizer_of_kind(77) == nullptr);
        CHECK(refuses(ExitCode::usage, {"klingon"}, [] { tokenizer_named("klingon"); }));
        for (int32_t id : {-1, 257, 50256})
            CHECK(refuses(ExitCode::data, {std::to_string(id)}, [&] { tokenizer_named("bytes")->decode({&id, 1}); }));
    }
}
