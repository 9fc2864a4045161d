// Communicator: moves tensors between the ranks of a run. Two engines behind one contract: comm_mpi.cpp (MPI on the host's memory; a GPU's
// tensors are staged through it) and NCCL (the devices' memory). A run of one rank has a third, which copies and sends nothing.
//
//   all_gather      out (size*n)  block r is rank r's in (n)
//   reduce_scatter  out (n)       the sum over ranks of block `rank` of their in (size*n)
//   all_to_all      out (size*n)  block r is block `rank` of rank r's in (size*n)
//   exchange                      messages of any sizes between any pairs: the k-th to a peer meets the k-th that the peer receives from
//   here broadcast       data          everybody's becomes root's all_reduce      data          everybody's becomes the sum, or the
//   largest, over ranks
//
// Rules. All ranks make the same calls in the same order (exchange: those that it names). Each call begins an operation and returns; its
// result may be used after Pending::wait(), and until then nobody touches its tensors. Several may be pending, and be waited for in any
// order. Tensors are contiguous, of any size, and lie where the stream computes. In place: all_gather's `in` may be block `rank` of `out`,
// and reduce_scatter's `out` block `rank` of `in`.
//
// Sums. bf16 is summed in f32 and rounded once. The order is fixed, so a repeated run has the same bits; the MPI engine adds in the order
// of ranks, ((rank 0 + rank 1) + rank 2) + ..., whichever message came first and whichever rank adds.
//
// Errors. Error(peer) where a rank was lost, did not answer in time, or made another call than this rank. Nothing can be sent after one:
// the run ends (Mesh::leave()).
//
// Bytes. Traffic counts what this rank sends to others, as the direct algorithms send it: (size-1) n for all_gather, reduce_scatter and
// all_to_all; an all_reduce is a reduce_scatter and an all_gather. No rank can send less in total than these.
#pragma once

#include <array>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

enum class Reduce { sum, max };
enum class Cargo { weights, gradients, other };  // what travels, for counting

// What this rank sent since the caller last set it to {}, on a communicator and all that were split from it or that it was split from.
struct Traffic {
    struct Links {
        int64_t inside_node = 0, between_nodes = 0;  // bytes
    };
    std::array<Links, 3> sent;  // by cargo
    double waited_seconds = 0;  // that the host stood still in wait() and barrier()

    const Links& of(Cargo cargo) const { return sent[static_cast<size_t>(cargo)]; }
    int64_t bytes() const;  // all together
};

// An operation that was begun. It must be waited for: one that is dropped is a bug, unless an exception is under way.
class Pending {
public:
    class Operation {  // an engine's side of it
    public:
        virtual ~Operation() = default;
        virtual void wait(Stream& stream) = 0;
    };

    Pending() = default;                                    // nothing was begun
    explicit Pending(std::unique_ptr<Operation> operation)  // null: it is done already, and only wants to be waited for
        : operation_(std::move(operation)), open_(true), exceptions_(std::uncaught_exceptions()) {}
    Pending(Pending&& other) noexcept { swap(other); }
    Pending& operator=(Pending&& other);
    ~Pending() noexcept(false);

    // What is put on the stream from now on may use the result. MPI: the host waits; NCCL: the stream does.
    void wait(Stream& stream);
    explicit operator bool() const { return open_; }  // begun and not waited for

private:
    void swap(Pending& other) noexcept;

    std::unique_ptr<Operation> operation_;
    bool open_ = false;
    int exceptions_ = 0;  // that were under way when it began
};

class Communicator {
public:
    struct Member {
        int world_rank, node;
    };
    struct Message {
        int peer;
        Tensor tensor;
    };

    virtual ~Communicator() = default;
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;

    int rank() const { return rank_; }
    int size() const { return static_cast<int>(members_.size()); }
    int node_of(int peer) const { return members_[static_cast<size_t>(peer)].node; }
    int world_rank_of(int peer) const { return members_[static_cast<size_t>(peer)].world_rank; }

    [[nodiscard]] Pending all_gather(const Tensor& out, const Tensor& in, Cargo cargo, Stream& stream);
    [[nodiscard]] Pending reduce_scatter(const Tensor& out, const Tensor& in, Cargo cargo, Stream& stream);  // f32, f64, bf16
    [[nodiscard]] Pending all_to_all(const Tensor& out, const Tensor& in, Cargo cargo, Stream& stream);
    [[nodiscard]] Pending exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, Cargo cargo, Stream& stream);
    [[nodiscard]] Pending broadcast(const Tensor& data, int root, Cargo cargo, Stream& stream);
    [[nodiscard]] Pending all_reduce(const Tensor& data, Reduce how, Cargo cargo, Stream& stream);  // f32, f64, bf16, i32, i64

    // Returns when all ranks have called it and the work on their streams so far is done.
    virtual void barrier(Stream& stream) = 0;

    // Ranks of one color form a new communicator, in the order of keys (equal keys: in today's order). `name` appears in errors.
    virtual std::unique_ptr<Communicator> split(int color, int key, const std::string& name) = 0;

    // Lets what is pending, here and on communicators of the same family, proceed: between pieces of work, where the engine has no thread
    // of its own to do it.
    virtual void progress() {}

    Traffic& traffic() { return *traffic_; }

    // The part [begin, end) of n elements that `peer` adds up in an all_reduce.
    std::array<int64_t, 2> share(int64_t n, int peer) const { return {n * peer / size(), n * (peer + 1) / size()}; }

protected:
    Communicator(int rank, std::vector<Member> members, std::shared_ptr<Traffic> traffic)
        : rank_(rank), members_(std::move(members)), traffic_(std::move(traffic)) {}

    const std::vector<Member>& members() const { return members_; }
    const std::shared_ptr<Traffic>& shared_traffic() const { return traffic_; }

private:
    // The engine's side: tensors are checked, bytes counted. Messages to oneself are the engine's to copy.
    virtual Pending begin_all_gather(const Tensor& out, const Tensor& in, Stream& stream) = 0;
    virtual Pending begin_reduce_scatter(const Tensor& out, const Tensor& in, Stream& stream) = 0;
    virtual Pending begin_all_to_all(const Tensor& out, const Tensor& in, Stream& stream) = 0;
    virtual Pending begin_exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, Stream& stream) = 0;
    virtual Pending begin_broadcast(const Tensor& data, int root, Stream& stream) = 0;
    virtual Pending begin_all_reduce(const Tensor& data, Reduce how, Stream& stream) = 0;

    void count(int peer, int64_t bytes, Cargo cargo);

    int rank_;
    std::vector<Member> members_;  // by rank
    std::shared_ptr<Traffic> traffic_;
};

// Of a run of one rank.
std::unique_ptr<Communicator> single_rank_communicator();

// ---- for engines
// A contiguous tensor's bytes from one place to another of the stream's memory; those of an operation's two ends may be the same.
void copy_bytes(void* to, const void* from, int64_t bytes, Stream& stream);
// The `block`-th of `blocks` equal pieces of a contiguous tensor.
std::byte* block_of(const Tensor& tensor, int blocks, int block);

}  // namespace traincu
