// config.json beside the weights of a small GPT-2: an accepted one comes back equal from what we write, and where it fits the weights
// they load. After a line "---" in the input comes model.safetensors.index.json, for the same weights in two files.
#include "src/checkpoint/formats.h"
#include "src/checkpoint/huggingface.h"
#include "tests/fuzz/model.h"

namespace traincu::fuzz {

static std::string config_text(const ModelConfig& config) { return huggingface_config(config, {}).dump(1); }

// The tensors [first, last) of a file as a file of their own.
static std::string part_of(const SafetensorsFile& whole, const std::string& bytes, size_t first, size_t last) {
    std::vector<StoredTensor> tensors(whole.tensors().begin() + static_cast<int64_t>(first),
                                      whole.tensors().begin() + static_cast<int64_t>(last));
    std::string data;
    for (const StoredTensor& tensor : tensors) data += bytes.substr(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes));
    return safetensors_header(tensors, {}) + data;
}

// The folders: one with the weights in one file, one with them in two. Returns the index of the two.
static const std::string& make_folders() {
    static const std::string index = [] {
        const std::string weights = make_run("source", {1}).at("step_0000000001/model.safetensors");
        for (const char* name : {"/one", "/two"}) fs::create_directories(scratch_folder() + name);
        const SafetensorsFile whole(put_file("one/model.safetensors", weights));
        const size_t half = whole.tensors().size() / 2;
        put_file("two/a.safetensors", part_of(whole, weights, 0, half));
        put_file("two/b.safetensors", part_of(whole, weights, half, whole.tensors().size()));
        nlohmann::ordered_json map;
        for (size_t i = 0; i < whole.tensors().size(); i++) map[whole.tensors()[i].name] = i < half ? "a.safetensors" : "b.safetensors";
        return nlohmann::ordered_json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump(1);
    }();
    return index;
}

bool fuzz_config(Bytes input) {
    make_folders();
    const std::string_view all = text_of(input), separator = "\n---\n";
    const size_t at = all.find(separator);
    const std::string folder = scratch_folder() + (at == all.npos ? "/one" : "/two");
    return accepted([&] {
        const ModelConfig config = read_config_json(put_file(at == all.npos ? "one/config.json" : "two/config.json", all.substr(0, at)));
        if (at != all.npos) put_file("two/model.safetensors.index.json", all.substr(at + separator.size()));
        ENSURE(config_from_fields(config_fields(config), "again") == config);
        ENSURE(read_config_json(put_file("again.json", config_text(config))) == config);
        accepted([&] {  // whether or not it is the config of these weights
            const ModelOnDisk model = find_model(folder);
            ENSURE(model.config == config && model.trained_context() == std::min<int64_t>(config.max_seq_len, 2048));
            Arenas arenas(config);
            load_model(model, arenas.table, arenas.params);
        });
    });
}

Seeds config_seeds() {
    Seeds seeds;
    for (const char* family : {"gpt2", "llama", "qwen3"}) seeds.push_back(config_text(smallest(family)));
    seeds.push_back(seeds[0] + "\n---\n" + make_folders());
    ModelConfig other = smallest("gpt2");  // of no family
    other.position = PositionKind::none, other.bias = false;
    seeds.push_back(config_text(other));
    return seeds;
}

}  // namespace traincu::fuzz
