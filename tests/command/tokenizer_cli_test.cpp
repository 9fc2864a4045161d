// Vocabulary files through the commands: text to shards, a run, samples, text again.
#include "tests/support/cli.h"

#include "src/data/pretokenizer.h"
#include "src/data/shard.h"
#include "src/data/tokenizer.h"

namespace traincu::test {

namespace {

bool lacks_pcre2() {
    if (!Pretokenizer::built_in()) MESSAGE("skipped: built without PCRE2");
    return !Pretokenizer::built_in();
}

// Text and its shards as text_train_000000.bin, with the vocabulary of GPT-2's kind. The folder also holds vocabulary.json itself.
void make_bpe_corpus(const TempDir& folder) {
    std::string text;
    for (int i = 0; i < 200; i++) {
        text += "In the beginning was the number " + std::to_string(i * i) + ", and Zürich's  number was 東京.\n";
        if (i % 4 == 3) text += "<|endoftext|>\n";
    }
    write_file(folder / "text.txt", text);
    write_file(folder / "vocabulary.json", read_file("tests/golden/tokenizers/gpt2.json"));
    REQUIRE(run(folder, "tokenize text.txt --tokenizer vocabulary.json --out text --val-fraction 0.2").code == 0);
}

}  // namespace

TEST_SUITE("command line") {
    TEST_CASE("cli: a vocabulary file, from text to a sample") {
        if (lacks_pcre2()) return;
        TempDir f;
        make_bpe_corpus(f);
        CHECK(read_file(f / "text_tokenizer.json") == read_file(f / "vocabulary.json"));
        CHECK(run(f, "inspect text_train_000000.bin").says("In the beginning was the number"));
        Result trained = run(f, tiny_run + "--out run --max-steps 3 --prompt 'In the'");
        CHECK(trained.code == 0);
        CHECK(trained.says("--- sample\nIn the"));
        CHECK(run(f, "generate --model run --tokenizer vocabulary.json --prompt 'In the' --tokens 5").out.rfind("In the", 0) == 0);
        CHECK(run(f, "eval --model run --data text_val_000000.bin").says("bits per byte"));
    }

    TEST_CASE("cli: tokenize --decode prints the text of a shard, and that text makes the same shard") {
        if (lacks_pcre2()) return;
        TempDir f;
        make_bpe_corpus(f);
        for (const std::string vocabulary : {"bytes", "vocabulary.json"}) {
            REQUIRE(run(f, "tokenize text.txt --tokenizer " + vocabulary + " --out a --force --val-fraction 0").code == 0);
            Result decoded = run(f, "tokenize --decode a_train_000000.bin");
            CHECK(decoded.code == 0);
            // the last separator of the text ends the last document and begins none
            CHECK(decoded.out + "<|endoftext|>\n" == read_file(f / "text.txt"));
            write_file(f / "again.txt", decoded.out);
            REQUIRE(run(f, "tokenize again.txt --tokenizer " + vocabulary + " --out b --force --val-fraction 0").code == 0);
            CHECK(read_file(f / "a_train_000000.bin") == read_file(f / "b_train_000000.bin"));
        }
        // Ids of 65,536 and more: 32 bits a token. A document without a line end gets one where the next begins.
        nlohmann::json wide = nlohmann::json::parse(open_tokenizer("bytes")->json());
        wide["added_tokens"].push_back({{"id", 65'700}, {"content", "<far>"}, {"special", false}});
        write_file(f / "wide.json", wide.dump());
        write_file(f / "a.txt", "ab<far>");
        write_file(f / "b.txt", "c");
        REQUIRE(run(f, "tokenize a.txt b.txt --tokenizer wide.json --out w --val-fraction 0 --documents file").code == 0);
        CHECK(run(f, "inspect w_train_000000.bin").says("32 bits each"));
        CHECK(run(f, "tokenize --decode w_train_000000.bin").out == "ab<far>\n<|endoftext|>\nc");
        CHECK(run(f, "tokenize --decode w_train_000000.bin text.txt").code == 2);
    }

    TEST_CASE("cli: broken UTF-8 is mended and counted; the bytes take it as it is") {
        TempDir f;
        write_file(f / "t.txt", "good\n<|endoftext|>\nb\xFFl\n<|endoftext|>\nZ\xC3\xBCrich\n<|endoftext|>\nb\xC3");
        write_file(f / "bytes.json", open_tokenizer("bytes")->json() + "\n");  // not the built-in one any more
        Result mended = run(f, "tokenize t.txt --tokenizer bytes.json --val-fraction 0 --out m");
        CHECK(mended.says("2 documents hold bytes that are not UTF-8"));
        CHECK(run(f, "tokenize --decode m_train_000000.bin").out ==
              "good\n<|endoftext|>\nb\xEF\xBF\xBDl\n<|endoftext|>\nZ\xC3\xBCrich\n<|endoftext|>\nb\xEF\xBF\xBD");
        Result bytes = run(f, "tokenize t.txt --val-fraction 0 --out n");
        CHECK(!bytes.says("UTF-8"));
        CHECK(!fs::exists(f / "n_tokenizer.json"));
        CHECK(run(f, "tokenize --decode n_train_000000.bin").out == read_file(f / "t.txt"));
    }

    TEST_CASE("cli: the wrong vocabulary, a missing one, and the one that --tokenizer names") {
        if (lacks_pcre2()) return;
        TempDir f;
        make_bpe_corpus(f);
        const std::string few = tiny_run + "--out run --max-steps 1 ";
        auto with = [&](const std::string& arguments) {
            fs::remove_all(f / "run");
            return run(f, few + arguments);
        };
        write_file(f / "text_tokenizer.json", read_file(f / "vocabulary.json") + "\n");
        Result wrong = with("");
        CHECK(wrong.code == 3);
        CHECK(wrong.says("is not the vocabulary that"));
        CHECK(!fs::exists(f / "run"));
        fs::remove(f / "text_tokenizer.json");
        Result missing = with("");
        CHECK(missing.code == 0);
        CHECK(missing.says("note: text_tokenizer.json is missing"));
        CHECK(!missing.says("--- sample"));
        CHECK(run(f, "tokenize --decode text_train_000000.bin").code == 2);
        CHECK(with("--tokenizer vocabulary.json").says("--- sample"));
        CHECK(run(f, "tokenize --decode text_train_000000.bin --tokenizer vocabulary.json").says("In the beginning"));
        Result large = run(f, "tokenize text.txt --out bytes");
        REQUIRE(large.code == 0);
        large = run(f, "--preset tiny --data bytes_train_000000.bin --out large --max-steps 1 --tokenizer vocabulary.json");
        CHECK(large.code == 2);
        CHECK(large.says("the model only 257"));
        CHECK(!fs::exists(f / "large"));
        CHECK(run(f, "tokenize text.txt --tokenizer nowhere.json --out x").code == 2);
        write_file(f / "broken.json", "{");
        CHECK(run(f, "tokenize text.txt --tokenizer broken.json --out x").code == 3);
        CHECK(!fs::exists(f / "x_tokenizer.json"));
    }
}

}  // namespace traincu::test
