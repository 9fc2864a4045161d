#include "src/command/commands.h"

namespace traincu {

const std::map<std::string, int (*)(int, char**)>& commands() {
    static const std::map<std::string, int (*)(int, char**)> table = {
        {"tokenize", tokenize_command},
        {"generate", generate_command},
        {"eval", eval_command},
        {"export", export_command},
        {"inspect", inspect_command},
        {"report", report_command},
        {"plan", plan_command},
        {"simulate", simulate_command},
        {"bench", bench_command},
        {"verify-determinism", verify_determinism_command},
        {"compare-numerics", compare_numerics_command},
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
