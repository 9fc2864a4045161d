#!/bin/sh
# What do 4 bits cost? SDP4Bit (Jia et al. 2024, arXiv 2410.15526) sends in them what changed of the weights, and the gradients between nodes,
# and reports losses within 0.24 % of full precision, while weights that are themselves sent in 4 bits lose 6 to 12 %. Here the question is put
# to a GPT of 0.8 million parameters on four ranks that count as two nodes of two: on the same text, the same batches, from the same weights.
#
#   arms   none                 weights in bf16, gradients in fp32
#          diff4                weights: what changed, in 4 bits, groups of 2048
#          two-level            gradients: 8 bits inside a node, 4 between nodes, groups of 128
#          two-level-hadamard   the same, rotated
#          sdp4bit              diff4 and two-level-hadamard
#          zeropp               weights in 8 bits, gradients in 4 on both hops, of 16 levels (ZeRO++)
#          int4                 weights: themselves, in 4 bits, groups of 2048
#
# All with --zero 1 --precision bf16. Needs mpirun, and a ./train built with MPI. The text is the King James Bible (scripts/get_corpus.sh bible),
# or TEXT=FILE. Writes runs/experiments/sdp4bit/table.md (another folder: OUT) and report.html. A run that is there and finished is not repeated.
# STEPS, SEEDS, THREADS (of a rank) change what their names say.
#
# usage: sh scripts/experiments/sdp4bit.sh [small | test]      half an hour on two cores; seconds
set -eu
cd "$(dirname "$0")/../.."
size=${1:-small}
train=${TRAIN:-./train}
out=${OUT:-runs/experiments/sdp4bit}
say() { echo "$*" >&2; }
[ -x "$train" ] || { say "./train is not built yet: run  make"; exit 2; }
for need in python3 mpirun; do
    command -v $need > /dev/null || { say "$need is not installed: the experiment needs it"; exit 2; }
done
arms='none diff4 two-level two-level-hadamard sdp4bit zeropp int4' ranks=4 node=2
case $size in
    small) steps=${STEPS:-600} seeds=${SEEDS:-1 2 3} layers=4 heads=4 width=128 tokens=128 val=65536 ;;
    test) steps=${STEPS:-4} seeds=${SEEDS:-1} layers=1 heads=2 width=32 tokens=32 val=4096 ;;
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

# Open MPI: also as root, as in a container; more ranks than cores, each on any core.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive

# one ARM SEED
one() {
    run=$out/$1-seed$2
    [ ! -e "$run/done" ] || return 0
    case $1 in
        none) sent='--comm-quant none' ;;
        diff4 | int4) sent="--quant-weights $1" ;;
        two-level*) sent="--quant-grads $1" ;;
        sdp4bit | zeropp) sent="--comm-quant $1" ;;
    esac
    say "$1-seed$2"
    rm -rf "$run"
    status=0
    # shellcheck disable=SC2086  # two words
    mpirun -np $ranks --bind-to none "$train" --ranks-per-node $node --zero 1 $sent --quant-weights-group 2048 --quant-grads-group 128 \
        --n-layer $layers --n-head $heads --d-model $width --norm rmsnorm --position rope --bias 0 --precision bf16 --seq-len $tokens \
        --batch-size 4 --total-batch-tokens $((ranks * 4 * tokens)) --lr 3e-3 --warmup-steps $((steps / 10)) --max-steps "$steps" --seed "$2" \
        --data "$out/text_train_*.bin" --val-data "$out/text_val_*.bin" --val-tokens $val --sample-tokens 1 --threads "${THREADS:-1}" \
        --out "$run" > "$run.txt" 2>&1 || status=$?
    [ $status = 0 ] || { tail -n 3 "$run.txt" >&2; exit $status; }
    : > "$run/done"
}
for seed in $seeds; do for arm in $arms; do one "$arm" "$seed"; done; done

python3 scripts/experiments/tables.py sdp4bit "$out" --arms "$arms" --seeds "$seeds" > "$out/table.md.part"
mv "$out/table.md.part" "$out/table.md"
set --
for arm in $arms; do set -- "$@" "$out/$arm-seed${seeds%% *}"; done
"$train" report "$@" --out "$out/report.html" > /dev/null
cat "$out/table.md"
say "table: $out/table.md, curves: $out/report.html"
