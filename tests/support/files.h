// Files of a test: a folder that goes away with it, and whole files in one call.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <doctest/doctest.h>

namespace traincu::test {

namespace fs = std::filesystem;

class TempDir {
public:
    // In memory where there is /dev/shm: thousands of small files and fsyncs are then quick.
    TempDir() {
        std::string pattern =
            (fs::exists("/dev/shm") ? std::string("/dev/shm") : fs::temp_directory_path().string()) + "/traincu_test_XXXXXX";
        REQUIRE(mkdtemp(pattern.data()));
        path = pattern;
    }
    ~TempDir() {
        std::error_code error;
        fs::remove_all(path, error);
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    std::string operator/(const std::string& name) const { return path + "/" + name; }

    std::string path;
};

// "" where there is no such file.
inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Makes the folder it stands in, too.
inline void write_file(const std::string& path, const std::string& content) {
    fs::create_directories(fs::path(path).parent_path());
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << content;
    file.close();
    REQUIRE_MESSAGE(file.good(), path);
}

}  // namespace traincu::test
