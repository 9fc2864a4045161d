// The stand-in's own checks: each rule of NCCL broken once.
#include "tests/nccl/standin.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "src/device/stream.h"
#include "tests/nccl/processes.h"

using namespace traincu;
using namespace traincu::nccl_standin;

namespace {

constexpr int64_t n = 24;  // elements of f32 in a buffer of a rank

// One rank with a communicator, a stream and two buffers. Every call of NCCL must be right, unless it is asked for what is wrong with it.
struct Rank {
    int rank, size;
    ncclComm_t comm = nullptr;
    Stream stream{Device::cuda, 256};
    float *in = static_cast<float*>(gpu::allocate(8 * n * 4)), *out = static_cast<float*>(gpu::allocate(8 * n * 4));

    void right(ncclResult_t result) const {
        if (result != ncclSuccess) throw Error(ExitCode::peer, std::string("refused: ") + ncclGetLastError(comm));
    }
    std::string refused(ncclResult_t result) const { return result == ncclSuccess ? "accepted" : ncclGetLastError(comm); }
    void fill(float value) const {
        std::vector<float> values(8 * n, value);
        gpu::copy(in, values.data(), 8 * n * 4, stream.handle());
        gpu::fill_bytes(out, 0, 8 * n * 4, stream.handle());
    }
    float result(int64_t i) const {
        std::vector<float> values(8 * n);
        gpu::copy(values.data(), out, 8 * n * 4, stream.handle());
        stream.synchronize();
        return values[static_cast<size_t>(i)];
    }
};

std::vector<std::string> on_ranks(int size, const std::function<std::string(Rank&)>& body, double deadline = 20) {
    ncclUniqueId id;
    REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
    std::vector<std::string> said;
    for (const Ended& ended : on_processes(size, [&](int rank) {
             set_deadline(deadline);
             Rank here{rank, size};
             here.right(ncclCommInitRank(&here.comm, size, id, rank));
             here.fill(1.0f + static_cast<float>(rank));
             return body(here);
         })) {
        CHECK(ended.status == 0);
        said.push_back(ended.said);
    }
    return said;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Both ranks are told what each of them called.
void check_disagreement(const std::function<void(Rank&)>& zero, const std::function<void(Rank&)>& one, const char* zero_calls,
                        const char* one_calls) {
    for (const std::string& said : on_ranks(2, [&](Rank& r) {
             (r.rank == 0 ? zero : one)(r);
             r.stream.synchronize();
             return std::string("nothing noticed");
         })) {
        CAPTURE(said);
        CHECK(has(said, "disagree"));
        CHECK(has(said, zero_calls));
        CHECK(has(said, one_calls));
    }
}

}  // namespace

TEST_SUITE("nccl") {
    TEST_CASE("nccl's stand-in: every function, used rightly, on three ranks; sums go round the ring") {
        const std::vector<std::string> said = on_ranks(3, [](Rank& r) -> std::string {
            const auto handle = r.stream.handle();
            const auto expect = [&](float value, int64_t i, const char* what) {
                if (const float got = r.result(i); got != value) throw Error(ExitCode::peer, format("%s: %g, not %g", what, got, value));
            };
            r.right(ncclAllGather(r.in, r.out, n, ncclFloat32, r.comm, handle));
            for (int p = 0; p < 3; p++) expect(1.0f + static_cast<float>(p), p * n + 5, "ncclAllGather");
            r.right(ncclBroadcast(r.in, r.out, n, ncclFloat32, 2, r.comm, handle));
            expect(3, 7, "ncclBroadcast");
            r.right(ncclAllReduce(r.in, r.out, n, ncclFloat32, ncclMax, r.comm, handle));
            expect(3, 23, "ncclAllReduce");
            r.right(ncclGroupStart());
            for (int p = 0; p < 3; p++) {
                r.right(ncclSend(r.in, static_cast<size_t>(p + 1), ncclFloat32, p, r.comm, handle));
                r.right(ncclRecv(r.out + 4 * p, static_cast<size_t>(r.rank + 1), ncclFloat32, p, r.comm, handle));
            }
            r.right(ncclGroupEnd());
            for (int p = 0; p < 3; p++) expect(1.0f + static_cast<float>(p), 4 * p + r.rank, "ncclRecv");
            // 2^24 + 1 + 1, from the rank after this one on and round to it: a 1 is lost where it comes after the 2^24
            r.fill(r.rank == 0 ? 0x1p24f : 1.0f);
            r.right(ncclReduceScatter(r.in, r.out, n, ncclFloat32, ncclSum, r.comm, handle));
            expect(r.rank == 0 ? 0x1p24f + 2 : 0x1p24f, 3, "ncclReduceScatter");
            // backwards, and apart from rank 1
            ncclComm_t part = nullptr;
            r.right(ncclCommSplit(r.comm, r.rank == 1 ? 7 : 0, -r.rank, &part, nullptr));
            int rank = -1;
            r.right(ncclCommUserRank(part, &rank));
            if (rank != (r.rank == 0 ? 1 : 0)) return "a wrong rank after ncclCommSplit";
            r.fill(1.0f + static_cast<float>(r.rank));
            r.right(ncclAllGather(r.in, r.out, n, ncclFloat32, part, handle));
            expect(r.rank == 1 ? 2 : 3, 0, "ncclAllGather after ncclCommSplit");
            r.right(ncclCommDestroy(part));
            r.right(ncclCommDestroy(r.comm));
            return "";
        });
        for (const std::string& text : said) CHECK(text == "");
    }

    TEST_CASE("nccl's stand-in: ranks that disagree about a collective are told what each called") {
        const auto all_gather = [](Rank& r) { r.right(ncclAllGather(r.in, r.out, 5, ncclFloat32, r.comm, r.stream.handle())); };
        const auto reduce = [](size_t count, ncclDataType_t type, ncclRedOp_t op) {
            return [=](Rank& r) { r.right(ncclAllReduce(r.in, r.out, count, type, op, r.comm, r.stream.handle())); };
        };
        const auto broadcast = [](int root) {
            return [=](Rank& r) { r.right(ncclBroadcast(r.in, r.out, 9, ncclFloat32, root, r.comm, r.stream.handle())); };
        };
        check_disagreement(all_gather, reduce(5, ncclFloat32, ncclSum), "rank 0 calls ncclAllGather of 5 f32",
                           "rank 1 calls ncclAllReduce of 5 f32, sum");
        check_disagreement(reduce(5, ncclFloat32, ncclSum), reduce(6, ncclFloat32, ncclSum), "of 5 f32", "of 6 f32");
        check_disagreement(reduce(6, ncclInt32, ncclSum), reduce(6, ncclFloat32, ncclSum), "of 6 i32", "of 6 f32");
        check_disagreement(reduce(6, ncclFloat32, ncclMax), reduce(6, ncclFloat32, ncclSum), "of 6 f32, max", "of 6 f32, sum");
        check_disagreement(broadcast(0), broadcast(1), "root 0", "root 1");
        // the same two calls in another order
        check_disagreement([&](Rank& r) { all_gather(r), broadcast(0)(r); }, [&](Rank& r) { broadcast(0)(r), all_gather(r); },
                           "ncclAllGather", "ncclBroadcast");
    }

    TEST_CASE("nccl's stand-in: groups") {
        const std::vector<std::string> said = on_ranks(1, [](Rank& r) -> std::string {
            const auto handle = r.stream.handle();
            std::string all = r.refused(ncclGroupEnd()) + "\n";
            all += r.refused(ncclSend(r.in, 1, ncclFloat32, 0, r.comm, handle)) + "\n";
            r.right(ncclGroupStart());
            ncclComm_t part = nullptr;
            all += r.refused(ncclCommSplit(r.comm, 0, 0, &part, nullptr)) + "\n";
            all += r.refused(ncclCommDestroy(r.comm)) + "\n";
            r.right(ncclSend(r.in, 1, ncclFloat32, 0, r.comm, handle));
            all += r.refused(ncclRecv(r.out, 1, ncclFloat32, 3, r.comm, handle)) + "\n";
            all += "the group: " + r.refused(ncclGroupEnd()) + "\n";  // nothing of it was begun: the send waits for nobody
            r.stream.synchronize();
            r.right(ncclGroupStart());
            r.right(ncclGroupStart());  // groups may be nested: the outermost end begins them
            r.right(ncclSend(r.in, 1, ncclFloat32, 0, r.comm, handle));
            r.right(ncclGroupEnd());
            r.right(ncclRecv(r.out, 1, ncclFloat32, 0, r.comm, handle));
            r.right(ncclGroupEnd());
            return all + (r.result(0) == 1 ? "right" : "wrong");
        });
        CHECK(said[0] ==
              "ncclGroupEnd without ncclGroupStart\n"
              "ncclSend: outside of a group: two ranks that send first would wait for each other\n"
              "ncclCommSplit inside of a group\n"
              "ncclCommDestroy inside of a group\n"
              "ncclRecv: a rank that the communicator does not have\n"
              "the group: ncclRecv: a rank that the communicator does not have\n"
              "right");
    }

    TEST_CASE("nccl's stand-in: messages of two lengths, a message that nobody receives, a rank that does not come") {
        const auto exchange = [](Rank& r, size_t send, size_t receive) {
            r.right(ncclGroupStart());
            if (send > 0) r.right(ncclSend(r.in, send, ncclFloat32, 1 - r.rank, r.comm, r.stream.handle()));
            if (receive > 0) r.right(ncclRecv(r.out, receive, ncclFloat32, 1 - r.rank, r.comm, r.stream.handle()));
            r.right(ncclGroupEnd());
            r.stream.synchronize();
            return std::string("nothing noticed");
        };
        for (const std::string& said : on_ranks(2, [&](Rank& r) { return exchange(r, r.rank == 0 ? 5 : 7, r.rank == 0 ? 7 : 6); })) {
            CAPTURE(said);
            CHECK(has(said, "message 0 from rank 0 to rank 1: the one calls ncclSend of 5 f32, the other ncclRecv of 6 f32"));
        }
        std::vector<std::string> said = on_ranks(
            2, [&](Rank& r) { return exchange(r, r.rank == 0 ? 5 : 0, 0); }, 0.3);
        CHECK(has(said[0], "nothing moves after 0.3 s: rank 0 is in ncclSend"));
        CHECK(has(said[0], "rank 1 is in nothing"));
        said = on_ranks(
            2,
            [&](Rank& r) -> std::string {
                if (r.rank == 1) return "absent";
                r.right(ncclAllGather(r.in, r.out, 1, ncclFloat32, r.comm, r.stream.handle()));
                r.right(ncclAllGather(r.in, r.out, 1, ncclFloat32, r.comm, r.stream.handle()));
                r.stream.synchronize();
                return "nothing noticed";
            },
            0.3);
        CHECK(has(said[0], "rank 0 is in ncclAllGather (number 0), rank 1 is in nothing"));
    }

    TEST_CASE("nccl's stand-in: communicators that are gone, memory that is not the device's, a second stream") {
        const std::vector<std::string> said = on_ranks(1, [](Rank& r) -> std::string {
            const auto handle = r.stream.handle();
            std::string all;
            float on_host = 0;
            all += r.refused(ncclBroadcast(&on_host, r.out, 1, ncclFloat32, 0, r.comm, handle)) + "\n";
            all += r.refused(ncclBroadcast(r.in, r.out, 8 * n + 1, ncclFloat32, 0, r.comm, handle)) + "\n";
            all += r.refused(ncclBroadcast(r.in, r.in + 1, 2, ncclFloat32, 0, r.comm, handle)) + "\n";
            r.right(ncclBroadcast(r.in, r.in, 2, ncclFloat32, 0, r.comm, handle));
            const Stream other(Device::cuda, 256);
            all += r.refused(ncclBroadcast(r.in, r.out, 1, ncclFloat32, 0, r.comm, other.handle())) + "\n";
            all += r.refused(ncclCommDestroy(r.comm)) + "\n";
            r.stream.synchronize();
            r.right(ncclCommDestroy(r.comm));
            all += r.refused(ncclBroadcast(r.in, r.out, 1, ncclFloat32, 0, r.comm, handle)) + "\n";
            all += r.refused(ncclCommDestroy(r.comm)) + "\n";
            all += r.refused(ncclBroadcast(r.in, r.out, 1, ncclFloat32, 0, nullptr, handle));
            return all;
        });
        CHECK(said[0] ==
              "ncclBroadcast: an input that is not all in the device's memory\n"
              "ncclBroadcast: an input that is not all in the device's memory\n"
              "ncclBroadcast: input and output overlap, and not as the documentation allows it\n"
              "ncclBroadcast: another stream than before: the stand-in wants one for each communicator\n"
              "ncclCommDestroy while operations are under way\n"
              "ncclBroadcast after ncclCommDestroy\n"
              "ncclCommDestroy after ncclCommDestroy\n"
              "ncclBroadcast of what is no communicator");
    }

    TEST_CASE("nccl's stand-in: a collective takes place when its stream comes to it, and a missing event is seen") {
        for (const bool event : {true, false}) {
            const std::vector<std::string> said = on_ranks(2, [&](Rank& r) -> std::string {
                const Stream other(Device::cuda, 256);
                r.stream.synchronize();
                const gpu::EventHandle filled = gpu::create_event();
                gpu::fill_bytes(r.in, 0x40, 4 * n, other.handle());
                gpu::record(filled, other.handle());
                if (event) gpu::wait(r.stream.handle(), filled);
                r.right(ncclAllGather(r.in, r.out, n, ncclFloat32, r.comm, r.stream.handle()));
                const float got = r.result(n + 1);
                other.synchronize();  // whichever of the two ran first, the runner sees the other here
                return format("%g", static_cast<double>(got));
            });
            for (const std::string& text : said) {
                CAPTURE(text);
                if (event)
                    CHECK(text == "3.00392");  // of bytes 0x40
                else
                    CHECK((has(text, "an event is missing") || has(text, "nothing orders")));
            }
        }
    }

    TEST_CASE("nccl's stand-in: an asynchronous error hangs until ncclCommAbort, which another thread may call, and what came is unknown") {
        const std::vector<std::string> said = on_ranks(2, [](Rank& r) -> std::string {
            if (r.rank == 1) return "lost";
            r.stream.synchronize();
            r.right(ncclAllGather(r.in, r.out, n, ncclFloat32, r.comm, r.stream.handle()));
            inject_error(ncclRemoteError);
            ncclResult_t error = ncclSuccess;
            r.right(ncclCommGetAsyncError(r.comm, &error));
            std::thread watch([&] {
                std::this_thread::sleep_for(std::chrono::milliseconds(100));
                ncclCommAbort(r.comm);
            });
            const float got = r.result(0);
            watch.join();
            return format("%s, %s, %s", ncclGetErrorString(error), got != got ? "unknown" : "data",
                          r.refused(ncclAllGather(r.in, r.out, n, ncclFloat32, r.comm, r.stream.handle())).c_str());
        });
        CHECK(said[0] == "remote process exited or there was a network error, unknown, ncclAllGather after ncclCommAbort");
    }
}
