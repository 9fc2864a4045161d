// NVIDIA's matrix product, cuBLASLt, behind the linear layers (kernels/matmul.h). Declared weak: a build without the library links without
// gemm_cublaslt.cpp, and kernels/matmul.cu then uses its own product.
//
// A function returns false, having done nothing, where the library takes no such problem: tensors whose rows do not begin at multiples of
// 16 bytes, operands of different types, or what it has no algorithm for. The caller's own product takes all.
//
// The first call of a shape waits for the GPU: it times what the library proposes, unless an earlier run has (kernels/gemm_cache.h). The
// functions with GELU also time the product and our activation one after the other, and return false for as long as the program runs
// where that is the faster way.
#pragma once

#include <cstdint>

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu::gpu {

// The beginning of the stream's workspace that the library uses; the rest is free for the caller.
TRAINCU_GPU int64_t cublaslt_workspace_bytes(const Stream& stream);

// accumulate: the product, and the bias, are added to what is in the result. The result may be f32 beside operands of bf16.
TRAINCU_GPU bool cublaslt_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, bool accumulate, Stream& stream);
TRAINCU_GPU bool cublaslt_backward_input(Tensor dinp, Tensor dout, Tensor weight, bool accumulate, Stream& stream);
TRAINCU_GPU bool cublaslt_gelu_forward(Tensor out, Tensor pre, Tensor inp, Tensor weight, Tensor bias, Stream& stream);
TRAINCU_GPU bool cublaslt_gelu_backward_input(Tensor dpre, Tensor dout, Tensor weight, Tensor pre, Stream& stream);
// column_sums, if not null: (units,OC) f32, overwritten with the sums over each unit's rows of dout, which pass by anyway.
TRAINCU_GPU bool cublaslt_backward_weight(Tensor dweight, float* column_sums, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream);

}  // namespace traincu::gpu
