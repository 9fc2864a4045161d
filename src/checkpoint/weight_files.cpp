#include "src/checkpoint/weight_files.h"

#include <filesystem>
#include <map>
#include <set>
#include <string_view>

#include "src/base/json.h"

namespace traincu {

namespace fs = std::filesystem;

constexpr int64_t max_index_bytes = int64_t{16} << 20;

namespace {

struct Index {
    std::map<std::string, std::string> file_of;  // tensor -> file
    std::set<std::string> files;
};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
    throw Error(ExitCode::checkpoint, path + ": " + what, "the parts of the model do not belong together: download it again").file(path);
}

bool plain_name(const std::string& name) {
    return !name.empty() && name.size() <= 255 && name[0] != '.' && name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

Index read_index(const std::string& path) {
    const nlohmann::json json = parse_untrusted(read_small_file(path, max_index_bytes), 4, path, ExitCode::checkpoint);
    if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object() || json["weight_map"].empty())
        refuse(path, "it has no weight_map of tensors to files");
    Index index;
    for (const auto& [tensor, value] : json["weight_map"].items()) {
        if (!value.is_string()) refuse(path, "the file of the tensor " + tensor + " is no text");
        const std::string name = value.get<std::string>();
        if (!plain_name(name)) refuse(path, "the tensor " + tensor + " is said to be in what is no name of a file in this folder: " + name);
        index.file_of[tensor] = name;
        index.files.insert(name);
    }
    return index;
}

// A link in a downloaded folder must not make us read elsewhere. Hugging Face's cache is made of links: snapshots/REVISION/FILE leads to
// blobs/HASH of the same model.
void check_place(const std::string& path, const fs::path& folder) {
    std::error_code error;
    const fs::path home = fs::canonical(folder), real = fs::canonical(path, error);
    if (error) throw Error(ExitCode::checkpoint, path + " is missing", "the model is not complete: download it again").file(path);
    const fs::path parent = real.parent_path();
    const bool in_cache = home.parent_path().filename() == "snapshots" && parent == home.parent_path().parent_path() / "blobs";
    if (parent != home && !in_cache) refuse(path, "it is a link that leads out of its folder, to " + real.string());
}

}  // namespace

WeightFiles::WeightFiles(const std::string& path) : path_(path) {
    if (!path.ends_with(index_suffix)) {
        files_.emplace_back(path);
        return;
    }
    const Index index = read_index(path);
    const fs::path folder = fs::absolute(path).parent_path();
    for (const std::string& name : index.files) {
        const std::string file = (fs::path(path).parent_path() / name).string();
        check_place(file, folder);
        files_.emplace_back(file);
        for (const StoredTensor& tensor : files_.back().tensors()) {
            auto found = index.file_of.find(tensor.name);
            if (found == index.file_of.end()) refuse(file, "the tensor " + tensor.name + " is not in the index " + path);
            if (found->second != name) refuse(file, "the tensor " + tensor.name + " is here, but the index says it is in " + found->second);
        }
    }
    for (const auto& [tensor, file] : index.file_of)
        if (!find(tensor)) refuse(path, "the tensor " + tensor + " is said to be in " + file + ", but is not there");
}

WeightFiles::Place WeightFiles::find(const std::string& name) const {
    for (const SafetensorsFile& file : files_)
        if (const StoredTensor* tensor = file.find(name)) return {&file, tensor};
    return {};
}

}  // namespace traincu
