// ./train bench: every kernel of the engine beside what this machine could do at best.
#include <algorithm>
#include <cstdio>
#include <sstream>

#include "kernels/matmul.h"
#include "src/base/files.h"
#include "src/command/commands.h"
#include "src/command/parse.h"
#include "src/command/run_setup.h"
#include "src/plan/rates.h"
#include "src/report/console.h"

namespace traincu {

namespace {

using Json = nlohmann::ordered_json;

struct Row {
    KernelCall call;     // of the size that was timed
    std::string engine;  // of a matrix product
    double seconds;
};

// The larger of two times that no kernel can beat: its FLOPs at the peak, its bytes at the memory's bandwidth.
struct Roof {
    double seconds;
    bool arithmetic;
    Roof(const KernelCall& call, const Machine& machine) {
        const double peak = machine.threads > 0 ? machine.fma_peak : machine.matmul_peak;  // on a GPU what products reach
        const double flops = call.flops() / peak, bytes = call.bytes(machine.dtype) / machine.bandwidth;
        seconds = std::max(flops, bytes), arithmetic = flops > bytes;
    }
};

// One training step's calls, each shape once.
std::vector<KernelCall> calls_of_preset(const std::string& preset, int64_t batch_size, int64_t seq_len, const std::string& precision) {
    std::vector<std::string> words = {"./train", "--preset", preset, "--precision", precision};
    if (batch_size > 0) words.insert(words.end(), {"--batch-size", std::to_string(batch_size)});
    if (seq_len > 0) words.insert(words.end(), {"--seq-len", std::to_string(seq_len)});
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    Options o = parse_options(static_cast<int>(pointers.size()), pointers.data());
    if (o.vocab_size == 0) o.vocab_size = 257;  // bytes
    o.total_batch_tokens = o.batch_size * o.seq_len;
    const StepShape shape = step_shape(o);
    std::vector<KernelCall> calls;
    for (const Instruction& i : training_schedule(shape.n_parts(), 1, false))
        for (const KernelCall& call : kernel_calls(shape, i)) {
            if (std::none_of(calls.begin(), calls.end(), [&](const KernelCall& other) { return other.same_shape(call); }))
                calls.push_back(call);
        }
    std::stable_sort(calls.begin(), calls.end(), [](auto& a, auto& b) { return a.kernel < b.kernel; });
    return calls;
}

std::string ops_text() {
    std::string text;
    for (const KernelInfo& k : kernel_table())
        if (text.find(k.op) == std::string::npos) text += std::string(text.empty() ? "" : " ") + k.op;
    return text;
}

// "4096,768,3072" for every pass of an operation. Inputs that may be absent are there unless the shape says 0.
std::vector<KernelCall> calls_of_shape(const std::string& op, const std::string& shape) {
    std::vector<int64_t> given;
    std::stringstream parts(shape);
    for (std::string part; std::getline(parts, part, ',');) {
        const bool digits = !part.empty() && part.size() < 12 && part.find_first_not_of("0123456789") == std::string::npos;
        if (!digits) throw Error(ExitCode::usage, format("--shape: '%s' is not a whole number", part.c_str()), "write it as 4096,768,3072");
        given.push_back(std::stoll(part));
    }
    std::vector<KernelCall> calls;
    for (const KernelInfo& k : kernel_table()) {
        if (k.op != op) continue;
        KernelCall call{k.kernel};
        std::string names;
        size_t needed = 0;
        for (size_t i = 0; i < k.n_sizes(); i++) {
            const bool is_flag = std::string(k.size_names[i]).back() == '?';
            names += std::string(i ? "," : "") + k.size_names[i];
            if (!is_flag) needed = i + 1;
            call.sizes[i] = i < given.size() ? given[i] : 1;
            if (call.sizes[i] < (is_flag ? 0 : 1) || (is_flag && call.sizes[i] > 1) || call.sizes[i] > int64_t{1} << 31)
                throw Error(ExitCode::usage, format("--shape: %s cannot be %lld", k.size_names[i], static_cast<long long>(call.sizes[i])),
                            "sizes are at least 1 and at most 2^31; those with a question mark 0 or 1");
        }
        if (given.size() < needed || given.size() > max_sizes)
            throw Error(ExitCode::usage, format("--shape of %s has %zu numbers", k.name().c_str(), given.size()), "give " + names);
        const bool has_heads = op == "attention" || op == "rope";
        if (has_heads && call.sizes[1] % call.sizes[2] != 0) throw Error(ExitCode::usage, "--shape: NKV must divide NH", "give " + names);
        if (op == "attention" && call.sizes[0] % call.sizes[4] != 0)
            throw Error(ExitCode::usage, "--shape: T must be a multiple of the context", "give " + names);
        if (op == "rope" && call.sizes[5] && call.sizes[3] % 2 != 0)
            throw Error(ExitCode::usage, "--shape: rotation needs an even HS", "give " + names);
        calls.push_back(call);
    }
    return calls;
}

void print_header(const Machine& m) {
    if (m.threads == 0) {
        std::printf("%s, %s: matrix products by %s %.1f TFLOP/s%s, memory %.0f GB/s, measured now\n", m.name.c_str(), name_of(m.dtype),
                    m.gemm_engine.c_str(), m.matmul_peak / 1e12,
                    m.fma_peak > 0 ? format(" (%.0f on paper)", m.fma_peak / 1e12).c_str() : "", m.bandwidth / 1e9);
        std::printf("roof: the share of what the binding limit of these two allows\n");
        return;
    }
    std::printf("%s, %d threads: multiply-add peak %.0f GFLOP/s, matrix products %.0f GFLOP/s, memory %.1f GB/s\n", m.name.c_str(),
                m.threads, m.fma_peak / 1e9, m.matmul_peak / 1e9, m.bandwidth / 1e9);
    std::printf("roof: the share of what the binding limit (peak or memory) allows; above 100 %% where operands come from the cache\n");
}

void print_row(const Row& row, const Machine& machine) {
    const Roof roof(row.call, machine);
    std::string name = info(row.call.kernel).name();
    if (!row.engine.empty()) name += " (" + row.engine + ")";
    std::printf("  %-24s %-14s %10s %7.1f %6.1f  %4.0f %% %-6s  %s\n", name.c_str(), row.call.what.substr(0, 14).c_str(),
                milliseconds(1e3 * row.seconds).c_str(), row.call.flops() / row.seconds / 1e9,
                row.call.bytes(machine.dtype) / row.seconds / 1e9, 100 * roof.seconds / row.seconds, roof.arithmetic ? "peak" : "memory",
                row.call.shape_text().c_str());
    std::fflush(stdout);
}

// Times the calls and prints a line for each. Matrix products are timed with both engines where there are two.
std::vector<Row> bench(const std::string& title, const std::vector<KernelCall>& calls, Rates& rates) {
    std::printf("\n%s\n  %-24s %-14s %10s %7s %6s  %6s %-6s  %s\n", title.c_str(), "kernel", "layer", "time", "GFLOP/s", "GB/s", "roof",
                "limit", "shape that was timed");
    std::vector<Row> rows;
    const std::string library = rates.machine().gemm_engine.starts_with("own") ? "" : rates.machine().gemm_engine;
    for (const KernelCall& call : calls) {
        const KernelCall timed = rates.timer().of_timed_size(call);
        const bool product = std::string(info(call.kernel).op) == "matmul";
        rows.push_back({timed, product ? library.substr(0, library.find(' ')) : "", rates.seconds(timed)});
        print_row(rows.back(), rates.machine());
        if (!product || library.empty()) continue;
        set_gemm_engine(GemmEngine::own);
        rows.push_back({timed, "own", rates.timer().seconds(timed)});
        set_gemm_engine(GemmEngine::automatic);
        print_row(rows.back(), rates.machine());
    }
    return rows;
}

Json rows_json(const std::string& title, const std::vector<Row>& rows, const Machine& machine) {
    Json list = Json::array();
    for (const Row& row : rows) {
        const Roof roof(row.call, machine);
        list.push_back({{"kernel", info(row.call.kernel).name()},
                        {"engine", row.engine},
                        {"layer", row.call.what},
                        {"shape", row.call.shape_text()},
                        {"seconds", row.seconds},
                        {"flops", row.call.flops()},
                        {"bytes", row.call.bytes(machine.dtype)},
                        {"roof_seconds", roof.seconds},
                        {"limit", roof.arithmetic ? "peak" : "memory"}});
    }
    return {{"shapes", title}, {"rows", list}};
}

}  // namespace

int bench_command(int argc, char** argv) {
    if (argc > 0 && std::string(argv[0]) == "attention") return bench_attention_command(argc - 1, argv + 1);
    CLI::App app(
        "Times every kernel at the shapes of a model's training step, beside the limits of this machine, measured in the same run.\n"
        "On a CPU: the multiply-add peak (a loop on registers) and the memory's bandwidth (a triad over arrays of 64 MiB). On a GPU: the\n"
        "fastest matrix product and the bandwidth of copies. FLOPs and bytes are those of the kernels' headers. Operands are cold: each\n"
        "repetition gets others, in turn through 192 MiB (on a GPU up to 8 GiB). Large shapes are cut to a size that takes milliseconds.\n"
        "Examples:  ./train bench                                           the shapes of demo and gpt2-124m, in under a minute\n"
        "           ./train bench --preset qwen3-0.6b --only attention\n"
        "           ./train bench --only matmul --shape 4096,768,3072       rows, inputs, outputs of a linear layer\n"
        "           ./train bench --only quantize --shape 2048,4            what ranks send: groups of 2048 numbers, messages\n"
        "           ./train bench --device cuda --save this-card.json       for ./train plan --rates on a machine without it\n"
        "./train bench attention: biases and gates of attention beside attention with none, see ./train bench attention --help",
        "./train bench");
    std::string presets = "demo,gpt2-124m", only, shape, save_file, json_file;
    int64_t batch_size = 0, seq_len = 0;
    std::string device = "auto", precision = "auto";
    int threads = 0;
    auto* preset_option = app.add_option("--preset", presets, "whose shapes, separated by commas [demo,gpt2-124m]");
    app.add_option("--batch-size,-b", batch_size, "rows of a micro-batch; 0 = the preset's")->check(CLI::Range(0, 1 << 20));
    app.add_option("--seq-len,-t", seq_len, "tokens of a row; 0 = the preset's")->check(CLI::Range(0, 1 << 24));
    app.add_option("--only", only, "one operation: " + ops_text());
    app.add_option("--shape", shape, "sizes for --only, separated by commas")->excludes(preset_option);
    add_device_options(app, device, precision);
    app.add_option("--threads", threads, "CPU threads; 0 = all")->check(CLI::Range(0, 4096));
    app.add_option("--save", save_file, "write the times for ./train plan --rates");
    app.add_option("--json", json_file, "write the table as JSON");
    if (!parse_command_line(app, argc, argv)) return 0;
    const auto& kernels = kernel_table();
    if (!only.empty() && std::none_of(kernels.begin(), kernels.end(), [&](auto& k) { return k.op == only; }))
        throw Error(ExitCode::usage, format("--only: there is no operation '%s'", only.c_str()), "choose one of " + ops_text());
    if (!shape.empty() && only.empty()) throw Error(ExitCode::usage, "--shape needs --only", "say which operation has this shape");

    Options processor;
    processor.threads = threads;
    use_processor(processor);
    Stream stream = open_stream(device, precision);  // settles auto, which the presets need
    std::vector<std::pair<std::string, std::vector<KernelCall>>> tables;
    if (!shape.empty()) {
        tables.push_back({only + " " + shape, calls_of_shape(only, shape)});
    } else {
        std::stringstream names(presets);
        for (std::string name; std::getline(names, name, ',');) {
            std::vector<KernelCall> calls = calls_of_preset(name, batch_size, seq_len, precision);
            if (!only.empty()) std::erase_if(calls, [&](const KernelCall& call) { return info(call.kernel).op != only; });
            tables.push_back({name, calls});
        }
    }
    Rates rates(this_machine(stream, precision == "bf16" ? Dtype::bf16 : Dtype::f32, true), KernelTimer::pool_bytes(stream), stream);
    print_header(rates.machine());
    Json json = {{"machine", rates.machine().name},
                 {"threads", rates.machine().threads},
                 {"dtype", name_of(rates.machine().dtype)},
                 {"fma_peak", rates.machine().fma_peak},
                 {"matmul_peak", rates.machine().matmul_peak},
                 {"bandwidth", rates.machine().bandwidth},
                 {"tables", Json::array()}};
    for (const auto& [title, calls] : tables) json["tables"].push_back(rows_json(title, bench(title, calls, rates), rates.machine()));
    if (!json_file.empty()) write_whole_file(json_file, json.dump(1) + "\n");
    if (!save_file.empty()) rates.save(save_file);
    return 0;
}

}  // namespace traincu
