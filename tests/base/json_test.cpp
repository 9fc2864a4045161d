// JSON that nobody vouches for: each broken rule is one clear error, and nothing of a hostile size is built.
#include "src/base/json.h"

#include <doctest/doctest.h>

namespace traincu::test {

namespace {

std::string refusal(const std::string& text, int depth = 8) {
    try {
        parse_untrusted(text, depth, "some.json", ExitCode::data);
    } catch (const Error& error) {
        CHECK(error.code() == ExitCode::data);
        CHECK(error.json().find("some.json") != std::string::npos);
        CHECK_FALSE(error.remedy().empty());
        return error.what();
    }
    return "";
}
bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("json") {
    TEST_CASE("json: sound texts come back as they are") {
        const std::string text = R"({"a":[1,-2,2.5,"x\u00e9"],"b":{"a":true,"c":null},"":{}})";
        CHECK(parse_untrusted(text, 3, "f", ExitCode::data) == nlohmann::json::parse(text));
        CHECK(refusal(R"({"a":{"x":1},"b":{"x":1},"x":[{"x":1},{"x":2}]})").empty());  // the same key in different objects
        CHECK(refusal("[[[]]]", 3).empty());
        CHECK(refusal("7", 0).empty());
    }

    TEST_CASE("json: broken rules") {
        CHECK(has(refusal("{\"a\":1,\"b\":2,\"a\":3}"), "\"a\" is there twice"));
        CHECK(has(refusal("{\"o\":{\"k\":1,\"\\u006b\":2}}"), "\"k\" is there twice"));  // the same key, spelled otherwise
        CHECK(has(refusal("[[[[]]]]", 3), "deeper than 3"));
        CHECK(has(refusal(std::string(1'000'000, '['), 8), "deeper than 8"));
        std::string objects;
        for (int i = 0; i < 100'000; i++) objects += "{\"a\":";
        CHECK(has(refusal(objects, 8), "deeper than 8"));
        for (const char* text : {"", " ", "{", "[1,]", "{\"a\" 1}", "nul", "\"\xFF\"", "1 2", "{1:2}", "// comment\n1", "NaN", "'a'"})
            CHECK_MESSAGE(has(refusal(text), "not JSON"), text);
        CHECK(has(refusal(std::string("{}\0", 3)), "NUL"));
        CHECK(has(refusal("1e999"), "some.json"));
    }

    TEST_CASE("json: a hundred thousand keys take no quadratic time") {
        std::string text = "{";
        for (int i = 0; i < 100'000; i++) text += (i ? ",\"" : "\"") + std::to_string(i) + "\":" + std::to_string(i);
        CHECK(parse_untrusted(text + "}", 1, "f", ExitCode::data).size() == 100'000);
    }

}  // TEST_SUITE
}  // namespace traincu::test
