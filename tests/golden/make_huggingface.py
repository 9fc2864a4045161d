"""Writes small random models as transformers saves them, and what transformers and PyTorch compute with them.

    python tests/golden/make_huggingface.py --out tests/golden/huggingface      # needs torch, transformers, safetensors

A folder a model: config.json and weights by save_pretrained(), and expected.safetensors; README.md says what is in it.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM)

VOCAB, CONTEXT = 97, 40
STEPS, ROWS, WINDOW = 20, 2, 16
LR, BETAS, EPS, DECAY, CLIP = 1e-2, (0.9, 0.95), 1e-8, 0.1, 1.0

ROPE = dict(rope_type="default", rope_theta=10000.0)
# Waves of 6, 20, 63, 199 tokens: one kept, one between, two stretched.
ROPE_LLAMA3 = dict(rope_type="llama3", rope_theta=100.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)


def llama_like(**changes):
    return dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=CONTEXT, **changes)


# name: class, config, dtype of the files, largest file
MODELS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4), torch.float32, "1GB"),
    "llama_bf16_sharded": (LlamaForCausalLM, LlamaConfig(**llama_like(tie_word_embeddings=True, rope_parameters=ROPE)), torch.bfloat16,
                           "16KB"),
    "llama3_scaled": (LlamaForCausalLM, LlamaConfig(**llama_like(rope_parameters=ROPE_LLAMA3, rms_norm_eps=1e-5)), torch.float32, "1GB"),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**llama_like(tie_word_embeddings=True, rope_parameters=dict(ROPE, rope_theta=1e6))),
              torch.float32, "1GB"),
    "qwen3_fp16": (Qwen3ForCausalLM, Qwen3Config(**llama_like(head_dim=12, rope_parameters=dict(ROPE, rope_theta=1e6))), torch.float16,
                   "1GB"),
}


def random_model(kind, config, dtype, seed):
    """Every value matters: gains are not 1, biases not 0."""
    model = kind(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 2:
                weight.copy_(0.2 * noise)
            else:
                weight.copy_(0.1 * noise + (0.0 if name.endswith("bias") else 1.0))
    return model.to(dtype)


def pattern(n, seed):
    """Tokens of which three in four follow from the one before, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    tokens = [1]
    while len(tokens) < n:
        tokens.append(int((5 * tokens[-1] + 7) % VOCAB) if rng.random() < 0.75 else int(rng.integers(VOCAB)))
    return np.array(tokens, np.int32)


def fine_tune(model, tokens):
    """Losses before each of the AdamW steps, on windows in the order of the stream; decay on matrices only."""
    matrices = [w for w in model.parameters() if w.dim() == 2]
    vectors = [w for w in model.parameters() if w.dim() != 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=DECAY), dict(params=vectors, weight_decay=0.0)], lr=LR, betas=BETAS,
                                  eps=EPS)
    losses = []
    for step in range(STEPS):
        starts = [(step * ROWS + row) * WINDOW for row in range(ROWS)]
        inputs = torch.stack([torch.from_numpy(tokens[s:s + WINDOW]).long() for s in starts])
        targets = torch.stack([torch.from_numpy(tokens[s + 1:s + WINDOW + 1]).long() for s in starts])
        loss = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "huggingface")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed, (name, (kind, config, dtype, shard)) in enumerate(MODELS.items()):
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)
        random_model(kind, config, dtype, seed).save_pretrained(folder, max_shard_size=shard)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()  # no dropout
        tokens, stream = pattern(CONTEXT, 100 + seed), pattern(STEPS * ROWS * WINDOW + 1, 200 + seed)
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens).long()[None]).logits[0].numpy()
        losses = fine_tune(model, stream)
        save_file(dict(tokens=tokens, logits=logits, stream=stream, losses=losses), folder / "expected.safetensors")
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name:20s} {size / 1000:4.0f} KB in {len(list(folder.glob('model*.safetensors')))} files, losses {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
