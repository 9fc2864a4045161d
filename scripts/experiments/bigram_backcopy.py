#!/usr/bin/env python3
"""Token shards of the Bigram-Backcopy task (Guo et al., 2024, arXiv 2410.13835), in which a small model learns an attention sink or not.

A document is BOS and tokens of a fixed random Markov chain over 32 tokens; after one of 3 trigger tokens the next token is a copy of the one
before the trigger. So attention has work to do at triggers only, and must look at something, or at nothing, everywhere else. After every token
but the first two a document ends with probability 1/64 (at 256 tokens in any case): were all of one length, the last target, the next
document's BOS, would be told by the distance of the own BOS, and looking at that would be work.

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

TRIGGERS, SYMBOLS, BOS, ENDS, LONGEST = 3, 32, 32, 1 / 64, 256


def chain(rng):
    """Rows of probabilities ~ Dirichlet(0.3)."""
    rows = []
    for _ in range(SYMBOLS):
        weights = [rng.gammavariate(0.3, 1) for _ in range(SYMBOLS)]
        rows.append([w / sum(weights) for w in weights])
    return rows


def document(rng, rows, cumulative):
    """Ids, and the entropies of their targets, given what stands before each."""
    symbols = range(SYMBOLS)
    ids, least = [BOS, rng.randrange(TRIGGERS, SYMBOLS)], [math.log(SYMBOLS - TRIGGERS)]
    of_end = -ENDS * math.log(ENDS) - (1 - ENDS) * math.log(1 - ENDS)
    while True:
        last, before = ids[-1], ids[-2]
        copies = last < TRIGGERS and before != BOS
        least.append(of_end - (0 if copies else (1 - ENDS) * sum(p * math.log(p) for p in rows[last] if p > 0)))
        if len(ids) == LONGEST or rng.random() < ENDS:
            return ids, least
        ids.append(before if copies else rng.choices(symbols, cum_weights=cumulative[last])[0])


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
