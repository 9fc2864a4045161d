// The transformer: embedding, blocks, head, each with forward, backward_input and backward_weight over an explicit Slot. Nothing here loops
// over micro-batches or layers: the schedule does (src/parallel/schedule.h), and the executor runs it.
//
//   embed     x = wte[token] + wpe[position]
//   block l   x   = x + branch                          the previous block's MLP output joins the residual stream
//             n1  = norm1(x);  q,k,v,g = n1 Wqkv;  q,k = rope(qk_norm(q,k))
//             a   = attention(q,k,v) sigmoid(g);  branch = a Wout        (the gate g where there is one)
//             xm  = x + branch;  n2 = norm2(xm);  h = n2 Wfc;  branch = act(h) Wmlp
//   head      x   = x + branch;  n = final_norm(x);  logits = n Whead^T;  loss, and in training its gradient, chunk by chunk
//
// Between parts the residual stream is a pair (x, branch) whose sum it is, so that the addition is fused with the norm that follows.
#pragma once

#include <span>
#include <string>

#include "src/base/arena.h"
#include "src/device/transfer.h"
#include "src/model/batch.h"
#include "src/model/weights.h"

namespace traincu {

// Which of a block's activations are computed again in the backward instead of kept.
enum class Recompute {
    none,
    mlp,        // norm2's output, the feed-forward layer and its activation
    attention,  // norm1's output, q, k, v, the attention output
    block,      // both, and the stream between them: only the block's input is kept
};
Recompute recompute_named(const std::string& name);
inline bool drops_attention(Recompute r) { return r == Recompute::attention || r == Recompute::block; }
inline bool drops_mlp(Recompute r) { return r == Recompute::mlp || r == Recompute::block; }
// Whether queries and keys are normed or rotated between their projection and attention.
inline bool touches_qk(const ModelConfig& c) { return c.qk_norm || c.position == PositionKind::rope; }

// Keys and values of the tokens so far, for generation. One for each layer.
struct KvCache {
    Tensor k, v;  // (maxT, NKV*HS)
};

struct BlockSlot {
    Tensor x;                       // (T,C) the residual stream at the block's input
    Tensor norm1_mean, norm1_rstd;  // (T); these, and what is noted as such below, are of the statistics' type (src/base/dtype.h)
    Tensor norm1_out;               // (T,C)
    Tensor qkv;                     // (T,qkv_width); without QK-norm its q and k columns are rotated in place
    Tensor qk, qk_rstd;         // (T,(NH+NKV)*HS), statistics (T,NH+NKV): q and k after QK-norm and rotation; a view of qkv without QK-norm
    Tensor attention_out, lse;  // (T,NH*HS), statistics (T,NH)
    Tensor x_mid;               // (T,C) the stream between the halves
    Tensor norm2_mean, norm2_rstd;  // statistics (T)
    Tensor norm2_out;               // (T,C)
    Tensor fc;                      // (T,F) or (T,2F)
    Tensor act;                     // (T,F)
    KvCache cache;                  // generation only
};

struct HeadSlot {
    Tensor x;           // (T,C)
    Tensor mean, rstd;  // statistics (T)
    Tensor norm_out;    // (T,C)
    Tensor dnorm_out;   // (T,C) gradient of norm_out, computed with the loss (the logits are gone by the backward)
    Tensor losses;      // statistics (T): weight * loss of each token
    Tensor loss_sum;    // (1) f64: the sum over all micro-batches since clear_loss()
};

// One micro-batch's saved activations.
struct Slot {
    Tensor tokens, targets, positions, loss_weights;  // (T) i32, i32, i32, f32
    Tensor token_order, position_order;               // (T) i32, for the gradients of tables (kernels/embedding.h)
    Tensor segment_rows;                              // (T,5) i64, on a GPU: the table below, a row each
    Tensor query_tiles, key_tiles;                    // (T,5) i32: its tiles (kernels/attention_tiles.h)
    std::vector<Segment> segments;
    std::vector<BlockSlot> blocks;
    HeadSlot head;
    Tensor branch;                // (T,C) what the last half-block adds to the stream
    bool branch_pending = false;  // the stream is x + branch, not x alone
    int64_t T = 0;                // tokens of the micro-batch now in the slot
    int64_t cached = 0;           // tokens already in the caches (generation)
};

// Rows whose sums are folded together (kernels/norm.h, "Units"). On a CPU 256: the same bits for any split of a step. On a GPU 0, all rows
// of a call: products of that length are faster.
inline int64_t default_unit_rows(Device device) { return device == Device::cuda ? 0 : 256; }

struct ModelOptions {
    ModelConfig config;
    Dtype dtype = Dtype::f32;  // f64 for gradient checks
    bool wide_head = false;    // logits in f32 beside bf16 activations (Precision::wide_head())
    int64_t max_tokens = 0;    // the largest micro-batch
    Recompute recompute = Recompute::none;
    int64_t unit_rows = -1;  // sums over tokens go unit by unit (kernels/norm.h); below 0: default_unit_rows() of the stream's device
    double z_loss = 0;
    int64_t logits_bytes = int64_t{64} << 20;  // how much of the (T,V) logits may exist at a time
    bool training = true;                      // gradients and saved activations; else one block's memory serves all
    int64_t cache_tokens = 0;                  // room of the key/value caches; 0 = none
    bool deterministic = true;                 // false: a GPU may sum the gradients of queries in any order
};

// Rows of logits that exist at a time: as many as fill logits_bytes, large enough for an efficient product, far below (T,V). A power of
// two, so that chunks end where units do, or units where chunks do: the head's gradient is then the same sums for any split at whole units.
int64_t logits_rows(const ModelOptions& options);
inline Dtype logits_type(const ModelOptions& options) { return options.wide_head ? Dtype::f32 : options.dtype; }

// ALiBi's slope of each head (Press et al. 2022): 2^(-8h/NH), h = 1..NH, for powers of two; else those of the power below, and then every
// second one of the double of it.
std::vector<double> alibi_slopes(int64_t n_head);

class Transformer {
public:
    // Declares activations and scratch in the arenas; usable after they were allocated on the stream's device and bind() was called.
    Transformer(const ModelOptions& options, WeightDoor& door, Arena& activations, Arena& scratch);
    void bind(const Stream& stream);

    // Copies a micro-batch's inputs into the slot. Its positions are below max_tokens (or cache_tokens).
    void load(const MicroBatch& batch, Stream& stream);

    // One part each: 0 = embedding, 1..L = blocks, L+1 = head. loss_scale: 1 / (loss tokens of the whole optimizer step).
    void forward(int part, double loss_scale, Stream& stream);
    void recompute(int part, Stream& stream);
    void backward_input(int part, Stream& stream);
    void backward_weight(int part, Stream& stream);

    // (1) f64: the sum of weight * loss over the micro-batches whose head was computed since clear_loss().
    Tensor loss_sum() const { return slot_.head.loss_sum; }
    void clear_loss(Stream& stream);
    // Loss of each token (T), statistics, after the head's forward.
    Tensor losses() const { return view(slot_.head.losses); }
    // Logits (n,V) of the last n tokens of the slot, n <= the chunk size, after forward() of all blocks: for generation.
    Tensor logits_of_last(int64_t n, Stream& stream);

    void clear_cache() { slot_.cached = 0; }
    int64_t cached() const { return slot_.cached; }

    // What the last part's forward left; without training the next block overwrites it.
    const Slot& slot() const { return slot_; }
    // What block `layer`'s attention is given, with q, k, v and gate as views of qk and qkv: the slot's, or copies of them.
    AttentionInputs attention_inputs(int layer, const Tensor& qk, const Tensor& qkv) const;
    AttentionParams attention_params() const;

    const ModelOptions& options() const { return options_; }
    int n_parts() const { return static_cast<int>(options_.config.n_layer) + 2; }

private:
    void forward_attention(BlockSlot& s, const BlockTensors& w, bool with_output, Stream& stream);
    void forward_mlp(BlockSlot& s, const BlockTensors& w, bool join_branch, bool with_output, Stream& stream);
    void forward_block(int layer, Stream& stream);
    void forward_head(double loss_scale, Stream& stream);
    void head_norm(Stream& stream);
    Tensor head_input(int64_t begin, int64_t n, Stream& stream);  // (n,C) rows of norm_out, in the head's type
    void backward_input_block(int layer, Stream& stream);
    void backward_weight_block(int layer, Stream& stream);
    Tensor view(const Tensor& t) const { return t ? t.slice_rows(0, slot_.T) : t; }  // the rows in use; absent stays absent
    Tensor upstream_gradient(int layer) const;  // of the stream after block `layer`; layer = -1: of the embedding
    struct Qkv {
        Tensor q, k, v;
    };
    Qkv heads(const Tensor& qk, const Tensor& qkv) const;  // q, k, v as (T,heads,HS) views of activations or of gradients
    Tensor gate(const Tensor& qkv) const;                  // (T,NH,1) or (T,NH,HS); absent without a gate
    AttentionInputs attention_inputs(const BlockTensors& w, const Tensor& qk, const Tensor& qkv) const;
    bool trains_factors() const { return options_.config.attn_bias == BiasKind::factors; }

    ModelOptions options_;
    WeightDoor& door_;
    Slot slot_;
    SegmentTable segments() const;
    int64_t n_query_tiles_ = 0, n_key_tiles_ = 0;

    int64_t chunk_ = 0;  // logits_rows()
    Uploads uploads_;
    std::vector<int32_t> order_;  // (T) on its way to the slot
    Tensor angles_;               // (max position + 1, HS) statistics, where positions are rotary (kernels/rope.h)
    Tensor slopes_;               // (NH) statistics, of ALiBi
    // What is not kept for the backward shares the first block's memory: every block overwrites it.
    std::vector<std::pair<size_t, Tensor BlockSlot::*>> shared_;

    // Gradients of the block under way. They live from its backward_input to its backward_weight.
    struct {
        Tensor stream[2];      // (T,C) of the residual stream, alternating by layer
        Tensor mid;            // (T,C) of x_mid
        Tensor norm_out;       // (T,C) of a norm's output
        Tensor qkv;            // (T,qkv_width)
        Tensor qk;             // (T,(NH+NKV)*HS), a view of qkv without QK-norm
        Tensor attention_out;  // (T,NH*HS)
        Tensor delta;          // statistics (T,NH)
        Tensor dq_sums;        // (T,NH,HS) f32, where !deterministic
        Tensor q_factors;      // (T,NH*R)
        Tensor k_factors;      // (T,NKV*R)
        Tensor fc;             // (T,F or 2F)
        Tensor act;            // (T,F)
    } d_;
    Tensor logits_;                // (chunk,Vp), of the head's type
    Tensor wide_hidden_, wide_d_;  // (chunk,C) norm_out and its gradient, where the head's type is another
};

}  // namespace traincu
