#include "src/model/flops.h"

namespace traincu {

int64_t matmul_weights(const ModelConfig& c) {
    int64_t block = c.d_model * c.qkv_width() + c.q_width() * c.d_model + c.d_model * c.fc_width() + c.d_ff * c.d_model;
    return c.n_layer * block + c.d_model * c.vocab_size;
}

double training_flops_per_token(const ModelConfig& c, int64_t seq_len) {
    return 6.0 * static_cast<double>(matmul_weights(c)) +
           6.0 * static_cast<double>(c.n_layer * c.n_head * (c.head_size + c.bias_rank) * seq_len);
}

}  // namespace traincu
