#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "src/base/process.h"

int main(int argc, char** argv) {
    traincu::wait_passively(argv);  // as ./train does: the tests must not starve a busy machine, nor be starved
    // The user's own cache is left alone; a test that starts this executable again says where that one's is.
    std::string cache = (std::filesystem::temp_directory_path() / "traincu_cache_XXXXXX").string();
    if (const char* given = getenv("TEST_CACHE_HOME"))
        setenv("XDG_CACHE_HOME", given, 1);
    else if (mkdtemp(cache.data()))
        setenv("XDG_CACHE_HOME", cache.c_str(), 1);
    const int result = doctest::Context(argc, argv).run();
    std::error_code error;
    std::filesystem::remove_all(cache, error);
    return result;
}
