"""How well ./train plan predicts: for a list of configurations, the predicted step beside the median step of a run, in turns.

    python3 tests/bench/plan_accuracy.py                    all configurations, 1 and 2 threads; writes tests/bench/results/plan_DATE.json
    python3 tests/bench/plan_accuracy.py --only demo --rounds 5

Data are random tokens: the work of a step does not depend on them. Plan and run take turns (rounds) and the median of each over the rounds
counts: a busy machine then disturbs both alike. Beside the ratio of the medians stand the quickest of each. Needs nothing but Python.
"""

import argparse
import datetime
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CONFIGS = {  # name: options, steps of a run
    "demo": (["--preset", "demo", "--vocab-size", "257"], 40),
    "demo, recompute block": (["--preset", "demo", "--vocab-size", "257", "--recompute", "block"], 40),
    "small-gpt2": (["--preset", "small-gpt2", "--vocab-size", "257"], 8),
    "small-gpt2, recompute mlp": (["--preset", "small-gpt2", "--vocab-size", "257", "--recompute", "mlp"], 8),
    "small-llama": (["--preset", "small-llama", "--vocab-size", "257"], 8),
    "small-llama, recompute block": (["--preset", "small-llama", "--vocab-size", "257", "--recompute", "block"], 8),
    "gpt2-124m 4x64": (["--preset", "gpt2-124m", "-b", "4", "-t", "64"], 6),
    "gpt2-124m 4x64, recompute block": (["--preset", "gpt2-124m", "-b", "4", "-t", "64", "--recompute", "block"], 6),
}


def run(command):
    result = subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stderr[-800:]}")
    return result.stdout


def random_shard(path, vocab, tokens):
    rng = random.Random(1)
    header = [20240520, 1, tokens] + [0] * 253
    path.write_bytes(struct.pack("<256i", *header) + struct.pack(f"<{tokens}H", *(rng.randrange(vocab) for _ in range(tokens))))


def predicted(options):
    plan = json.loads(run([ROOT / "train", "plan", *options, "--json", "-"]))
    return plan["step"]["seconds"], plan


def measured(options, steps, folder):
    """Median seconds of the steps after the first two."""
    out = Path(tempfile.mkdtemp(dir=folder))
    run([ROOT / "train", *options, "--max-steps", steps, "--out", out, "--sample-tokens", 1, "--keep", 2])
    times = [r["ms"] / 1e3 for r in map(json.loads, open(out / "log.jsonl")) if "loss" in r][2:]
    run(["rm", "-rf", out])
    return statistics.median(times), min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--only", default="", help="configurations whose name begins with this")
    parser.add_argument("--out", help="JSON file (default: tests/bench/results/plan_DATE.json)")
    args = parser.parse_args()
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    rows = []
    print(f"{'configuration':34s} threads   predicted    measured  ratio   quickest: ratio  groups")
    with tempfile.TemporaryDirectory() as folder:
        for name, (options, steps) in CONFIGS.items():
            if not name.startswith(args.only):
                continue
            shard = Path(folder) / "random.bin"
            random_shard(shard, 50257 if "124m" in name else 257, 100000)
            for threads in map(int, args.threads.split(",")):
                common = [*options, "--threads", threads, "--data", shard]
                plans, runs = [], []
                for _ in range(args.rounds):
                    plans.append(predicted(common))
                    runs.append(measured(common, steps, folder))
                p, m = statistics.median(s for s, _ in plans), statistics.median(s for s, _ in runs)
                quick = min(s for s, _ in plans) / min(s for _, s in runs)
                plan = min(plans, key=lambda x: x[0])[1]
                groups = " ".join(f"{100 * s / plan['step']['seconds']:.0f}" for s in plan["step"]["by_group"].values())
                print(f"{name:34s} {threads:7d} {1e3 * p:8.1f} ms {1e3 * m:8.1f} ms  {p / m:5.2f}  {quick:15.2f}  {groups}", flush=True)
                rows.append({"config": name, "threads": threads, "predicted": p, "measured": m, "ratio": p / m, "quickest_ratio": quick,
                             "predictions": [s for s, _ in plans], "medians": [s for s, _ in runs],
                             "by_group": plan["step"]["by_group"]})
    off = [r for r in rows if abs(r["ratio"] - 1) > 0.15]
    print(f"{len(rows) - len(off)} of {len(rows)} within 15 %")
    out = Path(args.out) if args.out else ROOT / f"tests/bench/results/plan_{datetime.date.today().isoformat()}.json"
    out.write_text(json.dumps({"date": datetime.date.today().isoformat(), "cpu": cpu[1] if cpu else "unknown",
                               "cores": len(os.sched_getaffinity(0)), "build": run([ROOT / "train", "--version"]), "rows": rows}, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    sys.exit(main())
