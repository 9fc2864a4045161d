// ./train plan: what a run will take, memory and time, before it starts.
#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>

#include "src/base/files.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/command/run_memory.h"
#include "src/command/run_output.h"
#include "src/command/run_setup.h"
#include "src/model/flops.h"
#include "src/plan/memory.h"
#include "src/plan/simulator.h"
#include "src/report/console.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

struct Plan {
    Options options;
    RunUses uses;
    std::vector<std::string> notes;
    std::unique_ptr<RunMemory> memory;
    StepShape shape;
    StepTime step;
    Machine machine;

    // Of all ranks, as if sending took no time.
    double tokens_per_second() const { return static_cast<double>(options.total_batch_tokens) / step.seconds; }
    double flops_per_token() const { return training_flops_per_token(shape.model.config, shape.seq_len); }
    double mfu() const { return flops_per_token() * tokens_per_second() / (machine.matmul_peak * static_cast<double>(options.ranks)); }
};

// ---- the run that is planned

// The options as a run would resolve them; what only data could tell is assumed, and noted.
void resolve(Plan& plan, int64_t available) {
    Options& o = plan.options;
    if (o.data.empty() && o.model.empty() && o.vocab_size == 0) {
        o.vocab_size = 257;
        plan.notes.push_back("vocabulary 257 (bytes) assumed: give --data or --vocab-size");
    }
    if (o.ranks_per_node > 0 && o.ranks % o.ranks_per_node != 0)
        throw Error(
            ExitCode::usage,
            format("%lld ranks are not nodes of %lld each", static_cast<long long>(o.ranks), static_cast<long long>(o.ranks_per_node)),
            "choose a --ranks-per-node that divides --ranks");
    const RunFiles files = resolve_options(o);
    plan.uses.validates = !o.val_data.empty();
    plan.uses.samples = o.data.empty() || files.tokenizer;
    if (o.data.empty()) plan.notes.push_back("memory for samples is counted: a run makes them where it knows a tokenizer");
    if (!plan.uses.validates) plan.notes.push_back("no validation: --val-data is missing");
    if (o.packing == "documents") plan.notes.push_back("attention is counted over whole rows: with documents it takes less");
    if (const int64_t window = model_config(o).window; window > 0 && window < o.seq_len)
        plan.notes.push_back("attention is counted without its window: with it, it takes less");
    if (parse_attn_bias(o.attn_bias).value != "")
        plan.notes.push_back("attention is counted without the columns of its bias: they come on top");
    if (o.ranks > 1) plan.notes.push_back("times are of computing alone: ./train simulate tells what sending adds on a cluster");
    plan.notes.push_back("kernels take some MiB more while they run; validations, samples and checkpoints take time of their own");
    constexpr int64_t most_micro_batches = 1000000;
    if (o.total_batch_tokens / o.seq_len / o.batch_size >= most_micro_batches)
        throw Error(
            ExitCode::usage,
            format("a step of %lld tokens would have more than a million micro-batches", static_cast<long long>(o.total_batch_tokens)),
            "use a smaller --total-batch-tokens or a larger --batch-size");
    resolve_recompute(o, plan.uses, available);
}

bool one_type(const ParamTable& table) {
    return std::all_of(table.rows.begin(), table.rows.end(), [&](const ParamRow& row) { return row.stored == table.rows[0].stored; });
}

// ---- memory

// "block.3.fc" and the like of all layers as one: "block.*.fc".
std::string without_layer(const std::string& name) {
    if (!name.starts_with("block.")) return name;
    return "block.*" + name.substr(name.find('.', 6));
}

// The largest tensors of an arena by name, all layers together: at most five, and none below a hundredth of `total`.
std::vector<TableRow> largest_tensors(const std::string& arena, const std::vector<std::pair<std::string, int64_t>>& tensors,
                                      int64_t total) {
    std::map<std::string, std::pair<int64_t, int>> by_name;
    for (const auto& [name, bytes] : tensors) {
        auto& [sum, count] = by_name[without_layer(name)];
        sum += bytes, count++;
    }
    std::vector<std::pair<int64_t, std::string>> sorted;
    for (const auto& [name, sum] : by_name)
        sorted.push_back({sum.first, sum.second > 1 ? format("%s (%d)", name.c_str(), sum.second) : name});
    std::sort(sorted.rbegin(), sorted.rend());
    std::vector<TableRow> rows;
    for (const auto& [bytes, name] : sorted)
        if (rows.size() < 5 && bytes >= total / 100) rows.push_back({arena, name, format("%11s", human_bytes(bytes).c_str())});
    return rows;
}

std::string memory_text(const RunMemory& memory, int64_t ranks) {
    std::vector<TableRow> rows;
    const int64_t total = total_bytes(memory.arenas());
    for (const Arena* arena : memory.arenas()) {
        std::vector<std::pair<std::string, int64_t>> tensors;
        if (arena == &memory.weights.weights)  // one flat array: the parameter table knows what is in it
            for (const ParamRow& row : memory.weights.table.rows) tensors.push_back({row.name, row.numel() * size_of(row.stored)});
        else
            for (const Arena::Row& row : arena->rows()) tensors.push_back({row.name, row.bytes});
        rows.push_back({arena->name(), "", format("%11s", human_bytes(arena->bytes()).c_str())});
        if (tensors.size() > 1)
            for (TableRow& row : largest_tensors(arena->name(), tensors, total)) rows.push_back(std::move(row));
    }
    rows.push_back({"total", "", format("%11s", human_bytes(total).c_str())});
    return table(ranks > 1 ? format("Memory of each of %lld ranks", static_cast<long long>(ranks)) : "Memory", rows);
}

// ---- what is sent

std::string sent_text(const Plan& plan) {
    const Traffic sent = plan.memory->sharding->step_traffic();
    std::vector<TableRow> rows;
    Traffic::Links total;
    auto add_row = [&](const char* name, const Traffic::Links& links) {
        rows.push_back({"", name, format("%11s  %11s", human_bytes(links.inside_node).c_str(), human_bytes(links.between_nodes).c_str())});
        total.inside_node += links.inside_node, total.between_nodes += links.between_nodes;
    };
    rows.push_back({"", "", format("%11s  %11s", "in the node", "to others")});
    add_row("weights", sent.of(Cargo::weights)), add_row("gradients", sent.of(Cargo::gradients)), add_row("other", sent.of(Cargo::other));
    add_row("total", Traffic::Links(total));
    return table("Sent in a step by each rank", rows);
}

// As the log tells a step's.
Json sent_json(const RunMemory& memory) {
    if (!memory.sharding) return nullptr;
    const Traffic sent = memory.sharding->step_traffic();
    const auto &weights = sent.of(Cargo::weights), &gradients = sent.of(Cargo::gradients), &other = sent.of(Cargo::other);
    return {{"weights_inside", weights.inside_node},
            {"weights_between", weights.between_nodes},
            {"gradients_inside", gradients.inside_node},
            {"gradients_between", gradients.between_nodes},
            {"other", other.inside_node + other.between_nodes}};
}

// Bytes of the run with another batch and recompute mode; a shape beyond all bounds counts as infinitely many.
int64_t bytes_with(const Plan& plan, int64_t batch_size, const std::string& recompute) try {
    Options o = plan.options;
    o.batch_size = batch_size, o.recompute = recompute;
    return total_bytes(RunMemory(o, plan.uses).arenas());
} catch (const Error& error) {
    if (error.code() != ExitCode::memory) throw;
    return INT64_MAX;
}

struct Fit {
    std::string recompute;
    int64_t batch_size = 0;  // 0: not even one row fits
    int64_t bytes = 0;       // at that batch size, or at one row
};

// The largest batch that fits in each mode. Of several with as many micro-batches the smallest: rows are then shared out evenly.
std::vector<Fit> fits(const Plan& plan, int64_t limit) {
    std::vector<Fit> all;
    const int64_t rows = plan.shape.rows_per_step;
    for (const char* mode : {"none", "mlp", "attention", "block"}) {
        int64_t low = 0, high = rows;  // low fits
        while (low < high) {
            const int64_t middle = low + (high - low + 1) / 2;
            if (bytes_with(plan, middle, mode) <= limit)
                low = middle;
            else
                high = middle - 1;
        }
        if (low > 0) {
            const int64_t micro_batches = div_ceil(rows, low);
            low = div_ceil(rows, micro_batches);
        }
        all.push_back({mode, low, bytes_with(plan, std::max<int64_t>(low, 1), mode)});
    }
    return all;
}

// The least recomputation whose micro-batches have 256 tokens or more (smaller ones waste the weights they fetch), or the whole step; else
// the most tokens. Null if nothing fits.
const Fit* best_fit(const Plan& plan, const std::vector<Fit>& all) {
    const Fit* best = nullptr;
    const int64_t enough = std::min<int64_t>(256, plan.shape.tokens_per_step());
    for (const Fit& fit : all) {
        if (fit.batch_size * plan.shape.seq_len >= enough) return &fit;
        if (fit.batch_size > (best ? best->batch_size : 0)) best = &fit;
    }
    return best;
}

std::string shell_word(const std::string& word) {
    const bool plain =
        !word.empty() &&
        word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%") == std::string::npos;
    if (plain) return word;
    std::string quoted = "'";
    for (char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return quoted + "'";
}

// The command line that was planned, with another micro-batch of the same step.
std::string command_with(const Plan& plan, const std::vector<std::string>& arguments, const Fit& fit) {
    std::string line = plan.options.ranks > 1 ? format("mpirun -np %lld ./train", static_cast<long long>(plan.options.ranks)) : "./train";
    for (size_t i = 0; i < arguments.size(); i++) {
        bool replaced = false;
        for (const char* name : {"--batch-size", "-b", "--recompute", "-r", "--total-batch-tokens", "-d"}) {
            if (arguments[i] == name)
                replaced = true, i++;  // and its value
            else if (arguments[i].starts_with(std::string(name) + "="))
                replaced = true;
            if (replaced) break;
        }
        if (!replaced) line += " " + shell_word(arguments[i]);
    }
    return line + format(" --batch-size %lld --recompute %s --total-batch-tokens %lld", static_cast<long long>(fit.batch_size),
                         fit.recompute.c_str(), static_cast<long long>(plan.options.total_batch_tokens));
}

// Whether the run fits in `limit` bytes, and what would use them best. Fills json.
std::string fit_text(const Plan& plan, int64_t limit, const std::vector<std::string>& arguments, Json& json) {
    const int64_t need = total_bytes(plan.memory->arenas());
    const std::vector<Fit> all = fits(plan, limit);
    const Fit* best = best_fit(plan, all);
    json = {{"limit", limit}, {"fits", need <= limit}};
    std::string text = need <= limit
                           ? format("It fits in %s, with %s to spare.\n", human_bytes(limit).c_str(), human_bytes(limit - need).c_str())
                           : format("It does NOT fit in %s: %s too much.\n", human_bytes(limit).c_str(), human_bytes(need - limit).c_str());
    if (!best) {
        const auto smallest = std::min_element(all.begin(), all.end(), [](auto& a, auto& b) { return a.bytes < b.bytes; });
        json["smallest_need"] = smallest->bytes;
        return text + format("Nothing fits: one row of %lld tokens with --recompute %s needs %s. Use a smaller model or --seq-len.\n",
                             static_cast<long long>(plan.shape.seq_len), smallest->recompute.c_str(), human_bytes(smallest->bytes).c_str());
    }
    std::vector<TableRow> rows;
    for (const Fit& fit : all)
        rows.push_back({"", "--recompute " + fit.recompute,
                        fit.batch_size > 0
                            ? format("--batch-size %lld, %s", static_cast<long long>(fit.batch_size), human_bytes(fit.bytes).c_str())
                            : "nothing fits"});
    json["batch_size"] = best->batch_size, json["recompute"] = best->recompute, json["bytes"] = best->bytes;
    json["command"] = command_with(plan, arguments, *best);
    text += table("The largest micro-batches of the same step that fit", rows);
    return text + format("Least recomputation:  %s\n", command_with(plan, arguments, *best).c_str());
}

// ---- time

std::string rate_text(double rate) { return rate < 100 ? format("%.3g", rate) : with_commas(static_cast<int64_t>(rate)); }

std::string step_text(const Plan& plan) {
    const StepTime& step = plan.step;
    const Options& o = plan.options;
    std::vector<TableRow> rows;
    for (size_t g = 0; g < n_cost_groups; g++)
        rows.push_back({"", name_of(static_cast<CostGroup>(g)),
                        format("%9s  %3.0f %%", milliseconds(1e3 * step.by_group[g]).c_str(), 100 * step.by_group[g] / step.seconds)});
    rows.push_back({"", "step",
                    format("%9s", milliseconds(1e3 * step.seconds).c_str()) +
                        (step.recompute > 0 ? format("  of which recomputation %s", milliseconds(1e3 * step.recompute).c_str()) : "")});
    rows.push_back({"", "speed",
                    format("%s tok/s, %s tokens a day", rate_text(plan.tokens_per_second()).c_str(),
                           short_count(86400 * plan.tokens_per_second()).c_str())});
    rows.push_back({"", "share of peak", format("mfu %.0f %% of %.0f GFLOP/s", 100 * plan.mfu(), plan.machine.matmul_peak / 1e9)});
    rows.push_back(
        {"", format("%s steps", with_commas(o.max_steps).c_str()),
         duration(step.seconds * static_cast<double>(o.max_steps)) +
             format(", %s tokens", short_count(static_cast<double>(o.max_steps) * static_cast<double>(o.total_batch_tokens)).c_str())});
    return table(
        format("Step, predicted: %d micro-batch%s of %s tokens%s", plan.shape.micro_batches(), plan.shape.micro_batches() > 1 ? "es" : "",
               with_commas(plan.shape.model.max_tokens).c_str(), o.ranks > 1 ? " on each rank" : ""),
        rows);
}

Json plan_json(const Plan& plan) {
    Json step, machine;  // null where no times are known
    if (plan.step.seconds > 0) {
        Json groups = Json::object();
        for (size_t g = 0; g < n_cost_groups; g++) groups[name_of(static_cast<CostGroup>(g))] = plan.step.by_group[g];
        step = {{"seconds", plan.step.seconds},
                {"by_group", groups},
                {"recompute", plan.step.recompute},
                {"product_flops", plan.step.product_flops},
                {"micro_batches", plan.shape.micro_batches()},
                {"tokens", plan.options.total_batch_tokens},
                {"tok_per_s", plan.tokens_per_second()},
                {"mfu", plan.mfu()},
                {"run_seconds", plan.step.seconds * static_cast<double>(plan.options.max_steps)}};
        machine = {{"name", plan.machine.name},
                   {"threads", plan.machine.threads},
                   {"dtype", name_of(plan.machine.dtype)},
                   {"gemm_engine", plan.machine.gemm_engine},
                   {"matmul_peak", plan.machine.matmul_peak}};
    }
    return {{"parameters", plan.memory->weights.table.count()},
            {"flops_per_token", plan.flops_per_token()},
            {"memory", memory_json(plan.memory->arenas())},
            {"memory_total", total_bytes(plan.memory->arenas())},
            {"ranks", plan.options.ranks},
            {"sent", sent_json(*plan.memory)},
            {"step", step},
            {"machine", machine},
            {"notes", plan.notes},
            {"options", options_to_json(plan.options)}};
}

Options options_of(const std::vector<std::string>& arguments) {
    std::vector<std::string> words = {"./train"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    return parse_options(static_cast<int>(pointers.size()), pointers.data());
}

}  // namespace

int plan_command(int argc, char** argv) {
    CLI::App app(
        "What a training run will take before it starts: memory to the byte, and the time of a step. Nothing of the model is allocated,\n"
        "and no data are needed. The kernels are timed here for a few seconds, or their times are read from a file that ./train bench\n"
        "--save wrote on another machine. For a GPU that is not here: --precision bf16 plans its memory, --rates its times. Every option\n"
        "of training (./train --help) can be given beside these.\n"
        "Examples:  ./train plan --preset gpt2-124m --batch-size 8 --total-batch-tokens 65536\n"
        "           ./train plan --preset llama3-8b --precision bf16 --memory 160GiB  does it fit; if not, with which micro-batch would "
        "it?\n"
        "           ./train plan --preset gpt2-124m --rates that-card.json            how fast would it be there?\n"
        "           ./train plan --preset gpt2-124m --ranks 8 --ranks-per-node 4 --zero 1 --comm-quant sdp4bit   and on 8 ranks?",
        "./train plan");
    std::string memory, rates_file, json_file;
    int64_t ranks = 1;
    app.add_option("--memory", memory, "say whether it fits in so much (24GiB, 16G, 800MB), and what would use it best");
    app.add_option("--rates", rates_file, "times of kernels from ./train bench --save FILE instead of measuring here");
    app.add_option("--json", json_file, "write the plan as JSON to this file; - for the standard output, and nothing else there");
    app.add_option("--ranks", ranks, "plan for so many ranks (mpirun -np): the memory of each, and what it sends in a step")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
    app.allow_extras();
    if (!parse_command_line(app, argc, argv)) return 0;
    const std::vector<std::string> arguments = app.remaining();

    Plan plan;
    plan.options = options_of(arguments);
    plan.options.ranks = ranks;
    const int64_t limit = memory.empty() ? 0 : parse_bytes(memory, "--memory");
    use_processor(plan.options);
    std::optional<Rates> rates;
    if (!rates_file.empty()) rates.emplace(rates_file);
    // Without a GPU, or for another machine's, memory is planned all the same; times then come from --rates alone.
    Options& o = plan.options;
    Stream stream;
    bool can_measure = false;
    if (rates) {
        const std::string precision = rates->machine().dtype == Dtype::bf16 ? "bf16" : "fp32";
        if (o.precision == "auto") o.precision = precision;
        if (precision_of(o).compute != rates->machine().dtype)
            throw Error(ExitCode::usage,
                        format("%s has times in %s, and the plan is for --precision %s", rates_file.c_str(), precision.c_str(),
                               o.precision.c_str()),
                        "leave --precision out, or make rates in it: ./train bench --precision ... --save FILE")
                .file(rates_file);
    } else if (o.precision == "bf16" && o.device != "cpu" && (!gpu::built() || !gpu::unusable().empty())) {
        plan.notes.push_back(
            "no times: a run in bf16 is planned for a GPU, and none is here (./train bench --save there, --rates here; or "
            "--device cpu)");
    } else {
        stream = open_stream(o.device, o.precision);
        can_measure = true;
    }
    resolve(plan, limit > 0 ? limit : available_memory(stream));
    plan.memory = std::make_unique<RunMemory>(plan.options, plan.uses);
    plan.shape = step_shape(plan.options);
    if (o.ranks > 1 && o.zero > 0 && o.quant_weights == "none" && !one_type(plan.memory->weights.table))
        plan.notes.push_back("sent: by rank 0; the weights are of several types, so a share's bytes depend on the rank");
    const bool as_text = json_file != "-";
    Json fit;
    if (as_text) {
        const ModelConfig& c = plan.shape.model.config;
        std::printf("Model\n  %lld layers, width %lld, %lld heads (%lld for keys) of %lld, feed-forward %lld, vocabulary %lld\n",
                    static_cast<long long>(c.n_layer), static_cast<long long>(c.d_model), static_cast<long long>(c.n_head),
                    static_cast<long long>(c.n_kv_head), static_cast<long long>(c.head_size), static_cast<long long>(c.d_ff),
                    static_cast<long long>(c.vocab_size));
        std::printf("  %s parameters, %.3g FLOPs a token\n\n%s\n", with_commas(plan.memory->weights.table.count()).c_str(),
                    plan.flops_per_token(), (precision_table(*plan.memory) + "\n" + memory_text(*plan.memory, o.ranks)).c_str());
        if (plan.memory->sharding) std::printf("%s\n", sent_text(plan).c_str());
    }
    if (limit > 0) {
        const std::string text = fit_text(plan, limit, arguments, fit);
        if (as_text) std::printf("%s\n", text.c_str());
    }
    std::fflush(stdout);

    if (can_measure) rates.emplace(this_machine(stream, plan.shape.model.dtype, false), total_bytes(plan.memory->arenas()), stream);
    if (rates) {
        plan.machine = rates->machine();
        plan.step =
            simulate(training_schedule(plan.shape.n_parts(), plan.shape.micro_batches(), plan.shape.model.recompute != Recompute::none),
                     plan.shape, *rates);
    }
    if (as_text && rates) {
        std::printf("%s", step_text(plan).c_str());
        std::printf("  %s, %d threads, matrix products by %s%s\n", plan.machine.name.c_str(), plan.machine.threads,
                    plan.machine.gemm_engine.c_str(), rates->measures() ? ", timed now" : format(", from %s", rates_file.c_str()).c_str());
    }
    if (as_text) {
        std::printf("\nNotes\n");
        for (const std::string& note : plan.notes) std::printf("  %s\n", note.c_str());
    }
    if (json_file.empty()) return 0;
    Json json = plan_json(plan);
    if (limit > 0) json["fit"] = fit;
    if (as_text)
        write_whole_file(json_file, json.dump(2) + "\n");
    else
        std::printf("%s\n", json.dump(2).c_str());
    return 0;
}

}  // namespace traincu
