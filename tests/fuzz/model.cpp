#include "tests/fuzz/model.h"

namespace traincu::fuzz {

ModelConfig smallest(const std::string& family) {
    ModelConfig config;
    config.n_layer = config.n_head = config.n_kv_head = 1, config.d_model = config.head_size = 4, config.d_ff = 8;
    config.vocab_size = 5, config.max_seq_len = 3;
    if (family == "gpt2") return config;
    config.norm = NormKind::rmsnorm, config.position = PositionKind::rope, config.mlp = MlpKind::swiglu, config.bias = false;
    config.tie_embeddings = false, config.qk_norm = family == "qwen3";
    return config;
}

Arenas::Arenas(const ModelConfig& model) : table(make_param_table(model)) {
    ENSURE(fits(table));
    for (std::vector<float>& one : memory) one.assign(static_cast<size_t>(table.flat_size), 0.0f);
    for (const ParamRow& row : table.rows)
        for (int64_t i = row.offset; i < row.offset + row.used_numel(); i++)
            for (int which = 0; which < 3; which++)
                memory[which][static_cast<size_t>(i)] = static_cast<float>(i) + 0.25f * static_cast<float>(which);
    auto view = [&](std::vector<float>& one) { return Tensor(one.data(), Dtype::f32, {table.flat_size}); };
    params = view(memory[0]), m = view(memory[1]), v = view(memory[2]);
}

std::map<std::string, std::string> make_run(const std::string& name, const std::vector<int64_t>& steps) {
    const std::string run = scratch_folder() + "/" + name;
    fs::remove_all(run);
    fs::create_directories(run);
    const ModelConfig config = smallest("gpt2");
    Arenas arenas(config);
    RealIo io;
    for (int64_t step : steps) {
        arenas.memory[0][0] = static_cast<float>(step);  // no two checkpoints are alike
        write_checkpoint(io, run, step, config, arenas.table, arenas.params, arenas.m, arenas.v, {{"run_id", "r1"}, {"tokens", step * 12}});
    }
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(run))
        if (entry.is_regular_file()) files[fs::relative(entry.path(), run).string()] = content_of(entry.path().string());
    return files;
}

}  // namespace traincu::fuzz
