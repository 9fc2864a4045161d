// ./train eval: how well a model predicts held-out text.
#include <cstdio>

#include <cmath>

#include "src/base/process.h"
#include "src/checkpoint/formats.h"
#include "src/command/commands.h"
#include "src/command/evaluation.h"
#include "src/command/parse.h"
#include "src/data/shard.h"
#include "src/plan/memory.h"
#include "src/report/console.h"

namespace traincu {

int eval_command(int argc, char** argv) {
    CLI::App app(
        "Loss, perplexity and bits per byte of a model on token shards.\n"
        "Example: ./train eval --model runs/demo --data 'corpora/bible_val_*.bin'",
        "./train eval");
    std::string model, data, packing = "stream";
    int64_t seq_len = 0, batch_size = 8, max_tokens = 0;
    int threads = 0;
    app.add_option("--model,-e", model, "run directory, checkpoint directory, model.safetensors, or llm.c's .bin")->required();
    app.add_option("--data,-j", data, "token shards: files, globs in quotes, or a folder")->required();
    app.add_option("--seq-len,-t", seq_len, "tokens of context; 0 = as in training")->check(CLI::NonNegativeNumber);
    app.add_option("--batch-size,-b", batch_size, "rows at a time")->check(CLI::PositiveNumber);
    app.add_option("--max-tokens", max_tokens, "stop after so many; 0 = all")->check(CLI::NonNegativeNumber);
    app.add_option("--packing", packing, "stream or documents, as in training")->check(CLI::IsMember({"stream", "documents"}));
    app.add_option("--threads", threads, "CPU threads; 0 = all")->check(CLI::NonNegativeNumber);
    if (!parse_command_line(app, argc, argv)) return 0;

    Stream stream;
    set_threads(threads);
    const ModelOnDisk found = find_model(model);
    const ModelConfig& config = found.config;
    if (seq_len == 0) seq_len = found.trained_context();
    config.check_context(seq_len, "--seq-len");
    LoaderConfig loader_config;
    loader_config.shards = expand_glob(data);
    loader_config.seq_len = seq_len, loader_config.rows_per_micro_batch = loader_config.rows_per_step = batch_size;
    loader_config.packing = packing == "documents" ? LoaderConfig::Packing::documents : LoaderConfig::Packing::stream;
    loader_config.vocab_size = config.vocab_size;
    Loader loader(loader_config);
    auto tokenizer = tokenizer_of_kind(Shard(loader_config.shards[0]).header().tokenizer);

    WeightStore weights(config, Dtype::f32, false);
    Evaluator evaluator(weights, batch_size, seq_len, tokenizer.get());
    check_fits({&weights.weights, &evaluator.instance().activations, &evaluator.instance().scratch});
    weights.allocate();
    evaluator.allocate();
    load_model(found, weights.table, weights.door.flat_weights());
    Evaluation result = evaluator.run(loader, max_tokens, stream);
    std::printf("tokens          %s\n", with_commas(result.tokens).c_str());
    std::printf("loss            %.5f nats per token\n", result.loss());
    std::printf("perplexity      %.4f\n", std::exp(result.loss()));
    if (result.bytes > 0)
        std::printf("text            %.5f nats per byte, %.5f bits per byte\n", result.nats_per_byte(), result.bits_per_byte());
    return 0;
}

}  // namespace traincu
