// The MPI engine of Communicator, on the host's memory. For the files that include mpi.h: everybody else has Mesh.
#pragma once

#define OMPI_SKIP_MPICXX 1  // the C interface alone
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include "src/parallel/comm.h"

namespace traincu {

class PeerWatch;

// What the communicators of one family share.
struct MpiSettings {
    double timeout_seconds = 600;                // that one wait may last
    int64_t largest_message = int64_t{1} << 30;  // bytes; MPI counts in int, so longer ones are sent in pieces
    PeerWatch* watch = nullptr;                  // asked while waiting
};

// mpi: becomes this object's. members: by rank.
std::unique_ptr<Communicator> mpi_communicator(MPI_Comm mpi, std::vector<Communicator::Member> members, const MpiSettings& settings,
                                               const std::string& name);

// Error(peer) with MPI's own words where a call failed.
void check_mpi(int result, const char* call);

}  // namespace traincu
