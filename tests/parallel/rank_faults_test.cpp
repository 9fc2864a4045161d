// What happens to the others when a rank dies, hangs, fails, or does something else than they do. Each of these ends the process, so none
// is run by default: tests/scripts/ranks_test.sh starts this one case under mpirun with TEST_FAULT=WHICH, and looks at exit codes and at
// the last line on stderr. In it, a rank behaves as ./train does.
#include <doctest/doctest.h>

#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "src/base/signals.h"
#include "src/parallel/mesh.h"

namespace traincu::test {

namespace {

void run(Mesh& mesh, const std::string& fault) {
    MeshOptions options;
    options.timeout_seconds = 2;
    mesh.start(options);
    Stream stream;
    const int last = mesh.size() - 1;
    const auto mine = [&](int culprit) { return mesh.rank() == culprit; };
    std::array<float, 1000> from{};
    const Tensor numbers(from.data(), Dtype::f32, {static_cast<int64_t>(from.size())});

    for (int step = 0; step < 20; step++) {
        mesh.world().all_reduce(numbers, Reduce::sum, Cargo::gradients, stream).wait(stream);
        if (step != 10) continue;
        if (fault == "killed" && mine(last)) std::raise(SIGKILL);
        if (fault == "killed 0" && mine(0)) std::raise(SIGKILL);
        if (fault == "stopped" && mine(1)) std::raise(SIGSTOP);
        if (fault == "throws" && mine(last)) throw Error(ExitCode::data, "the shard is broken", "make it again");
        if (fault == "throws 0" && mine(0)) throw Error(ExitCode::data, "the shard is broken", "make it again");
        if (fault == "exits" && mine(1)) _exit(0);
        if (fault == "slow" && mine(1)) std::this_thread::sleep_for(std::chrono::seconds(1));
        // The others do not wait for anybody when it happens, and for long.
        if (fault == "killed while others compute") {
            if (mine(last)) std::raise(SIGKILL);
            for (const auto start = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - start < std::chrono::seconds(20);)
                from[0] += 1;
        }
        // One rank has other sizes than the rest, or makes another call.
        if (fault.starts_with("sends")) {
            int64_t n = fault == "sends much more" ? 2'000'000 : 7;
            if (mine(1)) n += fault == "sends less" ? -2 : 2;
            std::vector<float> part(static_cast<size_t>(n)), all(static_cast<size_t>(n * mesh.size()));
            const Tensor in(part.data(), Dtype::f32, {n}), out(all.data(), Dtype::f32, {n * mesh.size()});
            mesh.world().all_gather(out, in, Cargo::weights, stream).wait(stream);
        }
        if (fault == "another call" && mine(1)) mesh.world().barrier(stream);
        // What mpirun does to the others when a rank dies.
        if (fault == "signal after a loss") {
            if (mine(last)) std::raise(SIGKILL);
            std::raise(SIGTERM);
        }
        if (stop_signal()) {
            mesh.check_peers(0.2);
            throw Error(ExitCode::saved, "saved and stopped");
        }
    }
}

}  // namespace

TEST_SUITE("rank faults") {
    TEST_CASE("rank faults: the one that TEST_FAULT names" * doctest::skip()) {
        const char* fault = std::getenv("TEST_FAULT");
        REQUIRE(fault);
        catch_stop_signals();
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
