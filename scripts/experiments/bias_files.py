#!/usr/bin/env python3
"""Files for --attn-bias file: and spatial:, of which flashbias.sh says what they are for. Standard library alone.

    python3 scripts/experiments/bias_files.py --out DIR [--context 128] [--heads 2]

writes DIR/alibi.safetensors, "bias" (heads, N, N) = -m_h (i - j) with ALiBi's slopes m_h (a power of two of heads), above the diagonal
too, where no one looks: so its rank is 2; and DIR/line.safetensors, "coordinates" (N, 1) = i / 8.
"""
import argparse
import array
import json
import os
import struct
import sys


def write(path, name, shape, values):
    numbers = array.array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * len(numbers)]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(path + ".part", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + numbers.tobytes())
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--heads", type=int, default=2)
    args = parser.parse_args()
    slopes = [2 ** (-8 * (h + 1) / args.heads) for h in range(args.heads)]
    n = args.context
    os.makedirs(args.out, exist_ok=True)
    write(os.path.join(args.out, "alibi.safetensors"), "bias", [args.heads, n, n],
          [-m * (i - j) for m in slopes for i in range(n) for j in range(n)])
    write(os.path.join(args.out, "line.safetensors"), "coordinates", [n, 1], [i / 8 for i in range(n)])


if __name__ == "__main__":
    main()
