// The weights as the optimizer knows them, in f32 in the host's memory: what checkpoints and models on disk hold.
#pragma once

#include <memory>

#include "src/optim/optimizer.h"
#include "src/parallel/comm.h"

namespace traincu {

// (flat_size) f32: of each row its masters, put together where they are split; the stored weights where nothing is kept beside them. Where
// the weights are f32 and on a CPU, these themselves.
class MasterCopy {
public:
    // optimizer: null for a model that is only used. The copy is zeros until download().
    MasterCopy(WeightDoor& door, Optimizer* optimizer, Stream& stream);
    const Tensor& tensor() const { return host_; }
    // world: where ranks share the masters out, all of them call this, and rank 0 has all. Elsewhere, and without it, only the rank's own
    // masters are masters, the rest are stored weights.
    MasterCopy& download(Communicator* world = nullptr);
    // Stored weights and what is kept beside become those of the copy; weights of 16 bits are rounded to the nearest. Error(usage) where
    // one lies beyond the range of the type it is to be stored in.
    void upload();

private:
    bool is_copy() const { return memory_ != nullptr; }

    WeightDoor& door_;
    Optimizer* optimizer_;
    Stream& stream_;
    Tensor host_;
    std::unique_ptr<std::byte, void (*)(void*)> memory_;
};

// (flat_size) f32 in the host's memory from m or v of all ranks, on rank 0; and a rank's own part of such an array, into m or v.
class MomentCopy {
public:
    MomentCopy(const Optimizer& optimizer, const ParamTable& table, const Tensor& moment, const Stream& stream);
    const Tensor& tensor() const { return flat_; }
    MomentCopy& download(Communicator* world);
    void upload();

private:
    const Optimizer& optimizer_;
    const ParamTable& table_;
    HostCopy local_;
    std::unique_ptr<std::byte, void (*)(void*)> memory_;
    Tensor flat_;
};

}  // namespace traincu
