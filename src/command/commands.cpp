#include "src/command/commands.h"

namespace traincu {

// A command that is one process, whoever started it.
template <int (*command)(int, char**)>
static int alone(int argc, char** argv, Mesh&) {
    return command(argc, argv);
}

const std::map<std::string, int (*)(int, char**, Mesh&)>& commands() {
    static const std::map<std::string, int (*)(int, char**, Mesh&)> table = {
        {"tokenize", alone<tokenize_command>},
        {"generate", alone<generate_command>},
        {"eval", alone<eval_command>},
        {"export", alone<export_command>},
        {"inspect", alone<inspect_command>},
        {"report", alone<report_command>},
        {"plan", alone<plan_command>},
        {"simulate", alone<simulate_command>},
        {"bench", alone<bench_command>},
        {"verify-determinism", verify_determinism_command},
        {"compare-numerics", alone<compare_numerics_command>},
    };
    return table;
}

const char* const examples =
    "train.cu pretrains language models, from text to a finished checkpoint.\n\n"
    "  ./train tokenize book.txt --out corpora/book                                     text to token shards\n"
    "  ./train --preset demo --data 'corpora/book_train_*.bin' --out runs/book          shards to a model\n"
    "  ./train generate --model runs/book --prompt 'Once upon a time'                   a model to text\n\n"
    "make demo does all three on real text. ./train --help lists every option; others: plan, simulate, eval, export, inspect, report,\n"
    "bench, verify-determinism, compare-numerics.\n";

}  // namespace traincu
