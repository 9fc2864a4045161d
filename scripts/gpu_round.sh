#!/bin/sh
# One round on a machine with a GPU: are the kernels right there, how fast are they, and how fast is training beside PyTorch? Made for a
# machine without network that is lent for minutes: everything has a time limit, a part that fails does not stop the others, and what has
# been found out is on disk after every part.
set -eu
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: sh scripts/gpu_round.sh --prepare              here, with network: libraries, GPU code, test data into .deps; prints what to carry
       sh scripts/gpu_round.sh [options]              there

  --out DIR          where gpu_round.json, gpu_round.log and rates.json go [$OUT, or runs/gpu_round]
  --budget SECONDS   for everything [540]; parts that come late are cut short or left out
  --only A,B         these parts alone: start tests model repeat resume gpt2 gpt2_torch qwen3 qwen3_torch gpt2_llmc kernels attention precisions levels memcheck
                     racecheck initcheck
  --revision TEXT    what is measured [what git says, or where there is no git, what --prepare wrote]
  --python PYTHON    an interpreter with PyTorch [python3]
  --llmc DIR         llm.c's sources, to train beside it
ARCH is the architecture that --prepare builds for [90a]. TRAINCU_ROUND_REHEARSE=1: without a GPU, with the SIMT runner, the CPU and tiny
models, so that every line of this script has run before it matters.
END
}
fail() { printf 'gpu_round: %s\n' "$1" >&2; exit 2; }

prepare='' out=${OUT:-runs/gpu_round} budget=540 only='' revision='' python=python3 llmc=${LLMC:-} part=''
while [ $# -gt 0 ]; do
    case $1 in
        --prepare) prepare=1 ;;
        --out|--budget|--only|--revision|--python|--llmc|--part) [ -n "${2:-}" ] || fail "$1 needs a value"
                   case $1 in
                       --out) out=$2 ;; --budget) budget=$2 ;; --only) only=$2 ;; --revision) revision=$2 ;; --python) python=$2 ;;
                       --llmc) llmc=$2 ;; --part) part=$2 ;;
                   esac
                   shift ;;
        --help|-h) usage; exit 0 ;;
        *) fail "unknown argument '$1' (see --help)" ;;
    esac
    shift
done
case $budget in *[!0-9]*|'') fail "--budget: '$budget' is not a number of seconds" ;; esac
parts='start tests model repeat resume gpt2 gpt2_torch qwen3 qwen3_torch gpt2_llmc kernels attention precisions levels memcheck racecheck initcheck'
for name in $(echo "$only" | tr , ' '); do
    case " $parts " in *" $name "*) ;; *) fail "--only: there is no part '$name'" ;; esac
done
kit=.deps/round  # carried: executables, token shards, the revision
kib() { du -sk "$1" | cut -f1; }

# Token shards of random ids: SHARD IDS COUNT. Below 65536 ids in 16 bits, else in 32. Speed does not depend on what the tokens say.
random_shard() {
    "$python" - "$@" <<'END'
import array, random, sys
path, ids, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
magic, version, kind = (20240520, 1, "H") if ids < 65536 else (20240801, 7, "I")
rng = random.Random(1)
with open(path, "wb") as file:
    array.array("I", [magic, version, count] + [0] * 253).tofile(file)
    array.array(kind, rng.choices(range(ids), k=count)).tofile(file)
END
}
shards() { mkdir -p "$1"; random_shard "$1/gpt2_train.bin" 50257 600000; random_shard "$1/qwen3_train.bin" 151936 300000; }

if [ -n "$prepare" ]; then
    sh scripts/setup.sh --prefix .deps --lean
    arch=${ARCH:-90a}
    make CUDA=1 ARCH="$arch" ONEDNN=0 BUILD=build/round TRAIN=build/round/train build/round/train build/round/run_gpu
    mkdir -p "$kit"
    for binary in train run_gpu; do strip -o "$kit/$binary" "build/round/$binary"; done
    shards "$kit"
    git describe --always --dirty --abbrev=12 > "$kit/revision"
    echo "$arch" > "$kit/arch"
    echo "prepared $(cat "$kit/revision") for sm_$arch. To carry, in KiB:"
    for folder in .deps/usr "$kit" .deps/curve; do [ ! -d "$folder" ] || echo "  $(kib "$folder")  $folder"; done
    echo "(.deps/curve is for gpu_curve.sh alone)"
    exit 0
fi

# ---- what runs where. A rehearsal goes through the same lines with the runner, the CPU, and models that take a second.
work=${ROUND_WORK:-$(mktemp -d)}
export ROUND_WORK="$work"
bin=$PWD/$kit
if [ -n "${TRAINCU_ROUND_REHEARSE:-}" ]; then
    export OMP_NUM_THREADS=1  # threads that spin are slow on a busy machine
    runner=$PWD/build/run_simt train=$PWD/train device='--device cpu' sanitizer=$work/sanitizer
    tests='-ts=reduce,guard' model_tests='-ts=reduce' sanitized='-ts=reduce'
    small='--preset tiny' small_steps=60 small_every=10
    gpt2='--preset tiny --batch-size 4 --seq-len 64 --max-steps 20' gpt2_torch='--shape tiny-gpt2 --batch-size 4 --seq-len 64 --steps 20 --precision fp32 --no-compile --sdpa default,math'
    qwen3='--preset qwen3-0.6b --n-layer 2 --n-head 4 --n-kv-head 2 --head-size 16 --d-model 32 --d-ff 96 --batch-size 4 --seq-len 64 --max-steps 20'
    qwen3_torch='--shape tiny-qwen3 --batch-size 4 --seq-len 64 --steps 20 --precision fp32 --no-compile --sdpa default,math'
    attention='--n 64 --threads 1 --seconds 0.01' attention_torch='--device cpu --seconds 0.01 --kinds default,math'
    bench='--preset tiny' llmc_options='-b 4 -t 64 -d 256 -x 20 -e d2' vocab='--vocab-size 257'
    precisions='--preset tiny --batch-size 4 --seq-len 64 --max-steps 20' levels='--preset tiny --batch-size 4 --seq-len 64 --total-batch-tokens 2048 --max-steps 15'
    verified='--steps 2 --preset tiny --batch-size 2 --seq-len 128 --total-batch-tokens 4096'
    # A CPU knows no products by terms of bf16: one tiny run under the SIMT runner
    terms_train=$PWD/build/train_simt terms='--device cuda --n-layer 1 --batch-size 1 --seq-len 16 --max-steps 11'
else
    runner=$bin/run_gpu train=$bin/train device='--device cuda' sanitizer=compute-sanitizer
    tests='-tse=long*,*model*' model_tests='-ts=*model*' sanitized='-ts=norm,rope,activation,embedding,classifier,adamw,guard,reduce'
    small='--preset small-gpt2 --batch-size 8' small_steps=200 small_every=50
    memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1)
    gpt2_batch=16 qwen3_batch=2
    [ "${memory:-0}" -lt 70000 ] || gpt2_batch=64 qwen3_batch=8
    # --max-minutes: a slow run too shall have a figure, and time for its last checkpoint
    gpt2="--preset gpt2-124m --batch-size $gpt2_batch --seq-len 1024 --max-steps 60 --max-minutes 0.6" gpt2_torch="--shape gpt2-124m --batch-size $gpt2_batch --seq-len 1024 --steps 60 --sdpa default,cudnn,flash"
    qwen3="--preset qwen3-0.6b --batch-size $qwen3_batch --seq-len 2048 --max-steps 40 --max-minutes 0.7" qwen3_torch="--shape qwen3-0.6b --batch-size $qwen3_batch --seq-len 2048 --steps 40 --sdpa default,cudnn"
    attention='--device cuda --seconds 0.1' attention_torch='--seconds 0.1'
    bench='--device cuda --preset gpt2-124m,qwen3-0.6b' llmc_options="-b $gpt2_batch -t 1024 -d $((gpt2_batch * 1024)) -x 60 -e d12" vocab=''
    # Fewer rows than above: fp32 activations take attention's simple kernel and products without tensor cores, and shall do more than ten steps
    precisions="--preset gpt2-124m --batch-size $((gpt2_batch / 4)) --seq-len 1024 --max-steps 30"
    # What every level takes: micro-batches of whole units of 256 tokens, one for each of 8 workers
    levels="--preset gpt2-124m --batch-size $((gpt2_batch / 8)) --seq-len 1024 --total-batch-tokens $((gpt2_batch * 1024)) --max-steps 30"
    verified='--steps 2 --preset small-gpt2 --n-layer 2 --batch-size 1 --seq-len 256 --total-batch-tokens 4096'
    terms_train='' terms=''
fi
# The carried executables look for libraries where they were linked; here these lie in .deps.
LD_LIBRARY_PATH=$(printf '%s:' "$PWD"/.deps/usr/lib/*/)${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH
[ ! -e "$work/rebuilt" ] || { runner=$PWD/build/run_gpu train=$PWD/train; }
export TRAIN_BINARY="$train"  # of the tests that run the program as a person would
[ -n "$revision" ] || revision=$(git describe --always --dirty --abbrev=12 2>/dev/null || cat "$kit/revision" 2>/dev/null || echo unknown)

# ---- the parts. Each runs in a shell of its own. Its exit code is the verdict, 77 "left out"; lines that begin with :: go to the table and the JSON.
detail() { echo "::detail $*"; }
json()   { echo "::json $*"; }
leave_out() { detail "$*"; exit 77; }
text() { printf '%s\n' "$1" | head -n 1 | tr -d '\000-\011\013-\037' | sed 's/[\\"]/\\&/g; s/.*/"&"/'; }

part_start() {
    [ -z "${TRAINCU_ROUND_REHEARSE:-}" ] || printf '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift 2; done\nexec "$@"\n' > "$sanitizer"
    [ ! -e "$sanitizer" ] || chmod +x "$sanitizer"
    mkdir -p "$work/data"
    if [ -n "${TRAINCU_ROUND_REHEARSE:-}" ]; then random_shard "$work/data/gpt2_train.bin" 257 40000; random_shard "$work/data/qwen3_train.bin" 257 40000
    elif [ -e "$kit/qwen3_train.bin" ]; then cp "$kit"/*_train.bin "$work/data/"
    else shards "$work/data"; fi
    here=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
    built_for=$(cat "$kit/arch" 2>/dev/null || true)
    [ -z "$here" ] || echo "a GPU of sm_$here, executables for sm_${built_for:-?}"
    if { [ -z "$here" ] || [ "$here" = "${built_for%a}" ]; } && "$train" --version && "$runner" --count > /dev/null; then detail "the carried executables start"; return; fi
    cores=$(nproc)
    if [ -n "${TRAINCU_ROUND_REHEARSE:-}" ]; then make JOBS="$cores" train build/run_simt
    else make CUDA=1 ONEDNN=0 JOBS="$cores" train build/run_gpu; touch "$work/rebuilt"; fi
    detail "rebuilt on this machine"
}

counted() {  # counted COMMAND...: a run of tests, with its counts as detail
    code=0
    "$@" > "$work/tests.log" 2>&1 || code=$?
    cat "$work/tests.log"
    detail "$(sed -n 's/.*test cases: *\([0-9]*\) *| *\([0-9]*\) passed *| *\([0-9]*\) failed.*/\2 of \1 cases passed/p' "$work/tests.log" | tail -n 1)"
    return $code
}
# Each suite in a process of its own: a kernel that touches what it must not ends all further work of its process on the GPU.
part_tests() {
    # shellcheck disable=SC2086  # a list of options
    "$runner" $tests --list-test-suites | grep -v -e '^\[doctest\]' -e '^=*$' > "$work/suites" || { detail "no suites of tests are listed"; return 1; }
    failed='' cases=0 passed=0
    while IFS= read -r suite; do
        "$runner" --test-suite="$suite" < /dev/null > "$work/tests.log" 2>&1 || failed="$failed${failed:+, }$suite"
        cat "$work/tests.log"
        counts=$(sed -n 's/.*test cases: *\([0-9]*\) *| *\([0-9]*\) passed.*/\1 \2/p' "$work/tests.log" | tail -n 1)
        counts=${counts:-0 0}
        cases=$((cases + ${counts% *})) passed=$((passed + ${counts#* }))
        detail "$passed of $cases cases passed${failed:+; failed: $failed}"
    done < "$work/suites"
    # Whose tests have just passed here may compute what follows: auto would choose only among kernels that passed before.
    case $failed in *attention*) ;; *)
        if [ -z "${TRAINCU_ROUND_REHEARSE:-}" ]; then
            echo tiled > "$work/attention_any_head"
            case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) in
                9.0) echo hopper ;; *) echo tiled ;;
            esac > "$work/attention_kernel"
        fi ;;
    esac
    [ -z "$failed" ]
}
attention_kernel() { cat "$work/$1" 2>/dev/null || echo auto; }
part_model() {
    # doctest is content with no test at all
    "$runner" $model_tests --count | grep -q 'passing the current filters: [1-9]' || leave_out "this build has no tests of the whole model"
    counted "$runner" $model_tests
}

# short NAME [OPTIONS]: a short run with checkpoints
short() {
    name=$1; shift
    # shellcheck disable=SC2086  # lists of options
    ${by:-} "$train" $small --data "$work/data/gpt2_train.bin" --seq-len 64 --max-steps $small_steps --checkpoint-every $small_every --keep 2 --skip-zscore 0 --attention-kernel "$(attention_kernel attention_any_head)" $device $vocab --out "$work/$name" "$@"
}
weights_of() { sha256sum "$work/$1"/step_*"$small_steps"/model.safetensors | cut -c1-64; }
same_weights() {
    first=$(weights_of "$1") second=$(weights_of "$2")
    [ "$first" = "$second" ] || { detail "the weights differ: $first and $second"; return 1; }
    detail "the same weights after $small_steps steps, $(echo "$first" | cut -c1-12)"
}
part_repeat() { short once && short twice && same_weights once twice; }
part_resume() {
    [ -d "$work/once" ] || short once
    (by='exec'; short killed) & killed=$!
    first=$work/killed/step_$(printf '%010d' $small_every)
    while [ ! -d "$first" ] && kill -0 $killed 2>/dev/null; do sleep 0.02; done
    kill -9 $killed 2>/dev/null || { detail "it had ended before it could be killed"; return 1; }
    wait $killed || true
    reached=$(basename "$(find "$work/killed" -maxdepth 1 -name 'step_*' | sort | tail -n 1)")
    short killed --resume auto
    same_weights once killed && detail "killed after $reached, resumed: the same weights"
}

# trained NAME DATA OPTIONS...: tokens/s of a run of ours, over all steps but the first ten, by the log's own clock
trained() {
    name=$1 data=$2; shift 2
    # shellcheck disable=SC2086  # a list of options
    ${within:-} "$train" --data "$work/data/${data}_train.bin" --shuffle false --skip-zscore 0 --attention-kernel "$(attention_kernel attention_kernel)" $device $vocab --out "$work/$name" "$@" || [ $? = 75 ] || return 1  # 75: out of time
    rm -rf "$work/$name"/step_*
    # a step's own "ms" leaves out what happens between steps, which counts here
    awk '
        function value(key) { return match($0, "\"" key "\":[-+.0-9e]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) : "" }
        /"loss":/ {
            n++; if (n == 10) { tokens = value("tokens"); time = value("time") }
            last_tokens = value("tokens"); last_time = value("time"); loss = value("loss"); if (n > 10 && value("mfu") != "") { mfu += value("mfu"); counted++ }
        }
        END {
            if (n <= 10 || last_time <= time) { print n + 0 " steps: too few for a figure"; exit 1 }
            speed = (last_tokens - tokens) / (last_time - time)
            printf "::detail %d tokens/s", speed
            if (counted) printf ", MFU %.1f %%", 100 * mfu / counted
            printf "\n::json \"tok_per_s\":%.1f,\"steps\":%d,\"last_loss\":%s", speed, n, loss
            if (counted) printf ",\"mfu\":%.4f", mfu / counted
            print ""
        }' "$work/$name/log.jsonl"
}
# shellcheck disable=SC2086  # lists of options
part_gpt2()  { trained gpt2 gpt2 $gpt2; }
# shellcheck disable=SC2086
part_qwen3() { trained qwen3 qwen3 $qwen3; }

torch_run() {  # torch_run NAME OPTIONS...
    name=$1; shift
    "$python" -c 'import torch' || leave_out "$python has no PyTorch"
    "$python" tests/bench/pytorch_baseline.py "$@" --data "$work/data/${name}_train.bin" > "$work/torch.json"
    json "\"pytorch\":$(tail -n 1 "$work/torch.json")"
    detail "$(sed 's/.*"best": {"sdpa": "\([a-z]*\)".*"tok_per_s": \([0-9]*\).*/\2 tokens\/s (attention: \1)/' "$work/torch.json")"
}
# shellcheck disable=SC2086
part_gpt2_torch()  { torch_run gpt2 $gpt2_torch; }
# shellcheck disable=SC2086
part_qwen3_torch() { torch_run qwen3 $qwen3_torch; }

part_gpt2_llmc() {
    [ -n "$llmc" ] || leave_out "no --llmc"
    [ -x "$llmc/train_gpt2cu" ] || (cd "$llmc" && make train_gpt2cu NO_MULTI_GPU=1)
    # shellcheck disable=SC2086
    (cd "$llmc" && ./train_gpt2cu -i "$work/data/gpt2_train.bin" -j "$work/data/gpt2_train.bin" $llmc_options -v 0 -s 0 -h 0) > "$work/llmc.log"
    cat "$work/llmc.log"
    speed=$(sed -n 's/^step .* \([0-9.]*\) tok\/s.*/\1/p' "$work/llmc.log" | tail -n 1)  # its own smoothed figure
    [ -n "$speed" ] && json "\"tok_per_s\":$speed" && detail "$speed tokens/s"
}

part_kernels() {
    # shellcheck disable=SC2086
    "$train" bench $bench --save "$out/rates.json" --json "$work/kernels.json"
    json "\"bench\":$(tr -d '\n' < "$work/kernels.json")"
    detail "$(grep -c '"kernel"' "$work/kernels.json") kernels timed; for ./train plan: rates.json"
}
# Attention alone, beside PyTorch's where there is one, by the fastest kernel whose tests have passed here.
part_attention() {
    all='' compared=0 failed=''
    for case in heads64 heads128; do
        # shellcheck disable=SC2086
        "$train" bench attention --case $case --attention-kernel "$(attention_kernel attention_kernel)" $attention --json "$work/attention.json"
        theirs=null
        if "$python" -c 'import torch' 2> /dev/null; then
            # shellcheck disable=SC2086
            if "$python" tests/bench/pytorch_attention.py --ours "$work/attention.json" $attention_torch > "$work/attention_torch.json"; then
                theirs=$(tail -n 1 "$work/attention_torch.json") compared=$((compared + 1))
            else failed=$case; fi
        fi
        all="$all${all:+,}\"$case\":{\"ours\":$(tr -d '\n' < "$work/attention.json"),\"pytorch\":$theirs}"
    done
    json "\"attention\":{$all}"
    [ -z "$failed" ] || { detail "PyTorch's attention failed, ours is timed"; return 1; }
    if [ $compared = 0 ]; then detail "timed; $python has no PyTorch to compare with"; else detail "timed beside PyTorch"; fi
}

# Parts of several modes: a short run of each, as a row of the JSON, with its ratio to the first. They share the part's seconds, and what a quick
# one leaves goes to those after it. One that fails does not stop the others; the part fails at its end.
modes() {  # modes KEY COUNT SECONDS: COUNT modes follow, as rows of KEY; SECONDS are kept for what comes after them
    key=$1 modes_left=$2 deadline=$(($(date +%s) + ${ROUND_SECONDS:-180} - 15 - $3)) rows='' base='' line='' bad='' late='' after=''
}
told() {
    json "\"$key\":[$rows]$after"
    detail "${line:-no figures}${late:+; left out: $late}${bad:+; failed: $bad}"
}
row() {  # row NAME OPTIONS RESULT [JSON]
    rows="$rows${rows:+,}{\"mode\":$(text "$1"),\"options\":$(text "$2"),\"result\":$(text "$3")${4:+,$4}}"
    modes_left=$((modes_left - 1))
    told
}
left_out() { late="$late${late:+, }$1"; row "$1" '' 'left out' "\"detail\":$(text "$2")"; }
# Memory of a run in bytes, and what of it a parameter takes: weight, gradient, optimizer
memory_of() {
    awk '
        { number = $0; sub(/^[^:]*: */, "", number); number += 0 }
        /"parameters":/ { parameters = number }
        /"(gemm_engine|attention-kernel)":/ { said = said "," $0; sub(/,$/, "", said) }
        /"memory":/ { inside = 1; next }
        /}/ { inside = 0 }
        inside { total += number }
        inside && /"(weights|gradients|optimizer)":/ { own += number }
        END {
            gsub(/  +/, "", said); sub(/attention-kernel/, "attention_kernel", said); sub(/^,/, "", said); printf "%s", said
            if (total && parameters) printf "%s\"memory_bytes\":%.0f,\"bytes_per_parameter\":%.2f", said == "" ? "" : ",", total, own / parameters
        }' "$1"
}
mode() {  # mode NAME OPTIONS...
    mode=$1; shift
    seconds=$(((deadline - $(date +%s)) / modes_left)) code=0
    [ "$seconds" -ge 5 ] || { left_out "$mode" 'no time was left'; return; }
    echo "---- $mode: $seconds s"
    minutes=$(awk -v s="$seconds" 'BEGIN { printf "%.3f", (s > 9 ? s - 7 : 2) / 60 }')  # the rest: start, last checkpoint
    # shellcheck disable=SC2086
    (within="timeout --foreground -k 5 $((seconds + 10))"; trained "mode" gpt2 $shape "$@" --max-minutes "$minutes") > "$work/mode.log" 2>&1 || code=$?
    grep -v '^::' "$work/mode.log" || true
    speed=$(sed -n 's/^::json "tok_per_s":\([0-9.]*\).*/\1/p' "$work/mode.log")
    if [ $code = 0 ] && [ -n "$speed" ]; then
        [ -n "$rows" ] || base=$speed
        ratio=$([ -z "$base" ] || awk -v a="$speed" -v b="$base" 'BEGIN { printf "%.3f", a / b }')
        if [ -z "$rows" ]; then line="$mode ${speed%.*} tokens/s"; else line="$line${line:+, }$mode $([ -z "$ratio" ] && echo "${speed%.*} tokens/s" || printf %.2f "$ratio")"; fi
        said=$(memory_of "$work/mode/run.json" || true)
        row "$mode" "$*" ok "$(sed -n 's/^::json //p' "$work/mode.log")${ratio:+,\"ratio\":$ratio}${said:+,$said}"
    else
        bad="$bad${bad:+, }$mode"
        row "$mode" "$*" failed "\"detail\":$(text "$(grep -v -e '^ *$' -e '^::' "$work/mode.log" | tail -n 1 | cut -c1-200)")"
    fi
    rm -rf "$work/mode"
}
part_precisions() {
    shape=$precisions
    modes precisions 7 0
    mode bf16 --precision bf16
    mode bf16-sr --precision bf16-sr
    # The fast kernels of attention are for bf16 activations: auto
    for products in bf16x2 bf16x3; do
        if [ -n "$terms_train" ] && [ ! -x "$terms_train" ]; then left_out "layercast-$products" "$terms_train is not built"; continue; fi
        ours=$train train=${terms_train:-$train}
        # shellcheck disable=SC2086
        mode "layercast-$products" --precision layercast --fp32-products $products --attention-kernel auto $terms
        train=$ours
    done
    mode layercast --precision layercast --fp32-products fp32 --attention-kernel auto
    mode layercast-split --precision layercast --fp32-products fp32 --master-weights split --attention-kernel auto
    mode fp32 --precision fp32 --attention-kernel auto
    [ -n "$line$bad" ] || exit 77
    [ -z "$bad" ]
}
part_levels() {
    shape=$levels
    modes levels 4 30
    for level in off run batch ranks; do mode $level --precision bf16 --determinism $level; done
    code=0
    # shellcheck disable=SC2086
    timeout --foreground -k 5 30 "$train" verify-determinism $verified --data "$work/data/gpt2_train.bin" --precision bf16 --determinism ranks --attention-kernel "$(attention_kernel attention_kernel)" $device $vocab || code=$?
    after=",\"verify_determinism\":{\"level\":\"ranks\",\"exit_code\":$code}"
    case $code in
        0) line="${line:-no figures}; ranks verified" ;;
        5) line="${line:-no figures}; ranks BROKEN" ;;
        *) bad="$bad${bad:+, }verify-determinism" ;;
    esac
    told
    [ -z "$bad" ] && [ $code = 0 ]
}
sanitize() {  # sanitize TOOL
    [ -x "$sanitizer" ] || command -v "$sanitizer" > /dev/null || leave_out "$sanitizer is not installed"
    # shellcheck disable=SC2086
    counted "$sanitizer" --tool "$1" --error-exitcode 9 "$runner" $sanitized
}
part_memcheck()  { sanitize memcheck; }
part_racecheck() { sanitize racecheck; }
part_initcheck() { sanitize initcheck; }

if [ -n "$part" ]; then "part_$part"; exit; fi

# ---- the round
mkdir -p "$out"
out=$(cd "$out" && pwd)
trap 'rm -rf "$work"' EXIT
begun=$(date +%s)
log=$out/gpu_round.log records=$work/records
: > "$log"; : > "$records"
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1 || true)
nvcc=$(PATH=$PATH:/usr/local/cuda/bin nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p' || true)

write_json() {
    {
        printf '{"date":%s,"gpu":%s,"driver":%s,"cuda":%s,"cpu_cores":%s,' "$(text "$(date -u +%Y-%m-%dT%H:%MZ)")" "$(text "${gpu%%,*}")" \
            "$(text "$(echo "$gpu" | cut -d, -f2 | sed 's/^ //')")" "$(text "$nvcc")" "$(nproc)"
        printf '"revision":%s,"rehearsal":%s,"seconds":%s,"parts":{\n' "$(text "$revision")" "$([ -n "${TRAINCU_ROUND_REHEARSE:-}" ] && echo true || echo false)" $(($(date +%s) - begun))
        sed '$!s/$/,/' "$records"
        printf '}}\n'
    } > "$out/gpu_round.json.part"
    mv "$out/gpu_round.json.part" "$out/gpu_round.json"
}

# try NAME LIMIT: at most LIMIT seconds, less where little is left of the budget, and not at all with less than a third of it
try() {
    name=$1 limit=$2
    case ",${only:-$name}," in *",$name,"*) ;; *) [ "$name" = start ] || return 0 ;; esac
    left=$((budget - ($(date +%s) - begun) - 4))
    verdict=ok code=0 what='' extra='' from=$(date +%s)
    : > "$work/part.log"
    if [ "$left" -lt $((limit / 3)) ]; then
        verdict='left out' what="no time was left"
    else
        [ "$left" -ge "$limit" ] || limit=$left
        ROUND_SECONDS=$limit timeout -k 5 "$limit" sh scripts/gpu_round.sh --part "$name" --out "$out" --python "$python" ${llmc:+--llmc "$llmc"} > "$work/part.log" 2>&1 || code=$?
        what=$(sed -n 's/^::detail //p' "$work/part.log" | tail -n 1)
        extra=$(sed -n 's/^::json //p' "$work/part.log" | tail -n 1)
        case $code in
            0) ;; 77) verdict='left out' ;; 124|137) verdict="over $limit s" ;;
            *) verdict=failed; [ -n "$what" ] || what=$(grep -v -e '^ *$' -e '^::' "$work/part.log" | tail -n 1 | cut -c1-100) ;;
        esac
    fi
    took=$(($(date +%s) - from))
    { echo "======== $name: $verdict, $took s"; cat "$work/part.log"; } >> "$log"
    printf '"%s":{"result":%s,"seconds":%d,"detail":%s%s}\n' "$name" "$(text "$verdict")" "$took" "$(text "$what")" "${extra:+,$extra}" >> "$records"
    printf '%-12s %-10s %4d s  %s\n' "$name" "$verdict" "$took" "$what" >> "$work/table"
    echo "$name: $verdict" >&2
    write_json
}

try start 240
try tests 120
try model 90
try repeat 45
try resume 45
try gpt2 60
try gpt2_torch 150
try qwen3 75
try qwen3_torch 150
try kernels 90
try attention 60
try precisions 180
try levels 110
try memcheck 60
try gpt2_llmc 90
try racecheck 45
try initcheck 45

# beside PyTorch and llm.c
speed_of() { sed -n "s/^\"$1\":.*\"tok_per_s\": *\([0-9.]*\).*/\1/p" "$records"; }
echo
echo "gpu_round: ${gpu:-no GPU}, CUDA ${nvcc:-unknown}, revision $revision, $(($(date +%s) - begun)) s"
cat "$work/table"
for model in gpt2 qwen3; do
    ours=$(speed_of $model)
    for other in torch llmc; do
        theirs=$(speed_of "${model}_$other")
        [ -z "$ours" ] || [ -z "$theirs" ] || awk -v m="$model" -v o="$other" -v a="$ours" -v b="$theirs" 'BEGIN { printf "%s: %.2f x %s\n", m, a / b, o }'
    done
done
echo "$out/gpu_round.json"
# the checkers are slow: not having got through everything is no verdict
! grep -v '^"[a-z]*check"' "$records" | grep -q '"result":"over' && ! grep -q '"result":"failed"' "$records"
