// How the engine ends when NCCL does not go on: on one rank, whose stand-in is told to fail. The engine's results are tested on many ranks,
// by tests/device/comm_test.cpp and comm_order_test.cpp (tests/scripts/nccl_test.sh starts them).
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "src/parallel/comm_nccl.h"
#include "src/parallel/nccl_watch.h"
#include "tests/nccl/processes.h"
#include "tests/nccl/standin.h"

using namespace traincu;
using namespace traincu::nccl_standin;

namespace {

// A communicator of one rank and one that was split from it, with an operation under way on the latter that does not end.
struct Hung {
    Stream stream{Device::cuda, 256};
    std::unique_ptr<Communicator> world, node;
    Tensor in{gpu::allocate(64), Dtype::u8, {64}}, out{gpu::allocate(64), Dtype::u8, {64}};

    Hung(ncclResult_t error, double timeout) {
        world = nccl_communicator(single_rank_communicator(), {.timeout_seconds = timeout}, "world");
        node = world->split(0, 0, "node");
        gpu::fill_bytes(in.data, 7, 64, stream.handle());
        world->all_gather(out, in, Cargo::weights, stream).wait(stream);
        node->all_gather(out, in, Cargo::weights, stream).wait(stream);
        stream.synchronize();
        node->all_gather(out, in, Cargo::weights, stream).wait(stream);
        inject_error(error);  // the stream has not come to the last one yet
    }
};

std::string error_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const Error& error) {
        return format("%d: %s", static_cast<int>(error.code()), error.what());
    }
    return "no error";
}

}  // namespace

TEST_SUITE("nccl") {
    TEST_CASE(
        "nccl: an error of NCCL's aborts all communicators, wakes the host and comes out of its next call, with the operation's name") {
        const std::vector<Ended> ended = on_processes(1, [](int) -> std::string {
            Hung run(ncclRemoteError, 600);
            run.stream.synchronize();  // for ever, but for the watch
            std::string said = error_of([&] { run.world->progress(); }) + "\n";
            said += error_of([&] { run.world->all_gather(run.out, run.in, Cargo::weights, run.stream).wait(run.stream); }) + "\n";
            said += format("aborted %d", aborted_communicators());
            run.node.reset(), run.world.reset();  // destroys nothing twice
            return said + format(", %d", aborted_communicators());
        });
        const std::string error =
            "7: NCCL reports in all_gather (operation 1 of the node communicator): remote process exited or there was a network error\n";
        CHECK(ended[0].said == error + error + "aborted 2, 2");
        CHECK(ended[0].status == 0);
    }

    TEST_CASE("nccl: an operation that is under way for too long ends like an error") {
        const std::vector<Ended> ended = on_processes(1, [](int) {
            Hung run(ncclInProgress, 0.2);
            const auto start = std::chrono::steady_clock::now();
            const std::string said = error_of([&] { run.node->barrier(run.stream); });
            const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            return waited < 0.2 ? "too early" : said;
        });
        CAPTURE(ended[0].said);
        CHECK(ended[0].said.starts_with("7: all_gather (operation 1 of the node communicator) is not done after 0."));
    }

    TEST_CASE("nccl: a host that does not come back is ended with exit code 7 and the same words") {
        const std::vector<Ended> ended = on_processes(1, [](int) -> std::string {
            Hung run(ncclInProgress, 0.2);
            run.stream.synchronize();  // comes back, and the host does not ask why
            std::this_thread::sleep_for(std::chrono::seconds(30));
            return "it went on";
        });
        CHECK(ended[0].status == 7);
        CHECK(ended[0].said == "");
        CAPTURE(ended[0].errors);
        CHECK(ended[0].errors.starts_with("error: all_gather (operation 1 of the node communicator) is not done after 0."));
        CHECK(ended[0].errors.find("\"code\":7") != std::string::npos);
    }

    TEST_CASE("nccl: a host that stays inside of a call of NCCL is ended too") {
        const std::vector<Ended> ended = on_processes(1, [](int) -> std::string {
            NcclWatch watch(0.2);
            const NcclWatch::Call call(watch, "the split of the world communicator");
            std::this_thread::sleep_for(std::chrono::seconds(30));
            return "it went on";
        });
        CHECK(ended[0].status == 7);
        CAPTURE(ended[0].errors);
        CHECK(ended[0].errors.starts_with("error: the call of NCCL for the split of the world communicator is not done after 0."));
    }

    TEST_CASE("nccl: for repeatable sums NCCL's environment says Ring and no NVLS, unless the user says otherwise") {
        const auto environment = [](bool repeatable, const char* algorithm) {
            return on_processes(1,
                                [=](int) {
                                    unsetenv("NCCL_ALGO"), unsetenv("NCCL_NVLS_ENABLE");
                                    if (algorithm) setenv("NCCL_ALGO", algorithm, 1);
                                    const auto world = nccl_communicator(single_rank_communicator(), {.repeatable = repeatable}, "world");
                                    const auto value = [](const char* name) { return std::string(getenv(name) ? getenv(name) : "unset"); };
                                    return value("NCCL_ALGO") + " " + value("NCCL_NVLS_ENABLE");
                                })[0]
                .said;
        };
        CHECK(environment(true, nullptr) == "Ring 0");
        CHECK(environment(true, "Tree") == "Tree 0");
        CHECK(environment(false, nullptr) == "unset unset");
    }
}
