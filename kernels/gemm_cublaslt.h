// NVIDIA's matrix product, cuBLASLt, behind the linear layers (kernels/matmul.h). Declared weak: a build without the library links without
// gemm_cublaslt.cpp, and kernels/matmul.cu then uses its own product.
//
// A function returns false, having done nothing, where the library takes no such problem: rows or pointers that do not begin at multiples
// of 16 bytes. The caller's own product takes all.
#pragma once

#include <cstdint>

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu::gpu {

TRAINCU_GPU bool cublaslt_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream);
TRAINCU_GPU bool cublaslt_backward_input(Tensor dinp, Tensor dout, Tensor weight, Stream& stream);
TRAINCU_GPU bool cublaslt_backward_weight(Tensor dweight, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream);

}  // namespace traincu::gpu
