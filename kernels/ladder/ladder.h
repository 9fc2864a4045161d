// The steps of three kernels on their way from naive to fast, for reading: README.md explains them in order. The engine uses none of them;
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

// out[i] = sum_j P[i,j] v[j], P[i,j] = softmax over j of scale q[i] . k[j], for the keys j that i sees: starts[i] <= j <= i. Several
// documents lie one behind the other; starts (T) i32 holds the row where each row's document begins.
// out, q (T,NH,HS); k, v (T,NKV,HS); all bf16, dense; NH a multiple of NKV; HS 64 or 128; sums in f32
using Attention = void(Tensor out, Tensor q, Tensor k, Tensor v, Tensor starts, float scale, Stream& stream);
TRAINCU_GPU Attention attention_naive;   // a thread a query, three passes over its keys
TRAINCU_GPU Attention attention_shared;  // tiles of keys in shared memory, one pass: the online softmax
TRAINCU_GPU Attention attention_mma;     // tensor cores, scores stay in registers; P is rounded to bf16 for the second product
TRAINCU_GPU Attention attention_ring;    // the next keys arrive meanwhile, queries in registers; the same

}  // namespace traincu::gpu::ladder
