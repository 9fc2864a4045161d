// What numbers are kept in: the type that the model computes with, the type that each class of weights is stored in, and what the optimizer
// keeps beside weights of 16 bits.
//
//   --precision   computes in   weights stored in                     beside them              source
//   fp32          f32           f32                                   nothing
//   bf16          bf16          bf16                                  master weights in f32    Micikevicius et al. 2018
//   layercast     f32           bf16; norms, biases, scores f32       master weights in f32    LayerCast, Yuan et al. 2025
//   bf16-sr       bf16          bf16, rounded stochastically          nothing                  Ozkara et al. 2025 (arXiv 2502.20566)
// Gradients of weights are f32, and so are AdamW's moments unless --adam-moments says otherwise.
#pragma once

#include <array>
#include <string>

#include "src/base/dtype.h"

namespace traincu {

struct Options;

// The classes that --precision-of names. A tied head belongs to the embedding.
enum class WeightClass { embedding, lm_head, qkv, attention_out, fc, mlp_out, norm, bias, scores };
constexpr int n_weight_classes = 9;
const char* name_of(WeightClass weight_class);
constexpr bool is_linear(WeightClass c) { return c >= WeightClass::qkv && c <= WeightClass::mlp_out; }
constexpr bool is_table(WeightClass c) { return c == WeightClass::embedding || c == WeightClass::lm_head; }

// What the optimizer keeps beside weights of 16 bits (kernels/adamw.h): an f32 master, the lower half of one, or nothing.
enum class Beside { nothing, master, lower_half };

struct Precision {
    Precision() : Precision(Dtype::f32) {}
    Precision(Dtype type) : compute(type) {  // all of one type; beside bf16, masters
        stored.fill(type);
        if (type == Dtype::bf16) beside = Beside::master;
    }

    Dtype stored_in(WeightClass c) const { return stored[static_cast<size_t>(c)]; }
    // Does the model read this class as it is stored, though it computes in another type? Tables are: the embedding takes single rows of
    // them, and a widened head would be larger than all else that is widened. Linear weights are where the product takes 16 bits.
    bool read_as_stored(WeightClass c) const { return stored_in(c) == compute || is_table(c) || (linear_as_stored && is_linear(c)); }

    // A head stored in f32 beside bf16 activations is multiplied in f32, and its logits are f32.
    bool wide_head() const { return compute == Dtype::bf16 && stored_in(WeightClass::lm_head) == Dtype::f32; }

    Dtype compute = Dtype::f32;
    std::array<Dtype, n_weight_classes> stored{};
    Beside beside = Beside::nothing;
    bool linear_as_stored = false;  // --fp32-products bf16x2 or bf16x3
    // --quant-weights: weights of any type have masters, and AdamW updates these alone. The stored weights follow by what ranks send.
    bool follow_masters = false;
};

// Of --precision (fp32, bf16, layercast or bf16-sr), --precision-of and --master-weights. Error(usage) for a text of another form, and for
// what does not go together, with the nearest that does.
Precision precision_of(const Options& options);
// The same for a command that uses a model without training it: only `name` is given.
Precision precision_named(const std::string& name);

}  // namespace traincu
