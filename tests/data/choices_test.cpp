// Multiple-choice sets: written, read back, and every lie that a file may tell.
#include "src/data/choices.h"

#include <doctest/doctest.h>

#include "tests/data/fixture.h"

namespace traincu::test {

namespace {

std::vector<ChoiceExample> three_examples() {
    return {{1, {5, 6, 7}, {{1}, {2, 3}}}, {0, {9}, {{1, 2, 3, 4}, {65534}, {0, 0}}}, {4, {8, 8}, {{1}, {2}, {3}, {4}, {5}}}};
}

// A set as another program would write it: header words, then units of `width` bytes.
std::string raw_set(const std::vector<uint32_t>& words, const std::vector<uint32_t>& units, int width) {
    return raw_shard(words, units, width);
}

// Two examples of version 1, 32 and 22 bytes long.
const std::vector<uint32_t> good = {65535, 32, 0, 1, 2, 3, 11, 12, 13, 2, 21, 22, 3, 31, 32, 33,  //
                                    65535, 22, 1, 0, 2, 1, 14, 1,  23, 1, 33};

}  // namespace

TEST_SUITE("choices") {
    TEST_CASE("choices: what is written is read back, in 16 bits where they suffice") {
        TempDir f;
        const std::string path = f / "set.bin";
        auto check = [&](const std::vector<ChoiceExample>& examples, uint32_t version) {
            write_choices(path, examples, 1 << 20);
            std::string bytes = read_file(path);
            CHECK(bytes[4] == static_cast<char>(version));
            CHECK(read_choices(path, 0) == examples);
            CHECK(is_choice_set(path));
            CHECK(!fs::exists(path + ".tmp"));
        };
        auto examples = three_examples();
        check(examples, 1);
        examples[2].completions[4][0] = 65535;  // 16 bits keep it for the mark
        check(examples, 2);
        examples[2].completions[4] = {2'000'000'000};
        check(examples, 2);
        // an example of 65534 bytes, the most that 16 bits tell, and one of 65536
        examples = {{0, std::vector<int32_t>(32757, 3), {{1}, {1}}}};
        check(examples, 1);
        examples[0].context.push_back(3);
        check(examples, 2);
        examples.assign(65535, {0, {1}, {{2}, {3}}});
        check(examples, 1);
        examples.push_back({1, {1}, {{2}, {3}}});
        check(examples, 2);
    }

    TEST_CASE("choices: the bytes are llm.c's") {
        TempDir f;
        const std::vector<ChoiceExample> examples = {{1, {11, 12, 13}, {{21, 22}, {31, 32, 33}}}, {0, {14}, {{23}, {33}}}};
        write_choices(f / "set.bin", examples, 100);
        CHECK(read_file(f / "set.bin") == raw_set({20240522, 1, 2, 32, 100}, good, 2));
    }

    TEST_CASE("choices: every lie is refused, with its place") {
        TempDir f;
        struct Lie {
            const char* says;
            std::string bytes;
            int64_t vocab_size = 100;
        };
        const std::vector<uint32_t> head = {20240522, 1, 2, 32};
        write_file(f / "good.bin", raw_set(head, good, 2));
        CHECK(read_choices(f / "good.bin", 100).size() == 2);
        auto lie = [&](size_t at, uint32_t value) {
            auto units = good;
            units.at(at) = value;
            return raw_set(head, units, 2);
        };
        const std::string cut = raw_set(head, good, 2), longer = cut + std::string(2, '\0');
        const Lie lies[] = {
            {"is not a multiple-choice set", ""},
            {"is not a multiple-choice set", cut.substr(0, 1023)},
            {"is not a multiple-choice set", gpt2_shard({1, 2, 3})},
            {"has version 3", raw_set({20240522, 3, 2, 32}, good, 2)},
            {"holds no examples", raw_set({20240522, 1, 0, 32}, good, 2)},
            {"states 3 examples but ends in example 2", raw_set({20240522, 1, 3, 32}, good, 2)},
            {"states 4294967295 examples", raw_set({20240522, 1, 0xFFFFFFFF, 32}, good, 2)},
            {"goes on after its 1 examples", raw_set({20240522, 1, 1, 32}, good, 2)},
            {"goes on after its 2 examples", longer},
            {"vocabulary of 200, but the model has 100", raw_set({20240522, 1, 2, 32, 200}, good, 2)},
            {"ends in example 1", cut.substr(0, 1024 + 32 + 10)},
            {"states impossible 22 bytes", cut.substr(0, cut.size() - 2)},
            {"no mark where example 0", lie(0, 65534)},
            {"no mark where example 1", lie(16, 1)},
            {"impossible 0 bytes", lie(1, 0)},
            {"impossible 31 bytes", lie(1, 31)},
            {"impossible 65534 bytes", lie(1, 65534)},
            {"impossible 34 bytes", lie(1, 34)},  // longer than the longest
            {"completion of 3 tokens, more than it holds", lie(1, 30)},
            {"another index", lie(2, 1)},
            {"labelled 2 of 2", lie(3, 2)},
            {"has 1 completions", lie(4, 1)},
            {"has 0 completions", lie(4, 0)},
            {"states 60000 completions", lie(4, 60000)},
            {"empty context", lie(5, 0)},
            {"a context of 65535 tokens", lie(5, 65535)},
            {"token id 100 in example 0", lie(6, 100)},
            {"empty completion", lie(9, 0)},
            {"completion of 40 tokens", lie(12, 40)},
            {"is longer than its completions", lie(12, 2)},
            {"token id 3000000000", raw_set({20240522, 2, 1, 44}, {0xFFFFFFFF, 44, 0, 0, 2, 1, 3000000000, 1, 1, 1, 1}, 4), 0},
            {"a context of 4294967295 tokens", raw_set({20240522, 2, 1, 44}, {0xFFFFFFFF, 44, 0, 0, 2, 0xFFFFFFFF, 1, 1, 1, 1, 1}, 4), 0},
        };
        for (const Lie& l : lies) {
            CAPTURE(l.says);
            write_file(f / "lie.bin", l.bytes);
            auto error = error_of([&] { read_choices(f / "lie.bin", l.vocab_size); });
            REQUIRE(error);
            CAPTURE(error->what());
            CHECK(error->code() == ExitCode::data);
            CHECK(!error->remedy().empty());
            CHECK(std::string(error->what()).find(l.says) != std::string::npos);
            CHECK(error->json().find("offset") != std::string::npos);
        }
        CHECK(refuses(ExitCode::data, {"not a regular file"}, [&] { read_choices(f.path, 0); }));
        CHECK(refuses(ExitCode::data, {"missing.bin"}, [&] { read_choices(f / "missing.bin", 0); }));
    }

    TEST_CASE("choices: any cut or changed byte is an error or a set, never a crash") {
        TempDir f;
        write_choices(f / "set.bin", three_examples(), 65535);
        const std::string whole = read_file(f / "set.bin");
        int refused = 0, read = 0;
        auto attempt = [&](const std::string& bytes) {
            write_file(f / "x.bin", bytes);
            auto error = error_of([&] { read_choices(f / "x.bin", 65535); });
            (error ? refused : read)++;
            if (error) CHECK(error->code() == ExitCode::data);
        };
        for (size_t n = 0; n < whole.size(); n += n < 1000 ? 100 : 1) attempt(whole.substr(0, n));
        CHECK(read == 0);
        for (size_t i = 1024; i < whole.size(); i++)
            for (unsigned char flip : {0x01, 0x80, 0xFF}) {
                std::string bytes = whole;
                bytes[i] = static_cast<char>(bytes[i] ^ flip);
                attempt(bytes);
            }
        CHECK(refused > 200);
    }

    TEST_CASE("choices: questions in JSON lines") {
        const auto bytes = open_tokenizer("bytes");
        auto parse = [&](const std::string& line) { return parse_choice(line, *bytes, "questions.jsonl", 7); };
        const ChoiceExample expected = {1, {'H', 'i'}, {{' ', 'a'}, {' ', 'b', 'c'}}};
        CHECK(parse(R"({"ind": 3, "ctx": "Hi", "endings": ["a", "bc"], "label": 1, "split": "val"})") == expected);
        CHECK(parse(R"({"context": "Hi", "choices": ["a", "bc"], "answer": "B"})") == expected);
        CHECK(parse(R"({"question": "Hi", "choices": ["a", "bc"], "label": "1"})") == expected);
        CHECK(parse(R"({"ctx": "", "endings": ["a", "bc"], "label": 0})").context == std::vector<int32_t>{256});
        CHECK(parse(R"({"ctx": "", "endings": ["", "bc"], "label": 0})").completions[0] == std::vector<int32_t>{' '});
        const std::pair<const char*, const char*> mistakes[] = {
            {"", "not a JSON object"},
            {"[1]", "not a JSON object"},
            {R"({"ctx": "Hi")", "not a JSON object"},
            {"{\"ctx\": \"\xff\"}", "not a JSON object"},
            {R"({"endings": ["a", "b"], "label": 0})", "no text under ctx"},
            {R"({"ctx": 3, "endings": ["a", "b"], "label": 0})", "no text under ctx"},
            {R"({"ctx": "Hi", "label": 0})", "no list of two"},
            {R"({"ctx": "Hi", "endings": ["a"], "label": 0})", "no list of two"},
            {R"({"ctx": "Hi", "endings": ["a", 2], "label": 0})", "a choice is not a text"},
            {R"({"ctx": "Hi", "endings": ["a", "b"]})", "no label"},
            {R"({"ctx": "Hi", "endings": ["a", "b"], "label": 2})", "the label 2 names none of its 2"},
            {R"({"ctx": "Hi", "endings": ["a", "b"], "label": -1})", "the label -1 names none"},
            {R"({"ctx": "Hi", "endings": ["a", "b"], "label": "C"})", "names none"},
            {R"({"ctx": "Hi", "endings": ["a", "b"], "label": "99999999999999999999"})", "names none"},
            {R"({"ctx": "Hi", "endings": ["a", "b"], "label": 99999999999999999999})", "names none"},
            {R"({"ctx": "Hi", "endings": ["a", "b"], "label": [0]})", "the label names none"},
        };
        for (auto [line, says] : mistakes) {
            CAPTURE(line);
            CHECK(refuses(ExitCode::data, {"questions.jsonl, line 7", says}, [&, line = line] { parse(line); }));
        }
    }
}

}  // namespace traincu::test
