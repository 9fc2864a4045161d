#!/bin/sh
# What an output gate does to attention: sinks, activations, loss, learning rates, time. Baseline, headwise and elementwise gate, three seeds.
#
#   small   (the default; minutes on a CPU) one layer with one head of 64 on Bigram-Backcopy (bigram_backcopy.py), whose attention has work
#           to do after three tokens of 32 alone
#   gpu     GPT-2 124M on shards of text: DATA='train_*.bin' VAL='val_*.bin'; a day of a GPU, never run yet
#   test    seconds: does it run?
#
# Writes runs/experiments/gated_attention/table.md (gated_attention_SIZE for the others; another folder: OUT), and report.html over the runs
# of the first table. A run that is there and finished is not repeated. STEPS, SHORT_STEPS, THREADS change what their names say.
#
# usage: sh scripts/experiments/gated_attention.sh [small | gpu | test]
set -eu
cd "$(dirname "$0")/../.."
size=${1:-small}
train=${TRAIN:-./train}
out=${OUT:-runs/experiments/gated_attention}
say() { echo "$*" >&2; }
[ -x "$train" ] || { say "./train is not built yet: run  make"; exit 2; }
command -v python3 > /dev/null || { say "python3 is not installed: the task's generator and the table need it"; exit 2; }

seeds='1 2 3' ladder='1e-3 3e-3 1e-2 3e-2 1e-1 3e-1 1' rounds=5 documents=32000
case $size in
    small) steps=${STEPS:-800} short=${SHORT_STEPS:-100} ;;
    test) steps=${STEPS:-12} short=${SHORT_STEPS:-4} seeds='1 2' ladder='1e-3 1e-2' rounds=1 documents=256 ;;
    gpu) steps=${STEPS:-4000} short=${SHORT_STEPS:-400} ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    *) say "no size '$size': small, gpu or test"; exit 2 ;;
esac
[ -n "${OUT:-}" ] || [ "$size" = small ] || out=${out}_$size
mkdir -p "$out"
if [ "$size" = gpu ]; then
    case ${DATA:+data}${VAL:+val} in dataval) ;; *) say "size gpu: name the shards, DATA='train_*.bin' VAL='val_*.bin'"; exit 2 ;; esac
    least=
    lr=6e-4
    ladder='6e-4 1.2e-3 2.4e-3 4.8e-3 9.6e-3'
    model() {
        "$train" --preset gpt2-124m --norm rmsnorm --position rope --bias 0 --seq-len 1024 --batch-size 32 --total-batch-tokens 524288 "$@"
    }
    packing=stream
else
    [ -e "$out/least" ] || python3 scripts/experiments/bigram_backcopy.py --out "$out/task" --train-documents $documents > "$out/least.part"
    [ -e "$out/least" ] || mv "$out/least.part" "$out/least"
    least=$(cat "$out/least") DATA="$out/task/train_000000.bin" VAL="$out/task/val_000000.bin"
    lr=1e-2
    model() {
        "$train" --n-layer 1 --n-head 1 --d-model 64 --head-size 64 --d-ff 128 --norm rmsnorm --position rope --mlp gelu --bias 0 \
            --tie-embeddings 0 --seq-len 256 --batch-size 16 --beta2 0.98 --weight-decay 0 "$@"
    }
    packing=documents
fi

# run NAME ARM SEED LR STEPS: trains $out/NAME and evaluates it, unless that was done before. A run that fails is a result: its weights are not
# evaluated, and the table says so.
run() {
    name=$1 arm=$2 seed=$3 rate=$4 n=$5
    [ ! -e "$out/$name/done" ] || return 0
    say "$name"
    rm -rf "${out:?}/$name"
    status=0
    model --attn-gate "$arm" --seed "$seed" --lr "$rate" --warmup-steps $((n / 10)) --max-steps "$n" --packing $packing --data "$DATA" \
        --val-data "$VAL" --threads "${THREADS:-0}" --skip-zscore 0 --out "$out/$name" > "$out/$name.txt" 2>&1 || status=$?
    case $status in 0) ;; 2 | 3 | 130) tail -n 3 "$out/$name.txt" >&2; exit $status ;; *) say "$name: ended with $status" ;; esac
    if [ $status = 0 ]; then
        "$train" eval --model "$out/$name" --data "$VAL" --packing $packing --attention-stats --threads "${THREADS:-0}" \
            --max-tokens 262144 --json "$out/$name/eval.json" > /dev/null 2> "$out/$name.eval.txt" || say "$name: cannot be evaluated"
    fi
    mkdir -p "$out/$name"
    echo $status > "$out/$name/done"
}

arms='none headwise elementwise'
for seed in $seeds; do for arm in $arms; do run "$arm-seed$seed" "$arm" "$seed" $lr "$steps"; done; done
for rate in $ladder; do for arm in $arms; do run "$arm-lr$rate" "$arm" 1 "$rate" "$short"; done; done
for round in $(seq $rounds); do for arm in $arms; do run "$arm-time$round" "$arm" 1 $lr $((short / 2)); done; done

python3 scripts/experiments/tables.py gated "$out" --seeds "$seeds" --ladder "$ladder" --rounds $rounds --least "$least" > "$out/table.md.part"
mv "$out/table.md.part" "$out/table.md"
set --
for seed in $seeds; do for arm in $arms; do set -- "$@" "$out/$arm-seed$seed"; done; done
"$train" report "$@" --out "$out/report.html" > /dev/null
cat "$out/table.md"
say "table: $out/table.md, curves: $out/report.html"
