"""GPT-2 and Qwen3 in plain PyTorch, as fast as plain PyTorch allows: the other side of speed comparisons. Nothing but torch is needed.

Projections that share an input are one product (qkv; gate and up), attention is F.scaled_dot_product_attention on views of it, the head is
tied, and the vocabulary is padded to a multiple of 64, as ours is. Weights come from the seed or from a folder in Hugging Face's form.
"""

import dataclasses
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Shape:
    family: str  # gpt2 or qwen3
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    channels: int
    ffn: int
    vocab: int
    max_seq: int
    theta: float = 1e6
    eps: float = 1e-6

    def flops_per_token(self, seq_len):
        """As ./train counts them: 6 a weight of a matrix product, and causal attention, 6 * heads * head_size * T a layer."""
        q_width, kv_width = self.heads * self.head_size, self.kv_heads * self.head_size
        fc = self.ffn if self.family == "gpt2" else 2 * self.ffn
        block = self.channels * (q_width + 2 * kv_width) + q_width * self.channels + self.channels * fc + self.ffn * self.channels
        return 6 * (self.layers * block + self.channels * self.vocab) + 6 * self.layers * q_width * seq_len


def gpt2(layers, heads, channels, max_seq=1024, vocab=50257):
    return Shape("gpt2", layers, heads, heads, channels // heads, channels, 4 * channels, vocab, max_seq, eps=1e-5)


SHAPES = {
    "gpt2-124m": gpt2(12, 12, 768),
    "gpt2-350m": gpt2(24, 16, 1024),
    "gpt2-774m": gpt2(36, 20, 1280),
    "gpt2-1558m": gpt2(48, 25, 1600),
    "qwen3-0.6b": Shape("qwen3", 28, 16, 8, 128, 1024, 3072, 151936, 40960),
    "qwen3-1.7b": Shape("qwen3", 28, 16, 8, 128, 2048, 6144, 151936, 40960),
    "tiny-gpt2": gpt2(2, 2, 32, max_seq=64, vocab=257),
    "tiny-qwen3": Shape("qwen3", 2, 4, 2, 16, 32, 96, 257, 64),
}


class Attention(nn.Module):
    def __init__(self, s, bias):
        super().__init__()
        self.s = s
        self.qkv = nn.Linear(s.channels, (s.heads + 2 * s.kv_heads) * s.head_size, bias=bias)
        self.out = nn.Linear(s.heads * s.head_size, s.channels, bias=bias)
        if s.family == "qwen3":
            self.q_norm, self.k_norm = nn.RMSNorm(s.head_size, s.eps), nn.RMSNorm(s.head_size, s.eps)

    def forward(self, x, rotation):  # (B,T,C)
        s, (B, T, _) = self.s, x.shape
        q, k, v = self.qkv(x).view(B, T, s.heads + 2 * s.kv_heads, s.head_size).split([s.heads, s.kv_heads, s.kv_heads], dim=2)
        if s.family == "qwen3":
            q, k = rotate(self.q_norm(q), *rotation), rotate(self.k_norm(k), *rotation)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B,NH,T,HS)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=s.kv_heads != s.heads)
        return self.out(attended.transpose(1, 2).reshape(B, T, -1))


def rotate(x, cos, sin):  # (B,T,NH,HS): element i turns with element i + HS/2
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.is_gpt2 = s.family == "gpt2"
        norm = (lambda: nn.LayerNorm(s.channels, s.eps)) if self.is_gpt2 else (lambda: nn.RMSNorm(s.channels, s.eps))
        self.norm1, self.norm2 = norm(), norm()
        self.attention = Attention(s, bias=self.is_gpt2)
        self.fc = nn.Linear(s.channels, s.ffn if self.is_gpt2 else 2 * s.ffn, bias=self.is_gpt2)
        self.mlp_out = nn.Linear(s.ffn, s.channels, bias=self.is_gpt2)

    def forward(self, x, rotation):
        x = x + self.attention(self.norm1(x), rotation)
        h = self.fc(self.norm2(x))
        if self.is_gpt2:
            return x + self.mlp_out(F.gelu(h, approximate="tanh"))
        gate, up = h.chunk(2, dim=-1)
        return x + self.mlp_out(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, shape):
        super().__init__()
        s = self.s = shape
        self.tokens = nn.Embedding((s.vocab + 63) // 64 * 64, s.channels)
        self.positions = nn.Embedding(s.max_seq, s.channels) if s.family == "gpt2" else None
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.final_norm = nn.LayerNorm(s.channels, s.eps) if s.family == "gpt2" else nn.RMSNorm(s.channels, s.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / (2 * s.layers) ** 0.5 if "out." in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens, targets):  # (B,T)
        s, T = self.s, tokens.shape[1]
        x, rotation = self.tokens(tokens), None
        place = torch.arange(T, device=tokens.device)
        if self.positions is not None:
            x = x + self.positions(place)
        else:
            speed = s.theta ** (-torch.arange(0, s.head_size, 2, device=tokens.device, dtype=torch.float32) / s.head_size)
            angle = torch.outer(place.float(), speed)[:, None, :]  # (T,1,HS/2)
            rotation = angle.cos(), angle.sin()
        for block in self.blocks:
            x = block(x, rotation)
        logits = F.linear(self.final_norm(x), self.tokens.weight)[:, :, : s.vocab]  # padded columns take no part
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


# ---- weights in Hugging Face's form


def read_safetensors(path):
    """{name: tensor}, on the CPU, as stored."""
    types = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    content = bytearray(Path(path).read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:begin]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            tensors[name] = torch.frombuffer(content[begin + first : begin + last], dtype=types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def shape_of(folder):
    c = json.loads((Path(folder) / "config.json").read_text())
    if c["model_type"] == "gpt2":
        return gpt2(c["n_layer"], c["n_head"], c["n_embd"], c["n_positions"], c["vocab_size"])
    if c["model_type"] == "qwen3":
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        return Shape("qwen3", c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["hidden_size"],
                     c["intermediate_size"], c["vocab_size"], c["max_position_embeddings"], theta, c["rms_norm_eps"])
    raise ValueError(f"{folder}: a model of type {c['model_type']}; gpt2 and qwen3 are known")


@torch.no_grad()
def load_weights(model, folder):
    stored = {name.removeprefix("transformer."): t.float() for name, t in read_safetensors(Path(folder) / "model.safetensors").items()}
    gpt2_names = {"norm1": "ln_1", "norm2": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj", "fc": "mlp.c_fc",
                  "mlp_out": "mlp.c_proj"}
    qwen3_names = {"norm1": ["input_layernorm"], "norm2": ["post_attention_layernorm"], "attention.out": ["self_attn.o_proj"],
                   "attention.q_norm": ["self_attn.q_norm"], "attention.k_norm": ["self_attn.k_norm"], "fc": ["mlp.gate_proj", "mlp.up_proj"],
                   "attention.qkv": [f"self_attn.{x}_proj" for x in "qkv"], "mlp_out": ["mlp.down_proj"]}
    top = {"tokens": "wte", "positions": "wpe", "final_norm": "ln_f"} if model.s.family == "gpt2" else {
        "tokens": "model.embed_tokens", "final_norm": "model.norm"}
    for name, p in model.named_parameters():
        part, kind = name.rsplit(".", 1)
        if part in top:
            value = stored.pop(f"{top[part]}.{kind}")
        else:
            _, layer, part = part.split(".", 2)
            if model.s.family == "gpt2":
                value = stored.pop(f"h.{layer}.{gpt2_names[part]}.{kind}")
                value = value.T if value.dim() == 2 else value  # stored (in,out)
            else:
                value = torch.cat([stored.pop(f"model.layers.{layer}.{other}.{kind}") for other in qwen3_names[part]])
        p.zero_()
        p[: value.shape[0]].copy_(value)  # the padding of the vocabulary stays zero
    left = [name for name in stored if not name.endswith(("lm_head.weight", "attn.bias", "masked_bias"))]
    if left:
        raise ValueError(f"{folder}: tensors that the model has no place for: {left[:3]}")
