"""Speed on this machine, each figure beside the one it is compared with, measured in the same run. Writes one JSON file.

    make bench                                                      what needs nothing else
    python3 tests/bench/bench.py --python PYTHON --llmc DIR         and beside PyTorch (an interpreter that has it) and llm.c

DIR holds llm.c's CPU program as ./train_gpt2, built with its own flags, beside gpt2_124M.bin and the data it expects; it is run there.
Programs take turns (rounds), and the best round of each counts: a busy machine then disturbs all of them alike.
"""

import argparse
import datetime
import json
import os
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(command, cwd=ROOT, env=None):
    result = subprocess.run([str(c) for c in command], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stderr[-800:]}")
    return result.stdout


def train(folder, name, *options):
    """Median milliseconds and tokens/s of the steps after the first two, and the median share of matrix products."""
    out = Path(folder) / name
    shutil.rmtree(out, ignore_errors=True)
    run([ROOT / "train", *options, "--out", out, "--sample-tokens", 1])
    steps = [r for r in map(json.loads, open(out / "log.jsonl")) if "loss" in r][2:]
    run_json = json.load(open(out / "run.json"))
    return {"ms": statistics.median(r["ms"] for r in steps), "tok_per_s": statistics.median(r["tok_per_s"] for r in steps),
            "gemm_fraction": statistics.median(r["gemm_fraction"] for r in steps), "mfu": statistics.median(r["mfu"] for r in steps),
            "gemm_engine": run_json["gemm_engine"], "threads": run_json["threads"]}


def random_shard(path, vocab, tokens):
    rng = random.Random(1)
    header = [20240520, 1, tokens] + [0] * 253
    path.write_bytes(struct.pack("<256i", *header) + struct.pack(f"<{tokens}H", *(rng.randrange(vocab) for _ in range(tokens))))


def gpt2_124m(args, folder):
    """GPT-2 124M, batch 4 x 64, fp32: ours, PyTorch's and llm.c's milliseconds a step."""
    shard = Path(folder) / "random_train.bin"
    random_shard(shard, 50257, 40000)
    best = {"ours": 1e9, "ours (own product)": 1e9, "pytorch": 1e9, "llm.c": 1e9}
    detail = {}
    for _ in range(args.rounds):
        for name, gemm in (("ours", "auto"), ("ours (own product)", "own")):
            row = train(folder, "gpt2", "--preset", "gpt2-124m", "-t", 64, "-b", 4, "-x", 10, "--data", shard, "--gemm", gemm)
            if row["ms"] < best[name]:
                best[name], detail[name] = row["ms"], row
        if args.python:
            row = json.loads(run([args.python, "tests/bench/pytorch_cpu.py", "--threads", args.threads]).splitlines()[-1])
            best["pytorch"] = min(best["pytorch"], row["best_ms"])
            detail["pytorch"] = row
        if args.llmc:
            text = run(["./train_gpt2"], cwd=args.llmc, env={"OMP_NUM_THREADS": str(args.threads)})
            times = [float(t) for t in re.findall(r"step \d+: train loss [\d.]+ \(took ([\d.]+) ms\)", text)]
            best["llm.c"] = min(best["llm.c"], statistics.median(times[1:]))
    return {"ms": {k: round(v, 1) for k, v in best.items() if v < 1e9}, "detail": detail}


def demo(args, folder):
    if not (ROOT / "corpora/bible_train_000000.bin").exists():
        return None
    rows = [train(folder, "demo", "--preset", "demo", "--data", "corpora/bible_train_*.bin", "-x", 100) for _ in range(args.rounds)]
    return max(rows, key=lambda r: r["tok_per_s"])


def numbers(args, folder):
    """A GPT-2 shape of width 384, 8 x 256 tokens in 8 micro-batches, in each precision and at each level of determinism: milliseconds a step."""
    shard = Path(folder) / "numbers_train.bin"
    random_shard(shard, 8192, 40000)
    ways = {"fp32": [], "bf16": ["--precision", "bf16"], "layercast": ["--precision", "layercast"],
            "layercast, split masters": ["--precision", "layercast", "--master-weights", "split"], "bf16-sr": ["--precision", "bf16-sr"],
            "fp32, --determinism batch": ["--determinism", "batch"], "fp32, --determinism ranks": ["--determinism", "ranks"]}
    best, engines = {}, {}
    for _ in range(args.rounds):
        for name, options in ways.items():
            row = train(folder, "numbers", "--n-layer", 4, "--n-head", 6, "--d-model", 384, "--vocab-size", 8192, "-t", 256, "-b", 1,
                        "--total-batch-tokens", 2048, "-x", 8, "--data", shard, *options)
            best[name] = min(best.get(name, 1e9), row["ms"])
            engines[name] = row["gemm_engine"]
    return {"ms": {k: round(v, 1) for k, v in best.items()}, "gemm_engine": engines}


def gemm(args):
    """The gemm_bench table: own product as a fraction of the multiply-add peak measured in the same rounds, and beside oneDNN."""
    text = run([ROOT / "build/gemm_bench"], env={"OMP_WAIT_POLICY": "passive"})
    rows = []
    threads = 0
    for line in text.splitlines():
        if m := re.match(r"(\d+) threads?, GFLOP/s", line):
            threads = int(m[1])
        m = re.match(r"(.{14}) *(\d+) x +(\d+) x +(\d+) +(\w+) +(\d+) \( ?(\d+) %\) +(\d+) \( ?(\d+) %\)(?: +(\d+) +([\d.]+))?", line)
        if m:
            rows.append({"threads": threads, "layer": m[1].strip(), "N": int(m[2]), "IC": int(m[3]), "OC": int(m[4]), "pass": m[5],
                         "avx2": int(m[6]), "avx2_percent": int(m[7]), "avx512": int(m[8]), "avx512_percent": int(m[9]),
                         "onednn": int(m[10]) if m[10] else None, "ratio_to_onednn": float(m[11]) if m[11] else None})
    return {"rows": rows, "text": text}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="a Python interpreter with PyTorch")
    parser.add_argument("--llmc", help="folder of llm.c's CPU program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", help="JSON file (default: tests/bench/results/cpu_DATE.json)")
    parser.add_argument("--only", default="demo,gpt2_124m,numbers,gemm", help="parts to measure; the others are kept from the file, if it is there")
    args = parser.parse_args()
    only = args.only.split(",")
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    out = Path(args.out) if args.out else ROOT / f"tests/bench/results/cpu_{datetime.date.today().isoformat()}.json"
    result = json.loads(out.read_text()) if out.exists() else {}
    result |= {"date": datetime.date.today().isoformat(), "cpu": model[1] if model else "unknown", "threads": args.threads,
               "build": run([ROOT / "train", "--version"])}
    with tempfile.TemporaryDirectory() as folder:
        for part in (demo, gpt2_124m, numbers):
            if part.__name__ in only:
                result[part.__name__] = part(args, folder)
    if "gemm" in only:
        result["gemm"] = gemm(args)
    revision = run(["git", "describe", "--always", "--dirty", "--abbrev=12"]).strip()
    for part in only:
        if result[part]:
            result[part]["revision"] = revision
    if (baselines := ROOT / "corpora/bible_baselines.json").exists():
        result["baselines"] = json.loads(baselines.read_text())
    out.write_text(json.dumps(result, indent=1) + "\n")

    print(result.get("gemm", {}).get("text", ""))
    if result.get("demo"):
        print(f"demo model: {result['demo']['tok_per_s']:,.0f} tokens/s, {100 * result['demo']['gemm_fraction']:.0f} % of a step in matrix products")
    for name, ms in result.get("gpt2_124m", {}).get("ms", {}).items():
        print(f"GPT-2 124M, 4 x 64, fp32: {name:20s} {ms:8.1f} ms/step   {ms / result['gpt2_124m']['ms']['ours']:5.2f} x ours")
    for name, ms in result.get("numbers", {}).get("ms", {}).items():
        print(f"8 x 256 tokens, width 384: {name:28s} {ms:8.1f} ms/step   {ms / result['numbers']['ms']['fp32']:5.2f} x fp32")
    print(out)


if __name__ == "__main__":
    sys.exit(main())
