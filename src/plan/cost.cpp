#include "src/plan/cost.h"

#include <algorithm>

namespace traincu {

int StepShape::micro_batches() const {
    const int64_t rows = model.max_tokens / seq_len;
    return static_cast<int>(div_ceil(rows_per_step, rows));
}

int64_t StepShape::tokens_of(int micro_batch) const {
    return std::min(model.max_tokens, tokens_per_step() - micro_batch * model.max_tokens);
}

namespace {

// A linear layer's sizes, apart from the tokens.
struct Layer {
    const char* name;
    int64_t in, out;
    bool bias;
};

// The calls of one part over T tokens, in the words of transformer.cpp.
class PartCalls {
public:
    PartCalls(const StepShape& shape, int64_t tokens) : shape_(shape), c_(shape.model.config), T_(tokens) {}

    std::vector<KernelCall> calls;

    void embed_forward() { add(Kernel::embedding_forward, {T_, c_.d_model, c_.padded_vocab(), has_positions()}, CostGroup::other); }
    void embed_backward() { add(Kernel::embedding_backward, {T_, c_.d_model, c_.padded_vocab(), has_positions()}, CostGroup::other); }

    void block_forward(bool first) {
        norm(Kernel::norm_forward, !first, "norm1");
        attention_half(true);
        mlp_half(true, true);
    }

    void block_recompute() {
        const Recompute mode = shape_.model.recompute;
        if (drops_attention(mode)) {
            norm(Kernel::norm_forward, false, "norm1");
            attention_half(mode == Recompute::block);
        }
        if (drops_mlp(mode)) mlp_half(mode == Recompute::block, false);
    }

    void block_backward_input() {
        backward_input(mlp_out());
        add(swiglu() ? Kernel::swiglu_backward : Kernel::gelu_backward, {T_, c_.d_ff}, CostGroup::elementwise);
        backward_input(fc());
        norm(Kernel::norm_backward, true, "norm2");
        backward_input(attention_out());
        add(Kernel::clear, {T_ * 2 * c_.kv_width()}, CostGroup::attention, "dk and dv");
        add(Kernel::attention_backward, {T_, c_.n_head, c_.n_kv_head, c_.head_size, shape_.seq_len}, CostGroup::attention);
        if (trains_factors()) add(Kernel::clear, {T_ * c_.n_kv_head * c_.bias_rank}, CostGroup::attention, "dk_factors");
        if (touches_qk(c_)) rope(Kernel::rope_backward);
        backward_input(qkv());
        norm(Kernel::norm_backward, true, "norm1");
    }

    void block_backward_weight() {
        for (const Layer& layer : {mlp_out(), fc(), attention_out(), qkv()})
            add(Kernel::matmul_backward_weight, {T_, layer.in, layer.out, layer.bias}, CostGroup::products, layer.name);
        if (trains_factors())
            for (int64_t heads : {c_.n_head, c_.n_kv_head})
                add(Kernel::embedding_backward, {T_, heads * c_.bias_rank, c_.max_seq_len, 0}, CostGroup::attention, "factors");
    }

    // The loss and all that needs the logits, a chunk of rows at a time.
    void head_forward() {
        norm(Kernel::norm_forward, true, "final norm");
        const int64_t chunk = logits_rows(shape_.model), C = c_.d_model, Vp = c_.padded_vocab();
        for (int64_t begin = 0; begin < T_; begin += chunk) {
            const int64_t n = std::min(chunk, T_ - begin);
            add(Kernel::matmul_forward, {n, C, Vp, 0}, CostGroup::head, "logits");
            add(Kernel::classifier, {n, Vp}, CostGroup::head);
            if (!shape_.model.training) continue;
            add(Kernel::matmul_backward_input, {n, C, Vp}, CostGroup::head, "logits");
            add(Kernel::matmul_backward_weight, {n, C, Vp, 0}, CostGroup::head, "logits");
        }
        add(Kernel::sum, {T_}, CostGroup::head, "losses");
        all_head();
    }

    void head_backward_input() {
        norm(Kernel::norm_backward, false, "final norm");
        all_head();
    }

    void optimizer() {
        const ParamTable table = make_param_table(c_);
        add(Kernel::clear, {table.flat_size}, CostGroup::optimizer, "gradients");
        add(Kernel::sum_squares, {table.flat_size}, CostGroup::optimizer, "gradients");
        add(Kernel::adamw, {table.flat_size}, CostGroup::optimizer, "all weights");
    }

private:
    void add(Kernel kernel, Sizes sizes, CostGroup group, const char* what = "") { calls.push_back({kernel, sizes, group, what}); }
    void all_head() {
        for (KernelCall& call : calls) call.group = CostGroup::head;
    }

    void attention_half(bool with_output) {
        forward(qkv());
        if (touches_qk(c_)) rope(Kernel::rope_forward);
        add(Kernel::attention_forward, {T_, c_.n_head, c_.n_kv_head, c_.head_size, shape_.seq_len}, CostGroup::attention);
        if (with_output) forward(attention_out());
    }
    void mlp_half(bool join_branch, bool with_output) {
        norm(Kernel::norm_forward, join_branch, "norm2");
        forward(fc());
        add(swiglu() ? Kernel::swiglu_forward : Kernel::gelu_forward, {T_, c_.d_ff}, CostGroup::elementwise);
        if (with_output) forward(mlp_out());
    }

    // branch: a second tensor is added, of the stream in the forward, of its gradient in the backward
    void norm(Kernel kernel, bool branch, const char* what) {
        add(kernel, {T_, c_.d_model, c_.norm == NormKind::layernorm, branch}, CostGroup::elementwise, what);
    }
    void rope(Kernel kernel) {
        add(kernel, {T_, c_.n_head, c_.n_kv_head, c_.head_size, c_.qk_norm, c_.position == PositionKind::rope}, CostGroup::elementwise);
    }
    void forward(const Layer& layer) {
        add(Kernel::matmul_forward, {T_, layer.in, layer.out, layer.bias}, CostGroup::products, layer.name);
    }
    void backward_input(const Layer& layer) {
        add(Kernel::matmul_backward_input, {T_, layer.in, layer.out}, CostGroup::products, layer.name);
    }

    Layer qkv() const { return {"qkv", c_.d_model, c_.qkv_width(), c_.bias}; }
    Layer attention_out() const { return {"attention out", c_.q_width(), c_.d_model, c_.bias}; }
    Layer fc() const { return {"fc", c_.d_model, c_.fc_width(), c_.bias}; }
    Layer mlp_out() const { return {"mlp out", c_.d_ff, c_.d_model, c_.bias}; }
    bool swiglu() const { return c_.mlp == MlpKind::swiglu; }
    bool trains_factors() const { return c_.attn_bias == BiasKind::factors; }
    bool has_positions() const { return c_.position == PositionKind::learned; }

    const StepShape& shape_;
    const ModelConfig& c_;
    int64_t T_;
};

}  // namespace

std::vector<KernelCall> kernel_calls(const StepShape& shape, const Instruction& i) {
    const int head = shape.n_parts() - 1;
    PartCalls part(shape, shape.tokens_of(i.micro_batch));
    switch (i.op) {
        case Op::forward:
            if (i.part == 0)
                part.embed_forward();
            else if (i.part < head)
                part.block_forward(i.part == 1);
            else
                part.head_forward();
            break;
        case Op::recompute:
            part.block_recompute();
            break;
        case Op::backward_input:
            if (i.part == head)
                part.head_backward_input();
            else if (i.part > 0)
                part.block_backward_input();
            break;
        case Op::backward_weight:
            if (i.part == 0)
                part.embed_backward();
            else if (i.part < head)
                part.block_backward_weight();
            break;
        case Op::optimizer:
            part.optimizer();
            break;
        case Op::load:  // copies 16 bytes a token
        case Op::prefetch:
        case Op::acquire:
        case Op::release:
        case Op::commit:
        case Op::fold:  // three times the gradients' bytes for a worker
            break;
    }
    return std::move(part.calls);
}

}  // namespace traincu
