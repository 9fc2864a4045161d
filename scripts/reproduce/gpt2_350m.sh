#!/bin/sh
# GPT-2 350M on 31 billion tokens of FineWeb, with the recipe of llm.c: 60,000 steps of 524,288 tokens.
# What should come out: a validation loss of 2.928 (data/curves/gpt2_350m_llmc.csv), on the first 10 x 2^20 validation tokens.
#
# The intended place is a GPU build. The run is 6 x 355e6 parameters x 31.5e9 tokens plus attention = 7.6e19 operations:
# 53 hours at 400 TFLOP/s, but 73 months on a CPU at a steady 0.4 TFLOP/s.
# Needs 64 GB of token shards:  sh scripts/get_corpus.sh fineweb100B --shards 320
#
# usage: sh scripts/reproduce/gpt2_350m.sh [--dry-run] [more options of ./train]
# BATCH_SIZE sets the sequences of a micro-batch (default 64): it changes memory and speed, not the recipe.
set -eu
cd "$(dirname "$0")/../.."

run=runs/gpt2_350m data=corpora/fineweb100B
dry_run=0
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi

set -- ./train --preset gpt2-350m --data "$data/fineweb_train_*.bin" --val-data "$data/fineweb_val_000000.bin" --shuffle 1 --out "$run" \
    --seq-len 1024 --batch-size "${BATCH_SIZE:-64}" --total-batch-tokens 524288 --max-steps 60000 \
    --lr 3e-4 --lr-schedule cosine --min-lr-fraction 0 --warmup-steps 700 \
    --weight-decay 0.1 --beta1 0.9 --beta2 0.95 --grad-clip 1.0 \
    --val-every 250 --val-tokens 10485760 --checkpoint-every 1000 --resume auto "$@"

if [ "$dry_run" = 1 ]; then
    for word in "$@"; do
        case $word in *[*]*) printf "'%s' " "$word" ;; *) printf '%s ' "$word" ;; esac
    done
    echo
    exit
fi
[ -x ./train ] || { echo "./train is not built yet: run  make" >&2; exit 2; }
[ -e "$data/fineweb_val_000000.bin" ] || { echo "no shards yet: run  sh scripts/get_corpus.sh fineweb100B --shards 320" >&2; exit 2; }
"$@"
./train report "$run" --reference data/curves/gpt2_350m_llmc.csv
