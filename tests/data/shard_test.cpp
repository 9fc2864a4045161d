#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "src/base/philox.h"
#include "tests/data/fixture.h"

using namespace traincu;
using namespace traincu::test;

TEST_SUITE("data/shard") {
    TEST_CASE("shard: what is written is read, in 16 and in 32 bits, whole and in odd parts") {
        TempDir folder;
        for (int64_t V : {257, 50257, 65536, 65537, 200000}) {
            std::vector<int32_t> tokens;
            Random random{7, RandomStream::sampling};
            for (uint64_t i = 0; i < 20001; i++) tokens.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(V), 0, i)));
            tokens[17] = static_cast<int32_t>(V - 1);
            std::string path = write_shard(folder / "a.bin", tokens, V, 3, 1);
            CHECK(read_all(path) == tokens);
            Shard shard(path, V);
            CHECK(shard.header().vocab_size == V);
            CHECK(shard.header().eot == 3);
            CHECK(shard.header().tokenizer == 1);
            CHECK(shard.header().bytes_per_token == (V <= 65536 ? 2 : 4));
            CHECK(shard.file_bytes() == static_cast<int64_t>(std::filesystem::file_size(path)));
            for (int64_t begin : {0, 1, 8191, 8192, 20000, 20001}) {
                std::vector<int32_t> part(static_cast<size_t>(20001 - begin) + 1, -7);
                shard.read(begin, 20001 - begin, part.data());
                CHECK(std::equal(part.begin(), part.end() - 1, tokens.begin() + begin));
                CHECK(part.back() == -7);  // not one token too many
            }
        }
    }

    TEST_CASE("shard: public shards read as they are, with the stated assumptions") {
        TempDir folder;
        write_file(folder / "gpt2.bin", gpt2_shard({50256, 15496, 995, 50256, 0}));
        Shard gpt2(folder / "gpt2.bin", 50257);
        CHECK(read_all(folder / "gpt2.bin") == std::vector<int32_t>{50256, 15496, 995, 50256, 0});
        CHECK(gpt2.header().eot == 50256);
        CHECK(gpt2.header().vocab_size == 50257);
        CHECK_FALSE(gpt2.header().stated);
        write_file(folder / "llama.bin", raw_shard({20240801, 7, 3}, {128000, 70000, 128255}, 4));
        Shard llama(folder / "llama.bin", 128256);
        CHECK(read_all(folder / "llama.bin") == std::vector<int32_t>{128000, 70000, 128255});
        CHECK(llama.header().eot == 128000);
        CHECK(llama.header().vocab_size == 128256);
    }

    TEST_CASE("shard: every fault of a header is refused with file, reason and remedy") {
        TempDir folder;
        std::string path = folder / "x.bin", good = gpt2_shard({1, 2, 3, 4});
        auto refused = [&](const std::string& bytes, const std::vector<std::string>& words) {
            write_file(path, bytes);
            std::vector<std::string> all = words;
            all.push_back(path);
            return refuses(ExitCode::data, all, [&] { Shard shard(path); });
        };
        CHECK(refused("", {"is empty"}));
        for (size_t bytes : {4u, 5u, 512u, 1023u})
            CHECK(refused(good.substr(0, bytes), {std::to_string(bytes), "inside the 1,024-byte header"}));
        for (size_t bytes : {1024u, 1025u, 1031u})
            CHECK(refused(good.substr(0, bytes), {std::to_string(bytes) + " bytes long", "4 tokens", "1032"}));
        CHECK(refused(good + "x", {"1033 bytes long", "1032"}));
        CHECK(refused(raw_shard({20240520, 1, 3}, {1, 2, 3, 4}, 2), {"1032 bytes long", "1030"}));
        CHECK(refused(raw_shard({20240520, 1, 5}, {1, 2, 3, 4}, 2), {"1032 bytes long", "1034"}));
        CHECK(refused(raw_shard({20240520, 1, 0xFFFFFFFF}, {1, 2, 3, 4}, 2), {"4294967295 tokens"}));
        CHECK(refused(raw_shard({20240520, 2, 4}, {1, 2, 3, 4}, 2), {"version 2", "version 1"}));
        CHECK(refused(raw_shard({20240801, 1, 4}, {1, 2, 3, 4}, 4), {"version 1", "version 7"}));
        CHECK(refused(raw_shard({0x01020304, 1, 4}, {1, 2, 3, 4}, 2), {"is not a token shard", "16909060"}));
        CHECK(refused(raw_shard({__builtin_bswap32(20240520), __builtin_bswap32(1), 0}, {}, 2), {"big-endian"}));
        CHECK(refused(raw_shard({__builtin_bswap32(20240801), __builtin_bswap32(7), 0}, {}, 4), {"big-endian"}));
        CHECK(refused(raw_shard({20240326, 3, 1024}, {1, 2}, 2), {"llm.c model"}));
        CHECK(refused(std::string("\x1f\x8b\x08\x00", 4) + std::string(2000, '\x01'), {"gzip"}));
        CHECK(refused("It was a bright cold day in April,\nand the clocks were striking.\n", {"is text"}));
        std::string json = "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
        CHECK(refused(std::string{static_cast<char>(json.size()), 0, 0, 0, 0, 0, 0, 0} + json + "\x01\x02\x03\x04", {"safetensors"}));
        // what our own header words may not say
        CHECK(refused(raw_shard({20240520, 1, 1, 70000, 1}, {0}, 2), {"impossible vocabulary"}));
        CHECK(refused(raw_shard({20240520, 1, 1, 257, 0}, {0}, 2), {"impossible vocabulary"}));
        CHECK(refused(raw_shard({20240520, 1, 1, 257, 258}, {0}, 2), {"impossible vocabulary"}));
        CHECK(refused(raw_shard({20240520, 1, 1, 0, 257}, {0}, 2), {"impossible vocabulary"}));
        CHECK(refused(raw_shard({20240801, 7, 1, 0xFFFFFFFF, 0xFFFFFFFF}, {0}, 4), {"impossible vocabulary"}));

        CHECK(refuses(ExitCode::data, {"none.bin", "No such file"}, [&] { Shard shard(folder / "none.bin"); }));
        CHECK(refuses(ExitCode::data, {"not a regular file"}, [&] { Shard shard(folder.path); }));
    }

    TEST_CASE("shard: random damage to a header is refused or harmless, never a crash") {
        TempDir folder;
        std::string path = folder / "x.bin", good = read_file(write_shard(path, {256, 1, 2, 3, 256, 9}, 257, 256, 1));
        Random random{11, RandomStream::sampling};
        int refused = 0;
        for (uint32_t trial = 0; trial < 400; trial++) {
            std::string bytes = good;
            for (uint64_t flip = 0; flip <= trial % 3; flip++)
                bytes[random.below(trial % 2 ? 24 : bytes.size(), trial, 2 * flip)] =
                    static_cast<char>(random.below(256, trial, 2 * flip + 1));
            if (trial % 5 == 0) bytes.resize(random.below(bytes.size() + 1, trial, 99));
            write_file(path, bytes);
            try {
                for (int32_t id : read_all(path)) CHECK((id >= 0 && id < 65536));
            } catch (const Error& error) {
                CHECK(error.code() == ExitCode::data);
                refused++;
            }
        }
        CHECK(refused > 100);
    }

    TEST_CASE("shard: a token id outside the vocabulary is named with shard, index, byte, id and V") {
        TempDir folder;
        for (int width : {2, 4}) {
            std::string path = folder / "bad.bin";
            std::vector<uint32_t> tokens(9000, 5);
            tokens[8500] = 300;
            write_file(path, raw_shard({width == 2 ? 20240520u : 20240801u, width == 2 ? 1u : 7u, 9000}, tokens, width));
            int64_t byte = 1024 + 8500 * width;
            Shard shard(path, 257);
            std::vector<int32_t> out(9000);
            shard.read(0, 8500, out.data());
            shard.read(8501, 499, out.data());
            auto read = [&] { shard.read(100, 8500, out.data()); };
            CHECK(refuses(ExitCode::data, {path, "300", "8500", std::to_string(byte), "257"}, read));
            CHECK(error_of(read)->json().find("\"offset\":" + std::to_string(byte)) != std::string::npos);
            Shard(path, 301).read(0, 9000, out.data());
            CHECK(refuses(ExitCode::data, {"300"}, [&] { Shard(path, 300).read(0, 9000, out.data()); }));
        }
        // the sign bit of a 32-bit id is no way around the check
        write_file(folder / "sign.bin", raw_shard({20240801, 7, 1}, {0xFFFFFFFF}, 4));
        for (int64_t V : {0, 257}) {
            int32_t id;
            CHECK(refuses(ExitCode::data, {"4294967295"}, [&] { Shard(folder / "sign.bin", V).read(0, 1, &id); }));
        }
        // a vocabulary that is stated is compared before a token is read
        write_shard(folder / "stated.bin", {1, 2}, 1000, 0);
        CHECK(refuses(ExitCode::data, {"1000", "257"}, [&] { Shard shard(folder / "stated.bin", 257); }));
        Shard(folder / "stated.bin", 1024).close();
    }

    TEST_CASE("shard: tokens beyond 2 and 4 GiB of a sparse file are the right ones") {
        TempDir folder;
        std::string path = folder / "big.bin";
        int64_t tokens = (int64_t{5} << 30) / 2;  // more than 2^31
        int fd = ::open(path.c_str(), O_RDWR | O_CREAT, 0644);
        REQUIRE(fd >= 0);
        std::string header = raw_shard({20240520, 1, static_cast<uint32_t>(tokens)}, {}, 2);
        bool ok = ::pwrite(fd, header.data(), header.size(), 0) == 1024 && ::ftruncate(fd, 1024 + tokens * 2) == 0;
        std::vector<int64_t> places = {0,         (int64_t{1} << 30) - 513, int64_t{1} << 30, (int64_t{1} << 31) - 513, int64_t{1} << 31,
                                       tokens - 1};
        for (size_t i = 0; i < places.size(); i++) {
            auto id = static_cast<uint16_t>(i + 1);
            ok = ok && ::pwrite(fd, &id, 2, 1024 + places[i] * 2) == 2;
        }
        ::close(fd);
        if (!ok) {
            MESSAGE("skipped: no sparse 5 GiB file can be made here");
            return;
        }
        Shard shard(path, 50257);
        CHECK(shard.tokens() == tokens);
        CHECK(shard.file_bytes() == 1024 + (int64_t{5} << 30));
        for (size_t i = 0; i < places.size(); i++) {
            int32_t id = -1;
            shard.read(places[i], 1, &id);
            CHECK(id == static_cast<int32_t>(i + 1));
        }
        int32_t pair[2];
        shard.read(tokens - 2, 2, pair);
        CHECK(pair[0] == 0);
        CHECK(pair[1] == 6);
    }

    TEST_CASE("shard: a file that shrinks during the run is an error, not stale tokens") {
        TempDir folder;
        std::string path = write_shard(folder / "a.bin", std::vector<int32_t>(1000, 4), 257, 256);
        Shard shard(path, 257);
        REQUIRE(::truncate(path.c_str(), 1024 + 500 * 2) == 0);
        std::vector<int32_t> out(1000);
        shard.read(0, 500, out.data());
        CHECK(refuses(ExitCode::data, {"became shorter"}, [&] { shard.read(499, 2, out.data()); }));
    }

    TEST_CASE("shard: a writer leaves a whole shard or none") {
        TempDir folder;
        auto files = [&] { return std::distance(std::filesystem::directory_iterator(folder.path), std::filesystem::directory_iterator()); };
        {
            ShardWriter writer(folder / "a.bin", 257, 256, 1);
            writer.append(std::vector<int32_t>{256, 1, 2});
            CHECK_FALSE(std::filesystem::exists(folder / "a.bin"));
            writer.seal();
            CHECK_FALSE(std::filesystem::exists(folder / "a.bin"));
        }
        CHECK(files() == 0);
        write_shard(folder / "a.bin", {1}, 257, 256);
        write_shard(folder / "a.bin", {2, 3}, 257, 256);  // over an older one
        CHECK(read_all(folder / "a.bin") == std::vector<int32_t>{2, 3});
        CHECK(files() == 1);
        CHECK(refuses(ExitCode::io, {"No such file"}, [&] { ShardWriter writer(folder / "no/such/a.bin", 257, 256, 1); }));

        // A full disk, played by a limit on the size of files.
        rlimit before{};
        REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
        auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
        rlimit small = before;
        small.rlim_cur = 1 << 20;
        REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
        bool refused = refuses(ExitCode::io, {"full.bin", "cannot be written"}, [&] {
            ShardWriter writer(folder / "full.bin", 257, 256, 1);
            for (int i = 0; i < 8; i++) writer.append(std::vector<int32_t>(200000, 1));
            writer.commit();
        });
        ::setrlimit(RLIMIT_FSIZE, &before);
        std::signal(SIGXFSZ, old_handler);
        CHECK(refused);
        CHECK(files() == 1);
    }

    TEST_CASE("expand_glob: files, patterns, folders and lists of them, sorted, each once") {
        TempDir folder;
        for (const char* name : {"b_train_1.bin", "b_train_0.bin", "notes.txt", "odd,name.bin"}) write_file(folder / name, "x");
        write_file(folder / "mixed/a_train_0.bin", "x");
        write_file(folder / "mixed/a_val_0.bin", "x");
        using Names = std::vector<std::string>;
        CHECK(expand_glob(folder / "b_train_*.bin") == Names{folder / "b_train_0.bin", folder / "b_train_1.bin"});
        CHECK(expand_glob(folder / "b_train_1.bin," + (folder / "b_*")) == Names{folder / "b_train_0.bin", folder / "b_train_1.bin"});
        CHECK(expand_glob(folder.path) == Names{folder / "b_train_0.bin", folder / "b_train_1.bin", folder / "odd,name.bin"});
        CHECK(refuses(ExitCode::data, {"none_*.bin"}, [&] { expand_glob(folder / "none_*.bin"); }));
        CHECK(refuses(ExitCode::data, {"gone.bin"}, [&] { expand_glob(folder / "b_train_0.bin," + (folder / "gone.bin")); }));
        CHECK(refuses(ExitCode::data, {"both training and validation"}, [&] { expand_glob(folder / "mixed"); }));
        CHECK(refuses(ExitCode::data, {"no token shard"}, [&] { expand_glob(""); }));
    }

    TEST_CASE("describe_shard: header, documents and the beginning of the text") {
        TempDir folder;
        write_shard(folder / "a.bin", {256, 'H', 'i', '\n', 256, '!'}, 257, 256, 1);
        std::string text = describe_shard(folder / "a.bin");
        for (const char* part :
             {"6, 16 bits", "vocabulary  257, end-of-text 256\n", "documents   2, 3.0 tokens", "tokenizer   bytes", "begins      Hi\\n!"})
            CHECK_MESSAGE(text.find(part) != std::string::npos, std::string(part), " in ", text);
        write_file(folder / "g.bin", gpt2_shard({50256, 7, 8}));
        CHECK(describe_shard(folder / "g.bin").find("GPT-2 assumed") != std::string::npos);
        write_file(folder / "z.bin", gpt2_shard({}));
        CHECK(describe_shard(folder / "z.bin").find("tokens      0") != std::string::npos);
    }
}
