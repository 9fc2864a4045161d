"""Writes the multiple-choice fixtures: made questions in llm.c's format, and the loss of every answer by plain PyTorch in float64.

The weights are those of golden files, the forward pass is make_golden.py's, one context with one answer at a time: nothing is packed.
choices/NAME.bin is the set, choices/NAME.json what a scorer has to find.

    python tests/golden/make_choices.py          # torch, numpy, safetensors; 2 seconds
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from make_golden import VOCAB, token_losses

MAGIC, EXAMPLES = 20240522, 24


def make_examples(rng, context_limit):
    examples = []
    for i in range(EXAMPLES):
        n = int(rng.integers(2, 6))
        context, endings = int(rng.integers(1, 20)), [int(e) for e in rng.integers(1, 12, n)]
        if i == 5:
            context = context_limit + 3  # cut from the left for every answer
        if i == 9:
            context, endings[0] = context_limit - 5, 12  # for the longer ones only
        if i == 13:
            context, endings[1] = 7, context_limit  # one token of the context is left
        ids = lambda length: [int(t) for t in rng.integers(0, VOCAB, length)]
        examples.append(dict(label=int(rng.integers(0, n)), context=ids(context), completions=[ids(e) for e in endings]))
    return examples


def write_set(path, examples, version):
    """llm.c's write_evalfile for any number of completions; version 2: the same in 32 bits."""
    unit, mark = ("<H", 2**16 - 1) if version == 1 else ("<I", 2**32 - 1)
    size, blocks = struct.calcsize(unit), []
    for i, e in enumerate(examples):
        units = [mark, 0, i, e["label"], len(e["completions"]), len(e["context"]), *e["context"]]
        for completion in e["completions"]:
            units += [len(completion), *completion]
        units[1] = len(units) * size
        blocks.append(b"".join(struct.pack(unit, u) for u in units))
    header = struct.pack("<4i", MAGIC, version, len(examples), max(map(len, blocks))).ljust(1024, b"\0")
    path.write_bytes(header + b"".join(blocks))


def completion_loss(config, weights, context, completion):
    """Nats, over the completion's tokens."""
    context = context[-(config["max_seq_len"] + 1 - len(completion)):]  # the last token is only a target
    tokens = context + completion
    n, first = len(tokens) - 1, len(context) - 1
    batch = dict(tokens=np.array(tokens[:-1], np.int32), targets=np.array(tokens[1:], np.int32), positions=np.arange(n, dtype=np.int32),
                 loss_weights=np.ones(n, np.float32), segments=np.array([[0, n, 0, n, 0]], np.int32))
    return float(token_losses(config, weights, batch)[first:].sum())


def make_case(name, seed, version, folder):
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        weights = {key[2:]: file.get_tensor(key).double() for key in file.keys() if key.startswith("w.")}
    examples = make_examples(np.random.default_rng(seed), config["max_seq_len"])
    losses = [[completion_loss(config, weights, e["context"], c) for c in e["completions"]] for e in examples]
    by_sum = by_mean = 0
    for e, sums in zip(examples, losses):
        means = [s / len(c) for s, c in zip(sums, e["completions"])]
        for values in (sums, means):
            least, second = sorted(values)[:2]
            assert second - least > 1e-3, "too close for float32 to decide: take another seed"
        by_sum += sums.index(min(sums)) == e["label"]
        by_mean += means.index(min(means)) == e["label"]
    assert by_sum != by_mean, "the two scores should differ: take another seed"
    (folder / "choices").mkdir(exist_ok=True)
    write_set(folder / "choices" / f"{name}.bin", examples, version)
    expected = dict(model=name, seq_len=config["max_seq_len"], right_by_sum=by_sum, right_by_mean=by_mean, examples=examples, losses=losses)
    (folder / "choices" / f"{name}.json").write_text(json.dumps(expected) + "\n")
    print(f"{name}: {by_sum} right by the sum, {by_mean} by the mean, of {len(examples)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the golden files are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_case("gpt2_tied", 2, 1, args.folder)
    make_case("qwen3", 3, 2, args.folder)


if __name__ == "__main__":
    main()
