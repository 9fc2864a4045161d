#include <doctest/doctest.h>

#include <unistd.h>

#include <algorithm>
#include <set>

#include "src/base/philox.h"
#include "src/command/commands.h"
#include "src/data/corpus.h"
#include "src/data/loader.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

std::vector<std::string> documents_of(const std::string& text, const DocumentRule& rule) {
    TempDir folder;
    write_file(folder / "t", text);
    DocumentReader reader(folder / "t", rule);
    std::vector<std::string> all;
    for (std::string document; reader.next(document);) all.push_back(document);
    CHECK(reader.bytes_read() == static_cast<int64_t>(text.size()));
    return all;
}

// The documents in shards, back as text: end-of-text first, then the bytes.
std::vector<std::string> documents_in(const std::vector<std::string>& shards) {
    std::vector<std::string> all;
    for (const std::string& path : shards)
        for (int32_t id : read_all(path)) {
            if (id == 256)
                all.emplace_back();
            else
                all.back().push_back(static_cast<char>(id));
        }
    return all;
}

// Runs `./train tokenize` with its output put aside; returns what it printed.
std::string tokenize(std::vector<std::string> arguments) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    TempDir folder;
    std::fflush(stdout);
    int saved = ::dup(1);
    std::FILE* out = std::fopen((folder / "out").c_str(), "wb");
    ::dup2(::fileno(out), 1);
    auto restore = [&] {
        std::fflush(stdout);
        ::dup2(saved, 1);
        ::close(saved);
        std::fclose(out);
    };
    try {
        int code = tokenize_command(static_cast<int>(argv.size()), argv.data());
        CHECK(code == 0);
    } catch (...) {
        restore();
        throw;
    }
    restore();
    return read_file(folder / "out");
}

std::string text_of(uint32_t which) {
    Random random{21, RandomStream::sampling};
    std::string text;
    for (uint64_t i = 0, n = 1 + random.below(300, which, 0); i < n; i++)
        text.push_back(static_cast<char>(random.below(256, which, i + 1)));
    return std::to_string(which) + ":" + text + "\n";  // no two alike; any byte may occur
}

}  // namespace

TEST_SUITE("data/corpus") {
    TEST_CASE("documents: separators, lines and files") {
        using Documents = std::vector<std::string>;
        DocumentRule standard;
        CHECK(documents_of("a\nb\n<|endoftext|>\nc\n", standard) == Documents{"a\nb\n", "c\n"});
        CHECK(documents_of("<|endoftext|>\r\n\na <|endoftext|>\n<|endoftext|>\n \n<|endoftext|>\nlast", standard) ==
              Documents{"\na <|endoftext|>\n", "last"});
        CHECK(documents_of("a\n\n  b\r\n\nc", DocumentRule::parse("lines")) == Documents{"a", "  b", "c"});
        CHECK(documents_of("a\n<|endoftext|>\nb", DocumentRule::parse("file")) == Documents{"a\n<|endoftext|>\nb"});
        CHECK(documents_of("a\n---\nb\n", DocumentRule::parse("separator:---")) == Documents{"a\n", "b\n"});
        CHECK(documents_of(std::string("x\0y\n\xff", 5), standard) == Documents{std::string("x\0y\n\xff", 5)});
        for (const char* nothing : {"", "\n", " \n\t\n", "<|endoftext|>\n<|endoftext|>"}) CHECK(documents_of(nothing, standard).empty());
        for (const char* bad : {"", "chapter", "separator:", "separator"})
            CHECK(refuses(ExitCode::usage, {"--documents"}, [&] { DocumentRule::parse(bad); }));
    }

    TEST_CASE("tokenize: train and val are disjoint and together are all documents, in order, whatever the threads and shards") {
        TempDir folder;
        std::vector<std::string> expected;
        for (uint32_t file = 0; file < 4; file++) {
            std::string text;
            for (uint32_t i = 0; i < 30; i++) {
                expected.push_back(text_of(30 * file + i));
                text += expected.back() + (i < 29 ? "<|endoftext|>\n" : "");
            }
            write_file(folder / "text/" + std::string(file % 2 ? "deep/" : "") + "f" + std::to_string(file) + ".txt", text);
        }
        std::vector<std::string> order;  // sorted by path: the two of deep/ come first
        for (int file : {1, 3, 0, 2}) order.insert(order.end(), expected.begin() + 30 * file, expected.begin() + 30 * (file + 1));
        write_file(folder / "text/empty.txt", "");

        std::set<std::vector<std::string>> held_out;
        for (const char* threads : {"1", "3"})
            for (const char* shard_tokens : {"1000", "100000000"}) {
                std::string prefix = folder / "out/" + threads + shard_tokens + "/x";
                std::string text = tokenize(
                    {"--out", prefix, "--val-fraction", "0.2", "--threads", threads, "--shard-tokens", shard_tokens, folder / "text"});
                auto train = documents_in(expand_glob(prefix + "_train_*.bin")), val = documents_in(expand_glob(prefix + "_val_*.bin"));
                CHECK(train.size() + val.size() == 120);
                CHECK(val.size() > 10);
                CHECK(val.size() < 40);
                std::vector<std::string> merged;  // both keep the order of the corpus: merging them must give it back
                for (size_t i = 0, t = 0, v = 0; i < order.size(); i++) {
                    if (t < train.size() && train[t] == order[i])
                        merged.push_back(train[t++]);
                    else if (v < val.size())
                        merged.push_back(val[v++]);
                }
                CHECK(merged == order);
                held_out.insert(val);
                CHECK(expand_glob(prefix + "_train_*.bin").size() == (std::string(shard_tokens) == "1000" ? 13 : 1));
                for (const char* part :
                     {"5 files", "1 of them hold no text", "train", "val", "bytes per token", "median", "next:  ./train --data '"})
                    CHECK_MESSAGE(text.find(part) != std::string::npos, std::string(part), " in ", text);
                CHECK(text.find(prefix + "_val_*.bin'") != std::string::npos);
            }
        CHECK(held_out.size() == 1);  // the same documents every time
        tokenize({"--out", folder / "seed", "--val-fraction", "0.2", "--seed", "5", folder / "text"});
        CHECK(held_out.count(documents_in({folder / "seed_val_000000.bin"})) == 0);

        // and what was written can be loaded at once
        Loader loader({expand_glob(folder / "seed_train_*.bin"), 64, 4, 8, LoaderConfig::Packing::documents, true, 1, 257});
        CHECK(loader.next().loss_tokens > 400);
    }

    TEST_CASE("tokenize: shard sizes and the figures it reports") {
        TempDir folder;
        std::string text;
        for (int i = 1; i <= 10; i++)
            text += std::string(static_cast<size_t>(10 * i), 'a') + "\n";  // as lines: 10, 20, ..., 100 tokens and end-of-text
        write_file(folder / "t.txt", text);
        TokenizeConfig config;
        config.inputs = {folder / "t.txt"}, config.out = folder / "x", config.documents = DocumentRule::parse("lines"),
        config.val_fraction = 0;
        config.shard_tokens = 100;
        double last = 0;
        TokenizeSummary summary = tokenize_corpus(config, *open_tokenizer("bytes"), [&](double share) { last = share; });
        CHECK(last > 0);
        CHECK(last <= 1);
        CHECK(summary.val.documents == 0);
        CHECK(summary.val.shards.empty());
        CHECK(summary.train.documents == 10);
        CHECK(summary.train.tokens == 560);
        CHECK(summary.train.text_bytes == 550);
        CHECK(summary.train.length_quantile(0) == 11);
        CHECK(summary.train.length_quantile(0.1) == 11);
        CHECK(summary.train.length_quantile(0.5) == 51);
        CHECK(summary.train.length_quantile(0.9) == 91);
        CHECK(summary.train.length_quantile(1) == 101);
        // closed by the document that brings it to 100: 11+21+31+41 = 104, 51+61 = 112, 71+81 = 152, 91+101 = 192
        std::vector<int64_t> sizes;
        for (const std::string& path : summary.train.shards) sizes.push_back(Shard(path).tokens());
        CHECK(sizes == std::vector<int64_t>{104, 112, 152, 192});
    }

    TEST_CASE("tokenize: neither side is empty, down to two documents; one document is split at a line end") {
        TempDir folder;
        std::string text;
        for (int n = 2; n <= 6; n++) {
            text = "one\n";
            for (int i = 2; i <= n; i++) text += "<|endoftext|>\n" + std::to_string(i) + "\n";
            write_file(folder / "t.txt", text);
            for (const char* seed : {"0", "1", "2"})
                for (const char* fraction : {"0.001", "0.9"}) {
                    tokenize({"--out", folder / "x", "--force", "--seed", seed, "--val-fraction", fraction, folder / "t.txt"});
                    size_t train = documents_in({folder / "x_train_000000.bin"}).size(),
                           val = documents_in({folder / "x_val_000000.bin"}).size();
                    CHECK(train + val == static_cast<size_t>(n));
                    CHECK(train >= 1);
                    CHECK(val >= 1);
                }
        }
        text.clear();
        for (int i = 0; i < 100; i++) text += "line " + std::to_string(i) + "\n";
        write_file(folder / "one.txt", text);
        std::string said = tokenize({"--out", folder / "one", "--val-fraction", "0.1", folder / "one.txt"});
        CHECK(said.find("one document") != std::string::npos);
        auto train = documents_in({folder / "one_train_000000.bin"}), val = documents_in({folder / "one_val_000000.bin"});
        REQUIRE(train.size() == 1);
        REQUIRE(val.size() == 1);
        CHECK(train[0] + val[0] == text);
        CHECK(train[0].back() == '\n');
        CHECK(val[0].size() == doctest::Approx(0.1 * static_cast<double>(text.size())).epsilon(0.05));
        for (const char* lone : {"ab", "a\nb", "a\n", "no line end at all", "x\ny\nz"}) {
            write_file(folder / "one.txt", lone);
            tokenize({"--out", folder / "one", "--force", folder / "one.txt"});
            CHECK(documents_in({folder / "one_train_000000.bin"})[0] + documents_in({folder / "one_val_000000.bin"})[0] == lone);
        }
    }

    TEST_CASE("tokenize: bad input is refused with a remedy and leaves nothing behind") {
        TempDir folder;
        std::string prefix = folder / "out/x";
        write_file(folder / "good.txt", "a\n<|endoftext|>\nb\n");
        write_file(folder / "blank.txt", "\n \n");
        write_file(folder / "tiny.txt", "a");
        std::filesystem::create_directory(folder / "nothing");
        auto nothing_left = [&] { return !std::filesystem::exists(folder / "out") || std::filesystem::is_empty(folder / "out"); };
        auto run = [&](std::vector<std::string> arguments) { return [=] { tokenize(arguments); }; };
        CHECK(refuses(ExitCode::data, {"gone.txt", "No such file"}, run({"--out", prefix, folder / "good.txt", folder / "gone.txt"})));
        CHECK(refuses(ExitCode::data, {"no text"}, run({"--out", prefix, folder / "blank.txt"})));
        CHECK(refuses(ExitCode::data, {"no text"}, run({"--out", prefix, folder / "nothing"})));
        CHECK(refuses(ExitCode::data, {"too short"}, run({"--out", prefix, folder / "tiny.txt"})));
        CHECK(refuses(ExitCode::data, {"/dev/zero", "regular"}, run({"--out", prefix, "/dev/zero"})));
        CHECK(refuses(ExitCode::usage, {"prefix"}, run({"--out", folder / "out/", folder / "good.txt"})));
        CHECK(refuses(ExitCode::usage, {"--out"}, run({folder / "good.txt"})));
        CHECK(refuses(ExitCode::usage, {"--sed"}, run({"--out", prefix, "--sed", "1", folder / "good.txt"})));
        for (const char* value : {"1", "-0.1", "nan", "abc", "0.1x"})
            CHECK_MESSAGE(
                refuses(ExitCode::usage, {"--val-fraction"}, run({"--out", prefix, "--val-fraction", value, folder / "good.txt"})),
                std::string(value));
        for (const char* value : {"0", "-5", "2000000001", "99999999999999999999", "12a"})
            CHECK_MESSAGE(
                refuses(ExitCode::usage, {"--shard-tokens"}, run({"--out", prefix, "--shard-tokens", value, folder / "good.txt"})),
                std::string(value));
        CHECK(refuses(ExitCode::io, {"cannot be created"}, run({"--out", folder / "good.txt/x", folder / "good.txt"})));
        CHECK(nothing_left());

        tokenize({"--out", prefix, folder / "good.txt"});
        std::string before = read_file(prefix + "_train_000000.bin");
        CHECK(refuses(ExitCode::usage, {"exists already"}, run({"--out", prefix, folder / "good.txt"})));
        CHECK(refuses(ExitCode::data, {"token shard already"}, run({"--out", folder / "y", folder / "out"})));
        CHECK(read_file(prefix + "_train_000000.bin") == before);
        // --force: shards of the earlier, longer run do not stay among the new ones
        write_shard(prefix + "_train_000001.bin", {256, 1}, 257, 256, 1);
        tokenize({"--out", prefix, "--force", folder / "good.txt"});
        CHECK(expand_glob(prefix + "_*.bin").size() == 2);
        CHECK(tokenize({"--help"}).find("--val-fraction") != std::string::npos);
    }
}
