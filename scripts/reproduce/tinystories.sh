#!/bin/sh
# A small Llama on TinyStories, as bytes: 20,000 steps of 16 x 256 bytes, 82 million of the 2.2 billion.
# What should come out: not measured yet. Whole sentences, and a validation loss far below the 1.1 nats per byte of the demo's Bible:
# the stories use few words.
#
# Cost: 6.08e7 operations a byte (6 x 9.5e6 parameters, and attention) x 82e6 bytes = 5.0e15: 7 hours at 0.2 TFLOP/s (two cores with AVX2),
# half an hour at 3 TFLOP/s (a workstation of 32 cores). Stop it at any time: the same line goes on.
# Needs 2.2 GB of text and 4.5 GB of shards:  sh scripts/get_corpus.sh tinystories, and the two lines of ./train tokenize that it prints
#
# usage: sh scripts/reproduce/tinystories.sh [more options of ./train]
set -eu
cd "$(dirname "$0")/../.."
data=corpora/tinystories
[ -x ./train ] || { echo "./train is not built yet: run  make" >&2; exit 2; }
[ -e "${data}_valid_train_000000.bin" ] || { echo "no shards yet: run  sh scripts/get_corpus.sh tinystories  and what it prints" >&2; exit 2; }
exec ./train --preset small-llama --data "${data}_train_*.bin" --val-data "${data}_valid_train_*.bin" --val-tokens 1048576 --val-every 1000 \
    --checkpoint-every 1000 --sample-every 1000 --max-steps 20000 --warmup-steps 200 --lr 1e-3 --out runs/tinystories --prompt 'Once upon a time' \
    --resume auto "$@"
