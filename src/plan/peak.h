// The ceilings that speed is compared with, measured on this machine with the threads now in force.
#pragma once

#include <string>

#include "src/device/stream.h"

namespace traincu {

// FLOP/s of the stream's matrix products, operands of the given type: the best of several cubes of 1024 on a CPU, of 64 (f32: 32) per
// multiprocessor on a GPU, measured in about a third of a second. The numbers are random: zeros would be multiplied faster.
double measure_matmul_peak(Stream& stream, Dtype dtype = Dtype::f32);

// What the speed of training is told against (MFU), and what computes, in words. On a GPU the vendor's peak where it is known, else what
// was measured; on a CPU what was measured.
struct Ceiling {
    double flops;
    std::string text;
};
Ceiling measure_ceiling(Stream& stream, Dtype dtype, int threads);

// FLOP/s of the multipliers: multiply-adds on registers in the widest vectors, the best of several bursts. No kernel can be faster.
double measure_fma_peak();

// Bytes/s between processor and memory, read and written. On a GPU: of copies of four times its L2 cache. On a CPU: a[i] = b[i] + s c[i]
// over arrays of 64 MiB, three times their bytes (the fetch of a[i] before it is written is not counted), the best of several. After
// McCalpin's STREAM triad.
double measure_bandwidth(Stream& stream);

}  // namespace traincu
