// How every command reads its arguments: CLI11 parses; --help goes to stdout, a mistake becomes an Error(usage).
#pragma once

#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "src/base/error.h"

namespace traincu {

// False: the user asked for --help and it was printed; the command is done.
inline bool parse_command_line(CLI::App& app, int argc, char** argv) {
    try {
        app.parse(std::vector<std::string>(std::make_reverse_iterator(argv + argc),
                                           std::make_reverse_iterator(argv)));  // it wants them last first
    } catch (const CLI::CallForHelp&) {
        std::fputs(app.help().c_str(), stdout);
        return false;
    } catch (const CLI::ParseError& error) {
        throw Error(ExitCode::usage, app.get_name() + ": " + error.what(), "see " + app.get_name() + " --help");
    }
    return true;
}

// --device and --precision of a command that uses a model, for open_stream().
inline void add_device_options(CLI::App& app, std::string& device, std::string& precision) {
    app.add_option("--device", device,
                   "where to compute; auto (the default): on a GPU if one can be used (CUDA_VISIBLE_DEVICES says which)")
        ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
    app.add_option("--precision", precision, "type of weights and activations; auto (the default): bf16 on a GPU, fp32 on a CPU")
        ->check(CLI::IsMember({"auto", "fp32", "bf16"}));
}

}  // namespace traincu
