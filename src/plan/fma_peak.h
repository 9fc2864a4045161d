// The multipliers' own speed: a loop of multiply-adds on registers alone.
#pragma once

#include "kernels/gemm_cpu.h"

namespace traincu {

// One burst on all OpenMP threads at once, some milliseconds long; its FLOPs. The caller keeps the time. The processor must have `simd`.
double fma_burst(cpu::Simd simd);

}  // namespace traincu
