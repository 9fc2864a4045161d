"""Writes the golden files: losses, gradients and ten optimizer steps of tiny models, computed by an independent implementation.

Plain PyTorch operations and autograd in float64, written from the equations in kernels/*.h and from nothing else of this program. One
safetensors file a case; README.md says what is in it.

    python tests/golden/make_golden.py --out tests/golden                         # needs torch, numpy, safetensors
    python tests/golden/make_golden.py --out /tmp/golden --verify-transformers    # and compares with Hugging Face's models
"""

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

VOCAB = 97  # odd and far from a multiple of 64: the padded columns of the embedding and the logits matter
OPTIMIZER = dict(lr=1e-2, beta1=0.9, beta2=0.95, adam_eps=1e-8, weight_decay=0.1, grad_clip=1.0, steps=10)

GPT2 = dict(norm="layernorm", position="learned", mlp="gelu", bias=True, qk_norm=False, rope_theta=10000.0, norm_eps=1e-5)
LLAMA = dict(norm="rmsnorm", position="rope", mlp="swiglu", bias=False, qk_norm=False, rope_theta=10000.0, norm_eps=1e-5)
QWEN2 = dict(LLAMA, qkv_bias=True, rope_theta=1000000.0, norm_eps=1e-6)
QWEN3 = dict(LLAMA, qk_norm=True, rope_theta=1000000.0, norm_eps=1e-6)


def shape(family, d_model, n_head, n_kv_head, head_size, d_ff, max_seq_len=40, tie_embeddings=True, z_loss=0.0, **changes):
    return dict(n_layer=2, n_head=n_head, n_kv_head=n_kv_head, d_model=d_model, d_ff=d_ff, head_size=head_size, vocab_size=VOCAB,
                max_seq_len=max_seq_len, tie_embeddings=tie_embeddings, z_loss=z_loss, **{**family, **changes}, **OPTIMIZER)


# A batch is a list of documents, each a list of the lengths of its slices, and the number of padding tokens at the end.
# ends: whether the last token of a document has a target (windows cut from a stream) or none (documents of their own).
WINDOWS = dict(documents=[[29], [29]], padding=0, ends=True)
# The last number is the seed. Adam turns a gradient that is nearly 0 into a full step of either sign, so one unlucky element lets float32
# rounding move the later losses by 1e-4; these seeds were chosen among four so that noise of 3e-7 in the gradients moves them by less
# than 1e-6.
CASES = {
    "gpt2_tied": (shape(GPT2, 24, 3, 3, 8, 96), WINDOWS, 3),
    "gpt2_untied": (shape(GPT2, 28, 2, 2, 14, 60, tie_embeddings=False), WINDOWS, 3),
    "gpt2_documents": (shape(GPT2, 24, 4, 4, 6, 72), dict(documents=[[17], [1], [31], [9]], padding=0, ends=True), 1),
    "llama_gqa": (shape(LLAMA, 36, 6, 2, 6, 50, tie_embeddings=False), WINDOWS, 1),
    "llama_tied": (shape(LLAMA, 32, 4, 4, 8, 44), WINDOWS, 2),
    "llama_slices": (shape(LLAMA, 24, 4, 1, 6, 52), dict(documents=[[11, 13, 8], [5], [7, 1, 12]], padding=0, ends=True), 2),
    "llama_z_loss": (shape(LLAMA, 24, 3, 3, 8, 40, tie_embeddings=False, z_loss=0.01), WINDOWS, 3),
    # Wavelengths of 6 (kept), 20 (between), 63 and 199 (stretched), told apart within the 29 tokens of a window.
    "llama3_scaled": (shape(LLAMA, 28, 4, 2, 8, 48, rope_theta=100.0,
                            rope_scaling=dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=32)), WINDOWS, 1),
    "qwen2": (shape(QWEN2, 24, 4, 2, 6, 44, tie_embeddings=False), WINDOWS, 1),
    "qwen3": (shape(QWEN3, 24, 4, 2, 10, 44, tie_embeddings=False), WINDOWS, 2),
    "qwen3_documents": (shape(QWEN3, 28, 6, 2, 8, 46), dict(documents=[[21], [1], [3], [26]], padding=6, ends=False), 1),
    # Attention's variants.
    "gate_elementwise": (shape(QWEN3, 24, 4, 2, 10, 44, tie_embeddings=False, attn_gate="elementwise"), WINDOWS, 2),
    "gate_headwise_documents": (shape(QWEN2, 24, 3, 1, 8, 44, attn_gate="headwise", attn_sinks=True),
                                dict(documents=[[17], [1], [14, 9]], padding=0, ends=True), 1),
    "alibi": (shape(LLAMA, 24, 6, 2, 6, 44, position="none", attn_bias="alibi"), WINDOWS, 1),
    "alibi_documents": (shape(LLAMA, 24, 4, 4, 6, 44, position="none", attn_bias="alibi", window=7, attn_softcap=3.0),
                        dict(documents=[[21], [1], [8, 11]], padding=5, ends=False), 1),
    "relative_documents": (shape(LLAMA, 24, 4, 2, 6, 44, position="none", attn_bias="relative", max_seq_len=90),
                           dict(documents=[[75], [1], [8, 11]], padding=0, ends=True), 1),
    "factors_documents": (shape(LLAMA, 24, 4, 2, 6, 44, attn_bias="factors", bias_rank=3),
                          dict(documents=[[21], [1], [8, 11]], padding=0, ends=True), 3),
    "nobias_layernorm_none": (shape(GPT2, 24, 4, 2, 6, 80, bias=False, position="none"), WINDOWS, 1),
}


def uses_gpt2_names(c):
    return c["norm"] == "layernorm" and c["mlp"] == "gelu"


# ---- weights and batch ----

def make_weights(c, rng):
    """{Hugging Face name: float32 array}. Every value matters: gains are not 1, biases are not 0."""
    weights = {}

    def matrix(name, rows, cols, std):
        weights[name + ".weight"] = rng.normal(0, std, (rows, cols)).astype(np.float32)

    def linear(name, inputs, outputs, std=0.15, bias=c["bias"]):
        if uses_gpt2_names(c):
            matrix(name, inputs, outputs, std)  # GPT-2's checkpoints store the transpose (Conv1D)
        else:
            matrix(name, outputs, inputs, std)
        if bias:
            weights[name + ".bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)

    def norm(name, width, bias):
        weights[name + ".weight"] = (1 + rng.normal(0, 0.2, width)).astype(np.float32)
        if bias:
            weights[name + ".bias"] = rng.normal(0, 0.1, width).astype(np.float32)

    C, F = c["d_model"], c["d_ff"]
    q_width, kv_width = c["n_head"] * c["head_size"], c["n_kv_head"] * c["head_size"]
    if uses_gpt2_names(c):
        matrix("transformer.wte", c["vocab_size"], C, 0.2)
        if c["position"] == "learned":
            matrix("transformer.wpe", c["max_seq_len"], C, 0.1)
        for layer in range(c["n_layer"]):
            h = f"transformer.h.{layer}."
            norm(h + "ln_1", C, c["bias"])
            linear(h + "attn.c_attn", C, q_width + 2 * kv_width, 0.2)
            linear(h + "attn.c_proj", q_width, C)
            norm(h + "ln_2", C, c["bias"])
            linear(h + "mlp.c_fc", C, F)
            linear(h + "mlp.c_proj", F, C, 0.1)
        norm("transformer.ln_f", C, c["bias"])
    else:
        matrix("model.embed_tokens", c["vocab_size"], C, 0.2)
        for layer in range(c["n_layer"]):
            h = f"model.layers.{layer}."
            norm(h + "input_layernorm", C, False)
            qkv_bias = c.get("qkv_bias", False)
            gates = {"headwise": c["n_head"], "elementwise": q_width}.get(c.get("attn_gate"), 0)  # beside each head's query rows
            linear(h + "self_attn.q_proj", C, q_width + gates, 0.2, bias=qkv_bias)
            linear(h + "self_attn.k_proj", C, kv_width, 0.2, bias=qkv_bias)
            linear(h + "self_attn.v_proj", C, kv_width, bias=qkv_bias)
            if c["qk_norm"]:
                norm(h + "self_attn.q_norm", c["head_size"], False)
                norm(h + "self_attn.k_norm", c["head_size"], False)
            if c.get("attn_sinks"):
                weights[h + "self_attn.sinks.weight"] = rng.normal(0, 1, c["n_head"]).astype(np.float32)
            if c.get("attn_bias") == "relative":
                matrix(h + "self_attn.relative_bias", c["n_head"], 144, 0.5)
            if c.get("attn_bias") == "factors":
                matrix(h + "self_attn.q_factors", c["max_seq_len"], c["n_head"] * c["bias_rank"], 0.5)
                matrix(h + "self_attn.k_factors", c["max_seq_len"], c["n_kv_head"] * c["bias_rank"], 0.7)
            linear(h + "self_attn.o_proj", q_width, C)
            norm(h + "post_attention_layernorm", C, False)
            linear(h + "mlp.gate_proj", C, F, 0.2)
            linear(h + "mlp.up_proj", C, F, 0.2)
            linear(h + "mlp.down_proj", F, C)
        norm("model.norm", C, False)
    if not c["tie_embeddings"]:
        matrix("lm_head", c["vocab_size"], C, 0.15)
    return weights


def make_batch(layout, rng):
    tokens, targets, positions, loss_weights, segments = [], [], [], [], []
    start = 0
    for slices in layout["documents"]:
        length = sum(slices)
        text = rng.integers(0, VOCAB, length + 1)
        tokens += list(text[:-1])
        targets += list(text[1:])
        if not layout["ends"]:
            targets[-1] = -1
        positions += range(length)
        loss_weights += [1.0] * length
        done = 0
        for n in slices:
            segments.append([start + done, n, start, done + n, done])  # q_start, q_len, kv_start, kv_len, first_position
            done += n
        start += length
    if layout["padding"]:
        n = layout["padding"]
        tokens += [0] * n
        targets += [-1] * n
        positions += range(n)
        loss_weights += [0.0] * n
        segments.append([start, n, start, n, 0])
    return dict(tokens=np.array(tokens, np.int32), targets=np.array(targets, np.int32), positions=np.array(positions, np.int32),
                loss_weights=np.array(loss_weights, np.float32), segments=np.array(segments, np.int32))


# ---- the model ----

def layernorm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    out = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weight
    return out if bias is None else out + bias


def rmsnorm(x, weight, eps):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight


def stretched(frequency, s):
    """Llama 3.1's scaling of one rotary frequency, by how often its wave fits into the context of the pretraining."""
    fits = s["original_max_position"] / (2 * math.pi / frequency)
    smooth = (fits - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
    smooth = min(max(smooth, 0.0), 1.0)
    return smooth * frequency + (1 - smooth) * frequency / s["factor"]


def rope(x, positions, theta, scaling=None):  # (T,NH,HS): pairs lie half a head apart
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    if scaling:
        frequencies = torch.tensor([stretched(f, scaling) for f in frequencies.tolist()], dtype=x.dtype)
    angle = positions[:, None, None] * frequencies  # (T,1,HS/2)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


def visible_keys(batch):  # (T,T): the last q_len of a segment's keys are the queries' own
    T = len(batch["tokens"])
    mask = torch.zeros(T, T, dtype=torch.bool)
    for q_start, q_len, kv_start, kv_len, _ in batch["segments"].tolist():
        for i in range(q_len):
            mask[q_start + i, kv_start:kv_start + kv_len - q_len + i + 1] = True
    return mask


def alibi_slopes(heads):
    power = 2 ** int(math.log2(heads))
    own = [2.0 ** (-8 * (h + 1) / power) for h in range(power)]
    return own if power == heads else own + [2.0 ** (-8 * (h + 1) / (2 * power)) for h in range(0, 2 * (heads - power), 2)]


def bucket(distance):  # every distance below 64 its own, then eight to an octave
    if distance < 64:
        return distance
    octave = int(math.log2(distance))
    return 64 + (octave - 6) * 8 + (distance >> (octave - 3)) % 8


def score_bias(c, weights, h, head, positions):
    """(T,T) what is added to a head's scores, for queries and keys at these positions; nothing of it matters where the key is not seen."""
    kind, at = c.get("attn_bias"), positions.long()
    distance = (at[:, None] - at[None]).clamp(min=0)
    if kind == "alibi":
        return -alibi_slopes(c["n_head"])[head] * distance
    if kind == "relative":
        return weights[h + "self_attn.relative_bias.weight"][head][torch.tensor([[bucket(d) for d in row] for row in distance.tolist()])]
    if kind == "factors":
        R, group = c["bias_rank"], c["n_head"] // c["n_kv_head"]
        q = weights[h + "self_attn.q_factors.weight"][at][:, head * R:(head + 1) * R]
        return q @ weights[h + "self_attn.k_factors.weight"][at][:, head // group * R:(head // group + 1) * R].T
    return 0.0


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def token_losses(c, weights, batch):
    """(T) loss_weight * (cross-entropy + z_loss * lse^2); 0 where there is no target."""
    dtype = next(iter(weights.values())).dtype
    tokens, targets = torch.from_numpy(batch["tokens"]).long(), torch.from_numpy(batch["targets"]).long()
    positions = torch.from_numpy(batch["positions"]).to(dtype)
    T, NH, NKV, HS = len(tokens), c["n_head"], c["n_kv_head"], c["head_size"]
    gpt2 = uses_gpt2_names(c)
    mask = visible_keys(batch)
    if c.get("window"):
        mask &= torch.arange(T)[:, None] - torch.arange(T)[None] < c["window"]  # a segment's keys lie in the order of its positions

    def linear(x, name):
        w = weights[name + ".weight"]
        out = x @ (w if gpt2 else w.T)
        return out + weights[name + ".bias"] if name + ".bias" in weights else out

    def norm(x, name):
        if c["norm"] == "layernorm":
            return layernorm(x, weights[name + ".weight"], weights.get(name + ".bias"), c["norm_eps"])
        return rmsnorm(x, weights[name + ".weight"], c["norm_eps"])

    def attention(x, h):
        if gpt2:
            q, k, v = linear(x, h + "attn.c_attn").split([NH * HS, NKV * HS, NKV * HS], -1)
        else:
            q, k, v = (linear(x, h + f"self_attn.{part}_proj") for part in "qkv")
        q, gate = q.view(T, NH, -1).split([HS, q.shape[-1] // NH - HS], -1)  # the gate: of width HS, 1, or 0 where there is none
        k, v = k.view(T, NKV, HS), v.view(T, NKV, HS)
        if c["qk_norm"]:
            q = rmsnorm(q, weights[h + "self_attn.q_norm.weight"], c["norm_eps"])
            k = rmsnorm(k, weights[h + "self_attn.k_norm.weight"], c["norm_eps"])
        if c["position"] == "rope":
            q, k = (rope(part, positions, c["rope_theta"], c.get("rope_scaling")) for part in (q, k))
        heads = []
        for head in range(NH):
            key_head = head // (NH // NKV)
            scores = q[:, head] @ k[:, key_head].T / math.sqrt(HS)  # (T,T)
            if cap := c.get("attn_softcap"):
                scores = cap * torch.tanh(scores / cap)
            scores = (scores + score_bias(c, weights, h, head, positions)).masked_fill(~mask, -math.inf)
            if c.get("attn_sinks"):  # a key without a value
                scores = torch.cat([scores, weights[h + "self_attn.sinks.weight"][head].expand(T, 1)], -1)
            out = torch.softmax(scores, -1)[:, :T] @ v[:, key_head]
            heads.append(out * torch.sigmoid(gate[:, head]) if gate.shape[-1] else out)
        return linear(torch.cat(heads, -1), h + ("attn.c_proj" if gpt2 else "self_attn.o_proj"))

    def mlp(x, h):
        if c["mlp"] == "gelu":
            return linear(gelu(linear(x, h + "mlp.c_fc")), h + "mlp.c_proj")
        gate, up = linear(x, h + "mlp.gate_proj"), linear(x, h + "mlp.up_proj")
        return linear(gate * torch.sigmoid(gate) * up, h + "mlp.down_proj")

    table = weights["transformer.wte.weight" if gpt2 else "model.embed_tokens.weight"]
    x = table[tokens]  # (T,C)
    if c["position"] == "learned":
        x = x + weights["transformer.wpe.weight"][positions.long()]
    for layer in range(c["n_layer"]):
        h = f"transformer.h.{layer}." if gpt2 else f"model.layers.{layer}."
        x = x + attention(norm(x, h + ("ln_1" if gpt2 else "input_layernorm")), h)
        x = x + mlp(norm(x, h + ("ln_2" if gpt2 else "post_attention_layernorm")), h)
    x = norm(x, "transformer.ln_f" if gpt2 else "model.norm")
    logits = x @ weights.get("lm_head.weight", table).T  # (T,V)
    return losses_of_logits(c, logits, targets, torch.from_numpy(batch["loss_weights"]).to(dtype))


def losses_of_logits(c, logits, targets, loss_weights):
    lse = torch.logsumexp(logits, -1)
    chosen = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets >= 0, loss_weights * (lse - chosen + c["z_loss"] * lse**2), 0.0)


def loss_and_gradients(c, weights, batch):
    leaves = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    losses = token_losses(c, leaves, batch)
    loss = losses.sum() / int((batch["targets"] >= 0).sum())
    loss.backward()
    return losses.detach(), loss.item(), {name: leaf.grad for name, leaf in leaves.items()}


# ---- AdamW, decoupled decay on matrices only, global gradient norm clipped ----

def train(c, weights, batch):
    weights = {name: w.clone() for name, w in weights.items()}
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    losses, norms = [], []
    for step in range(1, c["steps"] + 1):
        _, loss, gradients = loss_and_gradients(c, weights, batch)
        norm = math.sqrt(sum(float((g.double()**2).sum()) for g in gradients.values()))
        clip = min(1.0, c["grad_clip"] / norm)
        for name, w in weights.items():
            g = clip * gradients[name]
            m[name] = c["beta1"] * m[name] + (1 - c["beta1"]) * g
            v[name] = c["beta2"] * v[name] + (1 - c["beta2"]) * g**2
            update = (m[name] / (1 - c["beta1"]**step)) / (torch.sqrt(v[name] / (1 - c["beta2"]**step)) + c["adam_eps"])
            decays = w.dim() == 2 and not name.endswith(("relative_bias.weight", "_factors.weight"))
            decay = c["weight_decay"] if decays else 0.0
            weights[name] = w - c["lr"] * (update + decay * w)
        losses.append(loss)
        norms.append(norm)
    return np.array(losses), np.array(norms)


# ---- Hugging Face's models on the same weights ----

def verify_transformers(c, weights, batch, losses, gradients):
    """Largest differences of a token's loss and (relative to its tensor) of a gradient; None where no such model exists."""
    from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                              Qwen3ForCausalLM)
    if c.get("attn_gate") or c.get("attn_bias"):
        return None
    if uses_gpt2_names(c):
        if not c["bias"] or c["position"] == "none":
            return None
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=c["vocab_size"], n_positions=c["max_seq_len"], n_embd=c["d_model"], n_layer=c["n_layer"], n_head=c["n_head"],
            n_inner=c["d_ff"], layer_norm_epsilon=c["norm_eps"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            tie_word_embeddings=c["tie_embeddings"], attn_implementation="eager"))
    else:
        config, kind = ((Qwen3Config, Qwen3ForCausalLM) if c["qk_norm"] else
                        (Qwen2Config, Qwen2ForCausalLM) if c.get("qkv_bias") else (LlamaConfig, LlamaForCausalLM))
        frequencies = dict(rope_type="default", rope_theta=c["rope_theta"])
        if scaling := c.get("rope_scaling"):
            frequencies |= dict(rope_type="llama3", factor=scaling["factor"], low_freq_factor=scaling["low_freq_factor"],
                                high_freq_factor=scaling["high_freq_factor"],
                                original_max_position_embeddings=scaling["original_max_position"])
        model = kind(config(
            vocab_size=c["vocab_size"], hidden_size=c["d_model"], intermediate_size=c["d_ff"], num_hidden_layers=c["n_layer"],
            num_attention_heads=c["n_head"], num_key_value_heads=c["n_kv_head"], head_dim=c["head_size"], rms_norm_eps=c["norm_eps"],
            max_position_embeddings=c["max_seq_len"], rope_parameters=frequencies,
            tie_word_embeddings=c["tie_embeddings"], attn_implementation="eager"))
    model = model.double().eval()
    absent, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown and set(absent) <= {"lm_head.weight"}, (absent, unknown)

    # One document at a time, so that packing is checked too. A document's slices share their first key.
    segments = batch["segments"].tolist()
    starts = sorted({kv_start for _, _, kv_start, _, _ in segments}) + [len(batch["tokens"])]
    parts = []
    for begin, end in zip(starts, starts[1:]):
        logits = model(torch.from_numpy(batch["tokens"][begin:end]).long()[None]).logits[0]
        parts.append(losses_of_logits(c, logits, torch.from_numpy(batch["targets"][begin:end]).long(),
                                      torch.from_numpy(batch["loss_weights"][begin:end]).double()))
    theirs = torch.cat(parts)
    (theirs.sum() / int((batch["targets"] >= 0).sum())).backward()
    largest = 0.0
    parameters = dict(model.named_parameters())
    for name, g in gradients.items():
        largest = max(largest, float((parameters[name].grad - g).norm() / max(float(g.norm()), 1e-6)))
    return float((theirs - losses).abs().max()), largest


# ---- files ----

def as_f32(tensor):
    return np.ascontiguousarray(tensor.numpy().astype(np.float32))


def make_case(name, c, layout, seed, out, verify):
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    batch = make_batch(layout, rng)
    stored = make_weights(c, rng)
    weights = {key: torch.from_numpy(w).double() for key, w in stored.items()}
    losses, loss, gradients = loss_and_gradients(c, weights, batch)
    losses10, norms10 = train(c, weights, batch)

    tensors = dict(batch, losses=losses.numpy(), loss=np.array([loss]), losses10=losses10, grad_norms10=norms10)
    tensors |= {"w." + key: w for key, w in stored.items()}
    tensors |= {"g." + key: as_f32(g) for key, g in gradients.items()}
    save_file(tensors, out / f"{name}.safetensors", metadata={"config": json.dumps(c)})  # one key: several have no fixed order

    # How far the same arithmetic in float32 strays: what a tolerance has to allow.
    single = {key: torch.from_numpy(w) for key, w in stored.items()}
    _, _, gradients32 = loss_and_gradients(c, single, batch)
    stray_g = max(float((gradients32[key].double() - g).norm()) for key, g in gradients.items()) / norms10[0]
    losses32, _ = train(c, single, batch)
    print(f"{name:22s} {(out / (name + '.safetensors')).stat().st_size / 1000:4.0f} KB  loss {loss:.6f} -> {losses10[-1]:.6f}  "
          f"norm {norms10[0]:.3f} -> {norms10[-1]:.3f}  "
          f"f32 strays: gradients {stray_g:.1e}, ten steps {np.abs(losses32 - losses10).max():.1e}")
    if verify:
        differences = verify_transformers(c, weights, batch, losses, gradients)
        print(f"{'':22s} " + ("no such model in transformers" if differences is None else
                              "transformers: losses differ by %.1e, gradients by %.1e" % differences))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, help="only these")
    parser.add_argument("--verify-transformers", action="store_true", help="compare with Hugging Face's models")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.cases:
        make_case(name, *CASES[name], args.out, args.verify_transformers)


if __name__ == "__main__":
    main()
