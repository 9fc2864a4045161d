// A safetensors file of expected values, written by one of the scripts in tests/golden.
#pragma once

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "src/checkpoint/safetensors.h"

namespace traincu::test {

// One golden file, read whole: the tests read types that the program's reader has no use for.
struct Golden {
    explicit Golden(const std::string& path) : file(path) {
        bytes.resize(static_cast<size_t>(file.size()));
        std::FILE* f = std::fopen(path.c_str(), "rb");
        ENSURE(f && std::fread(bytes.data(), 1, bytes.size(), f) == bytes.size());
        std::fclose(f);
    }
    bool has(const std::string& name) const { return file.find(name) != nullptr; }
    template <class T>
    std::vector<T> get(const std::string& name) const {
        const StoredTensor* t = file.find(name);
        if (!t) throw std::runtime_error("golden file lacks " + name);
        ENSURE(t->bytes == t->numel() * static_cast<int64_t>(sizeof(T)));
        std::vector<T> values(static_cast<size_t>(t->numel()));
        std::memcpy(values.data(), bytes.data() + t->offset, static_cast<size_t>(t->bytes));
        return values;
    }
    SafetensorsFile file;
    std::vector<std::byte> bytes;
};

}  // namespace traincu::test
