#!/usr/bin/env python3
"""Token shards of the Bigram-Backcopy task (Guo et al., 2024, arXiv 2410.13835), in which a small model learns an attention sink or not.

A document is BOS and 63 tokens of a fixed random Markov chain over 32 tokens; after one of 3 trigger tokens the next token is a copy of the
one before the trigger. So attention has work to do at triggers only, and must look at something, or at nothing, everywhere else.

    python3 scripts/experiments/bigram_backcopy.py --out DIR [--train-documents 32000] [--val-documents 512] [--seed 1]

writes DIR/train_000000.bin and DIR/val_000000.bin (src/data/shard.h) and prints the least loss that a model can have, in nats per token.
Ids: 0..2 triggers, 3..31 the others, 32 BOS, which is also the end-of-text. Standard library alone.
"""
import argparse
import array
import math
import os
import random
import struct
import sys

TRIGGERS, SYMBOLS, BOS, LENGTH = 3, 32, 32, 64


def chain(rng):
    """Rows of probabilities ~ Dirichlet(0.3)."""
    rows = []
    for _ in range(SYMBOLS):
        weights = [rng.gammavariate(0.3, 1) for _ in range(SYMBOLS)]
        rows.append([w / sum(weights) for w in weights])
    return rows


def document(rng, rows, cumulative):
    """LENGTH ids, and the entropies of their targets, given what stands before each."""
    symbols = range(SYMBOLS)
    ids, least = [BOS, rng.randrange(TRIGGERS, SYMBOLS)], [math.log(SYMBOLS - TRIGGERS)]
    while len(ids) < LENGTH:
        last, before = ids[-1], ids[-2]
        if last < TRIGGERS and before != BOS:
            ids.append(before)
            least.append(0.0)
        else:
            ids.append(rng.choices(symbols, cum_weights=cumulative[last])[0])
            least.append(-sum(p * math.log(p) for p in rows[last] if p > 0))
    least.append(0.0)  # the last target is the next document's BOS: a model that tells its positions apart knows it
    return ids, least


def write_shard(path, ids):
    header = struct.pack("<6i", 20240520, 1, len(ids), SYMBOLS + 1, BOS + 1, 0)
    tokens = array.array("H", ids)
    if sys.byteorder == "big":
        tokens.byteswap()
    with open(path + ".part", "wb") as file:
        file.write(header.ljust(1024, b"\0") + tokens.tobytes())
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--train-documents", type=int, default=32000)
    parser.add_argument("--val-documents", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rows = chain(rng)
    cumulative = []
    for row in rows:
        total, sums = 0.0, []
        for p in row:
            total += p
            sums.append(total)
        cumulative.append(sums)
    os.makedirs(args.out, exist_ok=True)
    for name, documents in (("train", args.train_documents), ("val", args.val_documents)):
        ids, entropies = [], []
        for _ in range(documents):
            more, least = document(rng, rows, cumulative)
            ids += more
            entropies += least
        write_shard(os.path.join(args.out, name + "_000000.bin"), ids)
    print(f"{sum(entropies) / len(entropies):.5f}")  # of the validation's targets


if __name__ == "__main__":
    main()
