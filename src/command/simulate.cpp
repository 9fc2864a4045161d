// ./train simulate: sharded data parallelism on a cluster that is not here, in every way to send its weights and gradients.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "src/base/files.h"
#include "src/base/parse_number.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/config/model_options.h"
#include "src/model/flops.h"
#include "src/plan/cluster.h"
#include "src/report/console.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

long long number(int64_t n) { return static_cast<long long>(n); }

// Milliseconds in three digits or more.
std::string ms_text(double seconds) {
    const double ms = 1e3 * seconds;
    if (ms <= 0) return "-";
    return ms < 9.995 ? format("%.2f", ms) : ms < 99.95 ? format("%.1f", ms) : with_commas(std::llround(ms));
}

// ---- the model

struct Model {
    std::string name;
    int64_t parameters = 0, default_tokens = 2048;
    double flops_per_token = 0;
    std::vector<int64_t> parts;
};

Model of_preset(const std::string& preset) {
    std::vector<std::string> words = {"./train", "--preset", preset};
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    Options o = parse_options(static_cast<int>(pointers.size()), pointers.data());
    if (o.vocab_size == 0) o.vocab_size = 257;  // bytes, as in a plan without data
    const ModelConfig config = model_config(o);
    const ParamTable table = make_param_table(config);
    Model model{preset, table.count(), o.batch_size * o.seq_len, training_flops_per_token(config, o.seq_len), {}};
    std::vector<int64_t> ends(static_cast<size_t>(table.n_parts));  // of the parts in the flat index, alignment gaps included
    for (const ParamRow& row : table.rows) ends[static_cast<size_t>(row.part)] = row.offset + row.numel();
    int64_t begin = 0;
    for (int64_t end : ends)
        if (end > begin) model.parts.push_back(end - begin), begin = end;
    return model;
}

// "1315819520", "1.3B", "350M".
Model of_count(const std::string& text) {
    std::string digits = text;
    double unit = 1;
    const std::string units = "KMBT";
    if (const size_t at = text.empty() ? std::string::npos : units.find(text.back()); at != std::string::npos)
        unit = std::pow(1e3, static_cast<double>(at + 1)), digits.pop_back();
    double count = 0;
    if (!parse_whole(digits, count) || !(count * unit >= 1) || !(count * unit <= 1e13))
        throw Error(ExitCode::usage, format("--params %s is no number of parameters", text.c_str()),
                    "give 1 to 1e13, as 1315819520, 350M or 1.3B");
    const int64_t n = std::llround(count * unit);
    return {text, n, 2048, 6.0 * static_cast<double>(n), {n}};
}

// ---- what is printed

std::string cluster_text(const Cluster& c) {
    const double rate = c.between.rate / 1e9, each = rate / static_cast<double>(c.gpus_per_node);
    return table("Cluster: " + c.name,
                 {{"", "size", format("%lld nodes of %lld %s", number(c.nodes), number(c.gpus_per_node), c.gpu.c_str())},
                  {"", "inside a node", format("%.4g GB/s a GPU, %.3g us a message", c.inside.rate / 1e9, c.inside.alpha * 1e6)},
                  {"", "between nodes",
                   format("%.4g GB/s a node, %.3g for each GPU when all send, %.3g us a message", rate, each, c.between.alpha * 1e6)},
                  {"", "a GPU", format("%.4g TFLOP/s; codec kernels %.4g GB/s", c.flops / 1e12, c.codec_rate / 1e9)}});
}

std::string job_text(const Cluster& c, const ClusterJob& job, const Model& model) {
    const Placement at = placement(c, job.tp, job.pp);
    int64_t on_gpu = 0;
    for (int64_t part : job.parts) on_gpu += padded_part(part, at.P());
    const int64_t tokens = at.P() * job.tokens * job.accumulation;
    return table("Run", {{"", "model",
                          format("%s: %s parameters, %.3g FLOPs a token", model.name.c_str(), with_commas(model.parameters).c_str(),
                                 model.flops_per_token)},
                         {"", "copies",
                          format("%lld, each on %lld GPU%s (tp %lld, pp %lld): P = %lld ranks share each part, %lld in each of %lld nodes",
                                 number(at.P()), number(job.tp * job.pp), job.tp * job.pp == 1 ? "" : "s", number(job.tp), number(job.pp),
                                 number(at.P()), number(at.m), number(at.M))},
                         {"", "on a GPU",
                          format("%s parameters in %zu bucket%s, filled up to whole groups", with_commas(on_gpu).c_str(), job.parts.size(),
                                 job.parts.size() == 1 ? "" : "s")},
                         {"", "a step",
                          format("%s tokens: %lld micro-batch%s of %s a copy", with_commas(tokens).c_str(), number(job.accumulation),
                                 job.accumulation == 1 ? "" : "es", with_commas(job.tokens).c_str())}});
}

struct Row {
    int zero;
    CommMode mode;
    StepCost cost;
    double speed_up;
};

std::vector<Row> all_modes(const Cluster& c, const ClusterJob& job, const std::vector<int>& stages) {
    std::vector<Row> rows;
    for (int zero : stages) {
        const double baseline = step_cost(c, job, CommMode::baseline, zero).seconds();
        for (int i = 0; i < n_comm_modes; i++) {
            const CommMode mode = static_cast<CommMode>(i);
            if (!refusal(mode, zero).empty()) continue;
            const StepCost cost = step_cost(c, job, mode, zero);
            rows.push_back({zero, mode, cost, baseline / cost.seconds()});
        }
    }
    return rows;
}

std::string steps_text(const std::vector<Row>& rows) {
    std::string text = format("A step: GB (1e9 bytes) that a rank sends, and milliseconds\n%20s%9s%9s%8s%8s%8s%8s%8s%8s%8s%8s%7s\n", "",
                              "inside", "between", "compute", "weights", "grads", "hop 1", "hop 2", "codec", "hidden", "step", "gain");
    int zero = -1;
    for (const Row& row : rows) {
        const StepCost& s = row.cost;
        text += format("  %-7s%-11s%9.3f%9.3f%8s%8s%8s%8s%8s%8s%8s%8s%6.2fx\n", row.zero == zero ? "" : format("ZeRO-%d", row.zero).c_str(),
                       name_of(row.mode), (static_cast<double>(s.bytes()) - s.bytes_between) / 1e9, s.bytes_between / 1e9,
                       ms_text(s.compute).c_str(), ms_text(s.weights).c_str(), ms_text(s.ring).c_str(), ms_text(s.hop1).c_str(),
                       ms_text(s.hop2).c_str(), ms_text(s.codec).c_str(), ms_text(s.hidden).c_str(), ms_text(s.seconds()).c_str(),
                       row.speed_up);
        zero = row.zero;
    }
    return text +
           "  gain: times faster than the stage's baseline. grads: fp32 gradients in a ring; hop 1, hop 2: quantised ones,\n"
           "  inside and between nodes; hidden: what of all these runs beside something else and is not in the step.\n";
}

// "below 100 GB/s a node (12.5 a GPU)".
std::string pays_text(const Cluster& c, const ClusterJob& job, CommMode mode, int zero) {
    const std::vector<Speeds> speeds = speeds_that_pay(c, job, mode, zero);
    if (speeds.empty()) return "at no speed";
    if (speeds.size() == 1 && speeds[0].from == 0 && std::isinf(speeds[0].to)) return "at every speed";
    const double gpus = static_cast<double>(c.gpus_per_node);
    std::string text;
    for (const Speeds& s : speeds) {
        text += text.empty() ? "" : " and ";
        if (s.from > 0) text += format("above %.4g GB/s a node (%.3g a GPU)", s.from / 1e9, s.from / 1e9 / gpus);
        if (s.from > 0 && !std::isinf(s.to)) text += " to ";
        if (!std::isinf(s.to)) text += format("%s%.4g GB/s a node (%.3g a GPU)", s.from > 0 ? "" : "below ", s.to / 1e9, s.to / 1e9 / gpus);
    }
    return text;
}

// The rates of a scan, bytes/s of a node: decades and their thirds.
constexpr double scanned[] = {1e9, 3e9, 1e10, 3e10, 1e11, 3e11, 1e12, 3e12};

std::string scan_text(const Cluster& c, const ClusterJob& job, int zero) {
    std::vector<CommMode> modes;
    for (int i = 0; i < n_comm_modes; i++)
        if (refusal(static_cast<CommMode>(i), zero).empty()) modes.push_back(static_cast<CommMode>(i));
    std::string text = format("The same step at other speeds between nodes, ZeRO-%d, milliseconds\n  %14s", zero, "GB/s a node");
    for (CommMode mode : modes) text += format("%18s", name_of(mode));
    text += "\n";
    std::vector<double> rates(std::begin(scanned), std::end(scanned));
    rates.push_back(c.between.rate);
    std::sort(rates.begin(), rates.end());
    rates.erase(std::unique(rates.begin(), rates.end()), rates.end());
    for (double rate : rates) {
        Cluster other = c;
        other.between.rate = rate;
        const double baseline = step_cost(other, job, CommMode::baseline, zero).seconds();
        text += format("%s%12.4g", rate == c.between.rate ? "  * " : "    ", rate / 1e9);
        for (CommMode mode : modes) {
            const double seconds = step_cost(other, job, mode, zero).seconds();
            text += format("%11s%s", ms_text(seconds).c_str(),
                           mode == CommMode::baseline ? "       " : format(" %5.2fx", baseline / seconds).c_str());
        }
        text += "\n";
    }
    text += "  * as in the file. Where a mode does not pay, its codec and its messages cost more than they save.\n";
    for (CommMode mode : modes)
        if (mode != CommMode::baseline) text += format("  %-11s pays %s\n", name_of(mode), pays_text(c, job, mode, zero).c_str());
    return text;
}

// Every measured row beside what the model says of it.
std::string measured_text(const Cluster& cluster, Json& json) {
    std::string text = format(
        "Measured, and what this model says: TFLOP/s a GPU, and times faster than the baseline\n  %-7s%5s%4s%4s%5s  "
        "%-11s%10s%10s%8s%8s%8s\n",
        "model", "GPUs", "tp", "pp", "P", "", "measured", "model", "gain", "model", "ratio");
    for (const Measurement& x : cluster.measured) {
        const Cluster c = cluster_of(cluster, x);
        const ClusterJob job = job_of(x);
        const StepCost baseline = step_cost(c, job, CommMode::baseline, 1);
        for (const Measurement::Throughput& t : x.throughputs) {
            const StepCost cost = step_cost(c, job, t.mode, 1);
            const double predicted = tflops(job, cost), gain = baseline.seconds() / cost.seconds();
            const double measured_gain = t.tflops / x.throughputs.front().tflops;
            const bool is_baseline = t.mode == CommMode::baseline;
            json.push_back({{"model", x.model},
                            {"nodes", x.nodes},
                            {"tp", x.tp},
                            {"pp", x.pp},
                            {"mode", name_of(t.mode)},
                            {"fitted", x.fitted},
                            {"tflops", t.tflops},
                            {"tflops_predicted", predicted},
                            {"gain", measured_gain},
                            {"gain_predicted", gain}});
            text += is_baseline ? format("  %-7s%5lld%4lld%4lld%5lld", x.model.c_str(), number(c.nodes * c.gpus_per_node), number(x.tp),
                                         number(x.pp), number(placement(c, x.tp, x.pp).P()))
                                : format("  %-25s", "");
            text += format("  %-11s%10.1f%10.1f", name_of(t.mode), t.tflops, predicted);
            if (!is_baseline) text += format("%7.2fx%7.2fx%8.2f%s", measured_gain, gain, gain / measured_gain, x.fitted ? "  fitted" : "");
            text += "\n";
        }
    }
    return text;
}

std::string notes_text(const Cluster& c, const ClusterJob& job) {
    std::vector<std::string> notes = c.notes;
    notes.push_back(
        "Gathers and fp32 reductions go round a ring, as in NCCL. Bytes between nodes are the mean over the ranks of a node: a ring leaves "
        "it at one of them. Where each rank sends to every other (MPI) the sum is the same, and (P - m)/(P - 1) of it leaves the node.");
    notes.push_back(job.slices > 1
                        ? format("A bucket's two hops run in %lld slices, the slower one hiding most of the other.", number(job.slices))
                        : "A bucket's second hop begins when its first has ended.");
    notes.push_back("What the codec's kernels take hides behind nothing.");
    notes.push_back(job.overlap ? "Gradients go out during the backward pass, weights come in during the forward pass, bucket by bucket."
                                : "Nothing is sent while the model computes (--overlap: the buckets of gradients and weights beside it).");
    if (job.pp > 1)
        notes.push_back("A pipeline of pp stages stands still for (pp - 1)/accumulation of its work; what it sends is not counted.");
    notes.push_back(
        "What tensor parallelism sends, the optimizer and the data loader are in the achieved FLOP/s of a GPU, which is one number for all "
        "models.");
    std::string text = "Assumptions\n";
    for (const std::string& note : notes) {
        std::string line = "  -";
        size_t at = 0;
        while (at < note.size()) {  // words, within the console
            const size_t end = std::min(note.find(' ', at), note.size());
            if (line.size() + 1 + end - at > kConsoleColumns) text += line + "\n", line = "   ";
            line += " " + note.substr(at, end - at);
            at = end + 1;
        }
        text += line + "\n";
    }
    return text;
}

// ---- JSON

Json cluster_json(const Cluster& c) {
    return {{"name", c.name},
            {"nodes", c.nodes},
            {"gpus_per_node", c.gpus_per_node},
            {"inside", {{"alpha", c.inside.alpha}, {"rate", c.inside.rate}}},
            {"between", {{"alpha", c.between.alpha}, {"rate_of_node", c.between.rate}}},
            {"gpu", {{"name", c.gpu}, {"flops", c.flops}, {"codec_rate", c.codec_rate}}},
            {"notes", c.notes}};
}

Json rows_json(const Cluster& c, const ClusterJob& job, const std::vector<Row>& rows) {
    Json list = Json::array();
    for (const Row& row : rows) {
        const StepCost& s = row.cost;
        Json pays = Json::array();  // [from, to] in bytes/s of a node, null: without end
        if (row.mode != CommMode::baseline)
            for (const Speeds& speeds : speeds_that_pay(c, job, row.mode, row.zero))
                pays.push_back({speeds.from, std::isinf(speeds.to) ? Json() : Json(speeds.to)});
        list.push_back({{"zero", row.zero},
                        {"mode", name_of(row.mode)},
                        {"weight_bytes", s.weight_bytes},
                        {"gradient_ring_bytes", s.ring_bytes},
                        {"hop1_bytes", s.hop1_bytes},
                        {"hop2_bytes", s.hop2_bytes},
                        {"bytes_between", s.bytes_between},
                        {"compute", s.compute},
                        {"weights", s.weights},
                        {"gradient_ring", s.ring},
                        {"hop1", s.hop1},
                        {"hop2", s.hop2},
                        {"codec", s.codec},
                        {"hidden", s.hidden},
                        {"seconds", s.seconds()},
                        {"gain", row.speed_up},
                        {"tflops", tflops(job, s)},
                        {"pays", pays}});
    }
    return list;
}

}  // namespace

int simulate_command(int argc, char** argv) {
    CLI::App app(
        "What a step would take on a cluster that is not here, and what it would send inside and between its nodes: plain sharded data\n"
        "parallelism, ZeRO++, SDP4Bit and its two halves, in each ZeRO stage. A model of links (a latency and a bandwidth) and of kernels\n"
        "that quantise; nothing is run or measured. Without a model: the file's measured rows beside what the model says of them.\n"
        "Examples:  ./train simulate --cluster data/clusters/h100.json --preset llama3-8b --accumulation 4 --overlap\n"
        "           ./train simulate --cluster data/clusters/a100_slingshot.json --params 6.7B --tp 4 --zero 1    when do 4 bits pay?\n"
        "           ./train simulate --cluster data/clusters/h800_infiniband.json                                 the paper's own runs\n"
        "data/clusters/README.md says how to describe your own. For the step of one GPU: ./train plan. Exit code 2: a mistake in the\n"
        "command line or in the file.",
        "./train simulate");
    std::string cluster_file, preset, parameters, json_file;
    int64_t nodes = 0, tokens = 0, buckets = 1, slices = 0;
    int zero = -1;
    ClusterJob job;
    bool paper = false;
    app.add_option("--cluster", cluster_file, "the cluster: nodes, links, GPU (data/clusters/*.json)")->required();
    app.add_option("--preset", preset, "the model, by its preset (./train --preset list); its buckets are its blocks");
    app.add_option("--params", parameters, "the model, by its number of parameters: 1.3B, 350M; 6 FLOPs a parameter and token");
    app.add_option("--buckets", buckets, "with --params: gathered and reduced in so many equal pieces; 1 by default")
        ->check(CLI::Range(1, 1000));
    app.add_option("--nodes", nodes, "another number of nodes than the file's")->check(CLI::Range(1, 10000));
    app.add_option("--tp", job.tp, "tensor parallelism: GPUs that share each layer; 1 by default")->check(CLI::Range(1, 1024));
    app.add_option("--pp", job.pp, "pipeline parallelism: stages; 1 by default")->check(CLI::Range(1, 1024));
    app.add_option("--tokens", tokens, "of a micro-batch of one copy of the model; by default the preset's batch, or 2048")
        ->check(CLI::Range(1, 10000000));
    app.add_option("--accumulation", job.accumulation, "micro-batches a step; 1 by default")->check(CLI::Range(1, 10000));
    app.add_option("--zero", zero, "only this stage: 0, 1, 2 or 3; all by default, with stage 1 at other speeds")->check(CLI::Range(0, 3));
    app.add_option("--slices", slices, "the two hops of a bucket run side by side in so many slices; 8 by default, 1 with several buckets")
        ->check(CLI::Range(1, 1024));
    app.add_flag("--overlap", job.overlap,
                 "buckets of gradients are sent during the backward pass, weights arrive during the forward pass");
    app.add_flag("--paper", paper, "the file's measured rows too");
    app.add_option("--json", json_file, "write everything as JSON to this file; - for the standard output, and nothing else there");
    if (!parse_command_line(app, argc, argv)) return 0;

    Cluster cluster = read_cluster(cluster_file);
    const Cluster as_in_file = cluster;
    if (nodes > 0) cluster.nodes = nodes;
    if (!preset.empty() && !parameters.empty()) throw Error(ExitCode::usage, "--preset and --params are two models", "give one of them");
    const bool has_model = !preset.empty() || !parameters.empty();
    for (const char* option : {"--nodes", "--tp", "--pp", "--tokens", "--accumulation", "--zero", "--slices", "--overlap", "--buckets"})
        if (app.count(option) > 0 && !has_model)
            throw Error(ExitCode::usage, format("%s is for a model, and none is given", option), "give --preset NAME or --params N");
    if (app.count("--buckets") > 0 && !preset.empty())
        throw Error(ExitCode::usage, "--buckets is for --params: a preset's buckets are its embedding, its blocks and its head",
                    "leave it out");
    if (!has_model && cluster.measured.empty())
        throw Error(ExitCode::usage, format("which model? %s has no measured rows to show without one", cluster_file.c_str()),
                    "give --preset NAME or --params N");
    if (paper && cluster.measured.empty())
        throw Error(ExitCode::usage, format("--paper: %s has no measured rows", cluster_file.c_str()), "leave --paper out");

    std::string text = cluster_text(has_model ? cluster : as_in_file) + "\n";
    Json json = {{"cluster", cluster_json(has_model ? cluster : as_in_file)}};
    if (has_model) {
        const Model model = preset.empty() ? of_count(parameters) : of_preset(preset);
        const int64_t width = job.tp * job.pp;
        for (int64_t part : model.parts) {
            const int64_t pieces = preset.empty() ? buckets : 1;
            for (int64_t i = 0; i < pieces; i++) job.parts.push_back((part + width * pieces - 1) / (width * pieces));
        }
        job.slices = slices > 0 ? slices : job.parts.size() == 1 ? 8 : 1;
        job.flops_per_token = model.flops_per_token;
        job.tokens = tokens > 0 ? tokens : model.default_tokens;
        const std::vector<Row> rows = all_modes(cluster, job, zero < 0 ? std::vector<int>{0, 1, 2, 3} : std::vector<int>{zero});
        text += job_text(cluster, job, model) + "\n" + steps_text(rows) + "\n";
        if (zero != 0) text += scan_text(cluster, job, zero < 0 ? 1 : zero) + "\n";
        const Placement at = placement(cluster, job.tp, job.pp);
        json["run"] = {{"model", model.name},
                       {"parameters", model.parameters},
                       {"flops_per_token", model.flops_per_token},
                       {"tokens", job.tokens},
                       {"accumulation", job.accumulation},
                       {"tp", job.tp},
                       {"pp", job.pp},
                       {"slices", job.slices},
                       {"overlap", job.overlap},
                       {"buckets", job.parts},
                       {"ranks_in_node", at.m},
                       {"nodes_of_ranks", at.M}};
        json["steps"] = rows_json(cluster, job, rows);
    }
    if (!has_model || paper) {
        Json measured = Json::array();
        text += measured_text(as_in_file, measured) + "\n";
        json["measured"] = measured;
    }
    text += notes_text(cluster, job);
    if (json_file == "-") return std::printf("%s\n", json.dump(2).c_str()), 0;
    std::fputs(text.c_str(), stdout);
    if (!json_file.empty()) write_whole_file(json_file, json.dump(2) + "\n");
    return 0;
}

}  // namespace traincu
