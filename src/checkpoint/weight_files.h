// The safetensors files of a model: one model.safetensors, or the parts that a model.safetensors.index.json lists.
#pragma once

#include <deque>
#include <string>

#include "src/checkpoint/safetensors.h"

namespace traincu {

class WeightFiles {
public:
    // The index is believed in nothing: its weight_map {tensor: file} names plain files of its own folder (a link may lead into the blobs
    // folder of Hugging Face's cache, and nowhere else), every tensor in it stands in the file that it names, and every tensor of the
    // files stands in it. Error(checkpoint) otherwise.
    explicit WeightFiles(const std::string& path);

    struct Place {
        const SafetensorsFile* file = nullptr;
        const StoredTensor* tensor = nullptr;
        explicit operator bool() const { return tensor != nullptr; }
    };
    Place find(const std::string& name) const;

    const std::string& path() const { return path_; }
    const std::deque<SafetensorsFile>& files() const { return files_; }

private:
    std::string path_;
    std::deque<SafetensorsFile> files_;
};

constexpr const char* index_suffix = ".index.json";

}  // namespace traincu
