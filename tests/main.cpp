#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <stdlib.h>

#include <filesystem>

#include "src/base/process.h"

int main(int argc, char** argv) {
    traincu::wait_passively(argv);  // as ./train does: the tests must not starve a busy machine, nor be starved
    std::string cache = (std::filesystem::temp_directory_path() / "traincu_cache_XXXXXX").string();
    if (mkdtemp(cache.data())) setenv("XDG_CACHE_HOME", cache.c_str(), 1);  // the user's own is left alone
    const int result = doctest::Context(argc, argv).run();
    std::error_code error;
    std::filesystem::remove_all(cache, error);
    return result;
}
