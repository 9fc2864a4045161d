// The parameter table: one row per stored tensor. Sizes, initial values, optimizer groups, sharding, checkpoints and
// exported names are all read from it; there is no other list of tensors in the program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/config/model_config.h"

namespace traincu {

enum class ParamKind {
    token_embedding,     // (Vp,C)
    position_embedding,  // (maxT,C)
    qkv,                 // ((NH+2*NKV)*HS, C): rows of q, then k, then v
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

enum class ParamInit { normal, ones, zeros };

// A parameter is a weight or the bias that belongs to it.
struct ParamRow {
    std::string name;  // "block.3.qkv.weight"
    ParamKind kind;
    bool is_bias = false;
    int part = 0;                // what the weight door hands out together: 0 = embedding, 1..L = blocks, L+1 = head
    int layer = -1;              // 0..L-1 in blocks
    int64_t rows = 1, cols = 1;  // stored shape; a vector is (1, n)
    int64_t used_rows = 1;       // rows that mean something: V of Vp in embedding tables. The others stay zero and are never exported.
    ParamInit init = ParamInit::zeros;
    double init_std = 0;
    bool decays = false;  // weight decay: matrices only
    int64_t offset = 0;   // elements from the start of the flat arena, a multiple of 16

    int64_t numel() const { return rows * cols; }
    int64_t used_numel() const { return used_rows * cols; }
    bool is_vector() const { return rows == 1; }
};

struct ParamTable {
    std::vector<ParamRow> rows;
    int n_parts = 0;
    int64_t flat_size = 0;  // elements of the arena, alignment gaps included

    int64_t count() const;  // parameters, without padding
    // Index of a row, or -1. layer = -1 outside the blocks.
    int find(ParamKind kind, bool is_bias, int layer) const;
};

ParamTable make_param_table(const ModelConfig& config);

// A sub-matrix of a row by the name it has elsewhere: the q, k, v of a packed qkv; gate and up of a swiglu.
struct ParamSlice {
    std::string name;  // "q", "k", "v", "gate", "up", or empty for a whole row
    int64_t row_begin = 0, row_count = 0;
};
std::vector<ParamSlice> named_slices(const ParamRow& row, const ModelConfig& config);

}  // namespace traincu
