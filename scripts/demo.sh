#!/bin/sh
# make demo: trains a small model on the King James Bible, lets it write, and shows its curve beside the committed one.
# Ctrl-C saves; `make demo` again goes on from there. More options of ./train may follow: sh scripts/demo.sh --max-steps 50
set -eu
cd "$(dirname "$0")/.."

text=corpora/bible.txt run=runs/demo baselines=corpora/bible_baselines.json
own_options=$#  # with these the curve rightly differs
say() { printf '%s\n' "$@" >&2; }
newest_checkpoint() { for dir in "$run"/step_*/; do newest=$dir; done; echo "$newest"; }

[ -x ./train ] || { say "demo: ./train is not built yet: run  make"; exit 2; }
sh scripts/get_corpus.sh bible --out "${text%.txt}" > /dev/null
[ -e corpora/bible_val_000000.bin ] || ./train tokenize "$text" --out "${text%.txt}" --force

# What general compressors need for this text, in nats per byte: lines for the loss of a model of bytes to pass.
nats_per_byte() { awk -v packed="$(wc -c)" -v plain="$(wc -c < "$text")" 'BEGIN { printf "%.4f", packed * 8 * log(2) / plain }'; }
if [ ! -e "$baselines" ]; then
    entries="\"gzip -9\": $(gzip -9 < "$text" | nats_per_byte)"
    ! command -v bzip2 > /dev/null || entries="$entries, \"bzip2 -9\": $(bzip2 -9 < "$text" | nats_per_byte)"
    echo "{$entries}" > "$baselines.part"
    mv "$baselines.part" "$baselines"
fi

before=$(newest_checkpoint)
trap : INT  # the trainer gets the signal too, saves, and ends with 75; this script stays to say so
status=0
./train --preset demo --data 'corpora/bible_train_*.bin' --val-data 'corpora/bible_val_*.bin' --out "$run" \
    --prompt 'Psalms 151' --baselines "$baselines" --resume auto "$@" || status=$?
trap - INT
[ "$status" != 75 ] || say "demo: saved; make demo goes on from there"
[ "$status" = 0 ] || exit "$status"

say "" "---- what it writes about a chapter that the book does not have"
./train generate --model "$run" --prompt "$(printf 'Psalms 151\n1 ')"
say "" "---- its curve"
set -- "$run"
[ ! -e data/curves/demo.csv ] || set -- "$run" --reference data/curves/demo.csv
verdict=0
./train report "$@" || verdict=$?  # 5 is "outside the reference's band"
[ "$before" != "$(newest_checkpoint)" ] || say "demo: this run had finished before, nothing was trained. To start anew:  rm -r $run  and make demo"
[ "$own_options" = 0 ] || [ "$verdict" != 5 ] || verdict=0
exit "$verdict"
