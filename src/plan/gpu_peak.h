// What a GPU could compute at best, by its name: the figures of the vendor, for MFU. ./train bench measures what it really reaches.
#pragma once

#include <string>

#include "src/base/dtype.h"

namespace traincu {

// Dense FLOP/s (no sparsity counted) of a card whose name CUDA reports as `device`, at its boost clock. bf16: tensor cores that sum in
// fp32. f32: multiply-adds on CUDA cores, no TF32. 0: unknown; so are laptop cards, whose clocks differ from one model to the next.
double gpu_peak(const std::string& device, Dtype dtype);

}  // namespace traincu
