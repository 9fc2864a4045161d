// Mesh: the ranks of a run, and how they lie on nodes. A node is what ranks share a host's memory in.
//
//   world    all ranks
//   node     the m ranks of one node                        rank = node * m + place in the node
//   across   the ranks that have the same place in their nodes
//
// MPI is started only under a launcher (mpirun, srun), which is known by the variables that it sets; without one the run is one rank and no
// MPI is touched. Ranks are numbered node by node, however the launcher dealt them out.
//
// The end. Where all went well, ~Mesh() ends MPI, which waits for all ranks. After an error that would never return: another rank may be
// dead, or wait for this one. MPI_Abort is no way out, since its exit code hides ours. So a rank that fails calls leave(), which tells the
// others, flushes what was printed, and ends the process at once; the others find out in their next wait, and leave with code 7 by
// themselves. Launchers help: both mpirun and srun -K end the ranks that are left when one ends with an error; mpirun gives them a second.
#pragma once

#include "src/parallel/comm.h"
#include "src/parallel/peer_watch.h"

namespace traincu {

enum class Transport { automatic, mpi, nccl };

struct MeshOptions {
    int ranks_per_node = 0;                      // 0: as the hosts are. Else pretend: for tests, and for hosts that are two nodes
    double timeout_seconds = 600;                // that a rank may keep others waiting
    int64_t largest_message = int64_t{1} << 30;  // bytes in one message of MPI; tests make it small
    Transport transport = Transport::automatic;  // of tensors on GPUs: nccl where each rank has a GPU of its own and the build has NCCL
    bool repeatable = true;                      // NCCL's sums have the same bits in a repeated run
    int64_t nccl_scratch = int64_t{32} << 20;    // bytes on the device for each communicator that sums bf16; tests make it small
};

// Who started this process, by its environment.
struct Launcher {
    std::string name;  // empty: nobody
    int ranks = 0;     // 0: it does not say
};
Launcher find_launcher(const char* (*variable)(const char* name));

class Mesh {
public:
    Mesh();  // one rank
    ~Mesh();
    Mesh(const Mesh&) = delete;
    Mesh& operator=(const Mesh&) = delete;

    // Error(usage) under a launcher of several ranks where this build has no MPI or MPI knows of another number, and where
    // ranks_per_node does not divide it.
    void start(const MeshOptions& options = {});

    // Of all ranks, after start() and once the stream's device is chosen: from now on the communicators move its tensors by NCCL, where
    // options.transport and the devices allow it. What was split from them before stays with MPI. Error(usage) where NCCL was asked for and
    // cannot be.
    void use_device(const Stream& stream);
    const char* transport() const { return nccl_ ? "nccl" : mpi_ ? "mpi" : "none"; }

    // Of a rank that failed, with what it printed: returns the exit code where there are no other ranks, else ends the process with it.
    int leave(int exit_code, const std::string& sentence);

    // Error(peer) where another rank is lost; waits up to so many seconds for the news.
    void check_peers(double patience_seconds = 0) {
        if (watch_) watch_->check(patience_seconds);
    }

    Communicator& world() { return *world_; }
    Communicator& node() { return *node_; }
    Communicator& across() { return *across_; }
    int rank() const { return world_->rank(); }
    int size() const { return world_->size(); }
    int ranks_per_node() const { return node_->size(); }
    int nodes() const { return across_->size(); }
    int wanted_ranks_per_node() const { return options_.ranks_per_node; }  // 0: as the hosts are

    // Among the ranks of this host, whatever ranks_per_node pretends: which of its GPUs is this rank's.
    int local_rank() const { return local_rank_; }
    int local_ranks() const { return local_ranks_; }
    // The cores that this rank may use, shared with the ranks that may use the same ones; at least 1. (mpirun binds each of two ranks to
    // one core, unless --bind-to none.)
    int threads_per_rank() const { return threads_; }

    const std::string& note() const { return note_; }  // what a user should know; mostly empty

    static bool has_mpi();

private:
    void start_mpi(const MeshOptions& options, const Launcher& launcher);

    MeshOptions options_;
    std::unique_ptr<PeerWatch> watch_;
    std::unique_ptr<Communicator> world_, node_, across_;
    int local_rank_ = 0, local_ranks_ = 1, threads_;
    bool mpi_ = false;  // to be ended
    bool nccl_ = false;
    std::string note_;
};

}  // namespace traincu
