// Weights in several files: what the index says is believed only as far as the files bear it out.
#include "src/checkpoint/weight_files.h"
#include "src/checkpoint/formats.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

namespace {

void write_tensors(const std::string& path, const std::vector<std::string>& names) {
    std::vector<StoredTensor> tensors;
    for (const std::string& name : names) tensors.push_back({name, StoredType::F32, {2}, 0, 0});
    std::string file = safetensors_header(tensors, {});
    for (size_t i = 0; i < names.size(); i++) {
        const float values[2] = {static_cast<float>(i), static_cast<float>(names[i].size())};
        file.append(reinterpret_cast<const char*>(values), 8);
    }
    write_file(path, file);
}

struct Folder {
    Folder() {
        write_tensors(dir / "m/one.safetensors", {"a", "bb"});
        write_tensors(dir / "m/two.safetensors", {"ccc"});
    }
    std::string index(const std::string& text) {
        write_file(dir / "m/model.safetensors.index.json", text);
        return dir / "m/model.safetensors.index.json";
    }
    void refused(const std::string& text, const std::string& part) {
        const std::string path = index(text);
        Error error = error_of([&] { WeightFiles{path}; });
        CHECK(error.code() == ExitCode::checkpoint);
        CHECK_FALSE(error.remedy().empty());
        CHECK_MESSAGE(std::string(error.what()).find(part) != std::string::npos, std::string(error.what()));
    }
    TempDir dir;
};

const std::string sound =
    R"({"metadata":{"total_size":24},"weight_map":{"a":"one.safetensors","bb":"one.safetensors","ccc":"two.safetensors"}})";

}  // namespace

TEST_SUITE("huggingface") {
    TEST_CASE("sharded: every tensor is found in its file") {
        Folder f;
        WeightFiles files(f.index(sound));
        CHECK(files.files().size() == 2);
        float values[2];
        for (const char* name : {"a", "bb", "ccc"}) {
            WeightFiles::Place place = files.find(name);
            REQUIRE(place);
            place.file->read_f32(*place.tensor, 0, 2, values);
            CHECK(values[1] == std::string(name).size());
        }
        CHECK_FALSE(files.find("d"));
        WeightFiles single(f.dir / "m/two.safetensors");
        CHECK(single.find("ccc"));
        CHECK_FALSE(single.find("a"));
    }

    TEST_CASE("sharded: an index that lies is refused") {
        Folder f;
        auto map = [](const std::string& entries) { return "{\"weight_map\":{" + entries + "}}"; };
        const std::string a = "\"a\":\"one.safetensors\",\"bb\":\"one.safetensors\",", c = "\"ccc\":\"two.safetensors\"";
        for (const char* name : {"../m/two.safetensors", "/etc/passwd", "./two.safetensors", "..", ".", "", "sub/two.safetensors",
                                 "..\\\\two.safetensors", ".hidden", "two.safetensors\\u0000"})
            f.refused(map(a + "\"ccc\":\"" + name + "\""), "no name of a file");
        f.refused(map(a + "\"ccc\":\"three.safetensors\""), "three.safetensors");      // a file that is not there
        f.refused(map(a + "\"ccc\":\"one.safetensors\""), "ccc");                      // a tensor that is elsewhere
        f.refused(map(a + c + ",\"d\":\"two.safetensors\""), "the tensor d");          // a tensor that is nowhere
        f.refused(map("\"a\":\"one.safetensors\"," + c), "the tensor bb");             // a tensor that it does not list
        f.refused(map(a + c + ",\"a\":\"two.safetensors\""), "\"a\" is there twice");  // a key twice
        f.refused(map(a + "\"ccc\":7"), "ccc");
        f.refused(map(a + "\"ccc\":[\"two.safetensors\"]"), "ccc");
        f.refused("{}", "weight_map");
        f.refused("{\"weight_map\":{}}", "weight_map");
        f.refused("{\"weight_map\":[]}", "weight_map");
        f.refused("[]", "weight_map");
        f.refused("", "not JSON");
        f.refused("{\"weight_map\":" + std::string(100'000, '['), "deeper");
        write_tensors(f.dir / "m/two.safetensors", {"ccc", "a"});
        f.refused(sound, "the tensor a is here, but the index says it is in one.safetensors");  // a tensor in two files
        write_file(f.dir / "m/two.safetensors", "short");
        f.refused(sound, "two.safetensors is not a sound safetensors file");
        fs::remove(f.dir / "m/two.safetensors");
        fs::create_directory(f.dir / "m/two.safetensors");
        f.refused(sound, "two.safetensors");
    }

    TEST_CASE("sharded: a link may not lead out of the folder, but into the cache of Hugging Face") {
        Folder f;
        fs::rename(f.dir / "m/two.safetensors", f.dir / "outside");
        fs::create_symlink("../outside", f.dir / "m/two.safetensors");
        f.refused(sound, "leads out of its folder");
        fs::remove(f.dir / "m/two.safetensors");
        fs::create_symlink("one.safetensors", f.dir / "m/two.safetensors");
        f.refused(sound, "the tensor a is here");  // inside the folder the link is followed
        fs::remove(f.dir / "m/two.safetensors");
        fs::create_symlink("nowhere", f.dir / "m/two.safetensors");
        f.refused(sound, "missing");

        fs::create_directories(f.dir / "cache/blobs"), fs::create_directories(f.dir / "cache/snapshots/1234");
        fs::rename(f.dir / "outside", f.dir / "cache/blobs/beef"), fs::rename(f.dir / "m/one.safetensors", f.dir / "cache/blobs/cafe");
        fs::create_symlink("../../blobs/beef", f.dir / "cache/snapshots/1234/two.safetensors");
        fs::create_symlink("../../blobs/cafe", f.dir / "cache/snapshots/1234/one.safetensors");
        write_file(f.dir / "cache/snapshots/1234/model.safetensors.index.json", sound);
        CHECK(WeightFiles(f.dir / "cache/snapshots/1234/model.safetensors.index.json").find("ccc"));
    }

    TEST_CASE("huggingface: GPT-2 without its prefix, old constants, a stored tied head") {
        TempDir dir;
        Arenas arenas(small_model("gpt2"));
        arenas.fill(4);
        struct Extra {
            std::string name;
            StoredType type;
            std::vector<int64_t> shape;
        };
        auto write = [&](bool bare, const std::vector<Extra>& extras, bool head, int head_error) {
            std::vector<StoredTensor> stored;
            std::string data;
            for (const ExportedTensor& tensor : exported_tensors(arenas.config, arenas.table)) {
                stored.push_back({bare ? tensor.name.substr(12) : tensor.name, StoredType::F32, tensor.shape, 0, 0});
                const ParamRow& row = arenas.table.rows[static_cast<size_t>(tensor.row)];
                export_values(tensor, row, arenas.params_memory.data() + row.offset, [&](const float* values, int64_t count) {
                    data.append(reinterpret_cast<const char*>(values), static_cast<size_t>(count) * 4);
                });
            }
            for (const Extra& extra : extras) {
                stored.push_back({extra.name, extra.type, extra.shape, 0, 0});
                int64_t bytes = size_of(extra.type);
                for (int64_t n : extra.shape) bytes *= n;
                data.append(static_cast<size_t>(bytes), '\1');
            }
            if (head) {
                stored.push_back({"lm_head.weight", StoredType::F32, {67, 18}, 0, 0});
                std::string copy(reinterpret_cast<const char*>(arenas.params_memory.data()), 67 * 18 * 4);
                copy.back() = static_cast<char>(copy.back() ^ head_error);
                data += copy;
            }
            write_file(dir / "m/model.safetensors", safetensors_header(stored, {}) + data);
            write_file(dir / "m/config.json", huggingface_config(arenas.config, {}).dump());
        };
        auto loads = [&] {
            ModelOnDisk model = find_model(dir / "m");
            Arenas loaded(model.config);
            load_model(model, loaded.table, loaded.params);
            return loaded.same_params(arenas);
        };
        const std::vector<Extra> constants = {{"transformer.h.0.attn.bias", StoredType::BOOL, {1, 1, 5, 5}},
                                              {"transformer.h.1.attn.bias", StoredType::U8, {1, 1, 5, 5}},
                                              {"transformer.h.0.attn.masked_bias", StoredType::F32, {}}};
        for (bool bare : {false, true}) {
            write(bare, {}, false, 0);
            CHECK(loads());
            write(bare, constants, false, 0);
            CHECK(loads());
            write(bare, {{"h.0.attn.bias", StoredType::F32, {1, 1, 5, 5}}}, true, 0);
            CHECK(loads());
        }
        write(false, {}, true, 1);
        Error other_head = error_of([&] { loads(); });
        CHECK(std::string(other_head.what()).find("lm_head.weight") != std::string::npos);
        CHECK(other_head.remedy().find("tie_word_embeddings") != std::string::npos);
        write(false, {{"transformer.h.0.attn.c_attn.extra", StoredType::F32, {1}}}, false, 0);
        CHECK(std::string(error_of([&] { loads(); }).what()).find("c_attn.extra belongs to no parameter") != std::string::npos);
    }
}
