#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

static void restore(const FoundCheckpoint& found, Arenas& into) {
    read_checkpoint(found, into.config, into.table, into.params, into.m, into.v);
}

// The rows of one table in arenas of another, whose parts are padded to other sizes.
static void copy_rows(Arenas& to, const Arenas& from) {
    for (size_t r = 0; r < to.table.rows.size(); r++) {
        const ParamRow &target = to.table.rows[r], &source = from.table.rows[r];
        for (auto memory : {&Arenas::params_memory, &Arenas::m_memory, &Arenas::v_memory})
            std::memcpy((to.*memory).data() + target.offset, (from.*memory).data() + source.offset,
                        static_cast<size_t>(source.numel()) * 4);
    }
}

TEST_SUITE("checkpoint") {
    TEST_CASE("checkpoint: ranks that pad their parts write the files of one rank, and read what any number of ranks wrote") {
        for (const std::string& family : families())
            for (const int64_t multiple : {48, 2048, 10 * 2048}) {
                CAPTURE(family);
                CAPTURE(multiple);
                TempDir one, many;
                RealIo io;
                Arenas plain(small_model(family)), padded(small_model(family), multiple);
                REQUIRE(padded.table.flat_size % multiple == 0);
                REQUIRE(padded.table.flat_size > plain.table.flat_size);
                copy_rows(padded, plain.fill(5));
                const std::string by_one = save(io, one.path, 7, plain), by_many = save(io, many.path, 7, padded);
                for (const char* file : {"/model.safetensors", "/rank_0_of_1.bin"})
                    CHECK(read_file(by_one + file) == read_file(by_many + file));

                Arenas as_one(small_model(family)), as_many(small_model(family), 3 * multiple), back(small_model(family));
                restore(newest_checkpoint(many.path, ignore).value(), as_one.fill(6));
                CHECK(as_one.same_bits(plain));
                restore(newest_checkpoint(one.path, ignore).value(), as_many);
                copy_rows(back.fill(6), as_many);
                CHECK(back.same_bits(plain));
            }
    }

    TEST_CASE("checkpoint: the weights that ranks compute with come back beside the masters, where there were any") {
        RealIo io;
        Arenas masters(small_model("llama"), 80), replica(small_model("llama"), 80);
        masters.fill(1), replica.fill(2);
        const auto write = [&](const TempDir& dir, const Tensor& beside) {
            write_checkpoint(io, dir.path, 3, masters.config, masters.table, masters.params, masters.m, masters.v, some_meta(3), {},
                             beside);
            return newest_checkpoint(dir.path, ignore).value();
        };
        for (const int64_t multiple : {16, 80, 4096}) {
            TempDir with, without;
            Arenas read(masters.config, multiple), again(masters.config, 80);
            const auto found = write(with, replica.params);
            restore(found, read);
            copy_rows(again.fill(3), read);
            CHECK(again.same_bits(masters));
            CHECK(read_replica(found, masters.config, read.table, read.params));
            copy_rows(again.fill(3), read);
            CHECK(again.same_params(replica));
            CHECK(!read_replica(write(without, {}), masters.config, read.table, read.params));
            copy_rows(again.fill(3), read);
            CHECK(again.same_params(replica));  // nothing was read
        }
    }

    TEST_CASE("checkpoint: parameters, moments and meta come back bit for bit, for every family") {
        for (const std::string& family : families()) {
            TempDir dir;
            RealIo io;
            Arenas saved(small_model(family)), restored(small_model(family));
            std::string path = save(io, dir.path, 1234, saved.fill(5));
            CHECK(path == dir / "step_0000001234");
            CHECK(names_in(path) == std::vector<std::string>{"config.json", "manifest.json", "model.safetensors", "rank_0_of_1.bin"});
            CHECK(names_in(dir.path) == std::vector<std::string>{"step_0000001234"});
            auto found = newest_checkpoint(dir.path, ignore);
            REQUIRE(found);
            CHECK(found->step == 1234);
            CHECK(found->path == path);
            CHECK(found->manifest.at("meta") == some_meta(1234));
            CHECK(found->manifest.at("run_id") == "r1");
            CHECK(config_of_checkpoint(*found) == saved.config);
            restore(*found, restored);
            CHECK(restored.same_bits(saved));
            Arenas weights_only(small_model(family));
            read_checkpoint(*found, saved.config, saved.table, weights_only.params, {}, {});
            CHECK(weights_only.same_params(saved));
        }
    }

    TEST_CASE("checkpoint: every kind of attention comes back bit for bit") {
        std::vector<ModelConfig> models = {small_model("qwen3_next")};
        for (GateKind gate : {GateKind::none, GateKind::headwise, GateKind::elementwise})
            for (BiasKind bias : {BiasKind::none, BiasKind::alibi, BiasKind::relative, BiasKind::factors, BiasKind::fixed})
                models.push_back(model_with_attention(gate, bias));
        models.push_back(models[8]);
        models.back().qkv_bias = true;  // of the gate too
        for (const ModelConfig& config : models) {
            TempDir dir;
            RealIo io;
            Arenas saved(config), restored(config);
            save(io, dir.path, 7, saved.fill(5));
            const auto found = newest_checkpoint(dir.path, ignore);
            REQUIRE(found);
            CHECK(config_of_checkpoint(*found) == config);
            restore(*found, restored);
            CHECK(restored.same_bits(saved));
        }
    }

    TEST_CASE("checkpoint: the manifest tells where every byte is") {
        TempDir dir;
        RealIo io;
        Arenas saved(small_model("gpt2"));
        const std::string path = save(io, dir.path, 3, saved.fill(6));
        const auto manifest = nlohmann::ordered_json::parse(read_file(path + "/manifest.json"));
        CHECK(manifest.at("schema") == 1);
        CHECK(manifest.items().begin().key() == "format");
        std::string last;
        for (auto& [key, value] : manifest.items()) last = key;
        CHECK(last == "hash");
        const std::string rank = read_file(path + "/rank_0_of_1.bin"), weights = read_file(path + "/model.safetensors");
        std::set<std::string> seen;
        for (const auto& tensor : manifest.at("tensors")) {
            seen.insert(tensor.at("name").get<std::string>());
            size_t offset = tensor.at("offset").get<size_t>(), bytes = tensor.at("bytes").get<size_t>();
            if (tensor.at("name") == "adam_m") CHECK((offset % 4096 == 0 && std::memcmp(rank.data() + offset, saved.m.data, bytes) == 0));
            if (tensor.at("name") == "adam_v") CHECK((offset % 4096 == 0 && std::memcmp(rank.data() + offset, saved.v.data, bytes) == 0));
            if (tensor.at("name") == "transformer.wpe.weight") {
                const ParamRow& row = saved.table.rows[static_cast<size_t>(saved.table.find(ParamKind::position_embedding, false, -1))];
                CHECK(std::memcmp(weights.data() + offset, saved.params_memory.data() + row.offset, bytes) == 0);
            }
        }
        CHECK(seen.count("adam_v") == 1);
        CHECK(seen.size() == 2 + 28);
        CHECK(rank.size() % 4096 == 0);
        for (const auto& file : manifest.at("files"))
            CHECK(fs::file_size(path + "/" + file.at("name").get<std::string>()) == file.at("bytes").get<size_t>());
    }

    TEST_CASE("checkpoint: meta that is no UTF-8 (a foreign path) does not stop a commit") {
        TempDir dir;
        RealIo io;
        Arenas saved(small_model("gpt2"));
        saved.fill(1);
        write_checkpoint(io, dir.path, 3, saved.config, saved.table, saved.params, saved.m, saved.v,
                         {{"data", "sch\xF6n.bin"}, {"tokens", 7}});
        CHECK(newest_checkpoint(dir.path, ignore).value().manifest.at("meta").at("tokens") == 7);
    }

    TEST_CASE("checkpoint: one of another model is refused, and every field that differs is named") {
        TempDir dir;
        RealIo io;
        Arenas saved(small_model("llama"));
        save(io, dir.path, 3, saved.fill(6));
        auto found = newest_checkpoint(dir.path, ignore);
        REQUIRE(found);
        auto refused = [&](const char* field, const std::function<void(ModelConfig&)>& change) {
            ModelConfig other = saved.config;
            change(other);
            Arenas arenas(other);
            Error error = error_of([&] { restore(*found, arenas); });
            CHECK(error.code() == ExitCode::checkpoint);
            CHECK_MESSAGE(std::string(error.what()).find(std::string(field) + " is ") != std::string::npos, error.what());
        };
        refused("n_layer", [](ModelConfig& c) { c.n_layer = 3; });
        refused("n_head", [](ModelConfig& c) { c.n_head = 2; });
        refused("n_kv_head", [](ModelConfig& c) { c.n_kv_head = 4; });
        refused("d_model", [](ModelConfig& c) { c.d_model = 24; });
        refused("d_ff", [](ModelConfig& c) { c.d_ff = 36; });
        refused("head_size", [](ModelConfig& c) { c.head_size = 8; });
        refused("vocab_size", [](ModelConfig& c) { c.vocab_size = 68; });  // the padded size is the same
        refused("max_seq_len", [](ModelConfig& c) { c.max_seq_len = 6; });
        refused("norm", [](ModelConfig& c) { c.norm = NormKind::layernorm; });
        refused("position", [](ModelConfig& c) { c.position = PositionKind::none; });
        refused("mlp", [](ModelConfig& c) { c.mlp = MlpKind::gelu; });
        refused("bias", [](ModelConfig& c) { c.norm = NormKind::layernorm, c.bias = true; });
        refused("qk_norm", [](ModelConfig& c) { c.qk_norm = true; });
        refused("qkv_bias", [](ModelConfig& c) { c.qkv_bias = true; });
        refused("rope_scaling", [](ModelConfig& c) { c.rope_scaling.factor = 16; });
        refused("tie_embeddings", [](ModelConfig& c) { c.tie_embeddings = true; });
        refused("rope_theta", [](ModelConfig& c) { c.rope_theta = 10001; });
        refused("norm_eps", [](ModelConfig& c) { c.norm_eps = 1e-6; });
        refused("attn_gate", [](ModelConfig& c) { c.attn_gate = GateKind::headwise; });
        refused("attn_bias", [](ModelConfig& c) { c.attn_bias = BiasKind::alibi; });
        refused("bias_rank", [](ModelConfig& c) { c.attn_bias = BiasKind::factors, c.bias_rank = 2; });
        refused("window", [](ModelConfig& c) { c.window = 3; });
        refused("attn_softcap", [](ModelConfig& c) { c.attn_softcap = 30; });
        refused("attn_sinks", [](ModelConfig& c) { c.attn_sinks = true; });
    }

    TEST_CASE("checkpoint: a file cut short or grown, anywhere, is refused and the older checkpoint is used") {
        TempDir dir;
        RealIo io;
        Arenas older(small_model("llama")), newer(small_model("llama")), restored(small_model("llama"));
        save(io, dir.path, 10, older.fill(1));
        const std::string path = save(io, dir.path, 20, newer.fill(2));
        int cuts = 0;
        for (const std::string& name : names_in(path)) {
            const std::string file = path + "/" + name, whole = read_file(file);
            std::set<size_t> sizes = {0, 1, whole.size() - 1, whole.size() + 1, whole.size() + 4096};
            for (size_t edge = 4096; edge < whole.size(); edge += 4096) sizes.insert({edge - 1, edge, edge + 1});
            sizes.erase(whole.size());
            for (size_t size : sizes) {
                std::string content = whole;
                content.resize(size, 'x');
                write_file(file, content);
                std::string reason;
                auto found = newest_checkpoint(dir.path, [&](const std::string& why) { reason += why; });
                REQUIRE(found);
                CHECK(found->step == 10);
                CHECK_MESSAGE(reason.find(name) != std::string::npos, reason);
                CHECK_MESSAGE((name == "manifest.json" || reason.find(std::to_string(size) + " bytes") != std::string::npos), reason);
                Error error = error_of([&] { open_checkpoint(path); });
                CHECK(error.code() == ExitCode::checkpoint);
                CHECK(error.json().find(name) != std::string::npos);
                cuts++;
            }
            write_file(file, whole);
        }
        auto found = newest_checkpoint(dir.path, ignore);
        REQUIRE(found);
        CHECK(found->step == 20);
        restore(*found, restored);
        CHECK(restored.same_bits(newer));
        MESSAGE(cuts << " truncations refused");
    }

    TEST_CASE("checkpoint: 1000 flipped bytes and every byte of the manifest are detected, the block named") {
        TempDir dir;
        RealIo io;
        Arenas saved(small_model("qwen3"));
        const std::string path = save(io, dir.path, 20, saved.fill(2));
        auto detected = [&](const std::string& name, int64_t at, int flip, const std::string& expected) {
            const std::string file = path + "/" + name;
            std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
            auto change = [&] {
                stream.seekg(at);
                char byte = static_cast<char>(stream.get() ^ flip);
                stream.seekp(at), stream.put(byte), stream.flush();
            };
            change();
            std::string reason;
            bool found = newest_checkpoint(dir.path, [&](const std::string& why) { reason = why; }).has_value();
            change();
            return !found && reason.find(name) != std::string::npos && reason.find(expected) != std::string::npos;
        };
        Random random{11, RandomStream::sampling};
        const std::vector<std::string> names = {"model.safetensors", "config.json", "rank_0_of_1.bin"};
        int caught = 0;
        for (uint32_t i = 0; i < 1000; i++) {
            const std::string& name = names[random.below(3, i, 0)];
            int64_t at = static_cast<int64_t>(random.below(fs::file_size(path + "/" + name), i, 1));
            caught += detected(name, at, 1 << random.below(8, i, 2), "block 0");
        }
        CHECK(caught == 1000);
        int64_t manifest_bytes = static_cast<int64_t>(fs::file_size(path + "/manifest.json")), manifest_caught = 0;
        for (int64_t at = 0; at < manifest_bytes; at++) manifest_caught += detected("manifest.json", at, 1 << at % 8, "");
        CHECK(manifest_caught == manifest_bytes);
        CHECK(newest_checkpoint(dir.path, ignore).has_value());
        MESSAGE(caught << " of 1000 flips and " << manifest_caught << " of " << manifest_bytes << " manifest bytes detected");
    }

    TEST_CASE("checkpoint: in files of several blocks the right block is named") {
        TempDir dir;
        RealIo io;
        ModelConfig config = small_model("llama");
        config.vocab_size = 60000;  // 4.3 MB tables: each file has two or more blocks
        Arenas saved(config), restored(config);
        const std::string path = save(io, dir.path, 20, saved.fill(2)), file = path + "/rank_0_of_1.bin";
        restore(open_checkpoint(path), restored);
        CHECK(restored.same_bits(saved));
        int64_t size = static_cast<int64_t>(fs::file_size(file));
        REQUIRE(size > 3 * digest_block);
        for (int64_t at : {int64_t{0}, digest_block - 1, digest_block, 2 * digest_block + 12345, size - 1}) {
            std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
            stream.seekg(at);
            char byte = static_cast<char>(stream.get());
            stream.seekp(at), stream.put(static_cast<char>(byte ^ 64)), stream.flush();
            Error error = error_of([&] { open_checkpoint(path); });
            CHECK_MESSAGE(std::string(error.what()).find(format("block %d ", static_cast<int>(at / digest_block))) != std::string::npos,
                          error.what());
            CHECK(error.json().find(format("\"offset\":%lld", static_cast<long long>(at / digest_block * digest_block))) !=
                  std::string::npos);
            stream.seekp(at), stream.put(byte), stream.flush();
        }
        CHECK_NOTHROW(open_checkpoint(path));
    }

    TEST_CASE("checkpoint: missing, extra, swapped, linked and foreign files are refused") {
        TempDir dir, other;
        RealIo io;
        Arenas saved(small_model("llama")), foreign(small_model("llama"));
        const std::string path = save(io, dir.path, 20, saved.fill(2)), elsewhere = save(io, other.path, 20, foreign.fill(3));
        auto refused = [&](const char* part) {
            Error error = error_of([&] { open_checkpoint(path); });
            CHECK(error.code() == ExitCode::checkpoint);
            CHECK_MESSAGE(std::string(error.what()).find(part) != std::string::npos, error.what());
            CHECK_FALSE(newest_checkpoint(dir.path, ignore));
        };
        for (const std::string& name : names_in(path)) {
            fs::rename(path + "/" + name, dir / "aside");
            refused(name.c_str());
            fs::create_symlink(dir / "aside", path + "/" + name);
            refused(name.c_str());
            fs::remove(path + "/" + name);
            if (name != "config.json" && name != "manifest.json") {  // those two are the same in both runs, but for their hashes
                fs::copy_file(elsewhere + "/" + name, path + "/" + name);
                refused("block 0");
                fs::remove(path + "/" + name);
            }
            fs::rename(dir / "aside", path + "/" + name);
            CHECK_NOTHROW(open_checkpoint(path));
        }
        for (const char* extra : {"rank_1_of_2.bin", "model-00001-of-00002.safetensors"}) {
            write_file(path + "/" + extra, "x");
            refused("does not belong");
            fs::remove(path + "/" + extra);
        }
        write_file(path + "/tokenizer.json", "{}");  // other tools may leave their files here
        CHECK_NOTHROW(open_checkpoint(path));
        fs::rename(path, dir / "step_0000000030");
        CHECK(error_of([&] { open_checkpoint(dir / "step_0000000030"); }).code() == ExitCode::checkpoint);
        fs::rename(dir / "step_0000000030", dir / "final");
        CHECK(open_checkpoint(dir / "final").step == 20);
    }

    TEST_CASE("checkpoint: a sealed manifest with impossible content is refused, never a crash") {
        TempDir dir;
        RealIo io;
        Arenas saved(small_model("llama"));
        const std::string path = save(io, dir.path, 20, saved.fill(2)), file = path + "/manifest.json";
        const auto sound = nlohmann::ordered_json::parse(read_file(file));
        auto seal = [&](nlohmann::ordered_json manifest) {  // as the format says: the hash of all bytes before the comma
            if (manifest.is_object()) manifest.erase("hash");
            std::string text = manifest.dump(2);
            if (text.size() > 2) text.resize(text.size() - 2);
            write_file(file,
                       text + ",\n  \"hash\": \"" + hash_text(hash_bytes(text.data(), static_cast<int64_t>(text.size()))) + "\"\n}\n");
        };
        seal(sound);
        CHECK_NOTHROW(open_checkpoint(path));
        auto refused = [&](const char* pointer, const nlohmann::ordered_json& value) {
            nlohmann::ordered_json manifest = sound;
            manifest[nlohmann::ordered_json::json_pointer(pointer)] = value;
            seal(manifest);
            Arenas into(small_model("llama"));
            Error error = error_of([&] { restore(open_checkpoint(path), into); });
            CHECK_MESSAGE(error.code() == ExitCode::checkpoint, pointer);
        };
        const std::vector<nlohmann::ordered_json> odd = {
            nullptr, -1, 1e300, "x", true, nlohmann::ordered_json::array(), nlohmann::ordered_json::object(), uint64_t{1} << 63};
        for (const char* pointer : {"/schema", "/step", "/files", "/files/0", "/files/0/name", "/files/0/bytes", "/files/0/blocks",
                                    "/files/0/blocks/0", "/files/0/xxh3", "/files/0/block_bytes", "/model", "/model/n_layer", "/model/norm",
                                    "/parameters", "/flat_size", "/world_size", "/tensors", "/tensors/0"})
            for (const auto& value : odd)
                if (!(std::string(pointer) == "/files" && value.empty() && value.is_structured()))  // no files listed: caught below
                    refused(pointer, value);
        refused("/files", nlohmann::ordered_json::array());
        for (const char* name : {"", ".", "..", "../x", "/etc/passwd", "a/b", "manifest.json\0x"}) refused("/files/0/name", name);
        refused("/schema", 2);
        seal(nlohmann::ordered_json::array({1, 2}));
        CHECK(error_of([&] { open_checkpoint(path); }).code() == ExitCode::checkpoint);
        nlohmann::ordered_json newer = sound;
        newer["schema"] = 2;
        seal(newer);
        CHECK(std::string(error_of([&] { open_checkpoint(path); }).what()).find("schema 2") != std::string::npos);
    }

    TEST_CASE("checkpoint: the newest good one is found among folders of all kinds") {
        TempDir dir;
        RealIo io;
        CHECK_FALSE(newest_checkpoint(dir.path, ignore));
        CHECK_FALSE(newest_checkpoint(dir / "nowhere", ignore));
        Arenas saved(small_model("llama"));
        save(io, dir.path, 7, saved.fill(2));
        for (const char* name :
             {"step_0000000099", "step_00000000100", "step_1", "step_000000000x", ".tmp_step_0000000100_ab", ".trash_step_0000000100_ab"})
            fs::create_directory(dir / name);
        write_file(dir / "step_0000000098", "a file");
        int rejected = 0;
        auto found = newest_checkpoint(dir.path, [&](const std::string&) { rejected++; });
        REQUIRE(found);
        CHECK(found->step == 7);
        CHECK(rejected == 2);
        CHECK(checkpoint_steps(dir.path) == std::vector<int64_t>{99, 98, 7});
    }

    TEST_CASE("checkpoint: the same step again replaces the older one in place, good or damaged") {
        TempDir dir;
        RealIo io;
        Arenas first(small_model("llama")), second(small_model("llama")), restored(small_model("llama"));
        save(io, dir.path, 7, first.fill(1));
        save(io, dir.path, 7, second.fill(2));
        restore(newest_checkpoint(dir.path, ignore).value(), restored);
        CHECK(restored.same_bits(second));
        write_file(dir / "step_0000000007/rank_0_of_1.bin", "damage");
        save(io, dir.path, 7, first);
        restore(newest_checkpoint(dir.path, ignore).value(), restored);
        CHECK(restored.same_bits(first));
        CHECK(names_in(dir.path).size() == 1);
    }

    TEST_CASE("retention: the newest are kept, never fewer than two, and 0 keeps all") {
        RealIo io;
        Arenas saved(small_model("llama"));
        saved.fill(2);
        for (int keep : {0, 1, 2, 3, 9}) {
            TempDir dir;
            for (int64_t step = 1; step <= 5; step++) save(io, dir.path, step, saved);
            retain_checkpoints(io, dir.path, keep);
            size_t expected = keep == 0 || keep > 5 ? 5 : static_cast<size_t>(std::max(keep, 2));
            CHECK(checkpoint_steps(dir.path).size() == expected);
            CHECK(checkpoint_steps(dir.path)[0] == 5);
            CHECK(names_in(dir.path).size() == expected);
        }
    }

    TEST_CASE("retention: nothing good is deleted on the strength of something damaged") {
        TempDir dir;
        RealIo io;
        Arenas saved(small_model("llama"));
        saved.fill(2);
        for (int64_t step = 1; step <= 5; step++) save(io, dir.path, step, saved);
        auto flip = [&](const char* file) {
            std::string content = read_file(dir / file);
            content[content.size() / 2] ^= 1;
            write_file(dir / file, content);
        };
        flip("step_0000000005/rank_0_of_1.bin");
        flip("step_0000000003/manifest.json");
        retain_checkpoints(io, dir.path, 2);
        CHECK(checkpoint_steps(dir.path) == std::vector<int64_t>{5, 4, 3, 2});  // two good ones: 4 and 2; the damaged ones are newer than 2
        flip("step_0000000004/model.safetensors");
        flip("step_0000000002/model.safetensors");
        retain_checkpoints(io, dir.path, 2);
        CHECK(checkpoint_steps(dir.path).size() == 4);
    }

    TEST_CASE("retention: leftovers of interrupted work are cleared, other people's files are not") {
        TempDir dir;
        RealIo io;
        Arenas saved(small_model("llama"));
        const std::string path = save(io, dir.path, 1, saved.fill(2));
        fs::copy(path, dir / ".tmp_step_0000000002_0123");
        fs::copy(path, dir / ".trash_step_0000000000_4567");
        fs::create_directory(dir / ".tmp_of_someone");
        write_file(dir / "log.jsonl", "{}\n");
        retain_checkpoints(io, dir.path, 0);
        CHECK(names_in(dir.path) == std::vector<std::string>{".tmp_of_someone", "log.jsonl", "step_0000000001"});
    }
}
