#!/bin/sh
# Do runs that differ in circumstances alone end at the same loss, and what has precision to do with it? Yuan et al. 2025 (arXiv 2506.09501)
# say of inference that it is rounding, not randomness, that makes runs differ, and that activations in fp32 nearly end it even where
# weights have 16 bits. Here the question is put to training: a small GPT on the same text, the same batches, from the same weights.
#
#   circumstances   0: micro-batches of 16 rows; 1: of 2 rows; 2: the plain attention kernel; 3: both
#   precisions      fp32, layercast, bf16, bf16-sr
#
# All at --determinism run, which promises nothing across these circumstances: micro-batches of 2 rows of 96 tokens cut sums elsewhere.
#
# The text is the King James Bible (scripts/get_corpus.sh bible), or TEXT=FILE. Writes runs/experiments/layercast/table.md (another folder:
# OUT) and report.html. A run that is there and finished is not repeated. STEPS, THREADS change what their names say.
#
# usage: sh scripts/experiments/layercast.sh [small | test]      minutes; seconds
set -eu
cd "$(dirname "$0")/../.."
size=${1:-small}
train=${TRAIN:-./train}
out=${OUT:-runs/experiments/layercast}
say() { echo "$*" >&2; }
[ -x "$train" ] || { say "./train is not built yet: run  make"; exit 2; }
command -v python3 > /dev/null || { say "python3 is not installed: the table needs it"; exit 2; }
arms='fp32 layercast bf16 bf16-sr' circumstances='0 1 2 3'
case $size in
    small) steps=${STEPS:-200} seeds='1 2 3' ;;
    test) steps=${STEPS:-4} seeds=1 circumstances='0 1' ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    *) say "no size '$size': small or test"; exit 2 ;;
esac
[ -n "${OUT:-}" ] || [ "$size" = small ] || out=${out}_$size
mkdir -p "$out"
if [ -z "${TEXT:-}" ]; then
    sh scripts/get_corpus.sh bible > /dev/null
    TEXT=corpora/bible.txt
fi
[ -e "$out/text_val_000000.bin" ] || "$train" tokenize "$TEXT" --out "$out/text" --force > "$out/tokenize.txt" 2>&1 ||
    { cat "$out/tokenize.txt" >&2; exit 3; }

# one PRECISION CIRCUMSTANCE SEED
one() {
    run=$out/$1-seed$3-c$2 rows=16 kernel=auto
    [ ! -e "$run/done" ] || return 0
    case $2 in 1 | 3) rows=2 ;; esac
    case $2 in 2 | 3) kernel=simple ;; esac
    say "$1-seed$3-c$2"
    rm -rf "$run"
    status=0
    "$train" --n-layer 2 --n-head 2 --d-model 64 --norm rmsnorm --position rope --bias 0 --seq-len 96 --batch-size $rows \
        --total-batch-tokens 1536 --lr 3e-3 --warmup-steps $((steps / 10)) --max-steps "$steps" --seed "$3" --precision "$1" \
        --attention-kernel $kernel --data "$out/text_train_*.bin" --val-data "$out/text_val_*.bin" --val-tokens 65536 --sample-tokens 1 \
        --threads "${THREADS:-0}" --out "$run" > "$run.txt" 2>&1 || status=$?
    [ $status = 0 ] || { tail -n 3 "$run.txt" >&2; exit $status; }
    : > "$run/done"
}
for seed in $seeds; do for arm in $arms; do for circumstance in $circumstances; do one "$arm" "$circumstance" "$seed"; done; done; done

python3 scripts/experiments/tables.py layercast "$out" --arms "$arms" --seeds "$seeds" --circumstances "$circumstances" > "$out/table.md.part"
mv "$out/table.md.part" "$out/table.md"
# as many as a page tells apart: the first seed's, and one of the second for the spread over seeds
set --
for arm in $arms; do
    for circumstance in $circumstances; do set -- "$@" "$out/$arm-seed${seeds%% *}-c$circumstance"; done
    case $seeds in *' '*) set -- "$@" "$out/$arm-seed2-c0" ;; esac
done
"$train" report "$@" --out "$out/report.html" > /dev/null
cat "$out/table.md"
say "table: $out/table.md, curves: $out/report.html"
