"""PyTorch's side of the comparison on a GPU: the same model, the same batches, the same optimizer, torch.compile.

    python tests/bench/pytorch_baseline.py --shape gpt2-124m --batch-size 64 --steps 60 --sdpa default,cudnn,flash
    python tests/bench/pytorch_baseline.py --model runs/x/step_0000000000 --data 'corpora/x_train_*.bin' --losses curve.csv    # same weights and batches as ours

Precisions:
  bf16       weights and activations bf16, master weights, gradients and AdamW's moments fp32: what ./train --precision bf16 does. PyTorch
             makes the gradients of a micro-step in bf16 and adds them to fp32 ones: less traffic than ours, and a little less exact.
  autocast   fp32 weights, cast to bf16 at each use: what most PyTorch trainers do; residual stream and gradients are fp32
  fp32       no TF32
Attention (--sdpa): default is whatever PyTorch chooses; cudnn, flash, math are forced; several, separated by commas, are timed in turn.
Everything that a step does is timed, copy of the batch included; the host waits for the device once, at the end of the timed steps.

Prints one JSON object; exit 1 where no variant ran.
"""

import argparse
import contextlib
import glob
import json
import math
import statistics
import sys
import time

import numpy as np
import torch
from pytorch_models import SHAPES, Model, load_weights, shape_of
from torch import nn


def windows(pattern, seq_len):
    """Windows of seq_len + 1 tokens in ./train's order with --shuffle false: shards sorted, each window beginning where the last one ended."""
    files = sorted({f for part in pattern.split(",") for f in glob.glob(part)})
    if not files:
        sys.exit(f"no shard matches {pattern}")
    while True:
        for file in files:
            header = np.fromfile(file, dtype="<u4", count=3)
            width = {20240520: "<u2", 20240801: "<u4"}[int(header[0])]
            tokens = np.memmap(file, dtype=width, mode="r", offset=1024, shape=(int(header[2]),))
            for i in range((len(tokens) - 1) // seq_len):
                yield tokens[i * seq_len : (i + 1) * seq_len + 1].astype(np.int64)


def random_windows(vocab, seq_len):
    rng = np.random.default_rng(1)
    while True:
        yield rng.integers(0, vocab, seq_len + 1)


def learning_rate(args, step):  # step counts from 0
    if step < args.warmup_steps:
        return args.lr * (step + 1) / args.warmup_steps
    if args.lr_schedule == "constant":
        return args.lr
    progress = min(1.0, (step - args.warmup_steps) / max(1, args.steps - args.warmup_steps))
    return args.lr * (args.min_lr_fraction + (1 - args.min_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


class Trainer:
    def __init__(self, args, shape, device):
        torch.manual_seed(1)
        self.args, self.device = args, device
        self.model = Model(shape)
        if args.model:
            load_weights(self.model, args.model)
        self.model.to(device)
        self.weights = list(self.model.parameters())
        if args.precision == "bf16":
            self.masters = [nn.Parameter(p.detach().clone()) for p in self.weights]
            self.model.to(torch.bfloat16)
        else:
            self.masters = self.weights
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in self.masters if (p.dim() == 2) == decays], "weight_decay": args.weight_decay if decays else 0.0}
             for decays in (True, False)],
            lr=args.lr, betas=(args.beta1, args.beta2), eps=1e-8, fused=True)
        self.forward = torch.compile(self.model) if args.compile else self.model
        self.micro_steps = (args.total_batch_tokens or args.batch_size * args.seq_len) // (args.batch_size * args.seq_len)

    def step(self, number, data):
        args = self.args
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(args, number)
        total = 0
        for _ in range(self.micro_steps):
            batch = torch.from_numpy(np.stack([next(data) for _ in range(args.batch_size)]))
            if self.device == "cuda":
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            with torch.autocast(self.device, torch.bfloat16) if args.precision == "autocast" else contextlib.nullcontext():
                loss = self.forward(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) / self.micro_steps
            loss.backward()
            total = total + loss.detach()
            if self.masters is not self.weights:
                gradients = [p.grad for p in self.weights]
                if self.masters[0].grad is None:
                    for master, gradient in zip(self.masters, gradients):
                        master.grad = gradient.float()
                else:
                    torch._foreach_add_([m.grad for m in self.masters], gradients)
                for p in self.weights:
                    p.grad = None
        norm = nn.utils.clip_grad_norm_(self.masters, args.grad_clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masters is not self.weights:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.masters)
        return total, norm


def attention_kernel(name):
    if name == "default":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel({"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}[name])


def run(args, shape, device, sdpa):
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    begin = time.perf_counter()
    trainer = Trainer(args, shape, device)
    data = windows(args.data, args.seq_len) if args.data else random_windows(shape.vocab, args.seq_len)
    tokens_per_step = trainer.micro_steps * args.batch_size * args.seq_len
    records, times = [], []
    with attention_kernel(sdpa):
        for number in range(args.steps):
            if number == args.warmup:
                wait()
                start = time.perf_counter()
            before = time.perf_counter()
            records.append(trainer.step(number, data))
            if device != "cuda":
                times.append(1e3 * (time.perf_counter() - before))
            if number == 0:
                wait()
                first_step = time.perf_counter() - begin
        wait()
        seconds = (time.perf_counter() - start) / (args.steps - args.warmup)
    losses = [loss.item() for loss, _ in records]
    tok_per_s = tokens_per_step / seconds
    result = {"sdpa": sdpa, "ms": round(1e3 * seconds, 3), "tok_per_s": round(tok_per_s), "first_step_s": round(first_step, 1),
              "tflops": round(tok_per_s * shape.flops_per_token(args.seq_len) / 1e12, 3), "first_loss": losses[0], "last_loss": losses[-1]}
    if times:
        result |= {"best_ms": round(min(times[args.warmup :]), 1), "median_ms": round(statistics.median(times[args.warmup :]), 1)}
    if device == "cuda":
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    if args.losses:
        with open(args.losses, "w") as file:
            file.write("step,loss,grad_norm\n")
            for i, (loss, norm) in enumerate(records):
                file.write(f"{i + 1},{loss.item():.6f},{norm.item():.6f}\n")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-124m")
    parser.add_argument("--model", help="a folder with config.json and model.safetensors: its shape and weights")
    parser.add_argument("--data", help="token shards; without, random tokens")
    numbers = dict(batch_size=8, seq_len=1024, total_batch_tokens=0, steps=60, warmup=10, warmup_steps=0)
    for name, default in numbers.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    recipe = dict(lr=1e-4, min_lr_fraction=0.1, weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0)
    for name, default in recipe.items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=default)
    parser.add_argument("--lr-schedule", choices=["constant", "cosine"], default="constant")
    parser.add_argument("--precision", choices=["bf16", "autocast", "fp32"], default="bf16")
    parser.add_argument("--sdpa", default="default")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="begin no further variant after this time")
    parser.add_argument("--losses", metavar="FILE", help="write step, loss and gradient norm as CSV (of the last variant)")
    args = parser.parse_args()
    if not 0 < args.warmup < args.steps:
        parser.error("--warmup must be at least 1 and less than --steps")
    shape = shape_of(args.model) if args.model else SHAPES[args.shape]
    if shape.family == "gpt2" and args.seq_len > shape.max_seq:
        parser.error(f"the position table has {shape.max_seq} rows")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    begin, runs = time.perf_counter(), []
    for sdpa in args.sdpa.split(","):
        if time.perf_counter() - begin > args.max_seconds:
            runs.append({"sdpa": sdpa, "error": "no time was left"})
            continue
        try:
            runs.append(run(args, shape, args.device, sdpa))
        except Exception as error:  # a kernel that PyTorch does not have, no memory: the others still count
            runs.append({"sdpa": sdpa, "error": (str(error).strip() or type(error).__name__).splitlines()[0][:200]})
        print(f"{sdpa}: {runs[-1].get('tok_per_s', runs[-1].get('error'))}", file=sys.stderr)
    timed = [r for r in runs if "tok_per_s" in r]
    best = max(timed, key=lambda r: r["tok_per_s"], default={})
    print(json.dumps({
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu", "threads": torch.get_num_threads(),
        "model": args.model or args.shape, "precision": args.precision, "compile": args.compile, "batch_size": args.batch_size,
        "seq_len": args.seq_len, "steps": args.steps, "flops_per_token": shape.flops_per_token(args.seq_len), "runs": runs, "best": best}))
    sys.exit(not timed)


if __name__ == "__main__":
    main()
