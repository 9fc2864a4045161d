// libFuzzer's entry points. One executable for all targets: the name it is called by chooses one, as build/fuzz/safetensors does.
//   build/fuzz/NAME [libFuzzer's options] FOLDER...   fuzz; build/fuzz/NAME FILE repeats an input
//   build/fuzz/NAME --write-seeds=FOLDER              the valid inputs to begin with
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "tests/fuzz/input.h"
#include "tests/fuzz/mutate.h"

using namespace traincu;
using namespace traincu::fuzz;

static const Target* target = nullptr;

static int write_seeds(const std::string& folder) {
    fs::create_directories(folder);
    int number = 0;
    for (const std::string& seed : target->seeds()) {
        std::ofstream file(folder + "/seed_" + std::to_string(number++), std::ios::binary);
        file << seed;
        if (!file.flush()) return 1;
    }
    return 0;
}

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
    const std::string name = fs::path((*argv)[0]).filename(), option = "--write-seeds=";
    for (const Target& one : targets())
        if (name == one.name) target = &one;
    if (!target) {
        std::fprintf(stderr, "fuzz: there is no target '%s'; call it by the name of one:", name.c_str());
        for (const Target& one : targets()) std::fprintf(stderr, " %s", one.name);
        std::fprintf(stderr, "\n");
        std::exit(2);
    }
    if (*argc > 1 && std::string((*argv)[1]).rfind(option, 0) == 0) std::exit(write_seeds((*argv)[1] + option.size()));
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    target->run({data, size});
    return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// libFuzzer's own changes, and now and then one of ours, which knows numbers and JSON.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
    if (seed % 4 != 0) return LLVMFuzzerMutate(data, size, max_size);
    const std::string text = mutated(std::string(text_of({data, size})), "", {seed, RandomStream::sampling}, 0);
    const size_t length = std::min(text.size(), max_size);
    std::memcpy(data, text.data(), length);
    return length;
}
