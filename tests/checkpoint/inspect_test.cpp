#include <sys/wait.h>
#include <unistd.h>

#include "src/command/commands.h"
#include "tests/checkpoint/fixture.h"

using namespace traincu;
using namespace traincu::test;

// Runs the command with stdout in a file; the result is its exit code, be it returned or thrown.
static int inspect(std::vector<std::string> arguments, std::string* output = nullptr) {
    TempDir dir;
    std::fflush(stdout);
    int saved = dup(1);
    REQUIRE(std::freopen((dir / "out").c_str(), "w", stdout));
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    int code;
    try {
        code = inspect_command(static_cast<int>(argv.size()), argv.data());
    } catch (const Error& error) {
        code = static_cast<int>(error.code());
    }
    std::fflush(stdout);
    dup2(saved, 1), ::close(saved);
    if (output) *output = read_file(dir / "out");
    return code;
}

TEST_SUITE("inspect") {
    TEST_CASE("inspect: shows each kind of file and folder, and its verdict is the exit code") {
        TempDir dir;
        RealIo io;
        Arenas arenas(small_model("llama"));
        save(io, dir.path, 10, arenas.fill(1));
        const std::string path = save(io, dir.path, 20, arenas.fill(2));
        std::string out;
        CHECK(inspect({path}, &out) == 0);
        for (const char* part : {"checkpoint of step 20", "model.layers.1.self_attn.q_proj.weight", "F32", "(24, 20)", "llama", "agree"})
            CHECK_MESSAGE(out.find(part) != std::string::npos, out);
        CHECK(out.find("parameters  " + std::to_string(arenas.table.count())) != std::string::npos);
        CHECK(inspect({dir.path}, &out) == 0);
        CHECK(out.find("resumes at  step 20") != std::string::npos);
        CHECK(inspect({path + "/model.safetensors"}, &out) == 0);
        CHECK(out.find("lm_head.weight") != std::string::npos);

        write_file(path + "/rank_0_of_1.bin", "damage");
        CHECK(inspect({path}, &out) == 4);
        CHECK(inspect({dir.path}, &out) == 4);
        CHECK(out.find("resumes at  step 10") != std::string::npos);
        CHECK(out.find("DAMAGED") != std::string::npos);
        write_file(dir / "bad.safetensors", "damage");
        write_file(dir / "odd.bin", "neither");
        CHECK(inspect({dir / "bad.safetensors"}) == 4);
        CHECK(inspect({dir / "odd.bin"}) == 3);
        CHECK(inspect({dir / "nothing"}) == 2);
        CHECK(inspect({}) == 2);
        CHECK(inspect({dir / "odd.bin", path, path + "/model.safetensors"}, &out) == 3);  // the first fault; all are shown
        CHECK(out.find("lm_head.weight") != std::string::npos);
        CHECK(inspect({"--help"}, &out) == 0);
        CHECK(out.find("Exit code") != std::string::npos);
    }
}
