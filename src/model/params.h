// The parameter table: one row per stored tensor. Sizes, initial values, optimizer groups, sharding, checkpoints and
// exported names are all read from it; there is no other list of tensors in the program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/config/model_config.h"
#include "src/config/precision.h"

namespace traincu {

enum class ParamKind {
    token_embedding,     // (Vp,C)
    position_embedding,  // (maxT,C)
    qkv,                 // (qkv_width, C): rows of q, then k, v, gate
    sinks,               // (NH)
    relative_bias,       // (NH, relative_buckets)
    q_factors,           // (maxT, NH*R)
    k_factors,           // (maxT, NKV*R)
    attention_out,       // (C, NH*HS)
    fc,                  // (F,C); for swiglu (2F,C): rows of gate, then up
    mlp_out,             // (C,F)
    lm_head,             // (Vp,C), absent where tied
    q_norm,
    k_norm,  // (HS)
    norm1,
    norm2,
    final_norm,  // (C)
};

enum class ParamInit { normal, ones, zeros, given };  // given: from outside, and never trained

// A parameter is a weight or the bias that belongs to it.
struct ParamRow {
    std::string name;  // "block.3.qkv.weight"
    ParamKind kind;
    bool is_bias = false;
    int part = 0;                // what the weight door hands out together: 0 = embedding, 1..L = blocks, L+1 = head
    int layer = -1;              // 0..L-1 in blocks
    int64_t rows = 1, cols = 1;  // stored shape; a vector is (1, n)
    int64_t used_rows = 1;       // rows that mean something: V of Vp in embedding tables. The others stay zero and are never exported.
    int64_t used_cols = 1;       // of a vector; all columns of a matrix
    ParamInit init = ParamInit::zeros;
    double init_std = 0;
    bool decays = false;  // weight decay: matrices only
    int64_t offset = 0;   // elements from the start of the flat index, which gradients and moments share: a multiple of 16
    WeightClass weight_class = WeightClass::qkv;
    Dtype stored = Dtype::f32;
    int64_t stored_at = 0;  // bytes from the start of the stored weights
    int64_t kept_at = -1;   // elements from the start of what the optimizer keeps beside 16-bit weights; -1: nothing

    int64_t numel() const { return rows * cols; }
    int64_t used_numel() const { return used_rows * used_cols; }
    // What is not trained has gradients of zero and does not decay: AdamW leaves every bit as it is.
    bool trained() const { return init != ParamInit::given; }
    bool is_vector() const { return rows == 1; }
};

// The rows of a part, which follow one another in the flat index.
struct ParamPart {
    int64_t begin = 0, size = 0;  // elements; size: a multiple of part_multiple, its end is padding
    int64_t unpadded_begin = 0;   // where it begins in the table without that padding: what is random goes by that index
};

struct ParamTable {
    std::vector<ParamRow> rows;
    std::vector<ParamPart> parts;
    int n_parts = 0;
    int64_t flat_size = 0;     // elements of the flat index, alignment gaps included
    int64_t stored_bytes = 0;  // of all weights
    int64_t kept_size = 0;     // elements beside those of 16 bits

    int64_t count() const;  // parameters, without padding
    // Index of a row, or -1. layer = -1 outside the blocks.
    int find(ParamKind kind, bool is_bias, int layer) const;
};

// part_multiple: each part takes that many elements of the flat index or a multiple of it, so that ranks can share it out equally; a
// multiple of 16. With 16 there is no padding between parts: the form in which checkpoints keep moments.
ParamTable make_param_table(const ModelConfig& config, const Precision& precision = {}, int64_t part_multiple = 16);

// A sub-matrix of a row by the name it has elsewhere: the q, k, v of a packed qkv; gate and up of a swiglu. With an output gate the q is
// stored head by head, the query's rows and then its gate's, as in Qwen3-Next.
struct RowRange {
    int64_t begin = 0, count = 0;
};
struct ParamSlice {
    std::string name;              // "q", "k", "v", "gate", "up", or empty for a whole row
    std::vector<RowRange> ranges;  // rows of a matrix, elements of a vector, in the order of the file
    int64_t row_count() const;
};
std::vector<ParamSlice> named_slices(const ParamRow& row, const ModelConfig& config);

}  // namespace traincu
