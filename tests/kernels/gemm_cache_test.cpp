#include "kernels/gemm_cache.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/support/files.h"

using namespace traincu;
using test::TempDir;

TEST_SUITE("matmul") {
    TEST_CASE("gemm cache: what was stored is found by another process, and nothing else is") {
        TempDir dir;
        const std::string path = dir / "a/b/gemm.json";  // folders are made
        const std::vector<uint64_t> choice = {1, 0, UINT64_MAX, 42};
        GemmCache cache(path), beside(path);
        CHECK(cache.find("one") == nullptr);
        cache.store("one", choice);
        beside.store("two", {7});  // knew nothing of "one"
        GemmCache later(path);
        REQUIRE(later.find("one"));
        CHECK(*later.find("one") == choice);
        REQUIRE(later.find("two"));
        CHECK(*later.find("two") == std::vector<uint64_t>{7});
        CHECK(later.find("three") == nullptr);
        later.store("one", {5});
        CHECK(*GemmCache(path).find("one") == std::vector<uint64_t>{5});
        CHECK(std::distance(test::fs::directory_iterator(dir / "a/b"), {}) == 1);  // no temporary file is left
    }

    TEST_CASE("gemm cache: what a run has used goes with its checkpoint, and holds over the file") {
        TempDir dir;
        const std::string path = dir / "gemm.json";
        GemmCache run(path);
        run.store("one", {1, 2}), run.store("two", {});
        GemmCache again(path);
        CHECK(again.used().empty());
        again.find("one"), again.find("none");
        CHECK(again.used() == GemmChoices{{"one", {1, 2}}});
        const nlohmann::ordered_json saved = run.used();
        GemmCache(path).store("one", {9});  // since then measured anew
        GemmCache resumed(path);
        resumed.adopt(gemm_choices_from_json(nlohmann::ordered_json::parse(saved.dump())));
        REQUIRE(resumed.find("one"));
        CHECK(*resumed.find("one") == std::vector<uint64_t>{1, 2});
        CHECK(resumed.used() == GemmChoices{{"one", {1, 2}}});
        CHECK(*GemmCache(path).find("one") == std::vector<uint64_t>{9});
        CHECK(gemm_choices_from_json(nlohmann::ordered_json::parse(R"({"a": [1], "b": [-1], "c": 3})")) == GemmChoices{{"a", {1}}});
    }

    TEST_CASE("gemm cache: a damaged file is an empty one, and is written anew") {
        TempDir dir;
        const std::string path = dir / "gemm.json";
        GemmCache(path).store("key", {1, 2});
        const std::string good = test::read_file(path);
        std::vector<std::string> damaged = {"",
                                            "null",
                                            "[]",
                                            "{\"version\": 2, \"choices\": {\"key\": [1]}}",
                                            "{\"version\": 1}",
                                            "{\"version\": 1, \"choices\": []}",
                                            std::string(100000, '['),
                                            std::string("\xFF\xFE\0", 3)};
        for (size_t length = 0; length + 2 < good.size(); length++)
            damaged.push_back(good.substr(0, length));  // cut anywhere but before \n
        for (const char* numbers : {"[1, -2]", "[1, 2.5]", "[1, \"2\"]", "[1, 99999999999999999999]", "{\"a\": 1}", "7"})
            damaged.push_back(std::string("{\"version\": 1, \"choices\": {\"key\": ") + numbers + "}}");
        for (const std::string& content : damaged) {
            INFO(content.substr(0, 200));
            test::write_file(path, content);
            GemmCache cache(path);
            CHECK(cache.find("key") == nullptr);
            cache.store("other", {3});
            CHECK(*GemmCache(path).find("other") == std::vector<uint64_t>{3});
        }
        test::write_file(path, "{\"version\": 1, \"choices\": {\"bad\": 7, \"good\": [8]}}");
        CHECK(*GemmCache(path).find("good") == std::vector<uint64_t>{8});
    }

    TEST_CASE("gemm cache: without a place nothing is written and nothing fails") {
        GemmCache nowhere("");
        nowhere.store("key", {1});
        CHECK(*nowhere.find("key") == std::vector<uint64_t>{1});
        TempDir dir;
        test::write_file(dir / "file", "");
        GemmCache impossible(dir / "file/gemm.json");  // a file is no folder
        impossible.store("key", {1});
        CHECK(*impossible.find("key") == std::vector<uint64_t>{1});
    }

    TEST_CASE("gemm cache: its default place") {
        const char* names[] = {"XDG_CACHE_HOME", "HOME"};
        std::string saved[2];
        bool set[2];
        for (int i = 0; i < 2; i++) {
            const char* value = std::getenv(names[i]);
            set[i] = value != nullptr, saved[i] = value ? value : "";
        }
        setenv("XDG_CACHE_HOME", "/x", 1), setenv("HOME", "/h", 1);
        CHECK(GemmCache::default_path() == "/x/train.cu/gemm.json");
        unsetenv("XDG_CACHE_HOME");
        CHECK(GemmCache::default_path() == "/h/.cache/train.cu/gemm.json");
        unsetenv("HOME");
        CHECK(GemmCache::default_path().empty());
        for (int i = 0; i < 2; i++)
            if (set[i])
                setenv(names[i], saved[i].c_str(), 1);
            else
                unsetenv(names[i]);
    }
}
