// A strict stand-in for NCCL under the SIMT runner: up to 8 ranks, each a process, without a GPU. tests/nccl/README.md says what it checks.
#pragma once

#include "tests/nccl/include/nccl.h"

namespace traincu::nccl_standin {

// All communicators of this process meet this error, as if the network had gone: what they have under way does not come to an end any more,
// until it is aborted.
void inject_error(ncclResult_t error);

// Seconds that a rank waits for others before it says what it waits for. 20, or NCCL_STANDIN_SECONDS.
void set_deadline(double seconds);

int aborted_communicators();  // of this process, so far

}  // namespace traincu::nccl_standin
