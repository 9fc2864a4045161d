// The matrix product by oneDNN's matmul primitive, as far as its bits depend neither on the number of threads nor on M. Measured with
// oneDNN 2.6.3 and 3.2:
//   - its code for AVX-512 ("brg") keeps this promise, except that it splits K over threads where A is transposed, K above 256 and C
//     small: weight gradients. Where A is transposed, or K has units, we therefore take our own product.
//   - its code for older processors ("gemm:jit") does not: it is not used.
// Products of bf16 have not been measured. In the library's source, AMX's code splits K above 1024 over 16 threads and more, also where A
// is not transposed. So bf16 goes in blocks of 1024 steps of K, A turned where it is transposed, and sums in f32.
#include "kernels/gemm_cpu.h"
#include "src/base/error.h"

#if defined(TRAIN_HAS_ONEDNN)
#include <omp.h>

#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

namespace traincu::cpu {
namespace {

const dnnl::engine& cpu_engine() {
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

// All that oneDNN generates code for: one primitive each. The number of threads belongs to it, as the work is cut when it is made.
struct Shape {
    int64_t M, N, K;
    int64_t a_row_stride, a_col_stride, b_row_stride, b_col_stride, c_stride;
    bool bias, accumulate;
    bool narrow = false;  // bf16 operands, else f32

    std::array<int64_t, 12> key() const {
        return {M, N, K, a_row_stride, a_col_stride, b_row_stride, b_col_stride, c_stride, bias, accumulate, narrow, omp_get_max_threads()};
    }
};

// A primitive with its arguments: memory objects whose pointers are set before each execution.
class Product {
public:
    explicit Product(const Shape& s) {
        using Desc = dnnl::memory::desc;
        using Type = dnnl::memory::data_type;
        auto desc = [](int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride, Type type = Type::f32) {
            return Desc({rows, cols}, type, dnnl::memory::dims{row_stride, col_stride});
        };
        const Type operands = s.narrow ? Type::bf16 : Type::f32;
        const Desc a_desc = desc(s.M, s.K, s.a_row_stride, s.a_col_stride, operands),
                   b_desc = desc(s.K, s.N, s.b_row_stride, s.b_col_stride, operands);
        const Desc c_desc = desc(s.M, s.N, s.c_stride, 1), bias_desc = s.bias ? desc(1, s.N, s.N, 1) : Desc();
        dnnl::primitive_attr attributes;
        if (s.accumulate) {
            dnnl::post_ops add;
            add.append_sum(1.0f);
            attributes.set_post_ops(add);
        }
#if DNNL_VERSION_MAJOR >= 3
        dnnl::matmul::primitive_desc chosen(cpu_engine(), a_desc, b_desc, bias_desc, c_desc, attributes);
#else
        dnnl::matmul::primitive_desc chosen({a_desc, b_desc, bias_desc, c_desc}, attributes, cpu_engine());
#endif
        stable_ = std::string(chosen.impl_info_str()).rfind("brg", 0) == 0;
        primitive_ = dnnl::matmul(chosen);
        a_ = dnnl::memory(a_desc, cpu_engine(), DNNL_MEMORY_NONE);
        b_ = dnnl::memory(b_desc, cpu_engine(), DNNL_MEMORY_NONE);
        c_ = dnnl::memory(c_desc, cpu_engine(), DNNL_MEMORY_NONE);
        arguments_ = {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}};
        if (s.bias) arguments_[DNNL_ARG_BIAS] = bias_ = dnnl::memory(bias_desc, cpu_engine(), DNNL_MEMORY_NONE);
    }

    bool stable() const { return stable_; }

    void run(const void* a, const void* b, float* c, const float* bias) {
        static dnnl::stream stream(cpu_engine());
        a_.set_data_handle(const_cast<void*>(a));  // oneDNN's handles are not const; sources are only read
        b_.set_data_handle(const_cast<void*>(b));
        c_.set_data_handle(c);
        if (bias) bias_.set_data_handle(const_cast<float*>(bias));
        primitive_.execute(stream, arguments_);
        stream.wait();
    }

private:
    dnnl::matmul primitive_;
    dnnl::memory a_, b_, c_, bias_;
    std::unordered_map<int, dnnl::memory> arguments_;
    bool stable_ = false;
};

// Making a primitive takes milliseconds, more than most products: each is kept. A training run has some dozens.
Product& product_for(const Shape& shape) {
    static std::map<std::array<int64_t, 12>, Product> made;
    auto found = made.find(shape.key());
    return found != made.end() ? found->second : made.emplace(shape.key(), Product(shape)).first->second;
}

// The product as one primitive, where that keeps the promise.
void multiply_once(int64_t M, int64_t N, int64_t K, Operand a, Operand b, float* c, int64_t c_stride, const GemmOptions& options) {
    Product& product = product_for({M, N, K, a.row_stride, a.col_stride, b.row_stride, b.col_stride, c_stride, options.bias != nullptr,
                                    options.accumulate, a.dtype == Dtype::bf16});
    if (product.stable())
        product.run(a.data, b.data, c, options.bias);
    else
        gemm(M, N, K, a, b, c, c_stride, options);
}

}  // namespace

void gemm_onednn(int64_t M, int64_t N, int64_t K, Operand a, Operand b, float* c, int64_t c_stride, const GemmOptions& options) {
    ENSURE(K > 0 && !(options.bias && options.accumulate) && onednn_usable());
    if (M == 0 || N == 0) return;
    if (a.dtype == Dtype::bf16 && b.dtype == Dtype::bf16 && onednn_multiplies_bf16())
        return gemm_by_blocks(multiply_once, 1024, M, N, K, a, b, c, c_stride, options);
    if (a.dtype == Dtype::f32 && b.dtype == Dtype::f32 && a.col_stride == 1 && options.unit == 0)
        return multiply_once(M, N, K, a, b, c, c_stride, options);
    gemm(M, N, K, a, b, c, c_stride, options);
}

std::string onednn_version() {
    const dnnl_version_t* v = dnnl::version();
    return format("%d.%d.%d", v->major, v->minor, v->patch);
}

bool onednn_usable() {
    static const bool usable = Product({64, 64, 64, 64, 1, 1, 64, 64, false, false}).stable();
    return usable;
}

bool onednn_multiplies_bf16() {
#if defined(__x86_64__)
    // Every processor with AMX has these instructions, too.
    static const bool usable =
        onednn_usable() && __builtin_cpu_supports("avx512bf16") && Product({64, 64, 64, 64, 1, 1, 64, 64, false, false, true}).stable();
    return usable;
#else
    return false;
#endif
}

}  // namespace traincu::cpu

#else

namespace traincu::cpu {

void gemm_onednn(int64_t, int64_t, int64_t, Operand, Operand, float*, int64_t, const GemmOptions&) { ENSURE(onednn_usable()); }
std::string onednn_version() { return ""; }
bool onednn_usable() { return false; }
bool onednn_multiplies_bf16() { return false; }

}  // namespace traincu::cpu
#endif
