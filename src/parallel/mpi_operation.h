// An operation of the MPI engine, from its first message to its last, and what operations share. Only comm_mpi.cpp uses it.
#pragma once

#include <deque>
#include <functional>
#include <list>

#include "src/device/transfer.h"
#include "src/parallel/comm_mpi.h"

namespace traincu::mpi {

// A buffer of the host; for a GPU's stream pinned, and busy until the copies that were put in line are done.
struct Buffer {
    PinnedMemory memory;
    bool pinned = false;
    gpu::EventHandle used = nullptr;  // after the last copy from here to the device

    Buffer(const Stream& stream, int64_t bytes) : memory(stream, bytes), pinned(stream.on_gpu()) {
        if (pinned) used = gpu::create_event();
    }
    ~Buffer() {
        if (used) gpu::destroy_event(used);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

// Memory that comes again in every step.
class BufferPool {
public:
    // The smallest that is large enough, else a new one. A much larger one is left to whom it was made for.
    std::unique_ptr<Buffer> take(const Stream& stream, int64_t bytes);
    void give_back(std::unique_ptr<Buffer> buffer) { free_.push_back(std::move(buffer)); }

private:
    static constexpr int64_t smallest = 4096;  // bytes
    std::vector<std::unique_ptr<Buffer>> free_;
};

enum Kind { all_gather, reduce_scatter, all_to_all, exchange, broadcast, all_reduce, barrier, kinds };

class Operation;

// What the communicators of one family share.
struct Engine {
    explicit Engine(const MpiSettings& s) : settings(s) {}

    void progress();
    void check_peers(double patience_seconds = 0) const;
    // Where MPI itself reports a failure, the watch may soon know why.
    void check(int result, const char* call) const;

    MpiSettings settings;
    BufferPool buffers;
    std::list<Operation*> under_way;
};

// One communicator of MPI, as operations see it.
struct Group {
    MPI_Comm mpi;
    Communicator& members;
    std::string name;
    int64_t operations = 0;  // begun so far
};

class Operation final : public Pending::Operation {
public:
    Operation(Engine& engine, Group& group, Kind kind, const Stream& stream);
    // One that was not waited for, because of an exception: MPI must not write to its memory any more.
    ~Operation() override;

    // ---- memory. A tensor's bytes on the host: on a GPU's stream a copy in pinned memory.
    std::byte* input(const Tensor& tensor, Stream& stream);
    std::byte* output(const Tensor& tensor, Stream& stream);
    std::byte* in_place(const Tensor& tensor, Stream& stream);
    std::byte* scratch(int64_t bytes, const Stream& stream);

    // ---- messages of the round at hand
    void receive(int peer, std::byte* data, int64_t bytes) { post(peer, data, bytes, true); }
    void send(int peer, std::byte* data, int64_t bytes) { post(peer, data, bytes, false); }

    // What follows when all messages of this round are through; it may begin another round.
    void then(std::function<void()> work) { rest_.push_back(std::move(work)); }

    bool advance();  // true when all is done; never waits
    void wait(Stream& stream) override;

private:
    struct Message {
        int peer;
        bool receives;
        int64_t offset, piece, bytes;  // this piece of a message of so many bytes
    };
    struct Upload {
        Tensor tensor;
        std::byte* host;
    };

    void post(int peer, std::byte* data, int64_t bytes, bool receives);
    bool test();
    void wait_for_messages();
    void check_size(const Message& message, const MPI_Status& status, int error) const;
    void check_kinds() const;
    std::string title() const;
    int rank_of(int peer) const { return group_.members.world_rank_of(peer); }
    Error disagreement(const std::string& what) const;
    Error overdue(double waited) const;

    Engine& engine_;
    Group& group_;
    const Kind kind_;
    const bool on_gpu_;
    const int64_t number_;
    std::list<Operation*>::iterator place_;

    std::vector<MPI_Request> requests_;
    std::vector<Message> messages_;  // of requests_
    int open_ = 0;                   // requests that are not through
    bool done_ = false;
    std::deque<std::function<void()>> rest_;
    std::vector<int> finished_;
    std::vector<MPI_Status> statuses_;

    std::vector<std::unique_ptr<Buffer>> buffers_;
    std::vector<Upload> uploads_;
};

}  // namespace traincu::mpi
