// The NCCL engine of Communicator, on the devices' memory. Weak, as the functions of gpu.h are: absent in a build without NCCL.
#pragma once

#include "src/parallel/comm.h"

namespace traincu {

struct NcclSettings {
    double timeout_seconds = 600;               // that an operation may be under way
    int64_t scratch_bytes = int64_t{32} << 20;  // of the device, for each communicator that sums bf16; tests make it small
    bool repeatable = true;                     // a repeated run has the same bits
};

// host: the communicator of the same ranks on the host's memory. NCCL's ranks find each other through it, and it serves the streams that
// are not on a GPU. Its Traffic becomes this one's. The device is chosen, and all ranks call this.
TRAINCU_GPU std::unique_ptr<Communicator> nccl_communicator(std::unique_ptr<Communicator> host, const NcclSettings& settings,
                                                            const std::string& name);

// Why NCCL cannot be used: not built in, or its library is not here. Empty: it can.
TRAINCU_GPU std::string nccl_library_missing();
inline std::string nccl_unusable() {
    return &nccl_communicator ? nccl_library_missing() : std::string("this ./train was built without NCCL");
}

}  // namespace traincu
