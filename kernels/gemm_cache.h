// Choices that took measuring, kept on disk between runs: which of a library's algorithms is the fastest for a product. A fixed choice also
// fixes the result's bits. An empty list: none of them.
//
// The file is JSON: {"version": 1, "choices": {"what was measured, on what": [numbers, ...]}}. It is a cache: a file that is damaged, or
// that cannot be read or written, costs a new measurement and nothing else. A checkpoint holds the choices of its run: a resumed one then
// computes with the same algorithms, though the file is gone or has other ones by then.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace traincu {

using GemmChoices = std::map<std::string, std::vector<uint64_t>>;
// {"what was measured": [numbers, ...]}; what is of another form is left out.
GemmChoices gemm_choices_from_json(const nlohmann::ordered_json& json);

class GemmCache {
public:
    // Reads the file. An empty path: nothing is kept.
    explicit GemmCache(std::string path);
    // $XDG_CACHE_HOME/train.cu/gemm.json, or ~/.cache/train.cu/gemm.json; empty where neither variable is set.
    static std::string default_path();

    const std::vector<uint64_t>* find(const std::string& key);  // or null
    // Writes the file anew, in one motion, with what other processes have added to it since.
    void store(const std::string& key, std::vector<uint64_t> choice);

    GemmChoices used() const;                // what was found or stored here
    void adopt(const GemmChoices& choices);  // they hold from now on, whatever the file says; it is not written

private:
    std::string path_;
    GemmChoices choices_;
    std::set<std::string> used_;
};

GemmCache& gemm_cache();  // this process's, of the file at default_path()

}  // namespace traincu
