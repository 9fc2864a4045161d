// The steps of two kernels on their way from naive to fast, for reading: README.md explains them in order. The engine uses none of them;
// the tests run them all. Weak, since executables without GPU code have none.
#pragma once

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu::gpu::ladder {

// out[n] = (inp[n] - mean(inp[n])) / sqrt(variance(inp[n]) + eps) * weight + bias        out, inp (N,C); weight, bias (C); all bf16, dense
using Layernorm = void(Tensor out, Tensor inp, Tensor weight, Tensor bias, float eps, Stream& stream);
TRAINCU_GPU Layernorm layernorm_naive;      // a thread a row
TRAINCU_GPU Layernorm layernorm_warp;       // a warp a row
TRAINCU_GPU Layernorm layernorm_registers;  // the row stays in registers, 16 bytes an access; C a multiple of 8, at most 2048

// c = a b^T        c (M,N), a (M,K), b (N,K); all bf16, dense; sums in f32
using Matmul = void(Tensor c, Tensor a, Tensor b, Stream& stream);
TRAINCU_GPU Matmul matmul_naive;      // a thread an element
TRAINCU_GPU Matmul matmul_shared;     // a block's tiles of a and b in shared memory
TRAINCU_GPU Matmul matmul_registers;  // a thread 8x8 elements
TRAINCU_GPU Matmul matmul_mma;        // tensor cores; M, N multiples of 64, K of 32
TRAINCU_GPU Matmul matmul_ring;       // the next tiles arrive meanwhile; the same

}  // namespace traincu::gpu::ladder
