#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "src/data/tokenizer.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;

TEST_SUITE("data/tokenizer") {
    TEST_CASE("bytes: every string comes back, ids are the bytes, end-of-text is no text") {
        auto tokenizer = open_tokenizer("bytes");
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

    TEST_CASE("bytes as a tokenizer.json: a symbol of its own for each byte, printable ones as they are") {
        const auto json = nlohmann::json::parse(open_tokenizer("bytes")->json());
        const auto& vocab = json["model"]["vocab"];
        CHECK(vocab.size() == 257);
        for (const char* letter : {"!", "A", "~"}) CHECK(vocab[letter] == letter[0]);
        CHECK(vocab["\u0100"] == 0);   // the first byte without a character
        CHECK(vocab["\u0120"] == 32);  // the space, as everybody knows it from GPT-2
        CHECK(vocab["\u00e9"] == 0xE9);
        CHECK(vocab["\u0143"] == 0xAD);  // the last one
        CHECK(vocab["<|endoftext|>"] == 256);
        CHECK(json["added_tokens"][0]["id"] == 256);
    }

    TEST_CASE("the bytes are found by name, and know only their ids") {
        CHECK(open_tokenizer("bytes")->name() == "bytes");
        CHECK(open_tokenizer("bytes")->kind() == 1);
        CHECK(refuses(ExitCode::usage, {"klingon"}, [] { open_tokenizer("klingon"); }));
        for (int32_t id : {-1, 257, 50256})
            CHECK(refuses(ExitCode::data, {std::to_string(id)}, [&] { open_tokenizer("bytes")->decode({&id, 1}); }));
    }
}
