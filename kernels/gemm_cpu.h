// Our own matrix product for CPUs: C = A B, or C += A B, in f32. The engine of kernels/matmul.cpp that is always there. Operands stored in
// 16 bits are widened while their blocks are packed, which is exact: the bits of C are those of a product of widened copies.
//
// The bits of C depend on the numbers and on K's cuts alone (KC below, and `unit`): not on M, N, the number of threads, or the
// instruction set, as long as that has fused multiply-add.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "src/base/dtype.h"
#include "src/base/integers.h"

namespace traincu::cpu {

// Element (row, col) is data[row * row_stride + col * col_stride]; one of the strides is 1, so a transpose costs nothing here.
struct Operand {
    const void* data;
    Dtype dtype;
    int64_t row_stride, col_stride;

    Operand(const void* numbers, Dtype type, int64_t rows_apart, int64_t cols_apart)
        : data(numbers), dtype(type), row_stride(rows_apart), col_stride(cols_apart) {}
    template <class T>
    Operand(const T* numbers, int64_t rows_apart, int64_t cols_apart) : Operand(numbers, DtypeOf<T>::value, rows_apart, cols_apart) {}

    template <class T>
    const T* as() const {
        ENSURE(DtypeOf<T>::value == dtype);
        return static_cast<const T*>(data);
    }
    // The same from (row, col) on.
    Operand from(int64_t row, int64_t col) const {
        return {static_cast<const std::byte*>(data) + (row * row_stride + col * col_stride) * size_of(dtype), dtype, row_stride,
                col_stride};
    }
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

// C (M,N) row-major with rows c_stride apart, A (M,K), B (K,N) of f32, bf16 or f16, each of its own type, K > 0. C overlaps neither A nor
// B. bias and accumulate exclude each other. Not to be called inside a parallel region.
void gemm(int64_t M, int64_t N, int64_t K, Operand a, Operand b, float* c, int64_t c_stride, const GemmOptions& options = {});
using Gemm = decltype(&gemm);

// C = A B + bias, rounded once, after the sum over all of K: pieces of C as f32 by `product`, then as bf16.
void gemm_rounded(Gemm product, int64_t M, int64_t N, int64_t K, Operand a, Operand b, bf16* c, int64_t c_stride,
                  const GemmOptions& options = {});

// gemm() of bf16 operands by a product that takes neither units, nor a transposed A, nor many steps of K: K goes in blocks of at most
// `longest` that do not cross from unit to unit; each is a product of its own, added to C. A transposed A is turned block by block.
void gemm_by_blocks(Gemm product, int64_t longest, int64_t M, int64_t N, int64_t K, Operand a, Operand b, float* c, int64_t c_stride,
                    const GemmOptions& options);

// gemm() by oneDNN's matmul primitive (kernels/gemm_onednn.cpp), where both operands are f32, or both bf16 and onednn_multiplies_bf16();
// else by ours. Only where onednn_usable(); `simd` is oneDNN's own choice.
void gemm_onednn(int64_t M, int64_t N, int64_t K, Operand a, Operand b, float* c, int64_t c_stride, const GemmOptions& options = {});
std::string onednn_version();   // "2.6.3"; empty where this build lacks it
bool onednn_usable();           // built in, and its code for this processor gives bits as gemm() promises
bool onednn_multiplies_bf16();  // so do its products of bf16, and the processor has instructions for them

}  // namespace traincu::cpu
