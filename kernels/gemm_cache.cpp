#include "kernels/gemm_cache.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "src/base/files.h"
#include "src/base/json.h"

namespace traincu {

namespace {

using Choices = std::map<std::string, std::vector<uint64_t>>;

// What is there and of the right form.
Choices read_choices(const std::string& path) {
    Choices choices;
    try {
        constexpr int max_depth = 4;
        const nlohmann::json file = parse_untrusted(read_whole_file(path, ExitCode::io), max_depth, path, ExitCode::io);
        if (!file.is_object() || file.value("version", nlohmann::json()) != 1 || !file.contains("choices") || !file["choices"].is_object())
            return {};
        for (const auto& [key, numbers] : file["choices"].items()) {
            std::vector<uint64_t> choice;
            if (!numbers.is_array()) continue;
            for (const auto& number : numbers)
                if (number.is_number_unsigned()) choice.push_back(number.get<uint64_t>());
            if (choice.size() == numbers.size()) choices[key] = std::move(choice);
        }
    } catch (const Error&) {
        return {};
    }
    return choices;
}

}  // namespace

GemmCache::GemmCache(std::string path) : path_(std::move(path)) {
    if (!path_.empty()) choices_ = read_choices(path_);
}

std::string GemmCache::default_path() {
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    if (cache && *cache) return std::string(cache) + "/train.cu/gemm.json";
    if (home && *home) return std::string(home) + "/.cache/train.cu/gemm.json";
    return "";
}

const std::vector<uint64_t>* GemmCache::find(const std::string& key) const {
    const auto found = choices_.find(key);
    return found == choices_.end() ? nullptr : &found->second;
}

void GemmCache::store(const std::string& key, std::vector<uint64_t> choice) {
    choices_[key] = std::move(choice);
    if (path_.empty()) return;
    Choices all = read_choices(path_);
    all[key] = choices_[key];
    const nlohmann::json file = {{"version", 1}, {"choices", all}};
    std::error_code error;
    std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), error);
    const std::string own = path_ + "." + std::to_string(getpid());  // several processes of a machine start at once
    if (!replace_file(own, file.dump(1) + "\n")) return;
    std::filesystem::rename(own, path_, error);
    if (error) std::filesystem::remove(own, error);
}

}  // namespace traincu
