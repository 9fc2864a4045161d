#!/bin/sh
# Biases of attention's scores, each in a small GPT on the same text and batches: what they do to the loss, and what is left of it when the
# context is four times as long as in training. Two seeds of each: a model with tables of its own starts from other random weights than one
# without, so a difference that two seeds of one model show as well says nothing.
#
#   learned, rope, none          a table of positions, rotary positions, no positions at all: no bias
#   alibi, relative              computed in the kernel from the distance; a table by distance
#   factors8, 16, 32             trained, of that rank (FlashBias)
#   file                         ALiBi's own matrix from a file, as factors: rank 2 says it all
#   spatial                      the places of the tokens on a line from a file: minus the squared distance
#
# Models with a table by position (learned, factors, file, spatial) refuse the longer context: "refused".
#
# The text is the King James Bible (scripts/get_corpus.sh bible), or TEXT=FILE. Writes runs/experiments/flashbias/table.md (another folder:
# OUT) and report.html. A run that is there and finished is not repeated. STEPS, THREADS change what their names say.
#
# usage: sh scripts/experiments/flashbias.sh [small | test]      minutes; seconds
set -eu
cd "$(dirname "$0")/../.."
size=${1:-small}
train=${TRAIN:-./train}
out=${OUT:-runs/experiments/flashbias}
say() { echo "$*" >&2; }
[ -x "$train" ] || { say "./train is not built yet: run  make"; exit 2; }
command -v python3 > /dev/null || { say "python3 is not installed: the bias files and the table need it"; exit 2; }
context=128 longer=512 heads=2
case $size in
    small) steps=${STEPS:-200} seeds='1 2' arms='learned rope none alibi relative factors8 factors16 factors32 file spatial' ;;
    test) steps=${STEPS:-4} seeds=1 context=16 longer=64 arms='learned alibi relative factors8 file spatial' ;;
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
python3 scripts/experiments/bias_files.py --out "$out" --context $context --heads $heads

# one ARM SEED
one() {
    run=$out/$1-seed$2 position=none bias=none added=0
    [ ! -e "$run/done" ] || return 0
    case $1 in
        learned) position=learned ;;
        rope) position=rope ;;
        none) ;;
        alibi) bias=alibi ;;
        relative) bias=relative added=$((heads * 144)) ;;
        factors*) bias=factors:${1#factors} added=$((context * 2 * heads * ${1#factors})) ;;
        file) bias=file:$out/alibi.safetensors added="rank 2, not trained" ;;
        spatial) bias=spatial:$out/line.safetensors added="rank 6, not trained" ;;
    esac
    say "$1-seed$2"
    rm -rf "$run"
    status=0
    "$train" --n-layer 2 --n-head $heads --d-model 64 --norm rmsnorm --position $position --attn-bias "$bias" --bias 0 --seq-len $context \
        --batch-size 16 --lr 3e-3 --warmup-steps $((steps / 10)) --max-steps "$steps" --seed "$2" --data "$out/text_train_*.bin" \
        --threads "${THREADS:-0}" --out "$run" > "$run.txt" 2>&1 || status=$?
    [ $status = 0 ] || { tail -n 3 "$run.txt" >&2; exit $status; }
    for where in near far; do
        if [ $where = near ]; then tokens=$context; else tokens=$longer; fi
        status=0
        "$train" eval --model "$run" --data "$out/text_val_*.bin" --seq-len "$tokens" --batch-size $((8 * longer / tokens)) \
            --max-tokens 65536 --threads "${THREADS:-0}" --json "$run/$where.json" > "$run/$where.txt" 2>&1 || status=$?
        # the longer context may be refused, with the code of a usage that cannot be; nothing else
        [ $status = 0 ] || [ "$where/$status" = far/2 ] || { cat "$run/$where.txt" >&2; exit $status; }
    done
    echo "$added" > "$run/added"
    : > "$run/done"
}
for seed in $seeds; do for arm in $arms; do one "$arm" "$seed"; done; done

python3 scripts/experiments/tables.py flashbias "$out" --arms "$arms" --seeds "$seeds" --context $context --longer $longer > "$out/table.md.part"
mv "$out/table.md.part" "$out/table.md"
set --
for arm in $arms; do set -- "$@" "$out/$arm-seed${seeds%% *}"; done
"$train" report "$@" --out "$out/report.html" > /dev/null
cat "$out/table.md"
say "table: $out/table.md, curves: $out/report.html"
