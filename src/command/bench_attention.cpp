// ./train bench attention: what a bias or a gate of attention costs in time and memory.
#include "src/command/bench_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <sstream>

#include "kernels/attention.h"
#include "kernels/copy.h"
#include "kernels/matmul.h"
#include "kernels/reduce.h"
#include "src/base/files.h"
#include "src/base/philox.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/command/run_setup.h"
#include "src/device/transfer.h"
#include "src/plan/memory.h"
#include "src/report/console.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;
using Variant = AttentionBenchRow::Variant;

struct Case {
    const char *name, *what;
    int64_t NH, HS;
    std::vector<int64_t> sizes_cpu, sizes_gpu, ranks;
    std::vector<Variant> variants;
};

const std::vector<Case>& cases() {
    static const std::vector<Case> all = {
        {"gpt2-alibi",
         "GPT-2 1.5B with ALiBi: in the kernel, as 2 factors, as a matrix",
         50,
         32,
         {512},
         {2048, 4096},
         {2},
         {Variant::none, Variant::alibi, Variant::factors, Variant::dense}},
        {"plain",
         "8 heads of 64 with a bias of rank R: as factors, as a matrix",
         8,
         64,
         {1024},
         {1024, 2048, 4096, 8192, 16384},
         {8, 16, 32, 64},
         {Variant::none, Variant::factors, Variant::dense}},
        {"pde",
         "8 heads of 16 over points in space, bias -|x_i - x_j|^2: as 5 factors, as a matrix",
         8,
         16,
         {1024, 2048},
         {8192, 16384, 32768},
         {5},
         {Variant::none, Variant::factors, Variant::dense}},
        {"gated",
         "12 heads of 64 with an output gate: a number per head, a number per column",
         12,
         64,
         {1024},
         {1024, 4096, 16384},
         {0},
         {Variant::none, Variant::headwise, Variant::elementwise}},
        {"heads64", "32 heads of 64 without bias", 32, 64, {512}, {512, 1024, 2048, 4096, 8192, 16384}, {0}, {Variant::none}},
        {"heads128", "16 heads of 128 without bias", 16, 128, {512}, {512, 1024, 2048, 4096, 8192, 16384}, {0}, {Variant::none}},
    };
    return all;
}

const Case& case_named(const std::string& name) {
    std::string names;
    for (const Case& c : cases()) {
        if (name == c.name) return c;
        names += std::string(names.empty() ? "" : ", ") + c.name;
    }
    throw Error(ExitCode::usage, format("--case: there is no case '%s'", name.c_str()), "choose one of " + names);
}

// "1024,4096" as numbers of at least 1.
std::vector<int64_t> sizes_of(const std::string& text, const char* flag) {
    std::vector<int64_t> sizes;
    std::stringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
        const bool digits = !part.empty() && part.size() < 8 && part.find_first_not_of("0123456789") == std::string::npos;
        if (!digits || std::stoll(part) < 1)
            throw Error(ExitCode::usage, format("%s: '%s' is not a whole number from 1", flag, part.c_str()), "write it as 1024,4096");
        sizes.push_back(std::stoll(part));
    }
    return sizes;
}

bool has_factors(Variant v) { return v == Variant::factors || v == Variant::dense; }  // a dense bias is made of them
double slope(int64_t head, int64_t NH) { return std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(NH)); }

void fill(const Tensor& t, const Stream& stream, const std::function<double(int64_t)>& value) {
    HostCopy host(t, stream);
    float* numbers = host.tensor().as<float>();
    for (int64_t i = 0; i < t.numel(); i++) numbers[i] = static_cast<float>(value(i));
    host.upload();
}

// Factors (N,NH,R) whose product is the case's bias; of the keys' side where `keys`.
double factor(const Case& c, const AttentionBenchRow& row, int64_t i, bool keys) {
    const int64_t r = i % row.R, head = i / row.R % row.NH, position = i / row.R / row.NH;
    if (std::string(c.name) == "gpt2-alibi") {  // -m (i - j) = [-m i, m] . [1, j]
        if (keys) return r == 0 ? 1 : static_cast<double>(position);
        return r == 0 ? -slope(head, row.NH) * static_cast<double>(position) : slope(head, row.NH);
    }
    if (std::string(c.name) == "pde") {  // -|x - y|^2 = [-|x|^2, -1, 2x] . [1, |y|^2, y], points in the unit cube
        double square = 0, point[3];
        for (int d = 0; d < 3; d++)
            point[d] = Random{7}.uniform(static_cast<uint32_t>(d), static_cast<uint64_t>(position)), square += point[d] * point[d];
        if (r >= 2) return (keys ? 1 : 2) * point[r - 2];
        return keys ? (r == 0 ? 1 : square) : (r == 0 ? -square : -1);
    }
    return Random{keys ? 5u : 6u}.normal(0, static_cast<uint64_t>(i)) / std::sqrt(static_cast<double>(row.R));
}

// One row's problem, ready to run.
class Problem {
public:
    Problem(const Case& c, const AttentionBenchRow& row, Dtype type, Stream& stream) : t(row, type), stream_(stream), NH_(row.NH) {
        t.arena.allocate(stream.memory());
        uint64_t seed = 1;
        for (const Tensor& x : {t.q, t.k, t.v, t.dout, t.gate}) {
            seed++;
            if (x) fill(x, stream, [&](int64_t i) { return Random{seed}.normal(0, static_cast<uint64_t>(i)); });
        }
        if (t.dout_kept) copy(t.dout_kept, t.dout, stream);
        if (t.slopes) fill(t.slopes, stream, [&](int64_t h) { return slope(h, row.NH); });
        if (t.q_factors) fill(t.q_factors, stream, [&](int64_t i) { return factor(c, row, i, false); });
        if (t.k_factors) fill(t.k_factors, stream, [&](int64_t i) { return factor(c, row, i, true); });
        if (t.dense) make_dense(row);
        segments_ = {{0, row.N, 0, row.N, 0}};
        const AttentionTiles tiles = attention_tiles(segments_, 0);
        t.query_tiles = t.query_tiles.slice_rows(0, static_cast<int64_t>(tiles.query.size()));
        t.key_tiles = t.key_tiles.slice_rows(0, static_cast<int64_t>(tiles.key.size()));
        stream.upload(t.segment_rows, segments_.data());
        stream.upload(t.query_tiles, tiles.query.data());
        stream.upload(t.key_tiles, tiles.key.data());
        table_ = {segments_, t.segment_rows, t.query_tiles, t.key_tiles};
        in_ = {.q = t.q, .k = t.k, .v = t.v, .gate = t.gate, .slopes = t.slopes, .dense = t.dense};
        if (row.variant == Variant::factors) in_.q_factors = t.q_factors, in_.k_factors = t.k_factors;
        params_.scale = 1 / std::sqrt(static_cast<double>(row.HS));
    }
    void forward() { attention_forward(t.out, t.lse, in_, table_, params_, stream_); }
    // Before each backward, and not timed: what it adds to is zero, and what it uses up is new.
    void prepare() {
        for (const Tensor& x : {t.dk, t.dv, t.dk_factors})
            if (x) zero(x, stream_);
        if (t.dout_kept) copy(t.dout, t.dout_kept, stream_);
    }
    void backward() {
        AttentionGradients d{.dq = t.dq, .dk = t.dk, .dv = t.dv, .dgate = t.dgate};
        d.dq_factors = t.dq_factors, d.dk_factors = t.dk_factors;
        attention_backward(d, t.dout, t.out, t.lse, in_, {.delta = t.delta}, table_, params_, stream_);
    }
    std::vector<float> output() {
        HostCopy host(t.out, stream_);
        const float* numbers = host.download().tensor().as<float>();
        return {numbers, numbers + t.out.numel()};
    }
    AttentionBenchTensors t;

private:
    void make_dense(const AttentionBenchRow& row) {  // dense[h] = q_factors[:,h] k_factors[:,h]^T
        const int64_t wide = row.NH * row.R;
        for (int64_t h = 0; h < NH_; h++) {
            copy(t.k_factors_of_head, t.k_factors.view({row.N, wide}).slice_cols(h * row.R, row.R), stream_);
            const Tensor of_head = t.dense.slice_rows(h, 1);
            linear_forward(Tensor(of_head.data, of_head.dtype, {row.N, row.N}),
                           t.q_factors.view({row.N, wide}).slice_cols(h * row.R, row.R), t.k_factors_of_head, {}, stream_);
        }
    }
    Stream& stream_;
    int64_t NH_;
    std::vector<Segment> segments_;
    SegmentTable table_;
    AttentionInputs in_;
    AttentionParams params_;
};

// Median seconds of `work` on the same operands, after one run that is not counted; the host waits for each. `prepare` is not timed.
double seconds(const std::function<void()>& prepare, const std::function<void()>& work, const Stream& stream, double budget) {
    using Clock = std::chrono::steady_clock;
    prepare(), work();
    std::vector<double> times;
    double total = 0;
    while (times.size() < 3 || (total < budget && times.size() < 100)) {
        prepare();
        stream.synchronize();
        const auto start = Clock::now();
        work();
        stream.synchronize();
        times.push_back(std::chrono::duration<double>(Clock::now() - start).count()), total += times.back();
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    return times[times.size() / 2];
}

struct Measured {
    double forward = 0, both = 0, difference = -1;
};

}  // namespace

const char* AttentionBenchRow::name() const {
    switch (variant) {
        case Variant::none:
            return "none";
        case Variant::alibi:
            return "alibi";
        case Variant::factors:
            return "factors";
        case Variant::dense:
            return "dense";
        case Variant::headwise:
            return "headwise";
        case Variant::elementwise:
            return "elementwise";
    }
    return "";
}

int64_t AttentionBenchRow::extra_numbers() const {
    switch (variant) {
        case Variant::none:
            return 0;
        case Variant::alibi:
            return NH;
        case Variant::factors:
            return 2 * N * NH * R;
        case Variant::dense:
            return NH * N * N;
        case Variant::headwise:
            return N * NH;
        case Variant::elementwise:
            return N * NH * HS;
    }
    return 0;
}

int64_t AttentionBenchRow::extra_gradients() const {
    return variant == Variant::alibi || variant == Variant::dense ? 0 : extra_numbers();  // neither is trained
}

AttentionBenchTensors::AttentionBenchTensors(const AttentionBenchRow& row, Dtype type) {
    const int64_t N = row.N, NH = row.NH, HS = row.HS, R = row.R;
    const Dtype statistics = statistics_of(type);
    for (auto [tensor, name] :
         {std::pair{&q, "q"}, {&k, "k"}, {&v, "v"}, {&out, "out"}, {&dout, "dout"}, {&dq, "dq"}, {&dk, "dk"}, {&dv, "dv"}})
        arena.add(*tensor, name, type, {N, NH, HS});
    arena.add(lse, "lse", statistics, {N, NH}), arena.add(delta, "delta", statistics, {N, NH});
    const bool headwise = row.variant == Variant::headwise;
    if (headwise || row.variant == Variant::elementwise)
        arena.add(gate, "gate", type, {N, NH, headwise ? 1 : HS}), arena.add(dgate, "dgate", type, {N, NH, headwise ? 1 : HS}),
            arena.add(dout_kept, "dout_kept", type, {N, NH, HS});
    if (row.variant == Variant::alibi) arena.add(slopes, "slopes", statistics, {NH});
    if (has_factors(row.variant)) arena.add(q_factors, "q_factors", type, {N, NH, R}), arena.add(k_factors, "k_factors", type, {N, NH, R});
    if (row.variant == Variant::factors)
        arena.add(dq_factors, "dq_factors", type, {N, NH, R}), arena.add(dk_factors, "dk_factors", type, {N, NH, R});
    if (row.variant == Variant::dense)
        arena.add(dense, "dense", type, {NH, N, N}), arena.add(k_factors_of_head, "k_factors_of_head", type, {N, R});
    arena.add(segment_rows, "segments", Dtype::i64, {1, 5});
    arena.add(query_tiles, "query_tiles", Dtype::i32, {N, 5}), arena.add(key_tiles, "key_tiles", Dtype::i32, {N, 5});
}

int bench_attention_command(int argc, char** argv) {
    CLI::App app(
        "Attention with a bias or a gate beside attention with none: time of the forward and of forward and backward, and memory. The\n"
        "shapes are those that FlashBias (Wu et al. 2025) measures; all are causal, as this trainer is, and one document of N tokens "
        "long.\n"
        "A bias of rank R as factors takes 2 N NH R numbers, as a matrix NH N^2; a matrix that does not fit is left out. `differs`: the\n"
        "largest difference of the output from that of the same bias as factors. `allocated`: all\n"
        "tensors of the row, and what they were made of. Operands are the same in every repetition (warm).\n"
        "Examples:  ./train bench attention --list\n"
        "           ./train bench attention --case plain --n 1024,4096 --rank 16\n"
        "           ./train bench attention --case gated --device cuda --json gated.json",
        "./train bench attention");
    std::string name = "plain", sizes, ranks, only, json_file, device = "auto", precision = "auto", kernel = "auto";
    int64_t heads = 0;
    int threads = 0;
    double budget = 0.3;
    bool list = false;
    app.add_flag("--list", list, "name the cases");
    app.add_option("--case", name, "which shapes [plain]");
    app.add_option("--n", sizes, "tokens, separated by commas; [the case's; on a CPU fewer]");
    app.add_option("--heads", heads, "query heads, and key heads; 0 = the case's")->check(CLI::Range(0, 1024));
    app.add_option("--rank", ranks, "ranks of the factors, separated by commas, of --case plain [8,16,32,64]");
    app.add_option("--variants", only, "some of the case's variants, separated by commas; none, to compare with, is always measured");
    app.add_option("--seconds", budget, "how long to repeat each measurement [0.3]")->check(CLI::Range(0.0, 60.0));
    add_device_options(app, device, precision);
    app.add_option("--attention-kernel", kernel, "auto, simple, tiled or hopper, as in training [auto]")
        ->check(CLI::IsMember({"auto", "simple", "tiled", "hopper"}));
    app.add_option("--threads", threads, "CPU threads; 0 = all")->check(CLI::Range(0, 4096));
    app.add_option("--json", json_file, "write the table as JSON");
    if (!parse_command_line(app, argc, argv)) return 0;
    if (list) {
        for (const Case& c : cases()) std::printf("%-12s %s\n", c.name, c.what);
        return 0;
    }
    const Case& c = case_named(name);
    if (!ranks.empty() && name != "plain") throw Error(ExitCode::usage, "--rank: the bias of this case has its own rank", "leave it out");
    const std::vector<int64_t> asked_sizes = sizes_of(sizes, "--n"), asked_ranks = sizes_of(ranks, "--rank");
    for (int64_t R : asked_ranks)
        if (R > 256) throw Error(ExitCode::usage, "--rank: factors have at most 256 columns", "give smaller ranks");
    std::vector<std::string> wanted;
    std::stringstream words(only);
    for (std::string word; std::getline(words, word, ',');) {
        if (std::none_of(c.variants.begin(), c.variants.end(), [&](Variant v) { return word == AttentionBenchRow{v}.name(); }))
            throw Error(ExitCode::usage, format("--variants: case %s has no '%s'", c.name, word.c_str()),
                        "see ./train bench attention --list");
        wanted.push_back(word);
    }

    Options processor;
    processor.threads = threads, processor.attention_kernel = kernel;
    use_processor(processor);
    Stream stream = open_stream(device, precision);
    const Dtype type = precision == "bf16" ? Dtype::bf16 : Dtype::f32;
    std::printf("%s: %s. Causal, %s\n", c.name, c.what, name_of(type));
    std::printf("%7s %5s %-12s %11s %6s %11s %6s %11s %11s %9s\n", "N", "R", "variant", "forward", "x none", "and back", "x none",
                "its memory", "allocated", "differs");
    Json json = {{"case", c.name},
                 {"device", stream.on_gpu() ? "cuda" : "cpu"},
                 {"dtype", name_of(type)},
                 {"causal", true},
                 {"rows", Json::array()}};
    for (int64_t N : !asked_sizes.empty() ? asked_sizes : stream.on_gpu() ? c.sizes_gpu : c.sizes_cpu) {
        Measured none;
        for (int64_t R : asked_ranks.empty() ? c.ranks : asked_ranks) {
            std::vector<float> reference;  // the output with factors
            for (Variant variant : c.variants) {
                AttentionBenchRow row{variant, N, heads ? heads : c.NH, c.HS, R};
                if (variant == Variant::none && none.forward > 0) continue;  // the same for every rank
                if (variant != Variant::none && !wanted.empty() && std::find(wanted.begin(), wanted.end(), row.name()) == wanted.end())
                    continue;
                const bool ranked = has_factors(variant);
                const int64_t size = variant == Variant::alibi ? size_of(statistics_of(type)) : size_of(type);
                const int64_t bytes = (row.extra_numbers() + row.extra_gradients()) * size;
                const int64_t allocated = AttentionBenchTensors(row, type).arena.bytes(), available = available_memory(stream);
                Json line = {{"n", N},
                             {"heads", row.NH},
                             {"head_size", row.HS},
                             {"rank", ranked ? Json(R) : Json()},
                             {"variant", row.name()},
                             {"bytes", bytes},
                             {"allocated_bytes", allocated}};
                std::printf("%7lld %5s %-12s ", static_cast<long long>(N), ranked ? std::to_string(R).c_str() : "-", row.name());
                if (available > 0 && allocated > available) {
                    std::printf("left out: it takes %s, %s are available\n", human_bytes(allocated).c_str(),
                                human_bytes(available).c_str());
                    line["left_out"] = true, json["rows"].push_back(line);
                    continue;
                }
                Problem problem(c, row, type, stream);
                Measured m;
                m.forward = seconds([] {}, [&] { problem.forward(); }, stream, budget);
                if (variant == Variant::factors) reference = problem.output();
                if (variant == Variant::dense && !reference.empty()) {
                    const std::vector<float> out = problem.output();
                    m.difference = 0;
                    for (size_t i = 0; i < out.size(); i++) {
                        const double d = std::abs(static_cast<double>(out[i]) - static_cast<double>(reference[i]));
                        if (!(d <= m.difference)) m.difference = d;  // a NaN stays
                    }
                }
                m.both = seconds([&] { problem.prepare(); }, [&] { problem.forward(), problem.backward(); }, stream, budget);
                if (variant == Variant::none) none = m;
                std::printf("%11s %6.2f %11s %6.2f %11s %11s %9s\n", milliseconds(1e3 * m.forward).c_str(), m.forward / none.forward,
                            milliseconds(1e3 * m.both).c_str(), m.both / none.both, human_bytes(bytes).c_str(),
                            human_bytes(allocated).c_str(),
                            variant == Variant::dense && !reference.empty() ? format("%.1e", m.difference).c_str() : "-");
                std::fflush(stdout);
                line["forward_seconds"] = m.forward, line["forward_backward_seconds"] = m.both;
                line["forward_ratio"] = m.forward / none.forward, line["forward_backward_ratio"] = m.both / none.both;
                if (variant == Variant::dense && !reference.empty()) line["difference"] = m.difference;
                json["rows"].push_back(line);
            }
        }
    }
    if (!json_file.empty()) write_whole_file(json_file, json.dump(1) + "\n");
    return 0;
}

}  // namespace traincu
