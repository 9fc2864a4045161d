// Our half of tests/bench/tokenizer_bench.py: encodes the documents of a file three times on one thread, prints the best time in seconds,
// and writes the ids to another file. A document is a line with its number of bytes, then the bytes.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "src/base/error.h"
#include "src/data/tokenizer.h"

using namespace traincu;

int main(int argc, char** argv) try {
    if (argc != 4) return std::fprintf(stderr, "usage: tokenizer_bench TOKENIZER DOCUMENTS IDS\n"), 2;
    const auto tokenizer = open_tokenizer(argv[1]);
    std::ifstream file(argv[2], std::ios::binary);
    std::vector<std::string> documents;
    for (std::string line; std::getline(file, line);) {
        documents.emplace_back(std::stoull(line), '\0');
        file.read(documents.back().data(), static_cast<std::streamsize>(documents.back().size()));
    }
    std::vector<std::vector<int32_t>> ids(documents.size());
    double best = 1e30;
    for (int round = 0; round < 3; round++) {
        const auto start = std::chrono::steady_clock::now();
        for (size_t i = 0; i < documents.size(); i++) ids[i] = tokenizer->encode(documents[i]);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::printf("%.6f\n", best);
    std::ofstream out(argv[3]);
    for (const auto& document : ids)
        for (int32_t id : document) out << id << '\n';
    return 0;
} catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
}
