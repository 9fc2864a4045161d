// ./train eval: how well a model predicts held-out text and answers multiple-choice questions.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>

#include <nlohmann/json.hpp>

#include "src/base/files.h"
#include "src/base/process.h"
#include "src/checkpoint/formats.h"
#include "src/command/choice_scorer.h"
#include "src/command/commands.h"
#include "src/command/evaluation.h"
#include "src/command/parse.h"
#include "src/command/run_setup.h"
#include "src/command/progress.h"
#include "src/data/shard.h"
#include "src/data/tokenizer.h"
#include "src/plan/memory.h"
#include "src/report/console.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

// NAME=WHAT, or WHAT alone, which is then its own name. A path with a '=' in it is a path if there is such a file.
struct Named {
    std::string name, what;
    bool named = false;
};
Named parse_named(const std::string& text) {
    const size_t equals = text.find('=');
    const bool is_name = equals != std::string::npos && equals > 0 && text.find_first_of("/*?[", 0) > equals;
    std::error_code ignored;
    if (!is_name || std::filesystem::exists(text, ignored)) return {text, text, false};
    return {text.substr(0, equals), text.substr(equals + 1), true};
}

void refuse_same_names(const std::vector<Named>& sets, const char* flag) {
    std::set<std::string> seen;
    for (const Named& set : sets)
        if (!seen.insert(set.name).second)
            throw Error(ExitCode::usage, format("%s: two sets are called '%s'", flag, set.name.c_str()),
                        "give each a name of its own: NAME=...");
}

// A set of shards with all that its loss takes.
struct DataSet {
    Named id;
    std::unique_ptr<Loader> loader;
    std::unique_ptr<Tokenizer> tokenizer;
    Evaluation result = {};
    std::vector<LayerAttention> attention = {};  // --attention-stats
};
struct ChoiceSet {
    Named id;
    std::vector<ChoiceExample> examples;
    ChoiceScore score = {};
};

void print_one(const Evaluation& result) {
    std::printf("tokens          %s\n", with_commas(result.tokens).c_str());
    std::printf("loss            %.5f nats per token\n", result.loss());
    std::printf("perplexity      %.4f\n", std::exp(result.loss()));
    if (result.bytes > 0)
        std::printf("text            %.5f nats per byte, %.5f bits per byte\n", result.nats_per_byte(), result.bits_per_byte());
}

void print_table(const std::vector<DataSet>& sets) {
    std::printf("%-24s %15s %10s %12s %10s\n", "data", "tokens", "loss", "perplexity", "bits/byte");
    for (const DataSet& set : sets) {
        const Evaluation& r = set.result;
        std::printf("%-24s %15s %10.5f %12.4f %10s\n", set.id.name.c_str(), with_commas(r.tokens).c_str(), r.loss(), std::exp(r.loss()),
                    r.bytes > 0 ? format("%.5f", r.bits_per_byte()).c_str() : "-");
    }
}

void print_attention(const DataSet& set) {
    std::printf("attention of %s, queries with at least %lld keys before\n", set.id.name.c_str(),
                static_cast<long long>(LayerAttention::fewest_before));
    const bool gates = set.attention[0].gates > 0, sinks = set.attention[0].has_sinks;
    std::printf("%6s %12s %12s %10s %12s %12s%s%s\n", "layer", "first token", "if uniform", "entropy", "of log n", "largest |x|",
                sinks ? "         sink" : "", gates ? "    mean gate  gates<0.05" : "");
    for (size_t i = 0; i < set.attention.size(); i++) {
        const LayerAttention& a = set.attention[i];
        std::printf("%6zu %12.5f %12.5f %10.4f %12.4f %12.4g", i, a.mean(a.first), a.mean(a.uniform), a.mean(a.entropy),
                    a.mean(a.relative_entropy), a.largest);
        if (sinks) std::printf(" %12.5f", a.mean(a.sink));
        if (gates) std::printf(" %12.5f %11.5f", a.mean_gate(), a.closed_share());
        std::printf("\n");
    }
}

void print_choices(const std::vector<ChoiceSet>& sets) {
    std::printf("%-24s %15s %18s %18s\n", "multiple choice", "examples", "acc", "acc_norm");
    for (const ChoiceSet& set : sets) {
        const ChoiceScore& s = set.score;
        auto with_error = [&](double share) { return format("%.4f +- %.4f", share, s.standard_error(share)); };
        std::printf("%-24s %15s %18s %18s\n", set.id.name.c_str(), with_commas(s.examples).c_str(), with_error(s.acc()).c_str(),
                    with_error(s.acc_norm()).c_str());
    }
}

Json as_json(const std::string& model, const std::vector<DataSet>& data, const std::vector<ChoiceSet>& choices) {
    Json json = {{"model", model}, {"data", Json::array()}, {"choices", Json::array()}};
    for (const DataSet& set : data) {
        const Evaluation& r = set.result;
        Json row = {{"name", set.id.name}, {"tokens", r.tokens}, {"loss", r.loss()}, {"perplexity", std::exp(r.loss())}};
        if (r.bytes > 0) row["bits_per_byte"] = r.bits_per_byte();
        for (const LayerAttention& a : set.attention) {
            Json layer = {{"first_token", a.mean(a.first)},
                          {"uniform", a.mean(a.uniform)},
                          {"entropy", a.mean(a.entropy)},
                          {"relative_entropy", a.mean(a.relative_entropy)},
                          {"largest", a.largest}};
            if (a.has_sinks) layer["sink"] = a.mean(a.sink);
            if (a.gates > 0) layer["gate"] = a.mean_gate(), layer["gates_closed"] = a.closed_share();
            row["attention"].push_back(layer);
        }
        json["data"].push_back(row);
    }
    for (const ChoiceSet& set : choices) {
        const ChoiceScore& s = set.score;
        json["choices"].push_back({{"name", set.id.name},
                                   {"examples", s.examples},
                                   {"acc", s.acc()},
                                   {"acc_stderr", s.standard_error(s.acc())},
                                   {"acc_norm", s.acc_norm()},
                                   {"acc_norm_stderr", s.standard_error(s.acc_norm())}});
    }
    return json;
}

}  // namespace

int eval_command(int argc, char** argv) {
    CLI::App app(
        "Loss, perplexity and bits per byte of a model on token shards; accuracy on multiple-choice sets.\n"
        "Example: ./train eval --model runs/demo --data 'corpora/bible_val_*.bin'\n"
        "         ./train eval --model runs/demo --data 'bible=corpora/bible_val_*.bin' --data web=corpora/web_val_000000.bin\n"
        "         ./train eval --model runs/gpt2 --hellaswag corpora/hellaswag_val.bin",
        "./train eval");
    std::string model, packing = "stream", json_file, hellaswag, tokenizer_name;
    std::vector<std::string> data_arguments, choice_arguments;
    int64_t seq_len = 0, batch_size = 8, max_tokens = 0, max_examples = 0;
    std::string device = "auto", precision = "auto";
    int threads = 0;
    bool attention_stats = false;
    app.add_option("--model,-e", model, "a run, a checkpoint, a folder from Hugging Face, or llm.c's .bin")->required();
    app.add_option("--data,-j", data_arguments, "token shards: files, globs in quotes, or a folder; NAME=... and again for more sets")
        ->allow_extra_args(false);
    app.add_option("--hellaswag", hellaswag, "HellaSwag as a multiple-choice set: the same as --choices hellaswag=FILE");
    app.add_option("--choices", choice_arguments,
                   "NAME=FILE, again for more: a multiple-choice set in llm.c's format, see ./train tokenize --multiple-choice FILE --help")
        ->allow_extra_args(false);
    app.add_option("--tokenizer", tokenizer_name,
                   "the vocabulary of the shards, where they do not say: bytes, a tokenizer.json, or a folder that holds one");
    app.add_option("--seq-len,-t", seq_len, "tokens of context; 0 = as in training")->check(CLI::NonNegativeNumber);
    app.add_option("--batch-size,-b", batch_size, "rows at a time [8]")->check(CLI::PositiveNumber);
    app.add_option("--max-tokens", max_tokens, "stop after so many, in each set of --data; 0 = all")->check(CLI::NonNegativeNumber);
    app.add_option("--max-examples", max_examples, "stop after so many, in each multiple-choice set; 0 = all")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--packing", packing, "stream or documents, as in training [stream]")->check(CLI::IsMember({"stream", "documents"}));
    app.add_option("--json", json_file, "write the results to this file as JSON; - = to the terminal, instead of the table");
    app.add_flag(
        "--attention-stats", attention_stats,
        "of each layer: the share of attention on the first token, its entropy, the largest value of the residual stream; where the "
        "model has them, the share of the sinks, the mean gate and the share of gates below 0.05");
    add_device_options(app, device, precision);
    app.add_option("--threads", threads, "CPU threads; 0 = all")->check(CLI::NonNegativeNumber);
    if (!parse_command_line(app, argc, argv)) return 0;

    if (!hellaswag.empty()) choice_arguments.insert(choice_arguments.begin(), "hellaswag=" + hellaswag);
    std::vector<Named> data_sets, choice_sets;
    for (const std::string& text : data_arguments) data_sets.push_back(parse_named(text));
    for (const std::string& text : choice_arguments) choice_sets.push_back(parse_named(text));
    if (data_sets.empty() && choice_sets.empty())
        throw Error(ExitCode::usage, "./train eval: nothing to evaluate on", "give --data SHARDS, --hellaswag FILE or --choices NAME=FILE");
    if (attention_stats && data_sets.empty())
        throw Error(ExitCode::usage, "./train eval: --attention-stats needs tokens to look at", "give --data SHARDS");
    refuse_same_names(data_sets, "--data");
    refuse_same_names(choice_sets, "--choices");

    set_threads(threads);
    Stream stream = open_stream(device, precision);
    const ModelOnDisk found = find_model(model);
    const ModelConfig& config = found.config;
    if (seq_len == 0) seq_len = found.trained_context();
    config.check_context(seq_len, "--seq-len");

    // everything is opened and checked before anything is computed
    std::vector<DataSet> data;
    for (const Named& id : data_sets) {
        LoaderConfig loader_config;
        loader_config.shards = expand_glob(id.what);
        loader_config.seq_len = seq_len, loader_config.rows_per_micro_batch = loader_config.rows_per_step = batch_size;
        loader_config.packing = packing == "documents" ? LoaderConfig::Packing::documents : LoaderConfig::Packing::stream;
        loader_config.vocab_size = config.vocab_size;
        auto loader = std::make_unique<Loader>(loader_config);
        data.push_back({id, std::move(loader), choose_tokenizer(tokenizer_name, loader_config.shards[0], &found, config.vocab_size)});
    }
    std::vector<ChoiceSet> choices;
    for (const Named& id : choice_sets) choices.push_back({id, read_choices(id.what, config.vocab_size)});

    WeightStore weights(config, precision_named(precision), false);
    ForwardPass pass(weights, batch_size * seq_len);
    std::vector<ChoiceScorer> scorers;
    for (const ChoiceSet& set : choices) scorers.emplace_back(pass, set.examples, set.id.what, seq_len, max_examples);
    check_fits({&weights.weights, &pass.instance().activations, &pass.instance().scratch}, available_memory(stream));
    weights.allocate(stream);
    pass.allocate(stream);
    load_weights(found, weights, stream);
    for (DataSet& set : data) {
        AttentionStats stats(config);
        Evaluator evaluator(pass, *set.loader, batch_size, seq_len, max_tokens, set.tokenizer.get());
        set.result = evaluator.run(stream, attention_stats ? &stats : nullptr);
        if (attention_stats) set.attention = stats.layers();
    }
    for (size_t i = 0; i < choices.size(); i++) {
        ProgressLine line(choices[i].id.name);
        choices[i].score = scorers[i].run(stream, [&](double share) { line(share); });
    }

    const std::string json =
        json_file.empty() ? "" : as_json(model, data, choices).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    if (json_file == "-") return std::fputs(json.c_str(), stdout), 0;
    if (!json.empty()) write_whole_file(json_file, json);
    if (data.size() == 1 && !data[0].id.named)
        print_one(data[0].result);
    else if (!data.empty())
        print_table(data);
    if (!choices.empty()) print_choices(choices);
    for (const DataSet& set : data)
        if (!set.attention.empty()) print_attention(set);
    return 0;
}

}  // namespace traincu
