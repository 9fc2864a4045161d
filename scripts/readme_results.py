"""Writes the README's table "What is claimed, and what checks it" from the committed results. A cell without a measurement says so.

    python3 scripts/readme_results.py          # rewrites README.md
    python3 scripts/readme_results.py --check  # exit 1 if README.md is not what the results say
"""

import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests/bench/results"


def newest(pattern):
    files = sorted(RESULTS.glob(pattern))
    return files[-1] if files else None


def rows():
    bench_file, ci_file = newest("cpu_*.json"), newest("ci_*.txt")
    bench = json.loads(bench_file.read_text()) if bench_file else {}
    where = f"{bench['cpu']}, {bench['threads']} threads, {bench['date']}" if bench else ""
    missing = "not measured"

    ci = missing
    if ci_file and (verdict := re.findall(r"^(\d+ passed, \d+ failed)$", ci_file.read_text(), re.M)):
        ci = f"{verdict[-1]} ({ci_file.stem[3:]})"
    tests = "in `make test`: " + ci

    demo = missing
    curve = ROOT / "data/curves/demo.csv"
    if curve.exists():
        last = [r for r in csv.DictReader(open(curve)) if r["val_loss"]][-1]
        demo = f"{float(last['val_loss']):.3f} nats per held-out byte after {int(last['step']):,} steps"
        if bench.get("baselines"):
            demo += "; " + ", ".join(f"{k} {v:.3f}" for k, v in bench["baselines"].items())
    speed = product = gpt2_llmc = gpt2_torch = missing
    if bench.get("demo"):
        speed = f"{bench['demo']['tok_per_s']:,.0f} tokens/s, {100 * bench['demo']['gemm_fraction']:.0f} % of the step in matrix products ({where})"
    if bench.get("gemm", {}).get("rows"):
        square = [r for r in bench["gemm"]["rows"] if r["N"] == r["IC"] == r["OC"] == 1024]
        product = "; ".join(f"{r['threads']} thread{'s' if r['threads'] > 1 else ''} {r['pass']} {r['avx2_percent']} %" for r in square) + f" ({where})"
    ms = bench.get("gpt2_124m", {}).get("ms", {})
    if "llm.c" in ms:
        gpt2_llmc = f"{ms['llm.c'] / ms['ours']:.2f} x as fast: {ms['ours']:.0f} against {ms['llm.c']:.0f} ms/step ({where})"
    if "pytorch" in ms:
        gpt2_torch = (f"{ms['pytorch'] / ms['ours']:.2f} x as fast: {ms['ours']:.0f} against {ms['pytorch']:.0f} ms/step, "
                      f"PyTorch {bench['gpt2_124m']['detail']['pytorch']['torch']} eager ({where})")
    return [
        ("The demo predicts held-out text better than bzip2 packs it", "`make demo`", demo),
        ("It trains a small model at tens of thousands of tokens a second on two cores", "`make bench`", speed),
        ("GPT-2 124M, 4 x 64 tokens, fp32, beside llm.c's CPU program with its own flags", "`make bench BENCH_ARGS='--llmc DIR'`", gpt2_llmc),
        ("The same beside PyTorch on the same threads", "`make bench BENCH_ARGS='--python PYTHON'`", gpt2_torch),
        ("Our own matrix product, share of the AVX2 peak measured beside it, 1024 cubed", "`build/gemm_bench`", product),
        ("Every gradient equals central differences in double; losses, gradients and ten steps equal PyTorch's", "`build/run_tests -ts=model,golden`", tests),
        ("Forty steps from llm.c's checkpoint follow llm.c's own losses to 1e-4", "`build/run_tests -tc='llm.c*'`", tests),
        ("Resume from every step, signal, kill -9 at every crash point: the same bits", "`build/run_tests -ts=resume`", tests),
        ("Every mistake has its exit code and names itself", "`build/run_tests -ts='command line'`", tests),
        ("GPT-2 124M on 10B tokens lies on llm.c's curve", "`sh scripts/reproduce/gpt2_124m.sh`", missing),
        ("Anything on a GPU", "none yet", missing),
    ]


def main():
    table = "\n".join(["| claim | command that checks it | last result |", "|---|---|---|"] + [f"| {a} | {b} | {c} |" for a, b, c in rows()])
    readme = ROOT / "README.md"
    text = readme.read_text()
    new = re.sub(r"(<!-- results -->\n).*?(<!-- /results -->)", lambda m: m[1] + table + "\n" + m[2], text, flags=re.S)
    if "--check" in sys.argv:
        return 0 if new == text else print("README.md does not show the committed results: run python3 scripts/readme_results.py") or 1
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
