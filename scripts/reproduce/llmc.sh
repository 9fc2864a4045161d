#!/bin/sh
# The body of gpt2_124m.sh and gpt2_350m.sh: llm.c's recipe, which is a preset, on the corpus given, then the verdict of its curve.
# usage: sh scripts/reproduce/llmc.sh SIZE CORPUS SHARDS [--dry-run] [more options of ./train]
set -eu
cd "$(dirname "$0")/../.."

size=$1 corpus=$2 shards=$3
shift 3
run=runs/gpt2_$size data=corpora/$corpus
dry_run=0
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi

set -- ./train --preset "gpt2-$size-llmc" --data "$data/fineweb_train_*.bin" --val-data "$data/fineweb_val_000000.bin" --out "$run" \
    --batch-size "${BATCH_SIZE:-64}" --resume auto "$@"

if [ "$dry_run" = 1 ]; then
    for word in "$@"; do
        case $word in *[*]*) printf "'%s' " "$word" ;; *) printf '%s ' "$word" ;; esac
    done
    echo
    exit
fi
[ -x ./train ] || { echo "./train is not built yet: run  make" >&2; exit 2; }
[ -e "$data/fineweb_val_000000.bin" ] || { echo "no shards yet: run  sh scripts/get_corpus.sh $corpus --shards $shards" >&2; exit 2; }
"$@"
./train report "$run" --reference "data/curves/gpt2_${size}_llmc.csv"
