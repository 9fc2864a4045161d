// What the ranks of one communicator of the stand-in share: a piece of memory that their processes map. What is sent is copied into it by
// the sender and out of it by the receivers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace traincu::nccl_standin {

constexpr int most_ranks = 8, most_messages = 64;  // of a group from one rank to another
constexpr int64_t room = int64_t{32} << 20;        // bytes that a rank can send at once

enum class Kind : int32_t { none, all_gather, reduce_scatter, all_reduce, broadcast, send, receive };
const char* name_of(Kind kind);  // "ncclAllGather"

struct Call {  // what the ranks must agree about
    Kind kind = Kind::none;
    int32_t dtype = 0, op = 0, root = 0;  // op: -1 where there is none; root likewise
    int64_t count = 0;
    bool operator==(const Call&) const = default;
    std::string text() const;  // "ncclAllReduce of 7 f32, sum"
};

// All zero at the beginning, as fresh memory is. Counts only grow.
struct Place {                       // one rank's
    std::atomic<int64_t> arrived;    // collectives that its stream has reached
    Call calls[2];                   // the last two: a rank is never further ahead of another
    std::atomic<int64_t> met;        // meetings of the hosts
    int64_t words[2][2];             // brought to the last two
    std::atomic<int32_t> waits_for;  // a Kind: what its stream is in
    std::atomic<int64_t> wait_number;
};
struct Channel {  // from one rank to another
    std::atomic<int64_t> sent, taken;
    struct {
        int64_t bytes, offset;
        int32_t dtype;
    } messages[most_messages];
};
struct Board {
    std::atomic<int32_t> attached;
    std::atomic<int32_t> broken;  // 1: somebody writes `why`, 2: it is written
    char why[600];
    Place places[most_ranks];
    Channel channels[most_ranks][most_ranks];  // [from][to]
};

class Shared {
public:
    // Made by whoever comes first; its name is gone when the last has come, so that nothing is left behind.
    Shared(std::string path, int ranks);
    ~Shared();
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;

    Board& operator*() const { return *static_cast<Board*>(memory_); }
    Board* operator->() const { return static_cast<Board*>(memory_); }
    // Where a rank puts what it sends: collectives take turns of two rooms, messages have the third.
    std::byte* data(int rank, int64_t which) const;
    void attached(int ranks);

    void break_down(const std::string& why);  // for all ranks; the first reason stays
    std::string broken() const;               // empty: no

private:
    std::string path_;
    int64_t bytes_;
    void* memory_;
};

}  // namespace traincu::nccl_standin
