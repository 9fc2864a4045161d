// Byte-level BPE against Hugging Face's tokenizers: the fixtures of tests/golden/tokenizers, made by tests/golden/make_tokenizers.py.
#include <doctest/doctest.h>

#include <array>
#include <thread>

#include <nlohmann/json.hpp>

#include "src/data/bpe_tokenizer.h"
#include "src/data/nfc.h"
#include "src/data/utf8.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

using Json = nlohmann::ordered_json;

const std::string folder = "tests/golden/tokenizers/";

std::vector<std::string> split_at(const std::string& text, char border) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, border);) parts.push_back(part);
    return parts;
}

// Undoes escape() of make_tokenizers.py.
std::string unescape(const std::string& text) {
    std::string bytes;
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] != '\\') {
            bytes += text[i];
        } else {
            bytes += static_cast<char>(std::stoi(text.substr(i + 2, 2), nullptr, 16));
            i += 3;
        }
    }
    return bytes;
}

std::vector<std::string> fragments() {
    std::vector<std::string> all;
    for (const std::string& line : split_at(read_file(folder + "fragments.txt"), '\n')) all.push_back(unescape(line));
    return all;
}

// mixture() of make_tokenizers.py.
std::string mixture(const std::vector<std::string>& pieces, uint64_t seed, int count) {
    std::string text;
    for (uint64_t x = seed; count > 0; count--) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        text += pieces[(x >> 33) % pieces.size()];
    }
    return text;
}

std::string fnv(const std::vector<int32_t>& ids) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (int32_t id : ids) hash = (hash ^ static_cast<uint64_t>(id)) * 0x100000001B3u;
    return format("%016llx", static_cast<unsigned long long>(hash));
}

// The text of a fixture's tokenizer.json.
std::string fixture_json(const std::string& name) {
    if (name != "gpt2_prefix") return read_file(folder + name + ".json");
    std::string text = read_file(folder + "gpt2.json");
    const std::string no = "\"add_prefix_space\":false", yes = "\"add_prefix_space\":true";
    return text.replace(text.find(no), no.size(), yes);
}

bool lacks(const std::string& name) {
    if (lacks_pcre2()) return true;
    if (name == "qwen2" && !nfc_built_in()) MESSAGE("skipped: built without utf8proc");
    return name == "qwen2" && !nfc_built_in();
}

std::unique_ptr<Tokenizer> fixture(const std::string& name) { return make_bpe_tokenizer(fixture_json(name), name); }

}  // namespace

TEST_SUITE("data/tokenizer_json") {
    TEST_CASE("ids and decoded text are those of Hugging Face's tokenizers, case by case") {
        for (const std::string name : {"gpt2", "gpt2_prefix", "llama3", "qwen2"}) {
            if (lacks(name)) continue;
            const auto tokenizer = fixture(name);
            int cases = 0;
            for (const std::string& line : split_at(read_file(folder + name + ".cases"), '\n')) {
                std::vector<std::string> columns = split_at(line, '\t');
                columns.resize(3);
                std::vector<int32_t> expected;
                for (const std::string& id : split_at(columns[1], ' ')) expected.push_back(std::stoi(id));
                const std::vector<int32_t> ids = tokenizer->encode(unescape(columns[0]));
                CHECK_MESSAGE(ids == expected, name << " encodes " << columns[0]);
                // the library replaces what is no UTF-8, we keep the bytes
                CHECK_MESSAGE(mend_utf8(tokenizer->decode(expected)) == unescape(columns[2]), name << " decodes " << columns[1]);
                cases++;
            }
            CHECK(cases > 300);
        }
    }

    TEST_CASE("ids of a megabyte of mixed text are those of Hugging Face's tokenizers") {
        const std::vector<std::string> pieces = fragments();
        for (const std::string name : {"gpt2", "gpt2_prefix", "llama3", "qwen2"}) {
            if (lacks(name)) continue;
            const auto tokenizer = fixture(name);
            const std::vector<std::string> hashes = split_at(read_file(folder + name + ".hashes"), '\n');
            REQUIRE(hashes.size() == 64);
            size_t bytes = 0;
            for (uint64_t seed = 0; seed < hashes.size(); seed++) {
                const std::string text = mixture(pieces, seed, 900);
                bytes += text.size();
                CHECK_MESSAGE(fnv(tokenizer->encode(text)) == hashes[seed], name << ", mixture " << seed);
            }
            CHECK(bytes > 1'000'000);
        }
    }

    TEST_CASE("threads that encode at the same time, with two tokenizers by turns, give the same ids") {
        if (lacks("qwen2")) return;
        const std::vector<std::string> pieces = fragments();
        const auto llama3 = fixture("llama3"), qwen2 = fixture("qwen2");
        std::array<std::vector<std::string>, 2> hashes;
        auto work = [&](size_t thread) {
            for (uint64_t seed = 0; seed < 16; seed++)
                for (const Tokenizer* tokenizer : {llama3.get(), qwen2.get()})
                    hashes[thread].push_back(fnv(tokenizer->encode(mixture(pieces, seed, 900))));
        };
        std::thread other(work, 1);
        work(0);
        other.join();
        CHECK(hashes[0] == hashes[1]);
        for (size_t seed = 0; seed < 16; seed++) {
            CHECK(hashes[0][2 * seed] == split_at(read_file(folder + "llama3.hashes"), '\n')[seed]);
            CHECK(hashes[0][2 * seed + 1] == split_at(read_file(folder + "qwen2.hashes"), '\n')[seed]);
        }
    }

    TEST_CASE("bytes come back: decode(encode(text)) is the text, up to special tokens, NFC and what is not UTF-8") {
        if (lacks("llama3")) return;
        const auto tokenizer = fixture("llama3");
        for (const std::string& text : fragments())
            if (is_utf8(text) && text.find("<|") == std::string::npos) CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
    }

    TEST_CASE("properties of the three fixtures: V, end-of-text, fingerprint, the file itself") {
        for (const auto& [name, V, eot] : {std::tuple{"gpt2", 1203, 1202}, {"llama3", 1205, 1202}, {"qwen2", 1208, 1202}}) {
            if (lacks(name)) continue;
            const auto tokenizer = fixture(name);
            CHECK(tokenizer->vocab_size() == V);
            CHECK(tokenizer->eot() == eot);
            CHECK(tokenizer->kind() == 2);
            CHECK(tokenizer->json() == fixture_json(name));
            CHECK(tokenizer->fingerprint() != 0);
            CHECK(tokenizer->fingerprint() == fixture(name)->fingerprint());
            CHECK(tokenizer->fingerprint() != make_bpe_tokenizer(fixture_json(name) + "\n", name)->fingerprint());
            for (int32_t id : {-1, V}) CHECK(refuses(ExitCode::data, {std::to_string(id)}, [&] { tokenizer->decode({&id, 1}); }));
        }
    }

    TEST_CASE("very long words take no more than n log n, and give the same as short ones") {
        if (lacks("gpt2")) return;
        const auto tokenizer = fixture("gpt2");
        const std::vector<int32_t> block = tokenizer->encode(std::string(32768, 'a'));
        const std::vector<int32_t> many = tokenizer->encode(std::string(1 << 20, 'a'));
        CHECK(many.size() == 32 * block.size());
        CHECK(tokenizer->decode(many) == std::string(1 << 20, 'a'));
        const std::string spaces(1 << 20, ' ');
        CHECK(tokenizer->decode(tokenizer->encode(spaces + "x" + spaces)) == spaces + "x" + spaces);
    }

    TEST_CASE("the bytes' own tokenizer.json reads as what it is") {
        const auto bytes = open_tokenizer("bytes"), same = make_bpe_tokenizer(bytes->json(), "bytes.json");
        CHECK(same->vocab_size() == 257);
        CHECK(same->eot() == 256);
        for (const std::string text : {"", "Zürich\n", "a<b"}) CHECK(same->encode(text) == bytes->encode(text));
        CHECK(same->encode("a<|endoftext|>") == std::vector<int32_t>{97, 256});
    }

    TEST_CASE("which token parts documents") {
        auto eot = [](const std::vector<std::string>& names) {
            Json json = Json::parse(open_tokenizer("bytes")->json());
            json["model"]["vocab"].erase("<|endoftext|>");
            json["added_tokens"] = Json::array();
            for (size_t i = 0; i < names.size(); i++)
                json["added_tokens"].push_back({{"id", 256 + i}, {"content", names[i]}, {"special", true}});
            return make_bpe_tokenizer(json.dump(), "x")->eot();
        };
        CHECK(eot({"<|im_start|>", "<|im_end|>", "<|endoftext|>"}) == 258);         // Qwen
        CHECK(eot({"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"}) == 256);  // Llama 3
        CHECK(eot({"<mark>", "</s>"}) == 257);
        CHECK(refuses(ExitCode::data, {"f.json", "no end-of-text"}, [&] {
            Json json = Json::parse(open_tokenizer("bytes")->json());
            json["model"]["vocab"].erase("<|endoftext|>");
            json["added_tokens"] = Json::array();
            make_bpe_tokenizer(json.dump(), "f.json");
        }));
    }
}

namespace {

// A small good file, changed by `change`, is refused with these words.
bool lie(const std::function<void(Json&)>& change, const std::string& phrase) {
    Json json = Json::parse(open_tokenizer("bytes")->json());
    json["model"]["vocab"]["ab"] = 257;
    json["model"]["merges"] = {"a b"};
    make_bpe_tokenizer(json.dump(), "good.json");
    change(json);
    return refuses(ExitCode::data, {"bad.json", phrase}, [&] { make_bpe_tokenizer(json.dump(), "bad.json"); });
}

bool lie_in_text(const std::string& text, const std::string& phrase) {
    return refuses(ExitCode::data, {"bad.json", phrase}, [&] { make_bpe_tokenizer(text, "bad.json"); });
}

}  // namespace

TEST_SUITE("data/tokenizer_json") {
    TEST_CASE("what would change the ids and is not done is refused by name") {
        CHECK(lie([](Json& j) { j["model"]["dropout"] = 0.1; }, "dropout"));
        CHECK(lie([](Json& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback"));
        CHECK(lie([](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }, "continuing_subword_prefix"));
        CHECK(lie([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix"));
        CHECK(lie([](Json& j) { j["model"]["type"] = "WordPiece"; }, "WordPiece"));
        CHECK(lie([](Json& j) { j["model"]["vocab"] = Json::array({Json::array({"a", -1.5})}); }, "Unigram"));
        CHECK(lie([](Json& j) { j["normalizer"] = {{"type", "NFKC"}}; }, "NFKC"));
        CHECK(lie([](Json& j) { j["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}}; }, "Lowercase"));
        CHECK(lie([](Json& j) { j["pre_tokenizer"] = nullptr; }, "no pre_tokenizer"));
        CHECK(lie([](Json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "Metaspace"));
        const Json digits = {{"type", "Digits"}, {"individual_digits", true}}, level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
        CHECK(lie([&](Json& j) { j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {digits, level}}}; }, "Digits"));
        Json split = {{"type", "Split"}, {"pattern", {{"Regex", "x"}}}, {"behavior", "Isolated"}, {"invert", false}};
        auto sequence = [&](Json first, Json second) {
            return [=](Json& j) { j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {first, second}}}; };
        };
        CHECK(lie(sequence(split, level), "splits again"));
        split["invert"] = true;
        CHECK(lie(sequence(split, level), "invert"));
        split["invert"] = false, split["behavior"] = "Removed";
        CHECK(lie(sequence(split, level), "behavior"));
        split["pattern"] = {{"String", " "}};
        CHECK(lie(sequence(split, level), "no Regex"));
        CHECK(lie([](Json& j) { j["decoder"] = {{"type", "WordPiece"}}; }, "decoder"));
        for (const char* option : {"single_word", "lstrip", "rstrip"})
            CHECK(lie([&](Json& j) { j["added_tokens"][0][option] = true; }, option));
    }

    TEST_CASE("lies about tokens, merges and ids") {
        CHECK(lie([](Json& j) { j["model"]["vocab"].erase("!"); }, "no token for the byte 0x21"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = 5; }, "the id 5 to two tokens"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = -1; }, "-1"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = 1.5; }, "1.5"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = "257"; }, "a string as the id"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = true; }, "true"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = Json::array(); }, "a list inside model.vocab"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = Json::object(); }, "an object inside model.vocab"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = 0x7FFFFFFF; }, "2147483647"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = 0xFFFFFFFFFFFFFFFFu; }, "18446744073709551615"));
        CHECK(lie([](Json& j) { j["model"]["vocab"]["ab"] = 100'000'000; }, "stand for nothing"));
        CHECK(lie([](Json& j) { j["model"]["vocab"][""] = 258; }, "empty"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = {"a c"}; }, "\"ac\", which is no token"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = {"xx b"}; }, "\"xx\", which is no token"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = {"a b", "a b"}; }, "merge 1"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = {"ab"}; }, "not two tokens"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = {"a b c"}; }, "not two tokens"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = Json::array({Json::array({"a"})}); }, "with 1 parts"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = Json::array({Json::array({"a", "b", "c"})}); }, "more than 2 parts"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = Json::array({Json::array({"a", Json::array()})}); }, "a list inside"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = Json::array({1}); }, "a number inside model.merges"));
        CHECK(lie([](Json& j) { j["model"]["merges"] = Json::object(); }, "lacks model.vocab or model.merges"));
        CHECK(lie([](Json& j) { j["model"].erase("vocab"); }, "lacks model.vocab"));
        CHECK(lie([](Json& j) { j.erase("model"); }, "no object \"model\""));
        CHECK(lie(
            [](Json& j) {
                j["model"]["vocab"]["a b"] = 258, j["model"]["vocab"]["a ba"] = 259,
                j["model"]["merges"] = Json::array({Json::array({"a b", "a"})});
            },
            "not written in byte characters"));
        CHECK(lie([](Json& j) { j["added_tokens"] = 5; }, "no list"));
        CHECK(lie([](Json& j) { j["added_tokens"] = {5}; }, "without a content"));
        CHECK(lie([](Json& j) { j["added_tokens"][0]["id"] = -4; }, "without a content and an id"));
        CHECK(lie([](Json& j) { j["added_tokens"][0]["id"] = 4e9; }, "without a content and an id"));
        CHECK(lie([](Json& j) { j["added_tokens"][0]["id"] = 4'000'000'000; }, "4000000000"));
        CHECK(lie([](Json& j) { j["added_tokens"][0]["id"] = 300; }, "256 in model.vocab"));
        CHECK(lie([](Json& j) { j["added_tokens"][0]["content"] = "new"; }, "another token's"));
        CHECK(lie([](Json& j) { j["added_tokens"][0]["content"] = ""; }, "empty"));
        CHECK(lie([](Json& j) { j["added_tokens"][0]["special"] = 1; }, "neither true nor false"));
        CHECK(lie([](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }, "twice"));
        CHECK(lie([](Json& j) { j["added_tokens"].push_back({{"id", 90'000'000}, {"content", "far"}}); }, "stand for nothing"));
    }

    TEST_CASE("lies in the JSON itself") {
        const std::string good = open_tokenizer("bytes")->json();
        auto with = [&](const std::string& what, const std::string& instead) {
            std::string text = good;
            REQUIRE(text.find(what) != std::string::npos);
            return text.replace(text.find(what), what.size(), instead);
        };
        CHECK(lie_in_text("", "not valid JSON"));
        CHECK(lie_in_text("[]", "not a JSON object"));
        CHECK(lie_in_text("7", "not a JSON object"));
        CHECK(lie_in_text(good.substr(0, good.size() / 2), "not valid JSON"));
        CHECK(lie_in_text(good + "x", "not valid JSON"));
        CHECK(lie_in_text(good + std::string(1, '\0'), "NUL byte"));
        CHECK(lie_in_text(with("\"version\"", "\"vers\xFFion\""), "not valid JSON in UTF-8"));
        CHECK(lie_in_text(with("\"version\"", "\"\\ud800\""), "not valid JSON in UTF-8"));
        CHECK(lie_in_text(with("\"version\"", "\"model\""), "the key \"model\" twice"));
        CHECK(lie_in_text(with("\"!\": 33", "\"!\": 33, \"!\": 300"), "the token \"!\" twice"));
        CHECK(lie_in_text(with("\"merges\"", "\"vocab\""), "twice"));
        CHECK(lie_in_text(with("\"version\": \"1.0\"", "\"version\": " + std::string(100'000, '[')), "nested deeper"));
        std::string deep = "{\"a\":";
        for (int i = 0; i < 17; i++) deep += "{\"a\":";
        CHECK(lie_in_text(deep, "nested deeper"));
        std::string wide = "0";
        for (int i = 0; i < 300'000; i++) wide += ",0";
        CHECK(lie_in_text(with("\"version\": \"1.0\"", "\"version\": [" + wide + "]"), "more than 262144 values"));
    }

    TEST_CASE("random damage to a file is refused or harmless, never a crash") {
        if (lacks("qwen2")) return;
        const std::string good = fixture_json("qwen2");
        uint64_t x = 5;
        auto draw = [&](size_t below) { return x = x * 6364136223846793005u + 1442695040888963407u, (x >> 33) % below; };
        int refused = 0;
        for (int trial = 0; trial < 300; trial++) {
            std::string text = good;
            for (size_t i = 0; i <= draw(3); i++) text[draw(trial % 2 ? 1200 : text.size())] = static_cast<char>(draw(256));
            if (trial % 7 == 0) text.resize(draw(text.size()));
            try {
                const auto tokenizer = make_bpe_tokenizer(text, "x");
                tokenizer->decode(tokenizer->encode("Some text, 123\n"));
            } catch (const Error& error) {
                CHECK(error.code() == ExitCode::data);
                refused++;
            }
        }
        CHECK(refused > 100);
    }

    TEST_CASE("a tokenizer is found as a file, in a folder, or not at all") {
        TempDir temp;
        const std::string bytes = open_tokenizer("bytes")->json(), json = bytes + "\n";
        write_file(temp / "bytes.json", bytes);
        CHECK(open_tokenizer(temp / "bytes.json")->name() == "bytes");  // as checkpoints of byte models carry it
        write_file(temp / "some.json", json);
        write_file(temp / "model/tokenizer.json", json);
        std::filesystem::create_directories(temp / "empty");
        CHECK(open_tokenizer(temp / "some.json")->kind() == 2);
        CHECK(open_tokenizer(temp / "model")->json() == json);
        CHECK(refuses(ExitCode::usage, {"empty", "no tokenizer.json"}, [&] { open_tokenizer(temp / "empty"); }));
        CHECK(refuses(ExitCode::usage, {"none.json", "is no tokenizer"}, [&] { open_tokenizer(temp / "none.json"); }));
    }

    TEST_CASE("a shard names its vocabulary, and gets no other") {
        TempDir temp;
        const std::string json = open_tokenizer("bytes")->json() + "\n";  // a byte more than that of the bytes themselves
        const auto tokenizer = make_bpe_tokenizer(json, "x");
        auto shard = [&](const std::string& name, int32_t kind, uint64_t fingerprint) {
            ShardWriter writer(temp / name, 257, 256, kind, fingerprint);
            writer.append(std::vector<int32_t>{256, 72, 105});
            writer.commit();
            return Shard(temp / name);
        };
        std::string note;
        const Shard right = shard("a_train_000000.bin", 2, tokenizer->fingerprint());
        CHECK(right.header().fingerprint == tokenizer->fingerprint());
        CHECK(tokenizer_of_shard(right, note) == nullptr);
        CHECK(note.find("a_tokenizer.json is missing") != std::string::npos);
        write_file(temp / "a_tokenizer.json", json);
        REQUIRE(tokenizer_of_shard(right, note));
        CHECK(tokenizer_of_shard(shard("a_val_000003.bin", 2, tokenizer->fingerprint()), note)->json() == json);
        const Shard wrong = shard("a_train_000001.bin", 2, 77);
        CHECK(refuses(ExitCode::data, {"a_tokenizer.json", "a_train_000001.bin"}, [&] { tokenizer_of_shard(wrong, note); }));
        CHECK(tokenizer_of_shard(shard("b.bin", 1, 0), note)->name() == "bytes");
        note.clear();
        CHECK(tokenizer_of_shard(shard("c.bin", 0, 0), note) == nullptr);
        CHECK(!note.empty());
        CHECK(tokenizer_path("d/a_train_val_000000.bin") == "d/a_train_tokenizer.json");
        CHECK(tokenizer_path("plain.bin") == "plain_tokenizer.json");
        CHECK(refuses(ExitCode::usage, {"257", "100"}, [&] { check_vocab_size(*tokenizer, 100); }));
    }
}
