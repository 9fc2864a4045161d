// What ./train bench attention measures: attention with one bias or gate beside attention with none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/arena.h"
#include "src/base/dtype.h"
#include "src/base/tensor.h"

namespace traincu {

// A row of the table. N tokens of one document, causal: NH query heads with as many key heads, HS wide.
struct AttentionBenchRow {
    enum class Variant { none, alibi, factors, dense, headwise, elementwise } variant = Variant::none;
    int64_t N = 0, NH = 0, HS = 0, R = 0;  // R: of factors
    const char* name() const;

    // What the variant takes besides q, k, v, out, lse: its inputs, and their gradients where it has any. Of a dense bias NH N^2
    // elements, of factors 2 N NH R and as many of gradients.
    int64_t extra_numbers() const;
    int64_t extra_gradients() const;
};

// The tensors of a row, declared in one arena; which are there follows the variant.
struct AttentionBenchTensors {
    Arena arena{"attention bench"};
    Tensor q, k, v, gate, slopes, q_factors, k_factors, dense, out, lse;
    Tensor dout, dq, dk, dv, dgate, dq_factors, dk_factors, delta;
    Tensor k_factors_of_head;                     // (N,R): while a dense bias is made of factors
    Tensor dout_kept;                             // beside a gate, whose backward uses dout up
    Tensor segment_rows, query_tiles, key_tiles;  // kernels/attention.h
    AttentionBenchTensors(const AttentionBenchRow& row, Dtype type);
};

}  // namespace traincu
