// Fuzz targets: everything of ./train that reads what a stranger may have written, as plain functions of bytes. libFuzzer calls them
// (fuzzer.cpp, `make fuzz`), and so does a quick deterministic replay inside run_tests (replay_test.cpp).
//
// A target returns true if the input was accepted and false if it was refused by an Error with a message and a remedy. Anything else is a
// finding: another exception, a crash, undefined behaviour, a hang, a large allocation, and accepted input that does not come back equal
// when it is written out and read again (a broken ENSURE). To add a target: one file with the function and its seeds, one row in
// targets.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace traincu::fuzz {

using Bytes = std::span<const uint8_t>;

bool fuzz_safetensors(Bytes input);    // a file: header, every tensor
bool fuzz_config(Bytes input);         // config.json beside weights
bool fuzz_manifest(Bytes input);       // manifest.json of a checkpoint, its hash made right; what a resume takes out of it
bool fuzz_run_directory(Bytes input);  // damage to the files of a valid run: see run_directory.cpp
bool fuzz_llmc(Bytes input);           // llm.c's .bin: 8 header words, then values
bool fuzz_shard(Bytes input);          // a token shard, read and loaded from any place: see shard.cpp
bool fuzz_log(Bytes input);            // log.jsonl: reading, going on, the report
bool fuzz_options(Bytes input);        // words of a command line, one a line; after an empty line the text of --config
bool fuzz_curve(Bytes input);          // a reference curve, CSV
bool fuzz_choices(Bytes input);        // a multiple-choice set, or a line of JSON of one
bool fuzz_tokenizer(Bytes input);      // tokenizer.json; after a line "---" a text to encode

// Valid inputs, made by the project's own writers: a target accepts each of them.
using Seeds = std::vector<std::string>;
Seeds safetensors_seeds();
Seeds config_seeds();
Seeds manifest_seeds();
Seeds run_directory_seeds();
Seeds llmc_seeds();
Seeds shard_seeds();
Seeds log_seeds();
Seeds options_seeds();
Seeds curve_seeds();
Seeds choices_seeds();
Seeds tokenizer_seeds();

struct Target {
    const char* name;
    bool (*run)(Bytes input);
    Seeds (*seeds)();
};
const std::vector<Target>& targets();

}  // namespace traincu::fuzz
