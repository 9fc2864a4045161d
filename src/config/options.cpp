#include "src/config/options.h"

#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>

#include <CLI/CLI.hpp>

#include "src/base/integers.h"

namespace traincu {

using Json = nlohmann::ordered_json;

const std::vector<OptionRow>& option_table() {
    using O = Options;
    constexpr auto same = OptionRow::Resume::same;
    constexpr auto free = OptionRow::Resume::free;
    constexpr double inf = std::numeric_limits<double>::infinity(), big = 1e15;
    static const std::vector<OptionRow> table = {
        {"model", "preset", "", &O::preset, "a named set of options; ./train --preset list shows them all", {}, 0, 0, free},
        {"model",
         "model",
         "e",
         &O::model,
         "start from these weights: a run, a checkpoint, a folder from Hugging Face, or llm.c's .bin",
         {},
         0,
         0,
         free},
        {"model", "from-scratch", "", &O::from_scratch, "take only the shape of --model; the weights come from the seed", {}, 0, 1, free},
        {"model", "n-layer", "", &O::n_layer, "transformer blocks", {}, 1, 1000, same},
        {"model", "n-head", "", &O::n_head, "query heads", {}, 1, 1024, same},
        {"model", "n-kv-head", "", &O::n_kv_head, "key and value heads (grouped-query attention); 0 = n-head", {}, 0, 1024, same},
        {"model", "d-model", "", &O::d_model, "width of the residual stream", {}, 1, 1 << 20, same},
        {"model",
         "d-ff",
         "",
         &O::d_ff,
         "width of the feed-forward layer; 0 = 4 x d-model (gelu), 8/3 x d-model (swiglu)",
         {},
         0,
         1 << 22,
         same},
        {"model", "head-size", "", &O::head_size, "width of a head; 0 = d-model / n-head", {}, 0, 4096, same},
        {"model", "vocab-size", "", &O::vocab_size, "tokens in the vocabulary; 0 = what the shards say", {}, 0, 1 << 24, same},
        {"model",
         "max-seq-len",
         "",
         &O::max_seq_len,
         "rows of the learned position table: the longest context; 0 = seq-len",
         {},
         0,
         1 << 24,
         same},
        {"model", "norm", "", &O::norm, "normalisation", {"layernorm", "rmsnorm"}, 0, 0, same},
        {"model", "position", "", &O::position, "position encoding", {"learned", "rope", "none"}, 0, 0, same},
        {"model", "mlp", "", &O::mlp, "feed-forward activation", {"gelu", "swiglu"}, 0, 0, same},
        {"model", "bias", "", &O::bias, "biases in linear layers and layernorms", {}, 0, 1, same},
        {"model", "qkv-bias", "", &O::qkv_bias, "biases of queries, keys and values alone (Qwen2)", {}, 0, 1, same},
        {"model", "qk-norm", "", &O::qk_norm, "RMSNorm of every query and key head", {}, 0, 1, same},
        {"model", "tie-embeddings", "", &O::tie_embeddings, "the LM head shares the embedding table", {}, 0, 1, same},
        {"model", "rope-theta", "", &O::rope_theta, "base of the rotary wavelengths", {}, 1, big, same},
        {"model",
         "rope-scaling",
         "",
         &O::rope_scaling,
         "stretch long rotary wavelengths: none, or llama3:FACTOR:LOW:HIGH:ORIGINAL (Llama 3.2: llama3:32:1:4:8192)",
         {},
         0,
         0,
         same},
        {"model", "norm-eps", "", &O::norm_eps, "added to the variance in norms", {}, 0, 1, same},
        {"model",
         "attn-gate",
         "",
         &O::attn_gate,
         "a sigmoid gate on attention's output: one number for each head, or for each element",
         {"none", "headwise", "elementwise"},
         0,
         0,
         same},
        {"model",
         "attn-bias",
         "",
         &O::attn_bias,
         "added to attention's scores: none, alibi, relative (a table by distance), factors:R (trained, of rank R), file:PATH (a matrix, "
         "as factors), spatial:PATH (distances of coordinates), fixed:R (the factors that the model or checkpoint brings)",
         {},
         0,
         0,
         same},
        {"model",
         "attn-bias-energy",
         "",
         &O::attn_bias_energy,
         "the share of a file's bias that its factors keep, in every layer and head",
         {},
         0,
         1,
         free},
        {"model", "window", "", &O::window, "tokens that a token sees, itself included; none: all before it", {}, 0, 0, same},
        {"model", "attn-softcap", "", &O::attn_softcap, "bound of attention's scores, by tanh; 0 = none", {}, 0, 1e6, same},
        {"model", "attn-sinks", "", &O::attn_sinks, "a learned number for each head in attention's softmax", {}, 0, 1, same},
        {"data", "data", "i", &O::data, "training shards: files, globs in quotes, or a folder, separated by commas", {}, 0, 0, free},
        {"data", "val-data", "j", &O::val_data, "validation shards", {}, 0, 0, free},
        {"data",
         "tokenizer",
         "",
         &O::tokenizer,
         "the vocabulary of the shards, where they do not say: bytes, a tokenizer.json, or a folder that holds one",
         {},
         0,
         0,
         free},
        {"data",
         "hellaswag",
         "",
         &O::hellaswag,
         "a multiple-choice set (llm.c's hellaswag_val.bin), scored with every validation",
         {},
         0,
         0,
         free},
        {"data",
         "packing",
         "",
         &O::packing,
         "stream: windows cut from the token stream; documents: whole documents packed, attention inside each",
         {"stream", "documents"},
         0,
         0,
         same},
        {"data", "shuffle", "", &O::shuffle, "shuffle shards and the windows in them, anew each epoch", {}, 0, 1, same},
        {"data", "seed", "", &O::seed, "of initial weights, data order and samples", {}, 0, big, same},
        {"data",
         "allow-data-change",
         "",
         &O::allow_data_change,
         "resume even if the shards are not those of the checkpoint",
         {},
         0,
         1,
         free},
        {"batch", "batch-size", "b", &O::batch_size, "rows of seq-len tokens in a micro-batch", {}, 1, 1 << 20, free},
        {"batch", "seq-len", "t", &O::seq_len, "tokens in a row: the context", {}, 1, 1 << 24, same},
        {"batch",
         "total-batch-tokens",
         "d",
         &O::total_batch_tokens,
         "tokens of an optimizer step, in micro-batches; 0 = one micro-batch",
         {},
         0,
         big,
         same},
        {"batch", "max-steps", "x", &O::max_steps, "optimizer steps to train", {}, 1, big, free},
        {"batch",
         "overfit-batch",
         "",
         &O::overfit_batch,
         "train on the first batch only: the loss must go to zero (a check of the engine)",
         {},
         0,
         1,
         same},
        {"optimizer", "lr", "l", &O::lr, "peak learning rate of AdamW", {}, 0, 10, same},
        {"optimizer", "min-lr-fraction", "q", &O::min_lr_fraction, "final learning rate as a fraction of the peak", {}, 0, 1, same},
        {"optimizer", "warmup-steps", "u", &O::warmup_steps, "steps of linear warmup", {}, 0, big, same},
        {"optimizer", "lr-schedule", "k", &O::lr_schedule, "shape after the warmup", {"cosine", "linear", "wsd", "constant"}, 0, 0, same},
        {"optimizer", "decay-fraction", "", &O::decay_fraction, "wsd: the share of the steps in which it decays", {}, 0, 1, same},
        {"optimizer", "weight-decay", "c", &O::weight_decay, "decoupled weight decay, on matrices only", {}, 0, 10, same},
        {"optimizer", "beta1", "", &O::beta1, "decay of AdamW's first moment", {}, 0, 0.99999999, same},
        {"optimizer", "beta2", "", &O::beta2, "decay of AdamW's second moment", {}, 0, 0.99999999, same},
        {"optimizer", "adam-eps", "", &O::adam_eps, "AdamW's epsilon", {}, 0, 1, same},
        {"optimizer", "grad-clip", "", &O::grad_clip, "largest global gradient norm; 0 = no clipping", {}, 0, inf, same},
        {"optimizer", "z-loss", "", &O::z_loss, "weight of the z-loss (log-sum-exp squared)", {}, 0, 1, same},
        {"optimizer",
         "skip-zscore",
         "",
         &O::skip_zscore,
         "skip an update whose loss or gradient norm is this many standard deviations above the last 128; 0 = never",
         {},
         0,
         inf,
         same},
        {"numbers",
         "device",
         "",
         &O::device,
         "where to compute; auto: on a GPU if one can be used (CUDA_VISIBLE_DEVICES says which)",
         {"auto", "cpu", "cuda"},
         0,
         0,
         free},
        {"numbers",
         "precision",
         "",
         &O::precision,
         "fp32; bf16: weights and activations, with master weights in fp32; layercast: weights in bf16, widened where they are used, all "
         "else "
         "fp32; bf16-sr: bf16 with stochastic rounding and no masters; auto: bf16 on a GPU, fp32 on a CPU",
         {"auto", "fp32", "bf16", "layercast", "bf16-sr"},
         0,
         0,
         free},
        {"numbers",
         "precision-of",
         "",
         &O::precision_of,
         "what classes of weights are stored in, where not as --precision says: lm_head=fp32,linear=fp16; classes: embedding, lm_head, "
         "linear "
         "(qkv, attention_out, fc, mlp_out), norm, bias, scores; types: fp32, bf16, fp16",
         {},
         0,
         0,
         free},
        {"numbers",
         "master-weights",
         "",
         &O::master_weights,
         "beside weights of 16 bits: fp32, 4 bytes; split: the lower half of an fp32 whose upper half the weight is, 2 bytes",
         {"fp32", "split"},
         0,
         0,
         free},
        {"numbers",
         "fp32-products",
         "",
         &O::fp32_products,
         "how a GPU multiplies fp32 activations by 16-bit weights (layercast): fp32, or on tensor cores as two or three terms of bf16; "
         "auto: fp32",
         {"auto", "fp32", "bf16x2", "bf16x3"},
         0,
         0,
         free},
        {"numbers",
         "adam-moments",
         "",
         &O::adam_moments,
         "type of AdamW's moments; bf16 halves their memory, with stochastic rounding",
         {"fp32", "bf16"},
         0,
         0,
         same},
        {"numbers",
         "recompute",
         "r",
         &O::recompute,
         "activations computed again in the backward instead of kept, by half of a block; auto: the least that fits in the device's memory",
         {"none", "mlp", "attention", "block", "auto"},
         0,
         0,
         free},
        {"numbers",
         "gemm",
         "",
         &O::gemm,
         "matrix products: our own, or a library's (onednn on a CPU, cublaslt on a GPU); auto: the library where it is built in and its "
         "bits repeat",
         {"auto", "own", "onednn", "cublaslt"},
         0,
         0,
         free},
        {"numbers",
         "attention-kernel",
         "",
         &O::attention_kernel,
         "simple: plain loops; tiled: tiles in registers; hopper: TMA and wgmma (H100, H200); auto: the fastest that is proven here",
         {"auto", "simple", "tiled", "hopper"},
         0,
         0,
         free},
        {"numbers",
         "determinism",
         "",
         &O::determinism,
         "what may not change a bit. run: a repetition, a resumed run; batch: also how a step is split into micro-batches; ranks: also how "
         "many "
         "ranks share it out (1, 2, 4 or 8); off: a GPU may sum attention's gradients in any order, which is faster",
         {"off", "run", "batch", "ranks"},
         0,
         0,
         free},
        {"numbers", "threads", "", &O::threads, "CPU threads; 0 = the cores this process may use", {}, 0, 4096, free},
        {"run", "config", "", &O::config, "repeat a run: take every option from its run.json (flags given beside it win)", {}, 0, 0, free},
        {"run", "out", "o", &O::out, "run directory: run.json, log.jsonl, checkpoints, report.html", {}, 0, 0, free},
        {"run", "checkpoint-every", "n", &O::checkpoint_every, "steps between checkpoints; 0 = only at the end", {}, 0, big, free},
        {"run", "keep", "", &O::keep, "newest checkpoints to keep (at least 2); 0 = all", {}, 0, 1 << 30, free},
        {"run",
         "resume",
         "y",
         &O::resume,
         "auto: continue from the newest good checkpoint in --out; never: start anew; or a checkpoint directory",
         {},
         0,
         0,
         free},
        {"run",
         "val-every",
         "v",
         &O::val_every,
         "steps between validations (one at the end in any case); 0 = only at the end",
         {},
         0,
         big,
         free},
        {"run", "val-tokens", "", &O::val_tokens, "tokens of a validation; 0 = all of val-data", {}, 0, big, free},
        {"run", "hellaswag-examples", "", &O::hellaswag_examples, "examples to score in a validation; 0 = all", {}, 0, big, free},
        {"run", "sample-every", "s", &O::sample_every, "steps between samples of generated text; 0 = only at the end", {}, 0, big, free},
        {"run", "sample-tokens", "", &O::sample_tokens, "tokens of a sample", {}, 1, 1 << 20, free},
        {"run", "prompt", "", &O::prompt, "text that samples begin with", {}, 0, 0, free},
        {"run", "max-minutes", "", &O::max_minutes, "stop after this time: save, exit 75; 0 = no limit", {}, 0, inf, free},
        {"run", "tensorboard", "", &O::tensorboard, "also write TensorBoard's event files, to OUT/tensorboard", {}, 0, 1, free},
        {"run",
         "baselines",
         "",
         &O::baselines,
         "JSON file of other figures for this corpus in nats per byte, shown in the report",
         {},
         0,
         0,
         free},
    };
    return table;
}

namespace {

const OptionRow* find_row(const std::string& name) {
    for (const OptionRow& row : option_table())
        if (name == row.name) return &row;
    return nullptr;
}

[[noreturn]] void refuse(const std::string& origin, const OptionRow& row, const std::string& value, const std::string& wanted) {
    throw Error(ExitCode::usage, format("%s: --%s must be %s, not '%s'", origin.c_str(), row.name, wanted.c_str(), value.c_str()),
                format("%s: %s; see ./train --help", row.name, row.help));
}

// Plain decimal numbers for whole ones: 1000, not 1e+03.
std::string number_text(double value) {
    return value == std::floor(value) && std::fabs(value) < 1e15 ? format("%.0f", value) : format("%g", value);
}

std::string range_text(const OptionRow& row, const char* kind) {
    if (std::isinf(row.high)) return format("%s of at least %s", kind, number_text(row.low).c_str());
    return format("%s from %s to %s", kind, number_text(row.low).c_str(), number_text(row.high).c_str());
}

// The whole text must be a number: "12x", "", "nan" and "0x10" are refused.
template <class T>
bool parse_whole(const std::string& text, T& value) {
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end && !text.empty();
}

void set_text(Options& options, const OptionRow& row, const std::string& text, const std::string& origin) {
    if (auto* field = std::get_if<std::string Options::*>(&row.field)) {
        bool known = row.choices.empty() || std::find(row.choices.begin(), row.choices.end(), text) != row.choices.end();
        if (!known) {
            std::string wanted = "one of";
            for (const std::string& choice : row.choices) wanted += " " + choice;
            refuse(origin, row, text, wanted);
        }
        options.*(*field) = text;
    } else if (auto* whole = std::get_if<int64_t Options::*>(&row.field)) {
        int64_t value = 0;
        bool ok = parse_whole(text, value) && static_cast<double>(value) >= row.low && static_cast<double>(value) <= row.high;
        if (!ok) refuse(origin, row, text, range_text(row, "a whole number"));
        options.*(*whole) = value;
    } else if (auto* real = std::get_if<double Options::*>(&row.field)) {
        double value = 0;
        if (!parse_whole(text, value) || !(value >= row.low && value <= row.high) || std::isinf(value))
            refuse(origin, row, text, range_text(row, "a number"));
        options.*(*real) = value;
    } else {
        bool on = text == "1" || text == "true", off = text == "0" || text == "false";
        if (!on && !off) refuse(origin, row, text, "0 or 1 (or stand alone)");
        options.*std::get<bool Options::*>(row.field) = on;
    }
}

// A JSON value as the text that a flag would carry, so that both go through the same checks.
std::string flag_text(const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return value.get<bool>() ? "1" : "0";
    return value.dump();
}

Json read_config(const std::string& path) {
    std::ifstream file(path);
    if (!file)
        throw Error(ExitCode::usage, format("--config: %s cannot be read", path.c_str()), "give the run.json of a run directory")
            .file(path);
    Json parsed = Json::parse(file, nullptr, false);
    if (parsed.is_discarded() || !parsed.is_object())
        throw Error(ExitCode::usage, format("--config: %s is not a JSON object", path.c_str()), "give the run.json of a run directory")
            .file(path);
    Json options = parsed.contains("options") ? parsed["options"] : parsed;
    const bool no_preset = options.is_object() && options.contains("preset") && !options["preset"].is_string();
    if (!options.is_object() || no_preset)
        throw Error(
            ExitCode::usage,
            format("--config: %s in %s is not %s", no_preset ? "'preset'" : "'options'", path.c_str(), no_preset ? "a name" : "an object"),
            "give the run.json of a run directory")
            .file(path);
    return options;
}

std::string preset_list() {
    std::string text;
    for (const std::string& name : preset_names()) {
        Options o;
        apply_json(o, preset(name), name);
        text += format("%-16s %3lld layers, width %5lld, %2lld heads, context %5lld, %s, %s, %s\n", name.c_str(),
                       static_cast<long long>(o.n_layer), static_cast<long long>(o.d_model), static_cast<long long>(o.n_head),
                       static_cast<long long>(o.seq_len), o.norm.c_str(), o.position.c_str(), o.mlp.c_str());
    }
    return text;
}

std::string closest_flag(const std::string& word) {
    // Edit distance over one row; the tables are tiny.
    std::string best;
    size_t best_distance = 4;
    for (const OptionRow& row : option_table()) {
        std::string name = std::string("--") + row.name;
        std::vector<size_t> distance(name.size() + 1);
        for (size_t j = 0; j <= name.size(); j++) distance[j] = j;
        for (size_t i = 1; i <= word.size(); i++) {
            size_t diagonal = distance[0];
            distance[0] = i;
            for (size_t j = 1; j <= name.size(); j++) {
                size_t replace = diagonal + (word[i - 1] != name[j - 1]);
                diagonal = distance[j];
                distance[j] = std::min({distance[j] + 1, distance[j - 1] + 1, replace});
            }
        }
        if (distance[name.size()] < best_distance) best_distance = distance[name.size()], best = name;
    }
    return best;
}

}  // namespace

Options parse_options(int argc, char** argv) {
    CLI::App app(
        "train.cu: pretrains language models from token shards to a checkpoint.\n"
        "Other commands: tokenize plan bench generate eval export inspect report; each has its own --help.",
        "./train");
    app.set_help_flag("-h,--help", "this text");
    app.get_formatter()->column_width(34);
    app.allow_extras();
    std::map<std::string, std::vector<std::string>> given;
    const Options defaults;
    const Json default_values = options_to_json(defaults);
    for (const OptionRow& row : option_table()) {
        std::string flags = (*row.alias ? std::string("-") + row.alias + "," : "") + "--" + row.name;
        std::string help = row.help;
        if (!row.choices.empty()) {
            help += " {";
            for (const std::string& choice : row.choices) help += (help.back() == '{' ? "" : "|") + choice;
            help += "}";
        }
        std::string value = flag_text(default_values[row.name]);
        if (!value.empty()) help += " [" + value + "]";
        bool is_switch = std::holds_alternative<bool Options::*>(row.field);
        CLI::Option* option = app.add_option_function<std::vector<std::string>>(
            flags, [&given, name = std::string(row.name)](const std::vector<std::string>& values) { given[name] = values; }, help);
        option->group(row.group)->expected(is_switch ? 0 : 1, 1)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        option->type_name(is_switch ? "0|1" : std::holds_alternative<std::string Options::*>(row.field) ? "TEXT" : "NUM");
    }
    try {
        app.parse(argc, argv);
    } catch (const CLI::CallForHelp&) {
        throw HelpRequested{app.help()};
    } catch (const CLI::ParseError& error) {
        throw Error(ExitCode::usage, std::string("command line: ") + error.what(), "see ./train --help");
    }
    for (const std::string& extra : app.remaining()) {
        std::string close = closest_flag(extra.substr(0, extra.find('=')));
        throw Error(ExitCode::usage, format("command line: '%s' is no option of ./train", extra.c_str()),
                    close.empty() ? "see ./train --help" : format("did you mean %s? see ./train --help", close.c_str()));
    }

    auto text_of = [&](const std::string& name) {
        return given[name].empty() || given[name].back().empty() ? std::string() : given[name].back();
    };
    Options options;
    Json config = given.count("config") ? read_config(text_of("config")) : Json::object();
    std::string preset_name = given.count("preset") ? text_of("preset") : config.value("preset", "");
    if (preset_name == "list") throw HelpRequested{preset_list()};
    if (!preset_name.empty()) apply_json(options, preset(preset_name), "preset " + preset_name);
    apply_json(options, config, "--config " + text_of("config"));
    for (const auto& [name, values] : given) {
        const OptionRow& row = *find_row(name);
        bool is_switch = std::holds_alternative<bool Options::*>(row.field);
        std::string text = values.empty() ? "" : values.back();
        set_text(options, row, is_switch && text.empty() ? "1" : text, "command line");
    }
    return options;
}

Json options_to_json(const Options& options) {
    Json values = Json::object();
    for (const OptionRow& row : option_table()) std::visit([&](auto field) { values[row.name] = options.*field; }, row.field);
    return values;
}

void apply_json(Options& options, const Json& values, const std::string& origin) {
    for (const auto& [name, value] : values.items()) {
        const OptionRow* row = find_row(name);
        if (!row)
            throw Error(ExitCode::usage, format("%s: '%s' is no option of ./train", origin.c_str(), name.c_str()), "see ./train --help");
        if (value.is_structured() || value.is_null()) refuse(origin, *row, value.dump(), "a plain value");
        set_text(options, *row, flag_text(value), origin);
    }
}

std::vector<OptionText> options_as_text(const Options& options) {
    std::vector<OptionText> rows;
    for (const OptionRow& row : option_table()) {
        auto text = [&](auto field) -> std::string {
            const auto& value = options.*field;
            if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>)
                return value;
            else
                return number_text(static_cast<double>(value));
        };
        rows.push_back({row.group, row.name, std::visit(text, row.field)});
    }
    return rows;
}

// --window as a number; 0: none.
static int64_t window_of(const std::string& text) {
    int64_t window = 0;
    if (text == "none") return window;
    if (parse_whole(text, window) && window >= 1 && window <= 1 << 28) return window;
    throw Error(ExitCode::usage, "--window '" + text + "': a token sees at least itself",
                "give the number of tokens, from 1 to 2^28, or none for all before it");
}

ModelConfig model_config(const Options& o) {
    if (o.n_head > 0 && o.head_size == 0 && o.d_model % o.n_head != 0)
        throw Error(
            ExitCode::usage,
            format("--n-head %lld does not divide --d-model %lld", static_cast<long long>(o.n_head), static_cast<long long>(o.d_model)),
            "choose a divisor, or give --head-size");
    ModelConfig c;
    c.n_layer = o.n_layer, c.n_head = o.n_head, c.n_kv_head = o.n_kv_head ? o.n_kv_head : o.n_head, c.d_model = o.d_model;
    c.head_size = o.head_size ? o.head_size : o.d_model / o.n_head;
    c.mlp = o.mlp == "swiglu" ? MlpKind::swiglu : MlpKind::gelu;
    c.d_ff = o.d_ff ? o.d_ff : c.mlp == MlpKind::swiglu ? (o.d_model * 8 / 3 + 63) / 64 * 64 : 4 * o.d_model;
    c.vocab_size = o.vocab_size, c.max_seq_len = o.max_seq_len ? o.max_seq_len : o.seq_len;
    c.norm = o.norm == "rmsnorm" ? NormKind::rmsnorm : NormKind::layernorm;
    c.position = o.position == "rope" ? PositionKind::rope : o.position == "none" ? PositionKind::none : PositionKind::learned;
    c.bias = o.bias, c.qkv_bias = o.qkv_bias, c.qk_norm = o.qk_norm, c.tie_embeddings = o.tie_embeddings;
    c.rope_theta = o.rope_theta, c.rope_scaling = RopeScaling::parse(o.rope_scaling), c.norm_eps = o.norm_eps;
    c.attn_gate = o.attn_gate == "headwise" ? GateKind::headwise : o.attn_gate == "elementwise" ? GateKind::elementwise : GateKind::none;
    const BiasOption bias = parse_attn_bias(o.attn_bias);
    c.attn_bias = bias.kind == "alibi"      ? BiasKind::alibi
                  : bias.kind == "relative" ? BiasKind::relative
                  : bias.kind == "factors"  ? BiasKind::factors
                  : bias.kind == "none"     ? BiasKind::none
                                            : BiasKind::fixed;
    // of a file the rank is known once it was read: src/command/fixed_bias.h
    if (bias.kind == "factors" || bias.kind == "fixed") c.bias_rank = std::stoll(bias.value);
    c.window = window_of(o.window), c.attn_softcap = o.attn_softcap, c.attn_sinks = o.attn_sinks;
    c.check();
    c.check_context(o.seq_len, "--seq-len");
    return c;
}

BiasOption parse_attn_bias(const std::string& text) {
    const size_t colon = text.find(':');
    const BiasOption bias{text.substr(0, colon), colon == std::string::npos ? "" : text.substr(colon + 1)};
    const bool ranked = bias.kind == "factors" || bias.kind == "fixed", filed = bias.kind == "file" || bias.kind == "spatial";
    const bool plain = bias.kind == "none" || bias.kind == "alibi" || bias.kind == "relative";
    const bool digits = !bias.value.empty() && bias.value.size() <= 4 && bias.value.find_first_not_of("0123456789") == std::string::npos;
    if (!(plain && colon == std::string::npos) && !(ranked && digits && std::stoll(bias.value) >= 1) && !(filed && !bias.value.empty()))
        throw Error(ExitCode::usage, "--attn-bias '" + text + "' is of no known form",
                    "give none, alibi, relative, factors:R as in factors:16, file:PATH or spatial:PATH");
    return bias;
}

// Sums go by units of 256 tokens at --determinism batch and ranks: a micro-batch has whole ones. At ranks each of 8 logical workers has an
// equal share of whole micro-batches.
static void check_split(const Options& o) {
    constexpr int64_t unit = 256, workers = 8;
    if (o.determinism != "batch" && o.determinism != "ranks") return;
    const int64_t tokens = o.batch_size * o.seq_len, rows = unit / std::gcd(unit, o.seq_len), share = workers * tokens;
    if (tokens % unit != 0 || o.total_batch_tokens % unit != 0)
        throw Error(
            ExitCode::usage,
            format("--determinism %s sums by units of 256 tokens, and a micro-batch of %lld x %lld or a step of %lld has no whole number",
                   o.determinism.c_str(), static_cast<long long>(o.batch_size), static_cast<long long>(o.seq_len),
                   static_cast<long long>(o.total_batch_tokens)),
            format("choose a multiple of %lld for --batch-size, and of %lld for --total-batch-tokens", static_cast<long long>(rows),
                   static_cast<long long>(rows * o.seq_len)));
    if (o.determinism == "ranks" && o.total_batch_tokens % share != 0)
        throw Error(
            ExitCode::usage,
            format("--determinism ranks gives each of 8 logical workers as many whole micro-batches, and a step of %lld tokens has %lld of "
                   "%lld",
                   static_cast<long long>(o.total_batch_tokens), static_cast<long long>(div_ceil(o.total_batch_tokens, tokens)),
                   static_cast<long long>(tokens)),
            format("choose a --total-batch-tokens that is a multiple of %lld, or a smaller --batch-size", static_cast<long long>(share)));
}

void resolve_batch(Options& o) {
    if (o.total_batch_tokens == 0) o.total_batch_tokens = o.batch_size * o.seq_len;
    if (o.total_batch_tokens % o.seq_len != 0)
        throw Error(ExitCode::usage,
                    format("--total-batch-tokens %lld is not a whole number of rows of --seq-len %lld",
                           static_cast<long long>(o.total_batch_tokens), static_cast<long long>(o.seq_len)),
                    "choose a multiple of --seq-len");
    o.batch_size = std::min(o.batch_size, o.total_batch_tokens / o.seq_len);
    check_split(o);
}

static void set_attention_options(Options& o, const ModelConfig& c) {
    o.attn_gate = c.attn_gate == GateKind::headwise ? "headwise" : c.attn_gate == GateKind::elementwise ? "elementwise" : "none";
    o.attn_bias = c.attn_bias == BiasKind::alibi      ? "alibi"
                  : c.attn_bias == BiasKind::relative ? "relative"
                  : c.attn_bias == BiasKind::factors  ? "factors:" + std::to_string(c.bias_rank)
                  : c.attn_bias == BiasKind::fixed    ? "fixed:" + std::to_string(c.bias_rank)
                                                      : "none";
    o.window = c.window > 0 ? std::to_string(c.window) : "none", o.attn_softcap = c.attn_softcap, o.attn_sinks = c.attn_sinks;
}

void check_attention_options(const Options& o, const ModelConfig& c, const std::string& model) {
    const Options defaults;
    Options theirs;
    set_attention_options(theirs, c);
    const auto values = options_to_json(o), has = options_to_json(theirs), unasked = options_to_json(defaults);
    for (const char* name : {"attn-gate", "attn-bias", "window", "attn-softcap", "attn-sinks"})
        if (values[name] != unasked[name] && values[name] != has[name])
            throw Error(ExitCode::usage,
                        format("--%s %s contradicts the model %s, where it is %s", name, flag_text(values[name]).c_str(), model.c_str(),
                               flag_text(has[name]).c_str()),
                        format("leave --%s out: a model keeps the attention that it was trained with", name));
}

void set_model_options(Options& o, const ModelConfig& c) {
    o.n_layer = c.n_layer, o.n_head = c.n_head, o.n_kv_head = c.n_kv_head, o.d_model = c.d_model, o.d_ff = c.d_ff,
    o.head_size = c.head_size;
    o.vocab_size = c.vocab_size, o.max_seq_len = c.max_seq_len;
    o.norm = c.norm == NormKind::rmsnorm ? "rmsnorm" : "layernorm";
    o.position = c.position == PositionKind::rope ? "rope" : c.position == PositionKind::none ? "none" : "learned";
    o.mlp = c.mlp == MlpKind::swiglu ? "swiglu" : "gelu";
    o.bias = c.bias, o.qkv_bias = c.qkv_bias, o.qk_norm = c.qk_norm, o.tie_embeddings = c.tie_embeddings;
    o.rope_theta = c.rope_theta, o.rope_scaling = c.rope_scaling.text(), o.norm_eps = c.norm_eps;
    set_attention_options(o, c);
}

std::vector<std::string> resume_conflicts(const Json& saved, const Options& now) {
    std::vector<std::string> conflicts;
    Json values = options_to_json(now);
    for (const OptionRow& row : option_table())
        if (row.resume == OptionRow::Resume::same && saved.contains(row.name) && saved[row.name] != values[row.name])
            conflicts.push_back(format("--%s: %s in the checkpoint, %s now", row.name, flag_text(saved[row.name]).c_str(),
                                       flag_text(values[row.name]).c_str()));
    return conflicts;
}

}  // namespace traincu
