// The options of a training run. One table describes each of them: the parser, --help, the printed table, run.json and the check on
// resume are all made from it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/config/model_config.h"

namespace traincu {

struct Options {
    // model
    std::string preset, model;
    int64_t n_layer = 4, n_head = 4, n_kv_head = 0, d_model = 128, d_ff = 0, head_size = 0, vocab_size = 0, max_seq_len = 0;
    std::string norm = "layernorm", position = "learned", mlp = "gelu";
    bool from_scratch = false, bias = true, qkv_bias = false, qk_norm = false, tie_embeddings = true;
    double rope_theta = 10000, norm_eps = 1e-5;
    std::string rope_scaling = "none";
    std::string attn_gate = "none", attn_bias = "none";
    double attn_bias_energy = 0.99, attn_softcap = 0;
    std::string window = "none";
    bool attn_sinks = false;
    // data
    std::string data, val_data, hellaswag, packing = "stream";
    bool shuffle = true, allow_data_change = false;
    int64_t seed = 1337;
    // batch
    int64_t batch_size = 16, seq_len = 256, total_batch_tokens = 0, max_steps = 1000;
    bool overfit_batch = false;
    // optimizer
    double lr = 1e-3, min_lr_fraction = 0.1;
    int64_t warmup_steps = 0;
    std::string lr_schedule = "cosine";
    double decay_fraction = 0.2, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, adam_eps = 1e-8, grad_clip = 1.0, z_loss = 0,
           skip_zscore = 6;
    // numbers
    std::string device = "auto", precision = "auto", precision_of, master_weights = "fp32", fp32_products = "auto", adam_moments = "fp32",
                recompute = "none", gemm = "auto", attention_kernel = "auto", determinism = "run";
    int64_t threads = 0;
    // ranks
    int64_t zero = 0, ranks_per_node = 0;
    std::string transport = "auto", comm_quant = "none", quant_weights = "auto", quant_grads = "auto";
    int64_t quant_weights_group = 2048, quant_grads_group = 128;
    double peer_timeout = 600;
    // run
    std::string config, out, resume = "never", prompt, tokenizer, baselines;
    int64_t checkpoint_every = 0, keep = 3, val_every = 0, val_tokens = 0, hellaswag_examples = 0, sample_every = 0, sample_tokens = 256;
    double max_minutes = 0;
    bool tensorboard = false;

    int64_t ranks = 1;  // no option: what mpirun or srun started, or what a plan is for
};

struct OptionRow {
    using Field = std::variant<std::string Options::*, int64_t Options::*, double Options::*, bool Options::*>;
    enum class Resume { free, same };  // same: a resumed run must have the value its checkpoint was made with

    const char* group;
    const char* name;   // "n-layer"
    const char* alias;  // "b" for -b (llm.c's letters), or ""
    Field field;
    const char* help;
    std::vector<std::string> choices;  // for text: the only values
    double low = 0, high = 0;          // for numbers: the range
    Resume resume = Resume::free;
};

const std::vector<OptionRow>& option_table();

// Defaults, then the preset, then --config, then the command line. Throws Error(usage); throws HelpRequested for --help.
Options parse_options(int argc, char** argv);
struct HelpRequested {
    std::string text;
};

// Options as {"n-layer": 4, ...}, in the table's order, and back. from_json refuses unknown names and values out of range.
nlohmann::ordered_json options_to_json(const Options& options);
void apply_json(Options& options, const nlohmann::ordered_json& values, const std::string& origin);
std::string flag_text(const nlohmann::ordered_json& value);  // a value as the text that a flag would carry

// Every option as {group, name, value}, for the table that a run prints.
struct OptionText {
    std::string group, name, value;
};
std::vector<OptionText> options_as_text(const Options& options);

// The presets, each a set of option values.
std::vector<std::string> preset_names();
nlohmann::ordered_json preset(const std::string& name);  // Error(usage) for an unknown name

// The options that may not change on resume and did: "n-layer: 4 in the checkpoint, 6 now".
std::vector<std::string> resume_conflicts(const nlohmann::ordered_json& saved, const Options& now);

}  // namespace traincu
