// The smallest models and a checkpoint of one, for the targets that read models.
#pragma once

#include <map>
#include <string>

#include "src/checkpoint/state.h"
#include "tests/fuzz/input.h"

namespace traincu::fuzz {

ModelConfig smallest(const std::string& family);  // "gpt2", "llama" or "qwen3", with a few hundred parameters

// Flat arenas of a model, with numbers that tell places apart. At most a million parameters: what hostile input describes may be larger.
struct Arenas {
    explicit Arenas(const ModelConfig& model);
    static bool fits(const ParamTable& table) { return table.flat_size <= 1 << 20; }

    ParamTable table;
    std::vector<float> memory[3];
    Tensor params, m, v;
};

// Makes a valid run in scratch_folder()/name with a checkpoint of each step; returns its files by their path inside.
std::map<std::string, std::string> make_run(const std::string& name, const std::vector<int64_t>& steps);

}  // namespace traincu::fuzz
