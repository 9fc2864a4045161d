// Our own matrix product for CPUs: C = A B, or C += A B, in f32. The engine of kernels/matmul.cpp that is always there.
//
// The bits of C depend on the numbers and on K's cuts alone (KC below, and `unit`): not on M, N, the number of threads, or the
// instruction set, as long as that has fused multiply-add.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/integers.h"

namespace traincu::cpu {

// Element (row, col) is data[row * row_stride + col * col_stride]; one of the strides is 1, so a transpose costs nothing here.
template <class T>
struct Matrix {
    const T* data;
    int64_t row_stride, col_stride;
};

enum class Simd { portable, avx2, avx512 };
bool has_simd(Simd simd);
Simd best_simd();

struct GemmOptions {
    const float* bias = nullptr;  // (N), added to every row of C
    bool accumulate = false;      // C += instead of C =
    int64_t unit = 0;             // K is summed in units of this length, which are added to C in ascending order; 0: one unit
    Simd simd = best_simd();
};

// C (M,N) row-major with rows c_stride apart, A (M,K), B (K,N), K > 0. C overlaps neither A nor B. bias and accumulate exclude each
// other. Not to be called inside a parallel region.
void gemm(int64_t M, int64_t N, int64_t K, Matrix<float> a, Matrix<float> b, float* c, int64_t c_stride, const GemmOptions& options = {});

// The same by oneDNN's matmul primitive (kernels/gemm_onednn.cpp). Only where onednn_usable(); `simd` is oneDNN's own choice.
void gemm_onednn(int64_t M, int64_t N, int64_t K, Matrix<float> a, Matrix<float> b, float* c, int64_t c_stride,
                 const GemmOptions& options = {});
std::string onednn_version();  // "2.6.3"; empty where this build lacks it
bool onednn_usable();          // built in, and its code for this processor gives bits as gemm() promises

}  // namespace traincu::cpu
