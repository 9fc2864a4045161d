// What happens to the others when a rank is lost while they wait for it in NCCL. Each of these ends the process, so none is run by default:
// tests/scripts/nccl_test.sh starts this one case under mpirun with TEST_FAULT=WHICH, and looks at exit codes and at the last line on
// stderr.
#include <doctest/doctest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "src/base/arena.h"
#include "src/parallel/mesh.h"
#include "tests/support/device.h"

namespace traincu::test {

namespace {

void run(Mesh& mesh, const std::string& fault) {
    Stream& stream = test_stream();
    MeshOptions options;
    options.timeout_seconds = 2;
    options.transport = fault == "automatic" ? Transport::automatic : Transport::nccl;
    mesh.start(options);
    mesh.use_device(stream);
    std::printf("transport %s; %s\n", mesh.transport(), mesh.note().c_str());
    Arena arena("test");
    Tensor numbers;
    arena.add(numbers, "numbers", Dtype::f32, {1000});
    arena.allocate(stream.memory());
    for (int step = 0; step < 10; step++) {
        if (step == 5 && mesh.rank() == 1) {
            if (fault == "killed") std::raise(SIGKILL);
            if (fault == "stopped") std::raise(SIGSTOP);
            if (fault == "throws") throw Error(ExitCode::data, "the shard is broken", "make it again");
        }
        mesh.world().all_reduce(numbers, Reduce::sum, Cargo::gradients, stream).wait(stream);
        stream.synchronize();
        mesh.world().progress();  // whether the numbers can be trusted
    }
}

}  // namespace

TEST_SUITE("nccl faults") {
    TEST_CASE("nccl faults: the one that TEST_FAULT names" * doctest::skip()) {
        const char* fault = std::getenv("TEST_FAULT");
        REQUIRE(fault);
        Mesh mesh;
        try {
            run(mesh, fault);
        } catch (const Error& error) {
            std::fprintf(stderr, "error: %s\n  what to do: %s\n%s\n", error.what(), error.remedy().c_str(), error.json().c_str());
            mesh.leave(static_cast<int>(error.code()), error.what());
        }
    }
}

}  // namespace traincu::test
