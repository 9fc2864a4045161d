// ./train tokenize --train-vocab: one command from text to a vocabulary and shards made with it.
#include "src/data/pretokenizer.h"
#include "src/data/shard.h"
#include "src/data/tokenizer.h"
#include "tests/data/fixture.h"
#include "tests/support/cli.h"

namespace traincu::test {

TEST_SUITE("command line") {
    TEST_CASE("cli: a vocabulary of one's own, from text to a sample") {
        if (!Pretokenizer::built_in()) {
            MESSAGE("skipped: built without PCRE2");
            return;
        }
        TempDir f;
        make_corpus(f);
        Result learned = run(f, "tokenize text.txt --out bpe --train-vocab 300 --val-fraction 0.2");
        REQUIRE(learned.code == 0);
        CHECK(learned.says("learn  300 tokens"));
        const auto tokenizer = open_tokenizer(f / "bpe_tokenizer.json");
        CHECK(tokenizer->vocab_size() == 300);
        CHECK(tokenizer->eot() == 299);
        CHECK(Shard(f / "bpe_train_000000.bin").header().vocab_size == 300);
        // the same documents as in bytes, in fewer tokens, and they decode to the text
        const std::vector<int32_t> ids = read_all(f / "bpe_train_000000.bin"), bytes = read_all(f / "text_train_000000.bin");
        CHECK(ids.size() < bytes.size() * 2 / 3);
        CHECK(tokenizer->decode(ids) == open_tokenizer("bytes")->decode(bytes));
        CHECK(std::count(ids.begin(), ids.end(), 299) == std::count(bytes.begin(), bytes.end(), 256));

        // the same again by any number of threads, another with another pattern
        REQUIRE(run(f, "tokenize text.txt --out again --train-vocab 300 --val-fraction 0.2 --threads 3").code == 0);
        CHECK(read_file(f / "again_tokenizer.json") == read_file(f / "bpe_tokenizer.json"));
        REQUIRE(run(f, "tokenize text.txt --out other --train-vocab 300 --val-fraction 0.2 --pattern gpt2").code == 0);
        CHECK(read_file(f / "other_tokenizer.json") != read_file(f / "bpe_tokenizer.json"));

        REQUIRE(run(f,
                    "--preset tiny --data bpe_train_000000.bin --val-data bpe_val_000000.bin --sample-tokens 4 --threads 1 --out run "
                    "--max-steps 2")
                    .code == 0);
        CHECK(run(f, "eval --model run --data bpe_val_000000.bin").says("bits per byte"));
    }

    TEST_CASE("cli: what is held out is not learned from; a vocabulary too large for its text; mistakes") {
        if (!Pretokenizer::built_in()) {
            MESSAGE("skipped: built without PCRE2");
            return;
        }
        TempDir f;
        // one document of each word; those held out give no tokens
        std::string text;
        for (int i = 0; i < 40; i++) {
            const std::string word(6, static_cast<char>('A' + i));
            text += word + "\n" + word + "\n<|endoftext|>\n";
        }
        write_file(f / "words.txt", text);
        Result all = run(f,
                         "tokenize words.txt --out words --train-vocab 10000 --val-fraction 0.3 --documents separator:'<|endoftext|>' "
                         "--pattern gpt2");
        REQUIRE(all.code == 0);
        CHECK(all.says("note: --train-vocab 10000: this text gives"));
        const auto tokenizer = open_tokenizer(f / "words_tokenizer.json");
        CHECK(tokenizer->vocab_size() < 400);
        CHECK(all.says("learn  " + std::to_string(tokenizer->vocab_size()) + " tokens"));
        const std::string held_out = tokenizer->decode(read_all(f / "words_val_000000.bin"));
        int letters = 0;
        for (int i = 0; i < 26; i++) {
            const std::string word(6, static_cast<char>('A' + i));
            const bool is_held_out = held_out.find(word) != std::string::npos;
            letters += is_held_out;
            CHECK((tokenizer->encode(word).size() == 6) == is_held_out);
        }
        CHECK(letters > 2);

        struct Mistake {
            const char* arguments;
            int code;
            const char* says;
        };
        const Mistake mistakes[] = {
            {"words.txt --out new --train-vocab 256", 2, "--train-vocab"},
            {"words.txt --out new --train-vocab many", 2, "--train-vocab"},
            {"words.txt --out new --train-vocab 300 --tokenizer bytes", 2, "--tokenizer"},
            {"words.txt --out new --pattern gpt2", 2, "--train-vocab"},
            {"words.txt --out new --train-vocab 300 --pattern klingon", 2, "klingon"},
            {"missing.txt --out new --train-vocab 300", 3, "missing.txt"},
            {"words.txt --out words --train-vocab 300", 2, "exists already"},
        };
        for (const Mistake& m : mistakes) {
            CAPTURE(m.arguments);
            Result r = run(f, std::string("tokenize ") + m.arguments);
            CAPTURE(r.err);
            CHECK(r.code == m.code);
            CHECK(r.says(m.says));
            CHECK(!fs::exists(f / "new_tokenizer.json"));
        }
    }
}

}  // namespace traincu::test
