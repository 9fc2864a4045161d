"""How fast PyTorch trains a GPT-2 on this CPU: the yardstick beside `./train bench`.

A plain GPT-2 in fp32: packed qkv, F.scaled_dot_product_attention, tanh GELU, tied head, cross-entropy, AdamW with the fused kernel,
gradient norm clipped to 1. A timed step is everything that a training step does: batch copy, forward, backward, clip, update, zeroing.

    python tests/bench/pytorch_cpu.py                                       # GPT-2 124M, batch 4 x 64, 2 threads, eager
    python tests/bench/pytorch_cpu.py --compile                             # the same under torch.compile
    python tests/bench/pytorch_cpu.py --layers 4 --heads 4 --channels 128 --seq 256 --batch 16 --vocab 257    # the demo's shape

Prints one JSON line. `best_ms` is the figure to quote on a shared machine, `median_ms` shows how shared it was.
"""

import argparse
import json
import statistics
import time

import torch
from pytorch_models import Model, gpt2
from torch import nn


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = dict(layers=12, heads=12, channels=768, max_seq=1024, vocab=50304, batch=4, seq=64, threads=2, steps=12, warmup=3)
    for name, default in numbers.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--adamw", choices=["fused", "foreach"], default="fused")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (needs a C++ compiler)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = Model(gpt2(args.layers, args.heads, args.channels, max(args.max_seq, args.seq), args.vocab))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **{args.adamw: True})
    step_model = torch.compile(model) if args.compile else model
    data = torch.randint(args.vocab, (args.warmup + args.steps, args.batch, args.seq + 1))

    milliseconds, losses = [], []
    for batch in data:
        start = time.perf_counter()
        loss = step_model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        milliseconds.append(1000 * (time.perf_counter() - start))
    timed = milliseconds[args.warmup:]

    tokens = args.batch * args.seq
    print(json.dumps({
        "torch": torch.__version__, "mode": "compile" if args.compile else "eager", "adamw": args.adamw, "threads": args.threads,
        "layers": args.layers, "heads": args.heads, "channels": args.channels, "vocab": args.vocab, "batch": args.batch, "seq": args.seq,
        "parameters": sum(p.numel() for p in model.parameters()), "steps": args.steps,
        "best_ms": round(min(timed), 1), "median_ms": round(statistics.median(timed), 1),
        "best_tok_per_s": round(1000 * tokens / min(timed)),
        "first_step_ms": round(milliseconds[0], 1), "first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4),
    }))


if __name__ == "__main__":
    main()
