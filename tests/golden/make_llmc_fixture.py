"""Writes what llm.c was run on: a small random checkpoint (its version 3 format) and two token shards of the King James Bible's bytes.

    python tests/golden/make_llmc_fixture.py --out tests/golden/llmc      # needs numpy and the program `bible` (Debian: bible-kjv)

llmc/README.md says how llm.c was run on them and what losses.csv holds.
"""

import argparse
import re
import subprocess
from pathlib import Path

import numpy as np

MAX_SEQ, VOCAB, PADDED_VOCAB, LAYERS, HEADS, CHANNELS = 64, 257, 384, 4, 4, 64  # llm.c pads the vocabulary to a multiple of 128
END_OF_TEXT = 256
TRAIN_TOKENS, VAL_TOKENS = 96 * 256 + 1, 8 * 256 + 1  # batches of 4 x 64, and the last target


def write_checkpoint(path):
    """Header of 256 int32, then 16 tensors in f32; GPT-2's initial values: std 0.02, residual projections smaller by 1/sqrt(2L)."""
    header = np.zeros(256, "<i4")
    header[:8] = [20240326, 3, MAX_SEQ, VOCAB, LAYERS, HEADS, CHANNELS, PADDED_VOCAB]
    rng = np.random.default_rng(20240326)
    L, C = LAYERS, CHANNELS
    normal = lambda std, *shape: rng.normal(0, std, shape)
    wte = normal(0.02, PADDED_VOCAB, C)
    wte[VOCAB:] = 0
    residual_std = 0.02 / np.sqrt(2 * L)
    tensors = [
        wte, normal(0.02, MAX_SEQ, C),
        np.ones((L, C)), np.zeros((L, C)), normal(0.02, L, 3 * C, C), np.zeros((L, 3 * C)),          # ln1, qkv
        normal(residual_std, L, C, C), np.zeros((L, C)),                                             # attention out
        np.ones((L, C)), np.zeros((L, C)), normal(0.02, L, 4 * C, C), np.zeros((L, 4 * C)),          # ln2, fc
        normal(residual_std, L, C, 4 * C), np.zeros((L, C)),                                         # mlp out
        np.ones(C), np.zeros(C),                                                                     # final norm
    ]
    path.write_bytes(header.tobytes() + b"".join(t.astype("<f4").tobytes() for t in tensors))


def bible_tokens():
    """Bytes as tokens; each chapter is a document and begins with the end-of-text token."""
    text = subprocess.run(["bible", "gen1:1-gen20:18"], capture_output=True, text=True, check=True).stdout
    tokens = []
    for chapter in re.split(r"\n(?=Genesis \d+\n)", text):
        if chapter.strip():
            tokens += [END_OF_TEXT, *chapter.strip().encode()]
    return np.array(tokens, "<u2")


def write_shard(path, tokens):
    header = np.zeros(256, "<i4")
    header[:3] = [20240520, 1, len(tokens)]
    path.write_bytes(header.tobytes() + tokens.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "llmc")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(args.out / "model.bin")
    tokens = bible_tokens()
    write_shard(args.out / "tokens.bin", tokens[:TRAIN_TOKENS])
    write_shard(args.out / "val.bin", tokens[TRAIN_TOKENS:TRAIN_TOKENS + VAL_TOKENS])
    for path in sorted(args.out.glob("*.bin")):
        print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
