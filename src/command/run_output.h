// What a training run tells before its first step and after its last.
#pragma once

#include <string>

#include "src/command/run_memory.h"
#include "src/data/loader.h"
#include "src/data/tokenizer.h"
#include "src/parallel/mesh.h"

namespace traincu {

// What each class of weights is stored in and takes, and the activations.
std::string precision_table(const RunMemory& memory);

// Every option, the account of memory, and the sizes of model and data.
std::string run_tables(const Options& options, const RunMemory& memory, const Loader& data);

// What run.json tells beside the options: parameters, ranks, engine, memory by arena.
nlohmann::ordered_json run_facts(const RunMemory& memory, const Mesh& mesh, const Stream& stream, int threads, const std::string& machine);

// What the model writes after --prompt: the same text for the same weights and --seed.
std::string sample_text(Generator& generator, const Tokenizer& tokenizer, const Options& options, Stream& stream);

// report.html in the run's folder. The report is worth a warning, not a run: everything else is safe on disk by now.
void write_run_report(const std::string& run_directory);

}  // namespace traincu
