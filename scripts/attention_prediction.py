#!/usr/bin/env python3
"""PREDICTION, not a measurement: what a 128 x 128 tile of attention costs on one SM of an H200, by resource.

    python3 scripts/attention_prediction.py [--rank R] [--rows-per-warp 16]

Counted from shapes alone: FLOPs of the products, one exp2 for each score, bytes that the products read from shared memory. Per clock an SM
does 4096 bf16 FLOPs, 16 exp2 and 128 bytes of shared memory; the clock is the one at which 132 of them make 989 TFLOP/s.
  tiled    mma.sync; each warp owns --rows-per-warp rows of the tile and reads the other operand of each product whole
  hopper   wgmma; a warpgroup owns 64 rows and reads it whole; Q (forward) from shared memory too
`overlap`: if the slowest resource hides all others. `in turn`: if none hides another. What a kernel reaches lies between, or below: loads
from memory, masks, the rescaling of sums, writes of P and dS, mma.sync's own lower rate are not counted.
Factors of rank R are filled up to 16 columns and counted as arithmetic; TFLOP/s never count them, as in ./train bench attention.
"""

import argparse

TILE, SMS, FLOPS, EXP2, SHARED = 128, 132, 4096, 16, 128  # the last three: of an SM per clock
CLOCK = 989e12 / (SMS * FLOPS)


def cycles(kernel, backward, HS, R, rows_per_warp):
    """(products, exp2, shared memory), in clocks of one SM for one tile of scores."""
    padded = -(-R // 16) * 16
    pairs = TILE * TILE
    products = 5 if backward else 2
    columns = products * HS + padded * (3 if backward else 1)  # of factors: the scores; backward: and their two gradients
    readers = TILE // (rows_per_warp if kernel == "tiled" else 64)
    shared = readers * TILE * 2 * columns  # the operand that all rows share, of each product
    if kernel == "hopper" and not backward:
        shared += TILE * 2 * (HS + padded)
    return 2 * pairs * columns / FLOPS, pairs / EXP2, shared / SHARED


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=0, help="of factors; 0 = no bias")
    parser.add_argument("--rows-per-warp", type=int, default=16, choices=[16, 32, 64], help="of tiled")
    args = parser.parse_args()
    if not 0 <= args.rank <= 256:
        parser.error("--rank is 0 to 256")
    print("PREDICTION, not measured: H200, bf16, clocks of one SM per 128 x 128 tile; TFLOP/s of the whole card if all tiles are full")
    print(f"{'kernel':8} {'pass':8} {'HS':>4} {'products':>9} {'exp2':>6} {'shared':>7} {'limit':9} {'overlap':>8} {'in turn':>8}")
    for kernel in ("tiled", "hopper"):
        for backward in (False, True):
            for HS in (64, 128):
                parts = cycles(kernel, backward, HS, args.rank, args.rows_per_warp)
                limit = max(zip(parts, ("products", "exp2", "shared")))[1]
                flops = 2 * TILE * TILE * HS * (5 if backward else 2)
                rate = [SMS * CLOCK * flops / clocks / 1e12 for clocks in (max(parts), sum(parts))]
                print(f"{kernel:8} {'backward' if backward else 'forward':8} {HS:4} {parts[0]:9.0f} {parts[1]:6.0f} {parts[2]:7.0f} {limit:9} {rate[0]:8.0f} {rate[1]:8.0f}")


if __name__ == "__main__":
    main()
