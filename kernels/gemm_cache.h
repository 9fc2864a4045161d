// Choices that took measuring, kept on disk between runs: which of a library's algorithms is the fastest for a product. A fixed choice also
// fixes the result's bits. An empty list: none of them.
//
// The file is JSON: {"version": 1, "choices": {"what was measured, on what": [numbers, ...]}}. It is a cache: a file that is damaged, or
// that cannot be read or written, costs a new measurement and nothing else.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace traincu {

class GemmCache {
public:
    // Reads the file. An empty path: nothing is kept.
    explicit GemmCache(std::string path);
    // $XDG_CACHE_HOME/train.cu/gemm.json, or ~/.cache/train.cu/gemm.json; empty where neither variable is set.
    static std::string default_path();

    const std::vector<uint64_t>* find(const std::string& key) const;  // or null
    // Writes the file anew, in one motion, with what other processes have added to it since.
    void store(const std::string& key, std::vector<uint64_t> choice);

private:
    std::string path_;
    std::map<std::string, std::vector<uint64_t>> choices_;
};

}  // namespace traincu
