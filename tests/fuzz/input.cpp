#include "tests/fuzz/input.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

namespace traincu::fuzz {

namespace {

struct Folder {
    Folder() {
        path = (fs::exists("/dev/shm") ? std::string("/dev/shm") : fs::temp_directory_path().string()) + "/traincu_fuzz_XXXXXX";
        ENSURE(mkdtemp(path.data()) != nullptr);
    }
    ~Folder() {
        std::error_code error;
        fs::remove_all(path, error);
    }
    std::string path;
};

}  // namespace

const std::string& scratch_folder() {
    static const Folder folder;
    return folder.path;
}

std::string put_file(const std::string& name, std::string_view content) {
    const std::string path = scratch_folder() + "/" + name;
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ENSURE(file >= 0);
    const bool whole = ::write(file, content.data(), content.size()) == static_cast<ssize_t>(content.size());
    ENSURE(::close(file) == 0 && whole);
    return path;
}

std::string content_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace traincu::fuzz
