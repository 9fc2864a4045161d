// Runs ./train as a person would, in a folder of the test's own, and keeps what it printed.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <sstream>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "tests/support/files.h"

namespace traincu::test {

struct Result {
    int code = 0;
    std::string out, err;

    // The last line of stderr: one JSON object.
    nlohmann::json verdict() const {
        std::string text = err.substr(0, err.find_last_not_of('\n') + 1);
        return nlohmann::json::parse(text.substr(text.rfind('\n') + 1));
    }
    bool says(const std::string& part) const { return err.find(part) != std::string::npos || out.find(part) != std::string::npos; }
};

inline std::string train_binary() {
    const char* path = std::getenv("TRAIN_BINARY");
    return fs::absolute(path ? path : "./train").string();
}

// A shell line in the folder, with $TRAIN for the executable.
inline Result shell(const TempDir& folder, const std::string& line) {
    const std::string command =
        "cd '" + folder.path + "' && export TRAIN='" + train_binary() + "' && { " + line + "; } >.stdout 2>.stderr </dev/null";
    Result result;
    const int status = std::system(command.c_str());
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = read_file(folder / ".stdout"), result.err = read_file(folder / ".stderr");
    INFO(line);
    INFO(result.err);
    return result;
}
inline Result run(const TempDir& folder, const std::string& arguments) { return shell(folder, "\"$TRAIN\" " + arguments); }

// Some text with structure, and its shards as text_train_000000.bin and text_val_000000.bin.
inline void make_corpus(const TempDir& folder, int paragraphs = 120) {
    std::string text;
    for (int i = 0; i < paragraphs; i++) {
        text += "In the beginning was the number " + std::to_string(i * i) + ", and the number was with " + std::to_string(i % 7) +
                " others.\n";
        if (i % 4 == 3) text += "<|endoftext|>\n";
    }
    write_file(folder / "text.txt", text);
    REQUIRE(run(folder, "tokenize text.txt --out text --val-fraction 0.2").code == 0);
}

// A run of a few seconds at most.
const std::string tiny_run = "--preset tiny --data text_train_000000.bin --val-data text_val_000000.bin --sample-tokens 4 --threads 1 ";

}  // namespace traincu::test
