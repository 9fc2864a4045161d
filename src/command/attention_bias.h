// Attention biases from files, as factors that a model keeps and never trains: --attn-bias file:PATH and spatial:PATH.
#pragma once

#include <string>
#include <vector>

#include "src/base/tensor.h"
#include "src/config/options.h"
#include "src/model/params.h"

namespace traincu {

struct FixedBias {
    struct Factors {
        std::vector<float> q, k;  // (P,NH,R), (P,NKV,R); P = max_seq_len
    };
    int64_t rank = 0;             // R
    std::vector<Factors> layers;  // of each layer, or one for all
    std::string report;           // a line on what was read, and how well the factors say it
};

// A tensor "bias" (L,NH,N,N), (NH,N,N) or (N,N), N >= max_seq_len, whose leading blocks are decomposed (src/model/low_rank.h). Query heads
// of a group share their keys' factors, so a group's matrices are decomposed together, one above the other. Every group gets the rank that
// the most demanding one needs for `share` of its energy, at most the head size: Error(usage).
FixedBias bias_of_matrix(const std::string& path, const ModelConfig& config, double share);

// A tensor "coordinates" (N,D), D <= 8: bias = -m_h |x_i - x_j|^2 with ALiBi's slopes m_h. What is the same for all keys of a query does
// not change a softmax, so m_h |x_i|^2 is left out:  [-m_h, 2 m_h x_i] . [|x_j|^2, x_j]. Coordinates are centred first, and each of the
// D + 1 products a b is three, hi(a) hi(b) + hi(a) lo(b) + lo(a) hi(b) with hi = bf16(a), lo = bf16(a - hi): bf16 holds them all exactly.
FixedBias bias_of_coordinates(const std::string& path, const ModelConfig& config);

// What --attn-bias asks of a file is read, and the option becomes fixed:R. o: all else of the model resolved.
FixedBias read_fixed_bias(Options& o);
bool names_bias_file(const Options& o);

// The rows of the table that hold factors, in flat f32 weights.
void place_factors(const FixedBias& bias, const ParamTable& table, Tensor flat_weights);

}  // namespace traincu
