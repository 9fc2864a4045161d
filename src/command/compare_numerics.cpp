// ./train compare-numerics: how far a model's numbers in each --precision lie from those in f64, layer by layer; and where the losses of
// runs part.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>

#include <nlohmann/json.hpp>

#include "kernels/copy.h"
#include "src/base/files.h"
#include "src/base/process.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/command/run_setup.h"
#include "src/optim/master_copy.h"
#include "src/parallel/executor.h"
#include "src/plan/memory.h"
#include "src/report/spread.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

// ---------------------------------------------------------------------------------------------------------------------------
// layers

struct Batch {
    StepBatch step;  // one micro-batch
    double z_loss = 0;
};

// What one forward and backward leave.
struct Numbers {
    double loss = 0;
    std::vector<std::vector<double>> streams;  // the residual stream after the embedding, after each block; then the head's input
    std::vector<double> gradients;             // flat
    std::vector<float> weights;                // flat: as they are stored, widened
};

// |x - exact| / |exact|, summed over ranges.
struct RelativeError {
    double difference = 0, size = 0;
    void add(const double* x, const double* exact, size_t n) {
#pragma omp parallel for schedule(static) reduction(+ : difference, size)
        for (size_t i = 0; i < n; i++) {
            difference += (x[i] - exact[i]) * (x[i] - exact[i]);
            size += exact[i] * exact[i];
        }
    }
    double value() const { return difference == 0 ? 0 : std::sqrt(difference / size); }
};

// A row for each part: embedding, blocks, head.
struct Errors {
    double loss = 0;  // that of the precision minus the exact one
    std::vector<double> activations, gradients;
    double all_gradients = 0;
};

std::vector<double> widened_copy(const Tensor& tensor, const Stream& stream) {
    HostCopy copy(tensor, stream);
    const Tensor& host = copy.download().tensor();
    std::vector<double> values;
    dispatch_real(host.dtype, [&](auto real) { values.assign(host.as<decltype(real)>(), host.as<decltype(real)>() + host.numel()); });
    return values;
}

Numbers compute(const ModelConfig& config, const Precision& precision, std::vector<float>& weights, const Batch& batch, Stream& stream) {
    WeightStore store(config, precision, true);
    ModelOptions options;
    options.config = config, options.dtype = precision.compute, options.wide_head = precision.wide_head(), options.z_loss = batch.z_loss;
    options.max_tokens = batch.step.micro_batches[0].T();
    ModelInstance instance(options, store.door, "comparison");
    check_fits({&store.weights, &store.converted, &store.gradients, &instance.activations, &instance.scratch}, available_memory(stream));
    store.allocate(stream);
    instance.allocate(stream);

    Numbers numbers;
    const Tensor given(weights.data(), Dtype::f32, {store.table.flat_size});
    if (precision.compute == Dtype::f64) {
        copy(store.door.flat_weights(), given, stream);
    } else {
        MasterCopy stored(store.door, nullptr, stream);
        std::memcpy(stored.tensor().data, given.data, static_cast<size_t>(given.bytes()));
        stored.upload();
        const float* rounded = stored.download().tensor().as<float>();
        numbers.weights.assign(rounded, rounded + store.table.flat_size);
    }
    zero(store.door.flat_gradients(), stream);
    Executor executor(instance.model, store.door);
    executor.run(training_schedule(instance.model.n_parts(), 1, false), batch.step, stream);
    numbers.loss = executor.mean_loss(batch.step, stream);

    const Slot& slot = instance.model.slot();
    for (const BlockSlot& block : slot.blocks) numbers.streams.push_back(widened_copy(block.x, stream));  // what came before it, added
    numbers.streams.push_back(widened_copy(slot.head.x, stream));
    numbers.streams.push_back(widened_copy(slot.head.norm_out, stream));
    numbers.gradients = widened_copy(store.door.flat_gradients(), stream);
    return numbers;
}

Errors errors_of(const Numbers& found, const Numbers& exact, const ParamTable& table) {
    Errors errors;
    errors.loss = found.loss - exact.loss;
    for (size_t i = 0; i < exact.streams.size(); i++) {
        RelativeError error;
        error.add(found.streams[i].data(), exact.streams[i].data(), exact.streams[i].size());
        errors.activations.push_back(error.value());
    }
    std::vector<RelativeError> parts(static_cast<size_t>(table.n_parts) + 1);  // the last: all of them
    for (const ParamRow& row : table.rows)
        for (RelativeError* sum : {&parts[static_cast<size_t>(row.part)], &parts.back()})
            sum->add(found.gradients.data() + row.offset, exact.gradients.data() + row.offset, static_cast<size_t>(row.numel()));
    for (const RelativeError& part : parts) errors.gradients.push_back(part.value());
    errors.all_gradients = errors.gradients.back();
    errors.gradients.pop_back();
    return errors;
}

struct Compared {
    std::string precision;
    Errors original;                    // against f64 with the weights of the checkpoint
    std::optional<Errors> own_weights;  // against f64 with these weights as this precision stores them: without the rounding of weights
};

std::vector<Compared> compare_layers(const ModelOnDisk& found, const std::vector<std::string>& precisions, const Batch& batch,
                                     double& exact_loss, Stream& stream) {
    const ParamTable table = make_param_table(found.config);
    std::vector<float> weights(static_cast<size_t>(table.flat_size));
    load_model(found, table, Tensor(weights.data(), Dtype::f32, {table.flat_size}));
    const Numbers exact = compute(found.config, Dtype::f64, weights, batch, stream);
    exact_loss = exact.loss;
    std::vector<Compared> list;
    for (const std::string& name : precisions) {
        Numbers numbers = compute(found.config, precision_named(name), weights, batch, stream);
        list.push_back({name, errors_of(numbers, exact, table), {}});
        if (name == "fp32") continue;
        const Numbers from_own = compute(found.config, Dtype::f64, numbers.weights, batch, stream);
        list.back().own_weights = errors_of(numbers, from_own, table);
    }
    return list;
}

std::string part_name(size_t part, size_t n_parts) {
    return part == 0 ? "embedding" : part + 1 == n_parts ? "head" : format("block %zu", part - 1);
}

void print_layers(const std::vector<Compared>& list, double exact_loss) {
    std::string names, weights;
    std::vector<const Errors*> columns;
    for (const Compared& c : list) {
        names += format(" %10s", c.precision.c_str()) + (c.own_weights ? std::string(11, ' ') : "");
        weights += c.own_weights ? "   original        own" : "   original";
        columns.push_back(&c.original);
        if (c.own_weights) columns.push_back(&*c.own_weights);
    }
    auto line = [&](const std::string& name, auto&& activation, auto&& gradient) {
        std::printf("%-10s", name.c_str());
        for (const Errors* e : columns) std::printf(" %10s", activation(*e).c_str());
        std::printf("  |");
        for (const Errors* e : columns) std::printf(" %10s", gradient(*e).c_str());
        std::printf("\n");
    };
    auto number = [](double x) { return format("%.2e", x); };
    const int width = static_cast<int>(names.size());
    std::printf("%-10s %-*s  | %s\n", "", width - 1, "stream", "gradients");
    std::printf("%-10s%s  |%s\n%-10s%s  |%s\n", "layer", names.c_str(), names.c_str(), "weights", weights.c_str(), weights.c_str());
    const size_t n_parts = columns[0]->activations.size();
    for (size_t part = 0; part < n_parts; part++)
        line(
            part_name(part, n_parts), [&](const Errors& e) { return number(e.activations[part]); },
            [&](const Errors& e) { return number(e.gradients[part]); });
    line(
        "all", [](const Errors&) { return std::string(); }, [&](const Errors& e) { return number(e.all_gradients); });
    std::printf("\nloss %.9f in f64;", exact_loss);
    for (const Compared& c : list) std::printf(" %s %+.2e%s", c.precision.c_str(), c.original.loss, &c == &list.back() ? "\n" : ",");
}

// ---------------------------------------------------------------------------------------------------------------------------
// runs

// The last step that all runs logged; -1: there is none.
int64_t last_common_step(const std::vector<Run>& runs) {
    std::map<int64_t, size_t> count;
    for (const Run& run : runs)
        for (const StepRecord& r : run.curves.steps) count[r.step]++;
    for (auto at = count.rbegin(); at != count.rend(); ++at)
        if (at->second == runs.size()) return at->first;
    return -1;
}

// --precision, and --precision-of where it was given.
std::string precision_of_run(const Run& run) {
    const Json& options = object_in(run.settings, "options");
    auto text = [&](const char* key) {
        const auto found = options.find(key);
        return found != options.end() && found->is_string() ? found->get<std::string>() : std::string();
    };
    const std::string name = text("precision"), of = text("precision-of");
    return (name.empty() ? "unknown" : name) + (of.empty() ? "" : " " + of);
}

// One measure of the runs of one precision.
struct Band {
    std::string precision;
    const char* what;
    int64_t step;
    std::vector<double> values;

    double mean() const {
        double sum = 0;
        for (double v : values) sum += v;
        return sum / static_cast<double>(values.size());
    }
    // Where one is no number, neither are these.
    double smallest() const { return std::isnan(mean()) ? mean() : *std::min_element(values.begin(), values.end()); }
    double largest() const { return std::isnan(mean()) ? mean() : *std::max_element(values.begin(), values.end()); }
};

std::vector<Band> bands(const std::vector<Run>& runs, int64_t last) {
    std::vector<Band> list;
    auto add = [&](const Run& run, const char* what, int64_t step, double value) {
        const std::string precision = precision_of_run(run);
        for (Band& b : list)
            if (b.precision == precision && b.step == step && std::strcmp(b.what, what) == 0) return b.values.push_back(value);
        list.push_back({precision, what, step, {value}});
    };
    if (last >= 0)
        for (const Run& run : runs) add(run, "loss", last, loss_at(run, last));
    for (const Run& run : runs)
        if (!run.curves.validations.empty())
            add(run, "val_loss", run.curves.validations.back().step, run.curves.validations.back().val_loss);
    return list;
}

void print_runs(const std::vector<Run>& runs, const std::vector<Parting>& partings, const std::vector<Band>& list) {
    std::printf("\n%-24s %-16s %14s %16s   loss beside that of %s\n", "run", "precision", "first other", "first by > 0.1 %",
                runs[0].name.c_str());
    auto step = [](int64_t s) { return s < 0 ? std::string("none") : format("step %lld", static_cast<long long>(s)); };
    for (size_t i = 1; i < runs.size(); i++)
        std::printf("%-24s %-16s %14s %16s   %lld steps compared\n", runs[i].name.c_str(), precision_of_run(runs[i]).c_str(),
                    step(partings[i].exact).c_str(), step(partings[i].relative).c_str(), static_cast<long long>(partings[i].common));
    std::printf("\n%-16s %-9s %8s %4s %11s %11s %11s %11s\n", "precision", "", "at step", "n", "mean", "smallest", "largest", "spread");
    for (const Band& b : list)
        std::printf("%-16s %-9s %8lld %4zu %11.6f %11.6f %11.6f %11.6f\n", b.precision.c_str(), b.what, static_cast<long long>(b.step),
                    b.values.size(), b.mean(), b.smallest(), b.largest(), b.largest() - b.smallest());
}

// ---------------------------------------------------------------------------------------------------------------------------

Json as_json(const Errors& e) {
    Json rows = Json::array();
    for (size_t part = 0; part < e.activations.size(); part++)
        rows.push_back(
            {{"layer", part_name(part, e.activations.size())}, {"activations", e.activations[part]}, {"gradients", e.gradients[part]}});
    return {{"loss_difference", e.loss}, {"all_gradients", e.all_gradients}, {"layers", rows}};
}

Json as_json(const std::vector<Run>& runs, const std::vector<Parting>& partings, const std::vector<Band>& list) {
    auto step = [](int64_t s) { return s < 0 ? Json() : Json(s); };
    Json json = {{"runs", Json::array()}, {"bands", Json::array()}};
    for (size_t i = 0; i < runs.size(); i++)
        json["runs"].push_back({{"run", runs[i].directory},
                                {"precision", precision_of_run(runs[i])},
                                {"steps_compared", partings[i].common},
                                {"first_other_step", step(partings[i].exact)},
                                {"first_far_step", step(partings[i].relative)}});
    for (const Band& b : list)
        json["bands"].push_back({{"precision", b.precision},
                                 {"of", b.what},
                                 {"step", b.step},
                                 {"n", b.values.size()},
                                 {"mean", b.mean()},
                                 {"smallest", b.smallest()},
                                 {"largest", b.largest()},
                                 {"spread", b.largest() - b.smallest()}});
    return json;
}

// The first batch of the run's data, unshuffled.
Batch read_batch(const ModelOnDisk& model, const std::string& run, const std::string& data, int64_t tokens) {
    Options o;
    if (const Json& of_run = object_in(model.meta, "options"); !of_run.empty()) apply_json(o, of_run, run);
    if (!data.empty()) o.data = data;
    if (o.data.empty()) throw Error(ExitCode::usage, run + " does not say what it was trained on", "give --data SHARDS");
    o.seq_len = model.trained_context(), o.vocab_size = model.config.vocab_size, o.batch_size = 1;
    if (tokens > o.seq_len) {
        if (tokens % o.seq_len != 0)
            throw Error(ExitCode::usage,
                        format("--tokens %lld is not a whole number of rows of %lld tokens", static_cast<long long>(tokens),
                               static_cast<long long>(o.seq_len)),
                        "give a multiple of that, or fewer: then one shorter row");
        o.batch_size = tokens / o.seq_len;
    } else if (tokens > 0) {
        o.seq_len = tokens;
    }
    return {Loader(loader_config(o, o.data)).next(), o.z_loss};
}

void check_precisions(const std::vector<std::string>& names) {
    for (const std::string& name : names)
        if (name != "fp32" && name != "layercast" && name != "bf16")
            throw Error(ExitCode::usage, "--precisions: '" + name + "' is none that can be compared",
                        "they are fp32, layercast and bf16; bf16-sr computes as bf16 does");
}

}  // namespace

int compare_numerics_command(int argc, char** argv) {
    CLI::App app(
        "How far a model's numbers in each precision lie from those in f64: forward and backward of one batch on the CPU, with the newest\n"
        "checkpoint of the first RUN. Errors are relative: |x - exact| / |exact| over all numbers of a layer. Column 'original': f64 has "
        "the\n"
        "checkpoint's weights; 'own': the weights as that precision stores them, so that only the arithmetic is left.\n"
        "Of two or more runs also: where their losses part, and the band of their last losses by precision.\n\n"
        "  examples:  ./train compare-numerics runs/book --precisions fp32,bf16 --tokens 128\n"
        "             ./train compare-numerics runs/fp32_a runs/fp32_b runs/bf16_a runs/bf16_b --json numerics.json\n",
        "./train compare-numerics");
    std::vector<std::string> names, precisions = {"fp32", "layercast", "bf16"};
    std::string data, json_file;
    int64_t tokens = 0;
    int threads = 0;
    app.add_option("RUN", names, "run directories; the first one's model is looked into")->required();
    app.add_option("--precisions", precisions, "separated by commas: fp32, layercast, bf16 [all three]")
        ->delimiter(',')
        ->allow_extra_args(false);
    app.add_option("--data,-j", data, "token shards for the batch; else the first run's --data");
    app.add_option("--tokens", tokens, "of the batch; 0 = one row as in training [0]")->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
    app.add_option("--json", json_file, "also write all figures to this file");
    app.add_option("--threads", threads, "CPU threads; 0 = all")->check(CLI::NonNegativeNumber);
    if (!parse_command_line(app, argc, argv)) return 0;

    check_precisions(precisions);
    set_threads(threads);
    Stream stream;
    const ModelOnDisk model = find_model(names[0]);
    for (size_t i = 1; i < names.size(); i++)
        if (find_model(names[i]).config != model.config)
            throw Error(ExitCode::usage, names[0] + " and " + names[i] + " are models of different shapes",
                        "compare runs that differ in precision, seed or machine alone");
    const std::vector<Run> runs = names.size() > 1 ? load_runs(names) : std::vector<Run>();
    const Batch batch = read_batch(model, names[0], data, tokens);

    double exact_loss = 0;
    const std::vector<Compared> compared = compare_layers(model, precisions, batch, exact_loss, stream);
    std::printf(
        "%s, %lld tokens on the CPU: relative errors against f64, of the residual stream after each layer (at the head: of its\n"
        "normed input) and of the gradients of the layer's weights\n\n",
        names[0].c_str(), static_cast<long long>(batch.step.micro_batches[0].T()));
    print_layers(compared, exact_loss);
    Json json = {{"model", names[0]}, {"step", model.step}, {"tokens", batch.step.micro_batches[0].T()}, {"loss", exact_loss}};
    for (const Compared& c : compared) {
        Json row = {{"precision", c.precision}, {"original_weights", as_json(c.original)}};
        if (c.own_weights) row["own_weights"] = as_json(*c.own_weights);
        json["precisions"].push_back(row);
    }
    if (!runs.empty()) {
        std::vector<Parting> partings;
        for (const Run& run : runs) partings.push_back(parting(runs[0], run));
        const std::vector<Band> list = bands(runs, last_common_step(runs));
        print_runs(runs, partings, list);
        json.update(as_json(runs, partings, list));
    }
    if (!json_file.empty()) write_whole_file(json_file, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    return 0;
}

}  // namespace traincu
