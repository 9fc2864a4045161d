// The weights as the optimizer knows them, in f32 in the host's memory: what checkpoints and models on disk hold.
#pragma once

#include <memory>

#include "src/optim/optimizer.h"

namespace traincu {

// (flat_size) f32: of each row its masters, put together where they are split; the stored weights where nothing is kept beside them. Where
// the weights are f32 and on a CPU, these themselves.
class MasterCopy {
public:
    // optimizer: null for a model that is only used. The copy is zeros until download().
    MasterCopy(WeightDoor& door, Optimizer* optimizer, Stream& stream);
    const Tensor& tensor() const { return host_; }
    MasterCopy& download();
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

}  // namespace traincu
