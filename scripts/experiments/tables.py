#!/usr/bin/env python3
"""Tables of the experiments, from the logs and evaluations that their scripts left. Called by the scripts beside it."""
import argparse
import json
import math
import os
import statistics

GATES = ("none", "headwise", "elementwise")


def log_of(run):
    path = os.path.join(run, "log.jsonl")
    return [json.loads(line) for line in open(path)] if os.path.exists(path) else []


def losses(run):
    """The losses of the steps, and the validations."""
    log = log_of(run)
    return [r["loss"] for r in log if "loss" in r], [r["val_loss"] for r in log if "val_loss" in r]


def evaluation(run, name="eval.json"):
    path = os.path.join(run, name)
    return json.load(open(path))["data"][0] if os.path.exists(path) else None


def log_steps(run):
    return [r for r in log_of(run) if "loss" in r]


def number(value, digits=4):
    return "-" if value is None else ("not finite" if not math.isfinite(value) else f"{value:.{digits}f}")


def row(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |")


def head(*cells):
    row(*cells)
    row(*["---"] * len(cells))


def milliseconds(runs):
    """Of each run the median of its steps, the first quarter left out; sorted."""
    medians = []
    for run in runs:
        steps = [r["ms"] for r in log_of(run) if "ms" in r]
        if steps:
            medians.append(statistics.median(steps[len(steps) // 4:]))
    return sorted(medians)


def gated(out, args):
    run = lambda arm, what: os.path.join(out, f"{arm}-{what}")
    seeds, ladder = args.seeds.split(), args.ladder.split()

    print("## Attention and loss at equal tokens\n")
    print("Of the held-out tokens, queries with at least 8 keys before their own, mean over layers; a cell is the mean over seeds (each seed).\n")
    head("gate", "first-token share", "if uniform", "largest abs. activation", "mean gate", "gates < 0.05", "held-out loss")
    for arm in GATES:
        found = [e for e in (evaluation(run(arm, f"seed{s}")) for s in seeds) if e and e.get("attention")]

        def cell(value, digits=3):
            values = [value(e) for e in found]
            if not values or None in values:
                return "-"
            return f"{statistics.mean(values):.{digits}f} ({', '.join(f'{v:.{digits}f}' for v in values)})"

        def layers(name):
            return lambda e: statistics.mean(a[name] for a in e["attention"]) if name in e["attention"][0] else None

        row(arm, cell(layers("first_token")), f"{layers('uniform')(found[0]):.3f}" if found else "-",
            cell(lambda e: max(a["largest"] for a in e["attention"]), 1), cell(layers("gate")), cell(layers("gates_closed")),
            cell(lambda e: e["loss"], 4))
    if args.least:
        print(f"\nNo model's loss can be less than {float(args.least):.4f} on average, which is the entropy of the chain and of where documents end.")

    print("\n## Learning rates, short runs of one seed\n")
    print("Held-out loss at the end. A run has diverged if its loss is not finite or is not below what it began with.\n")
    head("gate", *ladder, "highest that does not diverge", "highest step loss after the warmup, at that rate")
    for arm in GATES:
        cells, best, spike = [], "none", None
        for rate in ladder:
            steps, val = losses(run(arm, f"lr{rate}"))
            final = val[-1] if len(val) > 1 else None
            diverged = final is None or not math.isfinite(final) or final >= val[0]
            cells.append("diverged" if diverged else number(final))
            if not diverged:
                best, spike = rate, max(steps[len(steps) // 4:], default=None)
        row(arm, *cells, best, number(spike))

    print("\n## Time of a step\n")
    print("Median of a round's steps: median (lowest to highest) of the rounds, in which the arms took turns.\n")
    head("gate", "ms", "beside no gate")
    base = None
    for arm in GATES:
        rounds = milliseconds([run(arm, f"time{r}") for r in range(1, args.rounds + 1)])
        ms = statistics.median(rounds) if rounds else None
        base = base or ms
        spread = f" ({rounds[0]:.1f} to {rounds[-1]:.1f})" if rounds else ""
        row(arm, number(ms, 1) + spread, "-" if not ms or not base else f"{100 * (ms / base - 1):+.1f} %")


def flashbias(out, args):
    print("## Loss at the trained context and beyond\n")
    print(f"Held-out loss in nats per byte, trained at {args.context} tokens of context: mean over seeds (each seed).\n")
    head("model", "added numbers of a layer", f"loss at {args.context}", f"loss at {args.longer}")
    for name in args.arms.split():
        runs = [os.path.join(out, f"{name}-seed{seed}") for seed in args.seeds.split()]
        cells = []
        for where in ("near.json", "far.json"):
            found = [e["loss"] for e in (evaluation(run, where) for run in runs) if e]
            cells.append(f"{statistics.mean(found):.4f} ({', '.join(f'{v:.4f}' for v in found)})" if found else "refused")
        row(name, open(os.path.join(runs[0], "added")).read().strip(), *cells)


def layercast(out, args):
    run = lambda arm, seed, c: os.path.join(out, f"{arm}-seed{seed}-c{c}")
    seeds, circumstances = args.seeds.split(), args.circumstances.split()
    print("## Losses of runs that differ in circumstances alone\n")
    print(f"Held-out loss at the end, nats per byte. Spread over circumstances: the largest less the smallest of {len(circumstances)} runs of a seed, and the same of the\n"
          "last step's training loss: mean over seeds (each seed). First other step: the first one whose loss is not that of circumstance 0 to the last bit,\n"
          "and the first that is 1e-3 of it away; the smallest over seeds and circumstances. Spread over seeds: of circumstance 0, for comparison.\n")
    head("precision", "held-out loss", "spread over circumstances", "of the last training loss", "first other step", "first 1e-3 away", "spread over seeds")

    def spreads(values):
        return f"{statistics.mean(values):.1e} ({', '.join(f'{v:.1e}' for v in values)})"

    for arm in args.arms.split():
        of_val, of_train, exact, far, firsts = [], [], [], [], []
        for seed in seeds:
            found = [losses(run(arm, seed, c)) for c in circumstances]
            ends = [val[-1] for _, val in found]
            of_val.append(max(ends) - min(ends))
            of_train.append(max(steps[-1] for steps, _ in found) - min(steps[-1] for steps, _ in found))
            firsts.append(ends[0])
            for steps, _ in found[1:]:
                pairs = list(zip(found[0][0], steps))
                exact.append(next((i + 1 for i, (a, b) in enumerate(pairs) if a != b), None))
                far.append(next((i + 1 for i, (a, b) in enumerate(pairs) if abs(a - b) > 1e-3 * abs(a)), None))
        least = lambda steps: min((s for s in steps if s), default="none")
        row(arm, f"{statistics.mean(firsts):.4f}", spreads(of_val), spreads(of_train), least(exact), least(far),
            f"{max(firsts) - min(firsts):.1e}" if len(firsts) > 1 else "-")


def sent_by_formula(options, ranks, nodes):
    """Bytes of a parameter that a rank sends in a step, by cargo and link: those of the paper, of codes and f32 scales, without padding."""
    P, M, m = ranks, nodes, ranks // nodes
    coded = lambda bits, group: (bits + 32 / group) / 8
    weight = {"none": {"bf16": 2, "fp32": 4}[options["precision"]], "int8": coded(8, options["quant-weights-group"])}.get(
        options["quant-weights"], coded(4, options["quant-weights-group"]))
    hops = {"int4": (4, 4), "int8": (8, 8), "two-level": (8, 4), "two-level-hadamard": (8, 4)}.get(options["quant-grads"])
    # everybody's share of 1/P goes to everybody: to m-1 of the node, to P-m others
    sent = {"weights_inside": weight * (m - 1) / P, "weights_between": weight * (P - m) / P}
    if hops is None:
        sent |= {"gradients_inside": 4 * (m - 1) / P, "gradients_between": 4 * (P - m) / P}
    else:
        first, second = (coded(bits, options["quant-grads-group"]) for bits in hops)
        sent |= {"gradients_inside": first * (m - 1) / m, "gradients_between": second / m * (M - 1) / M}
    return sent


def sdp4bit(out, args):
    run = lambda arm, seed: os.path.join(out, f"{arm}-seed{seed}")
    arms, seeds = args.arms.split(), args.seeds.split()
    done = lambda arm: [seed for seed in seeds if os.path.exists(os.path.join(run(arm, seed), "done"))]  # of a study that was stopped not all
    end = lambda arm, seed: losses(run(arm, seed))[1][-1]
    ends = {arm: [end(arm, seed) for seed in done(arm)] for arm in arms}
    changes = {arm: [100 * (end(arm, seed) / end("none", seed) - 1) for seed in done(arm)] for arm in arms}
    known = {arm: json.load(open(os.path.join(run(arm, seeds[0]), "run.json"))) for arm in arms}
    first = known["none"]
    steps, parameters = first["options"]["max-steps"], first["parameters"]

    print("## Loss\n")
    print(f"{first['ranks']} ranks on {first['nodes']} nodes, {parameters:,} parameters, {steps * first['options']['total-batch-tokens']:,} tokens in {steps} steps. "
          "Held-out loss at the end in nats per byte,\nand its change against full precision (none) of the same seed: mean over seeds (each seed).\n")
    head("arm", "weights", "gradients", "held-out loss", "change, %", "spread of the loss over seeds")
    for arm in arms:
        each = lambda values, digits: ", ".join(f"{v:{digits}}" for v in values)
        row(arm, known[arm]["options"]["quant-weights"], known[arm]["options"]["quant-grads"],
            f"{statistics.mean(ends[arm]):.4f} ({each(ends[arm], '.4f')})",
            "-" if arm == "none" else f"{statistics.mean(changes[arm]):+.2f} ({each(changes[arm], '+.2f')})",
            f"{max(ends[arm]) - min(ends[arm]):.4f}" if len(ends[arm]) > 1 else "-")

    print("\n## What was to be shown\n")
    head("claim", "found, %", "holds")
    claims = [(arm, "is within 1 % of full precision", lambda c: abs(c) <= 1) for arm in ("diff4", "two-level-hadamard", "sdp4bit")]
    claims.append(("int4", "is at least 3 % worse", lambda c: c >= 3))
    for arm, what, holds in claims:
        found = statistics.mean(changes[arm])
        row(f"{arm} {what}", f"{found:+.2f}", "yes" if holds(found) else "no")

    print("\n## Bytes\n")
    print("Of a parameter and step, what rank 0 sends (the log's \"sent\"), and in brackets the paper's formula, which knows no padding: each part of the model\n"
          "(embedding, block, head) splits into equal shares of whole groups.\n")
    links = ("weights_inside", "weights_between", "gradients_inside", "gradients_between")
    head("arm", *(link.replace("_", ", ") + (" a node" if "inside" in link else " nodes") for link in links), "between nodes beside none", "all beside none")
    base = None
    for arm in arms:
        sent = log_steps(run(arm, seeds[0]))[-1]["sent"]
        formula = sent_by_formula(known[arm]["options"], known[arm]["ranks"], known[arm]["nodes"])
        measured = {link: sent[link] / known[arm]["parameters"] for link in links}
        base = base or measured
        beside = lambda which: f"{100 * sum(measured[k] for k in which) / sum(base[k] for k in which):.1f} %"
        row(arm, *(f"{measured[link]:.4f} ({formula[link]:.4f})" for link in links), beside([k for k in links if "between" in k]), beside(links))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("gated", "flashbias", "layercast", "sdp4bit"))
    parser.add_argument("out")
    parser.add_argument("--seeds", default="1 2 3")
    parser.add_argument("--ladder", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", default="", help="nats per token that no model can beat")
    parser.add_argument("--arms", default="")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--longer", type=int, default=512)
    parser.add_argument("--circumstances", default="")
    args = parser.parse_args()
    {"gated": gated, "flashbias": flashbias, "layercast": layercast, "sdp4bit": sdp4bit}[args.which](args.out, args)


if __name__ == "__main__":
    main()
