// ./train generate: a prompt, continued by a model.
#include <chrono>
#include <cstdio>

#include "src/base/process.h"
#include "src/checkpoint/formats.h"
#include "src/command/commands.h"
#include "src/command/generation.h"
#include "src/command/parse.h"
#include "src/command/run_setup.h"
#include "src/data/tokenizer.h"
#include "src/data/utf8.h"
#include "src/plan/memory.h"

namespace traincu {

int generate_command(int argc, char** argv) {
    CLI::App app(
        "Continues a prompt with a trained model.\n"
        "Example: ./train generate --model runs/demo --prompt 'In the beginning' --tokens 400 --temperature 0.8",
        "./train generate");
    std::string model, prompt, tokenizer_name;
    int64_t tokens = 256, samples = 1, seed = 1337, context = 0;
    SamplingOptions sampling;
    std::string device = "auto", precision = "auto";
    int threads = 0;
    bool go_on = false;
    app.add_option("--model,-e", model, "a run, a checkpoint, a folder from Hugging Face, or llm.c's .bin")->required();
    app.add_option("--prompt", prompt, "text to continue; empty = the beginning of a document");
    app.add_option("--tokens", tokens, "how many to generate [256]")->check(CLI::PositiveNumber);
    app.add_option("--samples", samples, "how many continuations [1]")->check(CLI::PositiveNumber);
    app.add_option("--temperature", sampling.temperature, "below 1: safer, above: wilder; 0 = always the most probable token [1]")
        ->check(CLI::Range(0.0, 100.0));
    app.add_option("--top-k", sampling.top_k, "choose among the k most probable tokens; 0 = all")->check(CLI::NonNegativeNumber);
    app.add_option("--top-p", sampling.top_p, "and among the fewest that hold this share of the probability [1]")
        ->check(CLI::Range(0.0, 1.0));
    app.add_option("--seed", seed, "the same seed gives the same text, on the same device [1337]")->check(CLI::NonNegativeNumber);
    app.add_option("--context", context, "tokens to look back on; 0 = as in training")->check(CLI::NonNegativeNumber);
    app.add_option("--tokenizer", tokenizer_name, "bytes, a tokenizer.json, or a folder that holds one; default: the one beside the model");
    app.add_flag("--ignore-end-of-text", go_on, "go on where the model ends its text");
    add_device_options(app, device, precision);
    app.add_option("--threads", threads, "CPU threads; 0 = all")->check(CLI::NonNegativeNumber);
    if (!parse_command_line(app, argc, argv)) return 0;

    set_threads(threads);
    Stream stream = open_stream(device, precision);
    const ModelOnDisk found = find_model(model);
    const ModelConfig& config = found.config;
    auto tokenizer = tokenizer_name.empty() ? tokenizer_of_model(found) : open_tokenizer(tokenizer_name);
    if (!tokenizer)
        throw Error(ExitCode::usage, format("%s does not say how its tokens become text", model.c_str()),
                    "give --tokenizer: bytes, a tokenizer.json, or a folder that holds one")
            .file(model);
    check_vocab_size(*tokenizer, config.vocab_size);
    if (context == 0) context = found.trained_context();
    config.check_context(context, "--context");

    WeightStore weights(config, precision_named(precision), false);
    Generator generator(weights, context);
    check_fits({&weights.weights, &generator.instance().activations, &generator.instance().scratch}, available_memory(stream));
    weights.allocate(stream);
    generator.allocate(stream);
    load_weights(found, weights, stream);

    sampling.vocab_size = tokenizer->vocab_size();
    std::vector<int32_t> ids = tokenizer->encode(prompt);
    ids.insert(ids.begin(), tokenizer->eot());  // a document begins with end-of-text, in training too
    const int32_t stop = go_on ? -1 : tokenizer->eot();
    int64_t generated = 0;
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t s = 0; s < samples; s++) {
        if (samples > 1) std::printf("--- sample %lld\n", static_cast<long long>(s + 1));
        std::printf("%s", prompt.c_str());
        std::string pending;  // a character that waits for its last bytes: a token may end inside one
        auto print = [&](int32_t id) {
            pending += tokenizer->decode(std::span(&id, 1));
            const size_t whole = pending.size() - unfinished_utf8(pending);
            std::fwrite(pending.data(), 1, whole, stdout);
            std::fflush(stdout);
            pending.erase(0, whole);
        };
        generated +=
            static_cast<int64_t>(generator.run(ids, tokens, sampling, static_cast<uint64_t>(seed + s), stop, print, stream).size());
        std::printf("%s\n", pending.c_str());
    }
    std::fflush(stdout);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::fprintf(stderr, "%lld tokens, %.0f tokens/s\n", static_cast<long long>(generated), static_cast<double>(generated) / seconds);
    return 0;
}

}  // namespace traincu
