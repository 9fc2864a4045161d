"""PyTorch's side of ./train bench attention: the same shapes, the same variants, forward and forward with backward.

    ./train bench attention --case heads128 --device cuda --json ours.json
    python tests/bench/pytorch_attention.py --ours ours.json

Every shape of the file is timed with each kind of attention that can compute it:
  default, cudnn, flash, math   scaled_dot_product_attention, as PyTorch chooses, or forced; with a dense bias as attn_mask
  concat                        factors as R more columns of q and k, which is how FlashBias does it outside a kernel
  flex                          FlexAttention, compiled: none and ALiBi
A gate is applied to what comes out, as a model in PyTorch would. Rows that a kind refuses are left out; `--kinds` says which to try.
TFLOP/s count the products alone, causal: 2 NH HS N^2 forward, 7 NH HS N^2 with the backward. Beside rows without bias on an H200 stand
the floor and the target that our forward is to reach there. Ratios within one run count; figures of two cards do not compare.

Prints a table to stderr and one JSON object; exit 1 where nothing ran.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# Forward, bf16, causal, TFLOP/s on an H200: head size -> N -> (floor, target). Goals, not measurements.
GOALS = {64: {1024: (230, 290), 2048: (270, 360), 4096: (300, 410), 8192: (320, 450), 16384: (320, 450)},
         128: {1024: (300, 410), 2048: (360, 510), 4096: (400, 580), 8192: (420, 610), 16384: (420, 610)}}
FORCED = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}


def tensors(row, device, dtype):
    N, NH, HS, R = row["n"], row["heads"], row["head_size"], row["rank"] or 0
    make = lambda *shape: torch.randn(*shape, device=device, dtype=dtype)
    t = {name: make(1, NH, N, HS).requires_grad_() for name in ("q", "k", "v")}
    t["dout"] = make(1, NH, N, HS)
    variant = row["variant"]
    if variant == "factors":
        t["pq"], t["pk"] = make(1, NH, N, R).requires_grad_(), make(1, NH, N, R).requires_grad_()
    if variant == "dense":
        future = torch.ones(N, N, device=device, dtype=torch.bool).triu(1)
        t["mask"] = make(1, NH, N, N).masked_fill_(future, -math.inf)
    if variant == "alibi":
        t["slopes"] = torch.exp2(-8 * torch.arange(1, NH + 1, device=device) / NH)
    if variant in ("headwise", "elementwise"):
        t["gate"] = make(1, NH, N, 1 if variant == "headwise" else HS).requires_grad_()
    return t


def attention(kind, row, t, compiled_flex):
    """A function that computes the row's attention, or None where this kind has no such variant."""
    variant, scale = row["variant"], row["head_size"] ** -0.5
    if kind == "flex":
        if variant not in ("none", "alibi"):
            return None
        from torch.nn.attention.flex_attention import create_block_mask

        N, slopes = row["n"], t.get("slopes")
        blocks = create_block_mask(lambda b, h, i, j: i >= j, None, None, N, N, device=t["q"].device)
        score = (lambda s, b, h, i, j: s - slopes[h] * (i - j)) if variant == "alibi" else None
        return lambda: compiled_flex(t["q"], t["k"], t["v"], score_mod=score, block_mask=blocks, scale=scale)
    if variant == "alibi" or (kind == "concat") != (variant == "factors"):
        return None
    if kind == "concat":  # scale [q, pq / scale] . [k, pk]
        return lambda: F.scaled_dot_product_attention(torch.cat((t["q"], t["pq"] / scale), -1), torch.cat((t["k"], t["pk"]), -1), t["v"],
                                                      is_causal=True, scale=scale)
    if variant == "dense":
        return lambda: F.scaled_dot_product_attention(t["q"], t["k"], t["v"], attn_mask=t["mask"], scale=scale)
    plain = lambda: F.scaled_dot_product_attention(t["q"], t["k"], t["v"], is_causal=True, scale=scale)
    return (lambda: plain() * torch.sigmoid(t["gate"])) if "gate" in t else plain


def median_seconds(work, device, budget):
    def once():
        if device == "cpu":
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    once(), once()
    times, until = [], time.perf_counter() + budget
    while len(times) < 3 or (time.perf_counter() < until and len(times) < 100):
        times.append(once())
    return statistics.median(times)


def measure(kind, row, t, args, compiled_flex):
    run = attention(kind, row, t, compiled_flex)
    if run is None:
        return None
    inputs = [x for x in t.values() if x.requires_grad]

    def both():
        torch.autograd.grad(run(), inputs, t["dout"])

    def timed():
        with torch.no_grad():
            forward = median_seconds(run, args.device, args.seconds)
        return forward, median_seconds(both, args.device, args.seconds)

    if kind in FORCED:
        with sdpa_kernel(FORCED[kind]):
            return timed()
    return timed()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="what ./train bench attention --json wrote")
    parser.add_argument("--kinds", default="default,cudnn,flash,concat,flex")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=0.2, help="how long to repeat each measurement")
    args = parser.parse_args()
    with open(args.ours, encoding="utf-8") as file:
        ours = json.load(file)
    dtype = torch.bfloat16 if ours["dtype"] == "bf16" else torch.float32
    kinds = args.kinds.split(",")
    compiled_flex = None
    if "flex" in kinds:
        from torch.nn.attention.flex_attention import flex_attention

        compiled_flex = torch.compile(flex_attention)
    card = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    rows = []
    say = lambda text: print(text, file=sys.stderr)
    say(f"{ours['case']}, {ours['dtype']}, causal; PyTorch {torch.__version__} on {card}")
    say(f"{'N':>7} {'variant':12} {'by':8} {'forward':>11} {'TFLOP/s':>8} {'and back':>11} {'TFLOP/s':>8} {'ours/this':>10}  floor/target")
    for row in ours["rows"]:
        if row.get("left_out"):
            continue
        pairs = row["heads"] * row["head_size"] * row["n"] ** 2
        goal = GOALS.get(row["head_size"], {}).get(row["n"]) if row["variant"] == "none" and "H200" in card else None
        note = "/".join(map(str, goal)) if goal else ""

        def show(by, forward, both, ratio):
            say(f"{row['n']:7} {row['variant']:12} {by:8} {1e3 * forward:8.3f} ms {2 * pairs / forward / 1e12:8.2f} {1e3 * both:8.3f} ms "
                f"{7 * pairs / both / 1e12:8.2f} {ratio:>10}  {note}")

        mine = row["forward_backward_seconds"]
        show("train.cu", row["forward_seconds"], mine, "")
        try:
            t = tensors(row, args.device, dtype)
        except torch.OutOfMemoryError:
            say(f"{row['n']:7} {row['variant']:12} out of memory")
            continue
        for kind in kinds:
            try:
                times = measure(kind, row, t, args, compiled_flex)
            except (RuntimeError, ValueError, NotImplementedError) as error:  # a kind that does not take the shape, or its memory
                say(f"{row['n']:7} {row['variant']:12} {kind:8} refused: {str(error).splitlines()[0][:70]}")
                continue
            if times is None:
                continue
            show(kind, *times, f"{mine / times[1]:.2f}")
            rows.append({"n": row["n"], "heads": row["heads"], "head_size": row["head_size"], "rank": row["rank"], "variant": row["variant"],
                         "by": kind, "forward_seconds": times[0], "forward_backward_seconds": times[1]})
    print(json.dumps({"card": card, "torch": torch.__version__, "case": ours["case"], "dtype": ours["dtype"], "rows": rows}))
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
