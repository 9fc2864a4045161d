// One call of a kernel, described by its sizes: how many floating-point operations it makes and how many bytes it must at least move.
// The currency of the planner: cost.h lists the calls of a step, rates.h knows how long each takes here.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "src/base/dtype.h"

namespace traincu {

enum class Kernel {
    embedding_forward,
    embedding_backward,
    norm_forward,
    norm_backward,
    matmul_forward,
    matmul_backward_input,
    matmul_backward_weight,
    rope_forward,
    rope_backward,
    attention_forward,
    attention_backward,
    gelu_forward,
    gelu_backward,
    swiglu_forward,
    swiglu_backward,
    classifier,
    adamw,
    sum_squares,
    sum,
    clear,               // memset, on one thread
    quantize_gradients,  // the formats of SDP4Bit; a message has so many groups of 2048 numbers
    quantize_sum,
    quantize_back,
    quantize_difference,
    quantize_add,
};

constexpr size_t max_sizes = 6;
using Sizes = std::array<int64_t, max_sizes>;

// What stands for a kernel in tables, files and flags, and the meaning of its sizes in order. Those that end in '?' are 0 or 1: whether a
// call has this input (a bias, a mean, a residual branch). A context is the length of a segment: T must be a multiple of it.
struct KernelInfo {
    Kernel kernel;
    const char *op, *pass;                          // "matmul", "dinp"
    std::array<const char*, max_sizes> size_names;  // "N", "IC", "OC", "bias?", or null
    std::string name() const { return std::string(op) + (*pass ? " " : "") + pass; }
    size_t n_sizes() const;
};
const std::vector<KernelInfo>& kernel_table();  // in the order of the enum
inline const KernelInfo& info(Kernel kernel) { return kernel_table()[static_cast<size_t>(kernel)]; }

// Where the time of a call is counted.
enum class CostGroup { products, attention, elementwise, head, optimizer, other };
constexpr size_t n_cost_groups = 6;
const char* name_of(CostGroup group);  // "matrix products"

struct KernelCall {
    Kernel kernel;
    Sizes sizes{};
    CostGroup group = CostGroup::other;
    std::string what = "";  // which of the model's layers: "qkv"

    double flops() const;  // as the kernel's header counts them; causal attention at half of the square
    // Every operand once. dtype: of weights and activations; gradients of weights, moments and statistics are f32 beside bf16.
    double bytes(Dtype dtype = Dtype::f32) const;
    // What a call of other sizes is scaled by: FLOPs where arithmetic binds (products, attention), else bytes.
    double work() const;
    std::string shape_text() const;  // "N=1024 IC=768 OC=3072 bias"
    bool same_shape(const KernelCall& other) const { return kernel == other.kernel && sizes == other.sizes; }
};

}  // namespace traincu
