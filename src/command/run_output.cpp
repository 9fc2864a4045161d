#include "src/command/run_output.h"

#include <cstdio>

#include "kernels/matmul.h"
#include "src/model/flops.h"
#include "src/plan/memory.h"
#include "src/report/console.h"
#include "src/report/html.h"

namespace traincu {

std::string precision_table(const RunMemory& memory) {
    const WeightStore& store = memory.weights;
    const Precision& precision = store.door.precision();
    const Optimizer& optimizer = memory.optimizer;
    std::vector<TableRow> rows;
    for (int c = 0; c < n_weight_classes; c++) {
        const WeightClass weight_class = static_cast<WeightClass>(c);
        int64_t parameters = 0, beside = 0;
        for (const ParamRow& row : store.table.rows) {
            if (row.weight_class != weight_class) continue;
            parameters += row.used_numel();
            beside = row.kept_at >= 0 ? size_of(optimizer.kept().dtype) : 0;
        }
        if (parameters == 0) continue;
        const Dtype stored = precision.stored_in(weight_class);
        const int64_t weight = size_of(stored), gradient = size_of(statistics_of(precision.compute)),
                      moments = 2 * size_of(optimizer.m().dtype);
        std::string value = format("%14s  %-4s  %2lld bytes each: weight %lld", with_commas(parameters).c_str(), name_of(stored),
                                   static_cast<long long>(weight + beside + gradient + moments), static_cast<long long>(weight));
        if (beside > 0)
            value += format(", %s %lld", precision.beside == Beside::lower_half ? "half" : "master", static_cast<long long>(beside));
        value += format(", gradient %lld, moments %lld", static_cast<long long>(gradient), static_cast<long long>(moments));
        rows.push_back({"", name_of(weight_class), value});
    }
    const int64_t tokens = memory.trainer.model.options().max_tokens;
    for (const auto& [name, arena] : {std::pair{"activations", &memory.trainer.activations}, std::pair{"scratch", &memory.trainer.scratch}})
        rows.push_back({"", name,
                        format("%14s  %-4s  %s a token of a micro-batch", "", name_of(precision.compute),
                               human_bytes(arena->bytes() / tokens).c_str())});
    return table("Precision", rows);
}

std::string run_tables(const Options& options, const RunMemory& memory, const Loader& data) {
    std::vector<TableRow> rows;
    for (const auto& [group, name, value] : options_as_text(options)) rows.push_back({group, name, value});
    return table("Options", rows) + "\n" + precision_table(memory) + "\n" + memory_table(memory.arenas()) + "\n" +
           format("%s parameters, %.3g FLOPs a token; %s training tokens, %s samples an epoch",
                  with_commas(memory.weights.table.count()).c_str(), training_flops_per_token(memory.weights.config, options.seq_len),
                  with_commas(data.total_tokens()).c_str(), with_commas(data.samples_per_epoch()).c_str());
}

nlohmann::ordered_json run_facts(const RunMemory& memory, const Mesh& mesh, const Stream& stream, int threads, const std::string& machine) {
    return {{"parameters", memory.weights.table.count()},
            {"gemm_engine", gemm_engine_name(stream.device(), memory.weights.dtype)},
            {"threads", threads},
            {"ranks", mesh.size()},
            {"nodes", mesh.nodes()},
            {"transport", mesh.transport()},
            {"machine", machine},
            {"memory", memory_json(memory.arenas())}};
}

std::string sample_text(Generator& generator, const Tokenizer& tokenizer, const Options& options, Stream& stream) {
    std::vector<int32_t> prompt = tokenizer.encode(options.prompt);
    prompt.insert(prompt.begin(), tokenizer.eot());
    SamplingOptions sampling;
    sampling.temperature = 0.8, sampling.vocab_size = tokenizer.vocab_size();
    const auto ids =
        generator.run(prompt, options.sample_tokens, sampling, static_cast<uint64_t>(options.seed), tokenizer.eot(), {}, stream);
    return options.prompt + tokenizer.decode(ids);
}

void write_run_report(const std::string& run_directory) {
    const std::string page = run_directory + "/report.html";
    try {
        write_report({run_directory}, {}, 0.02, page);
        std::printf("report: %s\n", page.c_str());
    } catch (const Error& error) {
        std::fprintf(stderr, "warning: %s\n", error.what());
    }
}

}  // namespace traincu
