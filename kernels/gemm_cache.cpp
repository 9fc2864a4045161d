#include "kernels/gemm_cache.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "src/base/files.h"
#include "src/base/json.h"

namespace traincu {

namespace {

// What is there and of the right form.
GemmChoices read_choices(const std::string& path) {
    try {
        constexpr int max_depth = 4;
        const nlohmann::ordered_json file = parse_untrusted(read_whole_file(path, ExitCode::io), max_depth, path, ExitCode::io);
        if (!file.is_object() || file.value("version", nlohmann::json()) != 1 || !file.contains("choices") || !file["choices"].is_object())
            return {};
        return gemm_choices_from_json(file["choices"]);
    } catch (const Error&) {
        return {};
    }
}

}  // namespace

GemmChoices gemm_choices_from_json(const nlohmann::ordered_json& json) {
    GemmChoices choices;
    for (const auto& [key, numbers] : json.items()) {
        std::vector<uint64_t> choice;
        if (!numbers.is_array()) continue;
        for (const auto& number : numbers)
            if (number.is_number_unsigned()) choice.push_back(number.get<uint64_t>());
        if (choice.size() == numbers.size()) choices[key] = std::move(choice);
    }
    return choices;
}

GemmCache::GemmCache(std::string path) : path_(std::move(path)) {
    if (!path_.empty()) choices_ = read_choices(path_);
}

std::string GemmCache::default_path() {
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    if (cache && *cache) return std::string(cache) + "/train.cu/gemm.json";
    if (home && *home) return std::string(home) + "/.cache/train.cu/gemm.json";
    return "";
}

const std::vector<uint64_t>* GemmCache::find(const std::string& key) {
    const auto found = choices_.find(key);
    if (found == choices_.end()) return nullptr;
    used_.insert(key);
    return &found->second;
}

GemmChoices GemmCache::used() const {
    GemmChoices choices;
    for (const std::string& key : used_) choices[key] = choices_.at(key);
    return choices;
}

void GemmCache::adopt(const GemmChoices& choices) {
    for (const auto& [key, choice] : choices) choices_[key] = choice;
}

GemmCache& gemm_cache() {
    static GemmCache cache(GemmCache::default_path());
    return cache;
}

void GemmCache::store(const std::string& key, std::vector<uint64_t> choice) {
    choices_[key] = std::move(choice);
    used_.insert(key);
    if (path_.empty()) return;
    GemmChoices all = read_choices(path_);
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
