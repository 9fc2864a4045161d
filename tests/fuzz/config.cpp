// config.json beside the weights of a small GPT-2: an accepted one comes back equal from what we write, and where it fits the weights
// they load. More files of a model's folder (an index of shards, say) can follow in the input after a separator.
#include "src/checkpoint/formats.h"
#include "src/checkpoint/huggingface.h"
#include "tests/fuzz/model.h"

namespace traincu::fuzz {

static std::string config_text(const ModelConfig& config) { return huggingface_config(config, {}).dump(1); }

bool fuzz_config(Bytes input) {
    static const std::string folder = [] {
        const auto files = make_run("source", {1});
        fs::create_directories(scratch_folder() + "/model");
        put_file("model/model.safetensors", files.at("step_0000000001/model.safetensors"));
        return scratch_folder() + "/model";
    }();
    return accepted([&] {
        const ModelConfig config = read_config_json(put_file("model/config.json", text_of(input)));
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
    ModelConfig other = smallest("gpt2");  // of no family
    other.position = PositionKind::none, other.bias = false;
    seeds.push_back(config_text(other));
    return seeds;
}

}  // namespace traincu::fuzz
