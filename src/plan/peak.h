// The ceilings that speed is compared with, measured on this machine with the threads now in force.
#pragma once

#include "src/device/stream.h"

namespace traincu {

// FLOP/s of this machine's matrix products: the best of several 1024 x 1024 x 1024 ones, measured in about a third of a second.
double measure_matmul_peak(Stream& stream);

// FLOP/s of the multipliers: multiply-adds on registers in the widest vectors, the best of several bursts. No kernel can be faster.
double measure_fma_peak();

// Bytes/s between processor and memory: a[i] = b[i] + s c[i] over arrays of 64 MiB, three times their bytes (the fetch of a[i] before it is
// written is not counted), the best of several. After McCalpin's STREAM triad.
double measure_bandwidth();

}  // namespace traincu
