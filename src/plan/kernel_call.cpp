#include "src/plan/kernel_call.h"

#include <algorithm>

#include "src/base/error.h"

namespace traincu {

const std::vector<KernelInfo>& kernel_table() {
    static const std::vector<KernelInfo> table = {
        {Kernel::embedding_forward, "embedding", "forward", {"T", "C", "V", "positions?"}},
        {Kernel::embedding_backward, "embedding", "backward", {"T", "C", "V", "positions?"}},
        {Kernel::norm_forward, "norm", "forward", {"N", "C", "layernorm?", "branch?"}},
        {Kernel::norm_backward, "norm", "backward", {"N", "C", "layernorm?", "branch?"}},
        {Kernel::matmul_forward, "matmul", "forward", {"N", "IC", "OC", "bias?"}},
        {Kernel::matmul_backward_input, "matmul", "dinp", {"N", "IC", "OC"}},
        {Kernel::matmul_backward_weight, "matmul", "dweight", {"N", "IC", "OC", "bias?"}},
        {Kernel::rope_forward, "rope", "forward", {"T", "NH", "NKV", "HS", "qk_norm?", "rotate?"}},
        {Kernel::rope_backward, "rope", "backward", {"T", "NH", "NKV", "HS", "qk_norm?", "rotate?"}},
        {Kernel::attention_forward, "attention", "forward", {"T", "NH", "NKV", "HS", "context"}},
        {Kernel::attention_backward, "attention", "backward", {"T", "NH", "NKV", "HS", "context"}},
        {Kernel::gelu_forward, "gelu", "forward", {"N", "F"}},
        {Kernel::gelu_backward, "gelu", "backward", {"N", "F"}},
        {Kernel::swiglu_forward, "swiglu", "forward", {"N", "F"}},
        {Kernel::swiglu_backward, "swiglu", "backward", {"N", "F"}},
        {Kernel::classifier, "classifier", "", {"N", "V"}},
        {Kernel::adamw, "adamw", "", {"N"}},
        {Kernel::sum_squares, "reduce", "squares", {"N"}},
        {Kernel::sum, "reduce", "sum", {"N"}},
        {Kernel::clear, "clear", "", {"N"}},
        {Kernel::quantize_gradients, "quantize", "gradients", {"groups", "messages"}},
        {Kernel::quantize_sum, "quantize", "sum", {"groups", "messages"}},
        {Kernel::quantize_back, "quantize", "back", {"groups", "messages"}},
        {Kernel::quantize_difference, "quantize", "difference", {"groups"}},
        {Kernel::quantize_add, "quantize", "add", {"groups", "messages"}},
    };
    return table;
}

size_t KernelInfo::n_sizes() const {
    return static_cast<size_t>(std::find(size_names.begin(), size_names.end(), nullptr) - size_names.begin());
}

const char* name_of(CostGroup group) {
    static const std::array<const char*, n_cost_groups> names = {"matrix products",     "attention", "norms, elementwise",
                                                                 "head and classifier", "optimizer", "other"};
    return names[static_cast<size_t>(group)];
}

namespace {

// FLOPs and elements moved of one call; `wide` ones are of the gradients' and statistics' type (statistics_of(), src/base/dtype.h).
struct Work {
    double flops, elements, wide = 0;
};

// A number in a message, as a part of an f32: a code, and its share of the scale of a group.
constexpr double sent_8_bits = (8 + 32 / 128.0) / 32, sent_4_bits = (4 + 32 / 128.0) / 32, sent_weight = (4 + 32 / 2048.0) / 32;

Work work_of(const KernelCall& call) {
    std::array<double, max_sizes> s;
    std::copy(call.sizes.begin(), call.sizes.end(), s.begin());
    const double n = s[0], width = s[1], numbers = 2048 * n;  // of a message
    switch (call.kernel) {
        case Kernel::embedding_forward:
            return {n * width * s[3], n * width * (2 + s[3])};
        case Kernel::embedding_backward:
            return {n * width * (1 + s[3]), n * width, 2 * n * width * (1 + s[3])};  // the rows added to are read and written
        case Kernel::norm_forward:
            return {8 * n * width, n * width * (2 + 2 * s[3])};
        case Kernel::norm_backward:
            return {14 * n * width, n * width * (3 + s[3])};
        case Kernel::matmul_forward:
        case Kernel::matmul_backward_input:
            return {2 * n * width * s[2], n * width + width * s[2] + n * s[2]};
        case Kernel::matmul_backward_weight:  // accumulates
            return {2 * n * width * s[2], n * width + n * s[2] * (1 + s[3]), 2 * width * s[2]};
        case Kernel::rope_forward:
            return {12 * n * (s[1] + s[2]) * s[3], 2 * n * (s[1] + s[2]) * s[3]};
        case Kernel::rope_backward:
            return {20 * n * (s[1] + s[2]) * s[3], (2 + s[4]) * n * (s[1] + s[2]) * s[3]};
        case Kernel::attention_forward:
            return {2 * n * s[1] * s[3] * s[4], 2 * n * (s[1] + s[2]) * s[3], n * s[1]};
        case Kernel::attention_backward:  // reads q, k, v, out, dout, lse; writes dq, adds to dk and dv
            return {5 * n * s[1] * s[3] * s[4], n * s[3] * (4 * s[1] + 6 * s[2]), n * s[1]};
        case Kernel::gelu_forward:
            return {15 * n * width, 2 * n * width};
        case Kernel::gelu_backward:
            return {25 * n * width, 3 * n * width};
        case Kernel::swiglu_forward:
            return {15 * n * width, 3 * n * width};
        case Kernel::swiglu_backward:
            return {25 * n * width, 5 * n * width};
        case Kernel::classifier:
            return {8 * n * width, 2 * n * width};
        case Kernel::adamw:
            return {20 * n, 0, 7 * n};
        case Kernel::sum_squares:
            return {2 * n, 0, n};
        case Kernel::sum:
            return {n, 0, n};
        case Kernel::clear:
            return {0, 0, n};
        case Kernel::quantize_gradients:
            return {11 * numbers * s[1], 0, numbers * s[1] * (1 + sent_8_bits)};
        case Kernel::quantize_sum:
            return {numbers * (2 * s[1] + 6), 0, numbers * (s[1] * sent_8_bits + sent_4_bits)};
        case Kernel::quantize_back:
            return {numbers * (2 * s[1] + 6), 0, numbers * (s[1] * sent_4_bits + 1)};
        case Kernel::quantize_difference:
            return {7 * numbers, numbers, numbers * (1 + sent_weight)};
        case Kernel::quantize_add:
            return {2 * numbers * s[1], 2 * numbers * s[1], numbers * s[1] * sent_weight};
    }
    ENSURE(!"a kernel without a cost");
    return {};
}

}  // namespace

double KernelCall::flops() const { return work_of(*this).flops; }
double KernelCall::bytes(Dtype dtype) const {
    const Work work = work_of(*this);
    const double copy = kernel == Kernel::adamw && dtype == Dtype::bf16 ? 2.0 * static_cast<double>(sizes[0]) : 0;  // the model's weights
    return static_cast<double>(size_of(dtype)) * work.elements + static_cast<double>(size_of(statistics_of(dtype))) * work.wide + copy;
}

double KernelCall::work() const {
    switch (kernel) {
        case Kernel::matmul_forward:
        case Kernel::matmul_backward_input:
        case Kernel::matmul_backward_weight:
        case Kernel::attention_forward:
        case Kernel::attention_backward:
            return flops();
        default:
            return bytes();
    }
}

std::string KernelCall::shape_text() const {
    std::string text;
    const KernelInfo& k = info(kernel);
    for (size_t i = 0; i < k.n_sizes(); i++) {
        std::string name = k.size_names[i];
        if (name.back() == '?') {
            if (sizes[i]) text += " " + name.substr(0, name.size() - 1);
        } else {
            text += format("%s%s=%lld", text.empty() ? "" : " ", name.c_str(), static_cast<long long>(sizes[i]));
        }
    }
    return text;
}

}  // namespace traincu
