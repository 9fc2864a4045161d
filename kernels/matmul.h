// Linear layers: the matrix multiplications that take most of a training step.
//
//   forward           out = inp W^T + bias              (N,OC) = (N,IC) (OC,IC)^T + (OC)
//
// Backward:
//   input             dinp = dout W                     (N,IC) = (N,OC) (OC,IC)
//   weight            dweight += dout^T inp             (OC,IC) += (N,OC)^T (N,IC)
//                     dbias   += sum over rows of dout  (OC)
// The backward of the weight goes unit by unit over the rows (kernels/norm.h, "Units"); the gradient is accumulated.
//
// With GELU (kernels/activation.h) at the product's end:
//   gelu forward          pre  = inp W^T + bias            (N,OC), saved for the backward
//                         out  = gelu(pre)                 (N,OC)
//   gelu backward_input   dpre = gelu'(pre) * (dout W)     (N,IC) = (N,IC) * (N,OC) (OC,IC): pre is what the layer before saved
//
// Shapes: as above, row-major; inp, out, dinp, dout may be strided views (slices of a packed buffer). An absent bias or dbias is left out.
// Types: activations and their gradients f32, bf16, or on a CPU f64; weight and bias of the same type. Beside activations of f32 or f64
// (LayerCast) the weight alone may also be stored in bf16 or f16: each is widened on its way to the product, which is exact, and nothing
// else is rounded. In bf16 a result is rounded once, bias and all. dweight, dbias are of the gradients' type (statistics_of(),
// src/base/dtype.h). Sums are f32 (f64 beside f64). Beside GELU, out, pre and dpre are contiguous, and no two of a call's tensors share
// memory. Saved for backward: inp; pre. Bytes, s = size of an element: s (N IC + OC IC + N OC) each; dweight is read as well as written (s
// OC IC more), and dbias reads dout once more. With GELU: the product and the activation after it, less one reading of pre, or a writing
// and a reading of dpre, where the product ends with it. FLOPs: 2 N OC IC each. Source: the blocked product, Goto, van de Geijn 2008.
//
// On a CPU there are two engines behind the same functions: oneDNN's matmul primitive where the library was found at build time,
// and our own blocked product (kernels/gemm_cpu.cpp), always. Ours computes in f32 whatever is stored. oneDNN multiplies bf16 where the
// processor does (AVX512-BF16, AMX); a 16-bit weight beside f32 is always ours. f64 uses plain loops: it serves the gradient checks.
// On a GPU: cuBLASLt (kernels/gemm_cublaslt.cpp), or our own product on tensor cores (kernels/matmul.cu), always. The library can end a
// product with GELU; whether that is faster than the product and our activation, one after the other, is measured once for each shape.
// The two differ in their last bits, so within a process a shape keeps to its way: computed again, a forward gives the same bits.
#pragma once

#include <string>

#include "src/base/tensor.h"
#include "src/device/stream.h"

namespace traincu {

void linear_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream);

void linear_backward_input(Tensor dinp, Tensor dout, Tensor weight, Stream& stream);

void linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream);

void linear_gelu_forward(Tensor out, Tensor pre, Tensor inp, Tensor weight, Tensor bias, Stream& stream);

void linear_gelu_backward_input(Tensor dpre, Tensor dout, Tensor weight, Tensor pre, Stream& stream);

// The engine of the products. `automatic`, on a CPU: oneDNN where it was built in and its code for this processor gives bits that do not
// depend on threads or N (AVX-512), else own; on a GPU: cuBLASLt where it was built in, else own.
enum class GemmEngine { automatic, own, onednn, cublaslt };
void set_gemm_engine(GemmEngine engine);              // Error(usage) if this build or processor lacks it
GemmEngine gemm_engine(Device device = Device::cpu);  // own, onednn or cublaslt
void check_gemm_engine(Device device);                // Error(usage) if the engine that was set is one of the other device's
// "own (AVX-512)", "oneDNN 2.6.3", "own (tensor cores)", "cuBLASLt 13.0.2". On a CPU products of bf16 are another's where oneDNN or the
// processor cannot multiply them: "oneDNN 2.6.3 (bf16)", else ours.
std::string gemm_engine_name(Device device = Device::cpu, Dtype activations = Dtype::f32);

// How a GPU multiplies f32 activations under LayerCast. fp32: as written. bf16x2, bf16x3: on tensor cores, after each f32 operand is split
// into bf16 terms, x1 = bf16(x), x2 = bf16(x - x1), x3 = bf16(x - x1 - x2). Three hold all 24 bits from |x| = 2^-110 on; of smaller numbers
// they lack what bf16 cannot tell from 0, up to 2^-134. x1 of a finite x is finite; the other terms of an infinite x are 0.
// A weight in bf16 is one term already: 2 or 3 products forward and backward_input; backward_weight has two f32 operands, 3 products (x1
// y1, x1 y2, x2 y1) or 6 (what is not below 2^-24). A tensor core's sums are cut off, not rounded, so they go over pieces of at most 1024
// of K, which do not cross a unit's end: in a piece the smallest terms first, then the piece is added to the result in f32, the bias (of
// the activations' type, as everywhere) last. The library does so for the largest terms and multiplies the others before, over all of K. An
// infinity meets terms that are 0: in a weight, or in backward_weight, it may give NaN where products as written give infinity. Products of
// an f32 or f16 weight stay as written. Source: Henry, Tang, Heinecke 2019; Ootomo, Yokota 2022.
enum class F32Products { fp32, bf16x2, bf16x3 };
void set_f32_products(F32Products products);
F32Products f32_products();

// Seconds spent in the functions above on the CPU since the program started: a step's share of matrix products is told from it.
double matmul_seconds();
// Floating-point operations of the same calls: 2 N OC IC each.
double matmul_flops();

namespace gpu {
TRAINCU_GPU std::string cublaslt_version();  // "13.0.2"; linked only where the library was found
TRAINCU_GPU void linear_forward(Tensor out, Tensor inp, Tensor weight, Tensor bias, Stream& stream);
TRAINCU_GPU void linear_backward_input(Tensor dinp, Tensor dout, Tensor weight, Stream& stream);
TRAINCU_GPU void linear_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor inp, int64_t unit_rows, Stream& stream);
TRAINCU_GPU void linear_gelu_forward(Tensor out, Tensor pre, Tensor inp, Tensor weight, Tensor bias, Stream& stream);
TRAINCU_GPU void linear_gelu_backward_input(Tensor dpre, Tensor dout, Tensor weight, Tensor pre, Stream& stream);
}  // namespace gpu

}  // namespace traincu
