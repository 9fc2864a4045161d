#include "src/command/run_output.h"

#include <cstdio>

#include "src/model/flops.h"
#include "src/report/console.h"
#include "src/report/html.h"

namespace traincu {

std::string run_tables(const Options& options, const RunMemory& memory, const Loader& data) {
    std::vector<TableRow> rows;
    for (const auto& [group, name, value] : options_as_text(options)) rows.push_back({group, name, value});
    return table("Options", rows) + "\n" + memory_table(memory.arenas()) + "\n" +
           format("%s parameters, %.3g FLOPs a token; %s training tokens, %s samples an epoch",
                  with_commas(memory.weights.table.count()).c_str(), training_flops_per_token(memory.weights.config, options.seq_len),
                  with_commas(data.total_tokens()).c_str(), with_commas(data.samples_per_epoch()).c_str());
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
