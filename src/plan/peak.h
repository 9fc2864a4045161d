// The ceiling that a step's speed is compared with.
#pragma once

#include "src/device/stream.h"

namespace traincu {

// FLOP/s of this machine's matrix products: the best of several 1024 x 1024 x 1024 ones, measured in about a third of a second.
double measure_matmul_peak(Stream& stream);

}  // namespace traincu
