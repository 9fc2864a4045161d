// One rank's communicator of the stand-in, and what its streams do.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/nccl/board.h"
#include "tests/nccl/include/nccl.h"

struct ncclComm {
    ncclComm(std::string its_path, int its_rank, int its_size)
        : path(std::move(its_path)), rank(its_rank), size(its_size), shared(path, size) {}

    const std::string path;
    const int rank, size;
    traincu::nccl_standin::Shared shared;
    cudaStream_t stream = nullptr;  // of its first operation

    // put in line so far
    int64_t collectives = 0, meetings = 0, splits = 0;
    std::array<int64_t, traincu::nccl_standin::most_ranks> sent{}, received{};
    std::atomic<int64_t> under_way = 0;  // pieces of work

    std::atomic<int> error = ncclSuccess;  // the asynchronous one
    std::atomic<bool> aborted = false, destroyed = false;
};

namespace traincu::nccl_standin {

using Comm = std::shared_ptr<ncclComm>;

// A call that was accepted.
struct Op {
    Call call;
    const void* in;
    void* out;
    int64_t in_bytes, out_bytes;
    int peer;
    Comm comm;
    cudaStream_t stream;
};

void launch_collective(const Op& op);
// All sends and receives of a group on one communicator.
void launch_messages(const Comm& comm, const std::vector<Op>& ops);

int64_t size_of_type(ncclDataType_t type);  // 0: there is no such type

// Of one that waits for other processes: asked again and again.
class Patience {
public:
    bool lost();  // the deadline is over

private:
    std::chrono::steady_clock::time_point start_;
};

}  // namespace traincu::nccl_standin
