#include "src/model/transformer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/activation.h"
#include "kernels/classifier.h"
#include "kernels/copy.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"

namespace traincu {

Recompute recompute_named(const std::string& name) {
    if (name == "mlp") return Recompute::mlp;
    if (name == "attention") return Recompute::attention;
    if (name == "block") return Recompute::block;
    ENSURE(name == "none");
    return Recompute::none;
}

namespace {

RopeParams rope_params(const ModelConfig& c) { return {c.n_head, c.n_kv_head, c.head_size, c.norm_eps}; }

}  // namespace

std::vector<double> alibi_slopes(int64_t n_head) {
    const int64_t power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n_head)));
    std::vector<double> slopes;
    for (int64_t h = 1; h <= power; h++) slopes.push_back(std::exp2(-8.0 * static_cast<double>(h) / static_cast<double>(power)));
    for (int64_t h = 1; static_cast<int64_t>(slopes.size()) < n_head; h += 2)
        slopes.push_back(std::exp2(-4.0 * static_cast<double>(h) / static_cast<double>(power)));
    return slopes;
}

int64_t logits_rows(const ModelOptions& options) {
    const int64_t fill = options.logits_bytes / (options.config.padded_vocab() * size_of(logits_type(options)));
    const uint64_t rows = std::bit_floor(static_cast<uint64_t>(std::clamp<int64_t>(fill, 64, 16384)));
    return std::min(static_cast<int64_t>(rows), options.max_tokens);
}

Transformer::Transformer(const ModelOptions& options, WeightDoor& door, Arena& activations, Arena& scratch)
    : options_(options), door_(door) {
    const ModelConfig& c = options.config;
    const Dtype type = options.dtype, statistics = statistics_of(type);
    const int64_t T = options.max_tokens, C = c.d_model;
    const bool training = options.training, layernorm = c.norm == NormKind::layernorm;
    chunk_ = logits_rows(options);

    activations.add(slot_.tokens, "tokens", Dtype::i32, {T});
    activations.add(slot_.targets, "targets", Dtype::i32, {T});
    activations.add(slot_.positions, "positions", Dtype::i32, {T});
    activations.add(slot_.loss_weights, "loss_weights", Dtype::f32, {T});
    activations.add(slot_.segment_rows, "segments", Dtype::i64, {T, 5});
    activations.add(slot_.query_tiles, "query_tiles", Dtype::i32, {T, 5});
    activations.add(slot_.key_tiles, "key_tiles", Dtype::i32, {std::max(T, options.cache_tokens), 5});
    if (training) {
        activations.add(slot_.token_order, "token_order", Dtype::i32, {T});
        if (c.position == PositionKind::learned || trains_factors())
            activations.add(slot_.position_order, "position_order", Dtype::i32, {T});
    }
    if (c.position == PositionKind::rope) activations.add(angles_, "angles", statistics, {std::max(T, options.cache_tokens), c.head_size});
    if (c.attn_bias == BiasKind::alibi) activations.add(slopes_, "slopes", statistics, {c.n_head});
    activations.add(slot_.branch, "branch", type, {T, C});
    slot_.blocks.resize(static_cast<size_t>(c.n_layer));
    for (int64_t layer = 0; layer < c.n_layer; layer++) {
        BlockSlot& s = slot_.blocks[static_cast<size_t>(layer)];
        std::string prefix = format("block.%lld.", static_cast<long long>(layer));
        auto add = [&](bool kept, Tensor BlockSlot::*field, const char* name, std::initializer_list<int64_t> shape, Dtype dtype) {
            if (layer == 0 || (training && kept))
                activations.add(s.*field, prefix + name, dtype, shape);
            else
                shared_.emplace_back(static_cast<size_t>(layer), field);
        };
        const bool keep_attention = !drops_attention(options.recompute), keep_mlp = !drops_mlp(options.recompute);
        add(true, &BlockSlot::x, "x", {T, C}, type);
        if (layernorm)
            add(true, &BlockSlot::norm1_mean, "norm1_mean", {T}, statistics),
                add(true, &BlockSlot::norm2_mean, "norm2_mean", {T}, statistics);
        add(true, &BlockSlot::norm1_rstd, "norm1_rstd", {T}, statistics);
        add(true, &BlockSlot::norm2_rstd, "norm2_rstd", {T}, statistics);
        add(keep_attention, &BlockSlot::norm1_out, "norm1_out", {T, C}, type);
        add(keep_attention, &BlockSlot::qkv, "qkv", {T, c.qkv_width()}, type);
        if (c.qk_norm) {
            add(keep_attention, &BlockSlot::qk, "qk", {T, c.q_width() + c.kv_width()}, type);
            add(keep_attention, &BlockSlot::qk_rstd, "qk_rstd", {T, c.n_head + c.n_kv_head}, statistics);
        }
        add(keep_attention, &BlockSlot::attention_out, "attention_out", {T, c.q_width()}, type);
        add(keep_attention, &BlockSlot::lse, "lse", {T, c.n_head}, statistics);
        add(options.recompute != Recompute::block, &BlockSlot::x_mid, "x_mid", {T, C}, type);
        add(keep_mlp, &BlockSlot::norm2_out, "norm2_out", {T, C}, type);
        add(keep_mlp, &BlockSlot::fc, "fc", {T, c.fc_width()}, type);
        add(keep_mlp, &BlockSlot::act, "act", {T, c.d_ff}, type);
        if (options.cache_tokens > 0) {
            activations.add(s.cache.k, prefix + "cache_k", type, {options.cache_tokens, c.kv_width()});
            activations.add(s.cache.v, prefix + "cache_v", type, {options.cache_tokens, c.kv_width()});
        }
    }
    activations.add(slot_.head.x, "head.x", type, {T, C});
    if (layernorm) activations.add(slot_.head.mean, "head.mean", statistics, {T});
    activations.add(slot_.head.rstd, "head.rstd", statistics, {T});
    activations.add(slot_.head.norm_out, "head.norm_out", type, {T, C});
    activations.add(slot_.head.losses, "head.losses", statistics, {T});
    activations.add(slot_.head.loss_sum, "head.loss_sum", Dtype::f64, {1});
    scratch.add(logits_, "logits", logits_type(options), {chunk_, c.padded_vocab()});
    if (options.wide_head) scratch.add(wide_hidden_, "wide_hidden", Dtype::f32, {chunk_, C});
    if (options.wide_head && training) scratch.add(wide_d_, "d_wide_hidden", Dtype::f32, {chunk_, C});
    if (!training) return;

    activations.add(slot_.head.dnorm_out, "head.dnorm_out", type, {T, C});
    scratch.add(d_.stream[0], "dstream.even", type, {T, C});
    scratch.add(d_.stream[1], "dstream.odd", type, {T, C});
    scratch.add(d_.mid, "dx_mid", type, {T, C});
    scratch.add(d_.norm_out, "dnorm_out", type, {T, C});
    scratch.add(d_.qkv, "dqkv", type, {T, c.qkv_width()});
    if (c.qk_norm) scratch.add(d_.qk, "dqk", type, {T, c.q_width() + c.kv_width()});
    scratch.add(d_.attention_out, "dattention_out", type, {T, c.q_width()});
    scratch.add(d_.delta, "delta", statistics, {T, c.n_head});
    if (!options.deterministic) scratch.add(d_.dq_sums, "dq_sums", Dtype::f32, {T, c.n_head, c.head_size});
    if (trains_factors()) {
        scratch.add(d_.q_factors, "dq_factors", type, {T, c.n_head * c.bias_rank});
        scratch.add(d_.k_factors, "dk_factors", type, {T, c.n_kv_head * c.bias_rank});
    }
    scratch.add(d_.fc, "dfc", type, {T, c.fc_width()});
    if (c.mlp == MlpKind::swiglu) scratch.add(d_.act, "dact", type, {T, c.d_ff});
}

void Transformer::bind(const Stream& stream) {
    const ModelConfig& c = options_.config;
    if (stream.on_gpu() && c.head_size > 256)
        throw Error(
            ExitCode::usage,
            format("the head size %lld is above 256, the largest that attention computes on a GPU", static_cast<long long>(c.head_size)),
            "choose more heads or a smaller --head-size, or compute on the CPU: --device cpu");
    if (options_.unit_rows < 0) options_.unit_rows = default_unit_rows(stream.device());
    for (auto [layer, field] : shared_) slot_.blocks[layer].*field = slot_.blocks[0].*field;
    uploads_.allocate(stream,
                      options_.max_tokens * static_cast<int64_t>(6 * sizeof(int32_t) + sizeof(Segment) + 2 * sizeof(AttentionTile)) +
                          options_.cache_tokens * static_cast<int64_t>(sizeof(AttentionTile)) + 256);
    if (angles_) {
        HostCopy angles(angles_, stream);
        rope_angles(angles.tensor(), c.rope_theta, c.rope_scaling);
        angles.upload();
    }
    if (slopes_) {
        HostCopy slopes(slopes_, stream);
        const std::vector<double> values = alibi_slopes(c.n_head);
        dispatch_real(slopes_.dtype, [&](auto zero) { std::copy(values.begin(), values.end(), slopes.tensor().as<decltype(zero)>()); });
        slopes.upload();
    }
    if (!c.qk_norm) {
        const int64_t qk_width = c.q_width() + c.kv_width();
        for (BlockSlot& s : slot_.blocks) s.qk = s.qkv.slice_cols(0, qk_width);
        if (options_.training) d_.qk = d_.qkv.slice_cols(0, qk_width);
    }
    // Refuses here, before anything is computed, a kernel that was asked for and does not take this model.
    if (stream.on_gpu()) gpu::chosen_attention_kernel(attention_inputs(0, view(slot_.blocks[0].qk), view(slot_.blocks[0].qkv)));
}

void Transformer::load(const MicroBatch& batch, Stream& stream) {
    const ModelConfig& c = options_.config;
    const int64_t T = batch.T();
    ENSURE(T > 0 && T <= options_.max_tokens);
    // The GPU does not look: an id outside its table would be read from somewhere else.
    for (int32_t token : batch.tokens) ENSURE(token >= 0 && token < c.padded_vocab());
    for (int32_t target : batch.targets) ENSURE(target >= -1 && target < c.vocab_size);
    const int64_t positions = std::min(angles_ ? angles_.rows() : INT32_MAX, c.has_position_tables() ? c.max_seq_len : int64_t{INT32_MAX});
    for (int32_t position : batch.positions) ENSURE(position >= 0 && position < positions);
    slot_.T = T;
    slot_.segments = batch.segments;
    slot_.branch_pending = false;
    uploads_.begin();
    uploads_.send(view(slot_.tokens), batch.tokens.data(), stream);
    uploads_.send(view(slot_.targets), batch.targets.data(), stream);
    uploads_.send(view(slot_.positions), batch.positions.data(), stream);
    uploads_.send(view(slot_.loss_weights), batch.loss_weights.data(), stream);
    const AttentionTiles tiles = attention_tiles(batch.segments, c.window);
    n_query_tiles_ = static_cast<int64_t>(tiles.query.size()), n_key_tiles_ = static_cast<int64_t>(tiles.key.size());
    uploads_.send(segments().device, batch.segments.data(), stream);
    uploads_.send(segments().query_tiles, tiles.query.data(), stream);
    uploads_.send(segments().key_tiles, tiles.key.data(), stream);
    auto send_order = [&](Tensor order, const std::vector<int32_t>& ids, int64_t rows) {
        if (!order) return;
        order_.resize(static_cast<size_t>(T));
        sorted_order(order_, ids, rows);
        uploads_.send(view(order), order_.data(), stream);
    };
    send_order(slot_.token_order, batch.tokens, c.padded_vocab());
    send_order(slot_.position_order, batch.positions, c.max_seq_len);
    uploads_.end(stream);
}

SegmentTable Transformer::segments() const {
    return {slot_.segments, slot_.segment_rows.slice_rows(0, static_cast<int64_t>(slot_.segments.size())),
            slot_.query_tiles.slice_rows(0, n_query_tiles_), slot_.key_tiles.slice_rows(0, n_key_tiles_)};
}

AttentionParams Transformer::attention_params() const {
    const ModelConfig& c = options_.config;
    return {1.0 / std::sqrt(static_cast<double>(c.head_size)), c.window, c.attn_softcap, options_.deterministic, options_.unit_rows};
}

AttentionInputs Transformer::attention_inputs(int layer, const Tensor& qk, const Tensor& qkv) const {
    return attention_inputs(door_.weights().blocks[static_cast<size_t>(layer)], qk, qkv);
}

AttentionInputs Transformer::attention_inputs(const BlockTensors& w, const Tensor& qk, const Tensor& qkv) const {
    const ModelConfig& c = options_.config;
    const auto [q, k, v] = heads(qk, qkv);
    AttentionInputs in{.q = q, .k = k, .v = v, .gate = gate(qkv), .sinks = w.sinks, .slopes = slopes_};
    if (w.relative_bias) in.relative = Tensor(w.relative_bias.data, w.relative_bias.dtype, {c.n_head, relative_buckets});
    if (c.has_factors()) {
        in.q_factors = Tensor(w.q_factors.data, w.q_factors.dtype, {c.max_seq_len, c.n_head, c.bias_rank});
        in.k_factors = Tensor(w.k_factors.data, w.k_factors.dtype, {c.max_seq_len, c.n_kv_head, c.bias_rank});
    }
    return in;
}

Tensor Transformer::gate(const Tensor& qkv) const {
    const ModelConfig& c = options_.config;
    if (c.attn_gate == GateKind::none) return {};
    return qkv.slice_cols(c.gate_at(), c.gate_width()).view({slot_.T, c.n_head, c.gate_width() / c.n_head});
}

Transformer::Qkv Transformer::heads(const Tensor& qk, const Tensor& qkv) const {
    const ModelConfig& c = options_.config;
    return {qk.slice_cols(0, c.q_width()).view({slot_.T, c.n_head, c.head_size}),
            qk.slice_cols(c.q_width(), c.kv_width()).view({slot_.T, c.n_kv_head, c.head_size}),
            qkv.slice_cols(c.q_width() + c.kv_width(), c.kv_width()).view({slot_.T, c.n_kv_head, c.head_size})};
}

// ---------------------------------------------------------------------------------------------------------------------------
// forward

void Transformer::forward(int part, double loss_scale, Stream& stream) {
    ENSURE(door_.held(part));
    if (part == 0) {
        const EmbedTensors& w = door_.weights().embed;
        embedding_forward(view(slot_.blocks[0].x), view(slot_.tokens), view(slot_.positions), w.tokens, w.positions, stream);
    } else if (part <= options_.config.n_layer) {
        forward_block(part - 1, stream);
    } else {
        forward_head(loss_scale, stream);
    }
}

void Transformer::forward_block(int layer, Stream& stream) {
    BlockSlot& s = slot_.blocks[static_cast<size_t>(layer)];
    const BlockTensors& w = door_.weights().blocks[static_cast<size_t>(layer)];
    if (slot_.branch_pending) {
        const BlockSlot& previous = slot_.blocks[static_cast<size_t>(layer - 1)];
        norm_forward(view(s.x), view(s.norm1_out), view(s.norm1_mean), view(s.norm1_rstd), view(previous.x_mid), view(slot_.branch),
                     w.norm1, w.norm1_bias, options_.config.norm_eps, stream);
    } else {
        norm_forward({}, view(s.norm1_out), view(s.norm1_mean), view(s.norm1_rstd), view(s.x), {}, w.norm1, w.norm1_bias,
                     options_.config.norm_eps, stream);
    }
    forward_attention(s, w, true, stream);
    forward_mlp(s, w, true, true, stream);
    slot_.branch_pending = true;
}

// norm1_out -> q, k, v -> attention_out -> branch.
void Transformer::forward_attention(BlockSlot& s, const BlockTensors& w, bool with_output, Stream& stream) {
    const ModelConfig& c = options_.config;
    linear_forward(view(s.qkv), view(s.norm1_out), w.qkv, w.qkv_bias, stream);
    if (touches_qk(c))
        qk_norm_rope_forward(view(s.qk), view(s.qk_rstd), view(s.qkv).slice_cols(0, c.gate_at()), w.q_norm, w.k_norm, view(slot_.positions),
                             angles_, rope_params(c), stream);
    AttentionInputs in = attention_inputs(w, view(s.qk), view(s.qkv));
    if (s.cache.k) {  // generation: the new keys and values join those of the tokens before
        const int64_t end = slot_.cached + slot_.T;
        ENSURE(end <= s.cache.k.rows());
        copy(s.cache.k.slice_rows(slot_.cached, slot_.T), in.k, stream);
        copy(s.cache.v.slice_rows(slot_.cached, slot_.T), in.v, stream);
        in.k = s.cache.k.slice_rows(0, end).view({end, c.n_kv_head, c.head_size});
        in.v = s.cache.v.slice_rows(0, end).view({end, c.n_kv_head, c.head_size});
    }
    attention_forward(view(s.attention_out).view({slot_.T, c.n_head, c.head_size}), view(s.lse), in, segments(), attention_params(),
                      stream);
    if (with_output) linear_forward(view(slot_.branch), view(s.attention_out), w.attention_out, w.attention_out_bias, stream);
}

// x + branch = x_mid -> norm2_out -> fc -> act -> branch.
void Transformer::forward_mlp(BlockSlot& s, const BlockTensors& w, bool join_branch, bool with_output, Stream& stream) {
    const ModelConfig& c = options_.config;
    Tensor inp = view(join_branch ? s.x : s.x_mid), branch = join_branch ? view(slot_.branch) : Tensor();
    norm_forward(view(s.x_mid), view(s.norm2_out), view(s.norm2_mean), view(s.norm2_rstd), inp, branch, w.norm2, w.norm2_bias, c.norm_eps,
                 stream);
    if (c.mlp == MlpKind::gelu) {
        linear_gelu_forward(view(s.act), view(s.fc), view(s.norm2_out), w.fc, w.fc_bias, stream);
    } else {
        linear_forward(view(s.fc), view(s.norm2_out), w.fc, w.fc_bias, stream);
        swiglu_forward(view(s.act), view(s.fc), stream);
    }
    if (with_output) linear_forward(view(slot_.branch), view(s.act), w.mlp_out, w.mlp_out_bias, stream);
}

void Transformer::head_norm(Stream& stream) {
    const HeadTensors& w = door_.weights().head;
    HeadSlot& s = slot_.head;
    const BlockSlot& last = slot_.blocks.back();
    ENSURE(slot_.branch_pending);
    norm_forward(view(s.x), view(s.norm_out), view(s.mean), view(s.rstd), view(last.x_mid), view(slot_.branch), w.norm, w.norm_bias,
                 options_.config.norm_eps, stream);
}

Tensor Transformer::head_input(int64_t begin, int64_t n, Stream& stream) {
    const Tensor hidden = slot_.head.norm_out.slice_rows(begin, n);
    if (!wide_hidden_) return hidden;
    const Tensor wide = wide_hidden_.slice_rows(0, n);
    copy(wide, hidden, stream);
    return wide;
}

// Loss and, in training, everything that needs the logits: they exist only one chunk of rows at a time.
void Transformer::forward_head(double loss_scale, Stream& stream) {
    const Tensor weight = door_.weights().head.lm_head;
    HeadSlot& s = slot_.head;
    head_norm(stream);
    ClassifierParams params{options_.config.vocab_size, loss_scale, options_.z_loss, options_.training};
    for (int64_t begin = 0; begin < slot_.T; begin += chunk_) {
        const int64_t n = std::min(chunk_, slot_.T - begin);
        const Tensor hidden = head_input(begin, n, stream), logits = logits_.slice_rows(0, n);
        linear_forward(logits, hidden, weight, {}, stream);
        classifier(s.losses.slice_rows(begin, n), logits, slot_.targets.slice_rows(begin, n), slot_.loss_weights.slice_rows(begin, n),
                   params, stream);
        if (!options_.training) continue;
        const Tensor d = s.dnorm_out.slice_rows(begin, n), wide_d = wide_d_ ? wide_d_.slice_rows(0, n) : d;
        linear_backward_input(wide_d, logits, weight, stream);
        if (wide_d_) copy(d, wide_d, stream);
        linear_backward_weight(door_.gradients().head.lm_head, {}, logits, hidden, options_.unit_rows, stream);
    }
    sum(s.loss_sum, view(s.losses), stream);
}

void Transformer::clear_loss(Stream& stream) { zero(slot_.head.loss_sum, stream); }

Tensor Transformer::logits_of_last(int64_t n, Stream& stream) {
    ENSURE(n <= chunk_ && n <= slot_.T);
    const int head = n_parts() - 1;
    door_.acquire(head, stream);
    head_norm(stream);
    slot_.cached += slot_.T;
    Tensor logits = logits_.slice_rows(0, n);
    linear_forward(logits, head_input(slot_.T - n, n, stream), door_.weights().head.lm_head, {}, stream);
    door_.release(head);
    return logits.slice_cols(0, options_.config.vocab_size);
}

// ---------------------------------------------------------------------------------------------------------------------------
// backward

Tensor Transformer::upstream_gradient(int layer) const { return view(d_.stream[(layer + 2) & 1]); }

void Transformer::recompute(int part, Stream& stream) {
    ENSURE(door_.held(part) && part >= 1 && part <= options_.config.n_layer);
    BlockSlot& s = slot_.blocks[static_cast<size_t>(part - 1)];
    const BlockTensors& w = door_.weights().blocks[static_cast<size_t>(part - 1)];
    // The same kernels on the same inputs: the same bits as the forward's.
    if (drops_attention(options_.recompute)) {
        norm_forward({}, view(s.norm1_out), view(s.norm1_mean), view(s.norm1_rstd), view(s.x), {}, w.norm1, w.norm1_bias,
                     options_.config.norm_eps, stream);
        forward_attention(s, w, options_.recompute == Recompute::block, stream);
    }
    if (drops_mlp(options_.recompute)) forward_mlp(s, w, options_.recompute == Recompute::block, false, stream);
}

void Transformer::backward_input(int part, Stream& stream) {
    ENSURE(door_.held(part));
    const int64_t L = options_.config.n_layer;
    if (part == L + 1) {
        const HeadTensors &w = door_.weights().head, &d = door_.gradients().head;
        const HeadSlot& s = slot_.head;
        norm_backward(upstream_gradient(static_cast<int>(L) - 1), d.norm, d.norm_bias, view(s.dnorm_out), {}, view(s.x), view(s.mean),
                      view(s.rstd), w.norm, options_.unit_rows, stream);
    } else if (part >= 1) {
        backward_input_block(part - 1, stream);
    }  // the embedding has no input gradient
}

void Transformer::backward_input_block(int layer, Stream& stream) {
    const ModelConfig& c = options_.config;
    const BlockSlot& s = slot_.blocks[static_cast<size_t>(layer)];
    const BlockTensors& w = door_.weights().blocks[static_cast<size_t>(layer)];
    const BlockTensors& d = door_.gradients().blocks[static_cast<size_t>(layer)];
    Tensor dout = upstream_gradient(layer);
    // the feed-forward half
    if (c.mlp == MlpKind::gelu) {
        linear_gelu_backward_input(view(d_.fc), dout, w.mlp_out, view(s.fc), stream);
    } else {
        linear_backward_input(view(d_.act), dout, w.mlp_out, stream);
        swiglu_backward(view(d_.fc), view(d_.act), view(s.fc), stream);
    }
    linear_backward_input(view(d_.norm_out), view(d_.fc), w.fc, stream);
    norm_backward(view(d_.mid), d.norm2, d.norm2_bias, view(d_.norm_out), dout, view(s.x_mid), view(s.norm2_mean), view(s.norm2_rstd),
                  w.norm2, options_.unit_rows, stream);
    // the attention half
    linear_backward_input(view(d_.attention_out), view(d_.mid), w.attention_out, stream);
    const int64_t T = slot_.T;
    const Tensor dqk = view(d_.qk), dqkv = view(d_.qkv);
    const auto [dq, dk, dv] = heads(dqk, dqkv);
    AttentionGradients gradients{.dq = dq, .dk = dk, .dv = dv, .dgate = gate(dqkv), .dsinks = d.sinks};
    zero(dk, stream), zero(dv, stream);  // accumulated by attention
    if (d.relative_bias) gradients.drelative = Tensor(d.relative_bias.data, d.relative_bias.dtype, {c.n_head, relative_buckets});
    if (trains_factors()) {
        gradients.dq_factors = view(d_.q_factors).view({T, c.n_head, c.bias_rank});
        gradients.dk_factors = view(d_.k_factors).view({T, c.n_kv_head, c.bias_rank});
        zero(gradients.dk_factors, stream);
    }
    attention_backward(gradients, view(d_.attention_out).view({T, c.n_head, c.head_size}),
                       view(s.attention_out).view({T, c.n_head, c.head_size}), view(s.lse), attention_inputs(w, view(s.qk), view(s.qkv)),
                       {.delta = view(d_.delta), .dq = view(d_.dq_sums)}, segments(), attention_params(), stream);
    if (touches_qk(c))
        qk_norm_rope_backward(dqkv.slice_cols(0, c.gate_at()), d.q_norm, d.k_norm, dqk, view(s.qk_rstd),
                              view(s.qkv).slice_cols(0, c.gate_at()), w.q_norm, w.k_norm, view(slot_.positions), angles_, rope_params(c),
                              options_.unit_rows, stream);
    linear_backward_input(view(d_.norm_out), dqkv, w.qkv, stream);
    norm_backward(upstream_gradient(layer - 1), d.norm1, d.norm1_bias, view(d_.norm_out), view(d_.mid), view(s.x), view(s.norm1_mean),
                  view(s.norm1_rstd), w.norm1, options_.unit_rows, stream);
}

void Transformer::backward_weight(int part, Stream& stream) {
    if (part == 0) {
        const EmbedTensors& d = door_.gradients().embed;
        embedding_backward(d.tokens, d.positions, upstream_gradient(-1), view(slot_.tokens), view(slot_.positions), view(slot_.token_order),
                           view(slot_.position_order), stream);
    } else if (part <= options_.config.n_layer) {
        backward_weight_block(part - 1, stream);
    }  // the head's were added with the loss
}

void Transformer::backward_weight_block(int layer, Stream& stream) {
    const BlockSlot& s = slot_.blocks[static_cast<size_t>(layer)];
    const BlockTensors& d = door_.gradients().blocks[static_cast<size_t>(layer)];
    const int64_t unit = options_.unit_rows;
    linear_backward_weight(d.mlp_out, d.mlp_out_bias, upstream_gradient(layer), view(s.act), unit, stream);
    linear_backward_weight(d.fc, d.fc_bias, view(d_.fc), view(s.norm2_out), unit, stream);
    linear_backward_weight(d.attention_out, d.attention_out_bias, view(d_.mid), view(s.attention_out), unit, stream);
    linear_backward_weight(d.qkv, d.qkv_bias, view(d_.qkv), view(s.norm1_out), unit, stream);
    if (!trains_factors()) return;
    auto add_by_position = [&](const Tensor& table, const Tensor& rows) {
        const Tensor by_position(table.data, table.dtype, {options_.config.max_seq_len, rows.cols()});
        embedding_backward(by_position, {}, rows, view(slot_.positions), {}, view(slot_.position_order), {}, stream);
    };
    add_by_position(d.q_factors, view(d_.q_factors)), add_by_position(d.k_factors, view(d_.k_factors));
}

}  // namespace traincu
