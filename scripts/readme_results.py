"""Writes the README's tables from the committed results: what is claimed and what checks it, and speed on GPUs. A cell without a measurement says so.

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


MISSING = "not measured"


def gpu_rounds():
    """The newest result of scripts/gpu_round.sh of every card, and the newest of scripts/gpu_curve.sh."""
    rounds = {}
    for file in sorted(RESULTS.glob("gpu_round_*.json")):
        result = json.loads(file.read_text())
        if not result["rehearsal"] and (result["gpu"] not in rounds or result["date"] >= rounds[result["gpu"]]["date"]):
            rounds[result["gpu"]] = result
    curve = newest("gpu_curve_*.json")
    return [rounds[name] for name in sorted(rounds)], json.loads(curve.read_text()) if curve else {}


def place(result):
    return f"{result['gpu']}, CUDA {result['cuda']}, revision {result['revision']}, {result['date'][:10]}"


def gpu_claims():
    rounds, curve = gpu_rounds()

    def told(*parts):
        cells = []
        for r in rounds:
            known = [r["parts"][part] for part in parts if r["parts"].get(part, {}).get("result", "left out") != "left out"]
            if known:
                cells.append("; ".join(f"{p['result']}: {p['detail']}" for p in known) + f" ({place(r)})")
        return "; ".join(cells) or MISSING

    within = MISSING
    if curve:
        within = f"{curve['verdict']}: at most {curve['largest_difference']:.4f} apart, in {curve['steps']} steps"
    return [
        ("On a GPU every operation is as exact as a naive one in its precision, and the whole model follows the CPU's", "`sh scripts/gpu_round.sh`",
         told("tests", "model")),
        ("No kernel reads or writes out of bounds, races, or uses what was not written, on a card", "`sh scripts/gpu_round.sh`",
         told("memcheck", "racecheck", "initcheck")),
        ("On a GPU a run repeated, and one killed and resumed, end with the same bits", "`sh scripts/gpu_round.sh --only repeat,resume`",
         told("repeat", "resume")),
        ("200 steps of GPT-2 124M in bf16 stay within 0.01 of PyTorch's losses", "`sh scripts/gpu_curve.sh`", within),
    ]


def speed_tables():
    """Tokens a second beside PyTorch and llm.c, then the kernels beside their roofs."""
    models = [("gpt2", "GPT-2 124M, T 1024"), ("qwen3", "Qwen3 0.6B, T 2048")]
    rounds, _ = gpu_rounds()
    lines = ["| bf16, whole training steps | card | train.cu, tokens/s | MFU | PyTorch's best, tokens/s | over PyTorch | over llm.c |", "|---|---|---|---|---|---|---|"]
    for r in rounds or [None]:
        for key, title in models:
            parts = r["parts"] if r else {}
            speed = lambda part: parts.get(part, {}).get("tok_per_s")  # noqa: E731
            ours, llmc = speed(key), speed(key + "_llmc")
            torch = parts.get(key + "_torch", {}).get("pytorch", {}).get("best", {})
            mfu = parts.get(key, {}).get("mfu")
            lines.append("| " + " | ".join([
                title, place(r) if r else MISSING, f"{ours:,.0f}" if ours else MISSING, f"{100 * mfu:.1f} %" if mfu else MISSING,
                f"{torch['tok_per_s']:,.0f} (attention: {torch['sdpa']})" if torch else MISSING,
                f"{ours / torch['tok_per_s']:.2f} x" if ours and torch else MISSING, f"{ours / llmc:.2f} x" if ours and llmc else MISSING]) + " |")
    for r in rounds:
        for table in r["parts"].get("kernels", {}).get("bench", {}).get("tables", []):
            lines += ["", f"Kernels at the shapes of {table['shapes']}, {place(r)}:", "", "| kernel | layer | shape | time | TFLOP/s | GB/s | of the roof |",
                      "|---|---|---|---|---|---|---|"]
            for k in table["rows"]:
                s = k["seconds"]
                lines.append(f"| {k['kernel']} {k['engine']}".rstrip() + f" | {k['layer']} | {k['shape']} | {1e6 * s:,.1f} us | {k['flops'] / s / 1e12:.1f} | "
                             f"{k['bytes'] / s / 1e9:,.0f} | {100 * k['roof_seconds'] / s:.0f} % ({k['limit']}) |")
    return "\n".join(lines)


def rows():
    bench_file, ci_file = newest("cpu_*.json"), newest("ci_*.txt")
    bench = json.loads(bench_file.read_text()) if bench_file else {}
    where = f"{bench['cpu']}, {bench['threads']} threads, {bench['date']}" if bench else ""
    missing = MISSING

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
    ] + gpu_claims()


def main():
    table = "\n".join(["| claim | command that checks it | last result |", "|---|---|---|"] + [f"| {a} | {b} | {c} |" for a, b, c in rows()])
    readme = ROOT / "README.md"
    text = readme.read_text()
    new = text
    for name, content in (("results", table), ("performance", speed_tables())):
        new = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + content + "\n" + m[2], new, flags=re.S)
    if "--check" in sys.argv:
        return 0 if new == text else print("README.md does not show the committed results: run python3 scripts/readme_results.py") or 1
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
