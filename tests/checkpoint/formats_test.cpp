#include "src/checkpoint/formats.h"
#include "src/checkpoint/huggingface.h"
#include "src/checkpoint/llmc.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

// llm.c's file, written from its description: the 16 tensors in order, value number i of the file is `value(i)`.
struct LlmcFile {
    int32_t version, max_t = 6, vocab = 70, layers = 2, heads = 2, channels = 8, padded = 80;
    std::string bytes(const std::function<float(int64_t)>& value) const {
        std::vector<int32_t> header(256, 0);
        header[0] = 20240326, header[1] = version, header[2] = max_t, header[3] = vocab, header[4] = layers, header[5] = heads,
        header[6] = channels, header[7] = padded;
        std::string out(reinterpret_cast<char*>(header.data()), 1024);
        for (int64_t i = 0; i < values(); i++) {
            float v = value(i);
            if (version == 3)
                out.append(reinterpret_cast<char*>(&v), 4);
            else
                out.append(reinterpret_cast<char*>(&v) + 2, 2);  // the upper half is the bf16
        }
        return out;
    }
    int64_t values() const {
        int64_t C = channels, L = layers;
        return padded * C + max_t * C + L * (2 * C + 3 * C * C + 3 * C + C * C + C + 2 * C + 4 * C * C + 4 * C + 4 * C * C + C) + 2 * C;
    }
};

TEST_SUITE("formats") {
    TEST_CASE("llm.c: both versions are read into the right rows, padding rows left behind") {
        TempDir dir;
        for (int32_t version : {3, 5}) {
            LlmcFile f{version};
            write_file(dir / "model.bin", f.bytes([](int64_t i) { return static_cast<float>(i % 251 - 125); }));  // exact in bf16
            ModelConfig c = find_model(dir / "model.bin").config;
            CHECK(c.n_layer == 2);
            CHECK(c.n_head == 2);
            CHECK(c.n_kv_head == 2);
            CHECK(c.head_size == 4);
            CHECK(c.d_model == 8);
            CHECK(c.d_ff == 32);
            CHECK(c.vocab_size == 70);
            CHECK(c.max_seq_len == 6);
            CHECK(family_of(c) == "gpt2");
            CHECK(c.tie_embeddings);
            CHECK(c.norm_eps == 1e-5);
            CHECK(find_model(dir / "model.bin").meta.is_object());
            CHECK(find_model(dir / "model.bin").meta.empty());
            Arenas arenas(c);
            load_model(find_model(dir / "model.bin"), arenas.table, arenas.params);
            auto at = [&](ParamKind kind, bool bias, int layer, int64_t index) {
                return arenas.params_memory[static_cast<size_t>(
                    arenas.table.rows[static_cast<size_t>(arenas.table.find(kind, bias, layer))].offset + index)];
            };
            auto expect = [](int64_t i) { return static_cast<float>(i % 251 - 125); };
            // Where each tensor begins in the file, counted by hand from the format's description.
            const int64_t C = 8, wte = 0, wpe = 80 * C, ln1w = wpe + 6 * C, ln1b = ln1w + 2 * C, qkvw = ln1b + 2 * C,
                          qkvb = qkvw + 2 * 3 * C * C, attw = qkvb + 2 * 3 * C, attb = attw + 2 * C * C, ln2w = attb + 2 * C,
                          ln2b = ln2w + 2 * C, fcw = ln2b + 2 * C, fcb = fcw + 2 * 4 * C * C, fcpw = fcb + 2 * 4 * C,
                          fcpb = fcpw + 2 * 4 * C * C, lnfw = fcpb + 2 * C, lnfb = lnfw + C;
            CHECK(at(ParamKind::token_embedding, false, -1, 69 * C + 7) == expect(wte + 69 * C + 7));
            for (int64_t i = 70 * C; i < 128 * C; i++) REQUIRE(at(ParamKind::token_embedding, false, -1, i) == 0.0f);
            CHECK(at(ParamKind::position_embedding, false, -1, 5 * C + 7) == expect(wpe + 5 * C + 7));
            for (int layer : {0, 1}) {
                CHECK(at(ParamKind::norm1, false, layer, 3) == expect(ln1w + layer * C + 3));
                CHECK(at(ParamKind::norm1, true, layer, 3) == expect(ln1b + layer * C + 3));
                CHECK(at(ParamKind::qkv, false, layer, 23 * C + 5) == expect(qkvw + layer * 3 * C * C + 23 * C + 5));
                CHECK(at(ParamKind::qkv, true, layer, 23) == expect(qkvb + layer * 3 * C + 23));
                CHECK(at(ParamKind::attention_out, false, layer, 7 * C + 1) == expect(attw + layer * C * C + 7 * C + 1));
                CHECK(at(ParamKind::attention_out, true, layer, 2) == expect(attb + layer * C + 2));
                CHECK(at(ParamKind::norm2, false, layer, 1) == expect(ln2w + layer * C + 1));
                CHECK(at(ParamKind::norm2, true, layer, 1) == expect(ln2b + layer * C + 1));
                CHECK(at(ParamKind::fc, false, layer, 31 * C + 6) == expect(fcw + layer * 4 * C * C + 31 * C + 6));
                CHECK(at(ParamKind::fc, true, layer, 31) == expect(fcb + layer * 4 * C + 31));
                CHECK(at(ParamKind::mlp_out, false, layer, 7 * 32 + 30) == expect(fcpw + layer * 4 * C * C + 7 * 32 + 30));
                CHECK(at(ParamKind::mlp_out, true, layer, 7) == expect(fcpb + layer * C + 7));
            }
            CHECK(at(ParamKind::final_norm, false, -1, 7) == expect(lnfw + 7));
            CHECK(at(ParamKind::final_norm, true, -1, 7) == expect(lnfb + 7));
        }
    }

    TEST_CASE("llm.c: a header that lies is refused, with file and place") {
        TempDir dir;
        auto refused = [&](const std::string& content) {
            write_file(dir / "model.bin", content);
            Error error = error_of([&] { open_llmc_model(dir / "model.bin"); });
            CHECK(error.code() == ExitCode::checkpoint);
            CHECK_MESSAGE(error.json().find("model.bin") != std::string::npos, error.json());
        };
        const std::string sound = LlmcFile{3}.bytes([](int64_t) { return 1.0f; });
        for (size_t size : {size_t{0}, size_t{4}, size_t{1023}, size_t{1024}, sound.size() - 1}) refused(sound.substr(0, size));
        refused(sound + "x");
        for (int field = 0; field < 8; field++)
            for (int32_t value : {0, -1, 1 << 30, INT32_MAX, INT32_MIN, 7}) {
                if (field == 3 && value == 7) continue;  // a smaller vocabulary under the same padding is a sound file
                std::string text = sound;
                std::memcpy(text.data() + 4 * field, &value, 4);
                refused(text);
            }
        std::string big = sound;  // the largest of everything: the size must not overflow into something that fits
        const int32_t fields[] = {1 << 24, 1 << 24, 10000, 65536, 1 << 20, 1 << 24};
        std::memcpy(big.data() + 8, fields, sizeof fields);
        refused(big);
    }

    TEST_CASE("models: checkpoint folder, run folder, safetensors file and plain folder all load the same bits") {
        for (const std::string& family : families()) {
            TempDir dir;
            RealIo io;
            Arenas first(small_model(family)), second(small_model(family));
            save(io, dir.path, 10, first.fill(1));
            const std::string path = save(io, dir.path, 20, second.fill(2));
            fs::create_directory(dir / "plain");
            fs::copy_file(path + "/model.safetensors", dir / "plain/model.safetensors");
            fs::copy_file(path + "/config.json", dir / "plain/config.json");
            for (const std::string& place : {path, dir.path, path + "/model.safetensors", dir / "plain", dir / "plain/model.safetensors"}) {
                ModelConfig config = find_model(place).config;
                CHECK(config == second.config);
                Arenas loaded(config);
                load_model(find_model(place), loaded.table, loaded.params);
                CHECK_MESSAGE(loaded.same_params(second), place);
            }
            CHECK(find_model(dir.path).meta.at("tokenizer") == "bytes");
            CHECK(find_model(path).meta.at("tokens") == 20 * 4096);
            CHECK(find_model(dir / "plain").meta.empty());
            CHECK(find_model(dir.path).step == 20);
        }
    }

    TEST_CASE("models: what cannot be loaded is refused, with a remedy") {
        TempDir dir;
        RealIo io;
        Arenas arenas(small_model("llama"));
        const std::string path = save(io, dir.path, 10, arenas.fill(1));
        auto refused = [&](const std::string& place, ExitCode code, const char* part) {
            Error error = error_of([&] { find_model(place).config; });
            CHECK(error.code() == code);
            CHECK_FALSE(error.remedy().empty());
            CHECK_MESSAGE(std::string(error.what()).find(part) != std::string::npos, error.what());
        };
        refused(dir / "nowhere", ExitCode::usage, "nowhere");
        fs::create_directory(dir / "empty");
        refused(dir / "empty", ExitCode::checkpoint, "empty");
        write_file(dir / "empty/note.txt", "hello");
        refused(dir / "empty/note.txt", ExitCode::checkpoint, "config.json");
        fs::copy_file(path + "/model.safetensors", dir / "empty/model.safetensors");
        refused(dir / "empty", ExitCode::checkpoint, "config.json");
        ModelConfig other = arenas.config;
        other.d_ff = 38;
        write_file(dir / "empty/config.json", huggingface_config(other, {}).dump());
        refused(dir / "empty", ExitCode::checkpoint, "shape");
        other = arenas.config, other.tie_embeddings = true;
        write_file(dir / "empty/config.json", huggingface_config(other, {}).dump());
        Arenas into(other);
        Error own_head = error_of([&] { load_model(find_model(dir / "empty"), into.table, into.params); });
        CHECK_MESSAGE(std::string(own_head.what()).find("lm_head.weight") != std::string::npos, own_head.what());
        other = arenas.config, other.n_layer = 3;
        write_file(dir / "empty/config.json", huggingface_config(other, {}).dump());
        refused(dir / "empty", ExitCode::checkpoint, "model.layers.2");
        write_file(dir / "empty/config.json", "{\"model_type\":\"llama\"}");  // the defaults of transformers: a Llama 2 of 7B
        refused(dir / "empty", ExitCode::checkpoint, "shape (67, 20), the model needs (32000, 4096)");
        write_file(dir / "empty/config.json", "{\"model_type\":\"mistral\"}");
        refused(dir / "empty", ExitCode::checkpoint, "mistral");
        write_file(dir / "pickle/config.json", "{\"model_type\":\"gpt2\"}");
        write_file(dir / "pickle/pytorch_model.bin", "PK");
        refused(dir / "pickle", ExitCode::checkpoint, "pytorch_model.bin");
    }
}
