// ./train export: a model, written for other programs.
#include <unistd.h>

#include <cstdio>

#include "src/checkpoint/export.h"
#include "src/command/commands.h"
#include "src/command/parse.h"

namespace traincu {

int export_command(int argc, char** argv) {
    CLI::App app(
        "Writes a model for other programs: a folder that transformers, lm-eval and others load as it is, or one file for llm.c.\n"
        "Nothing that only training needs goes with it. Weights keep the type they have, unless --dtype names another.\n"
        "Examples:  ./train export --model runs/demo --out demo_hf --dtype bfloat16\n"
        "           ./train export --model gpt2 --out gpt2.bin --format llmc",
        "./train export");
    std::string model, out, format_name = "huggingface", dtype;
    ExportOptions options;
    app.add_option("--model,-e", model, "a run, a checkpoint, a folder from Hugging Face, or llm.c's .bin")->required();
    app.add_option("--out,-o", out, "the folder to write; with --format llmc the file")->required();
    app.add_option("--format", format_name, "huggingface or llmc")->check(CLI::IsMember({"huggingface", "llmc"}));
    app.add_option("--dtype", dtype, "float32, bfloat16 or float16, rounded to the nearest; default: as the weights are")
        ->check(CLI::IsMember({"float32", "bfloat16", "float16"}));
    app.add_flag("--force", options.replace, "replace an older export at --out");
    if (!parse_command_line(app, argc, argv)) return 0;

    if (dtype == "float32") options.type = StoredType::F32;
    if (dtype == "bfloat16") options.type = StoredType::BF16;
    if (dtype == "float16") options.type = StoredType::F16;
    const bool show = isatty(STDERR_FILENO);
    if (show)
        options.progress = [](int64_t done, int64_t of) {
            std::fprintf(stderr, "\r%lld of %lld tensors%s", static_cast<long long>(done), static_cast<long long>(of),
                         done == of ? "\n" : "");
        };
    RealIo io;
    const ModelOnDisk found = find_model(model);
    if (format_name == "llmc")
        export_llmc(io, found, out, options);
    else
        export_huggingface(io, found, out, options);
    std::printf("wrote %s: %s, %lld parameters\n", out.c_str(), family_of(found.config).c_str(),
                static_cast<long long>(make_param_table(found.config).count()));
    return 0;
}

}  // namespace traincu
