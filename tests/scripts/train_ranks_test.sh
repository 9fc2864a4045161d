#!/bin/sh
# Training on several ranks under mpirun, tiny models on a text made here: the same bits for any number of ranks at --determinism ranks,
# checkpoints that go from one number of ranks to another, gradients and weights in few bits and the bytes that are then sent, what is
# refused, and what becomes of a run when one of its ranks dies, hangs, is told to stop or cannot write. Uses ./train (or $TRAIN_BINARY).
# shellcheck disable=SC2012,SC2016,SC2034,SC2086,SC2317  # shells of ranks expand their own variables; options are words; names are plain
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
cd "$repo" || exit 1
train=$(realpath "${TRAIN_BINARY:-train}" 2>/dev/null)
command -v mpirun > /dev/null || { skip "train ranks" "mpirun is not installed"; finish; }
command -v python3 > /dev/null || { skip "train ranks" "python3 is not installed"; finish; }
ldd "$train" 2>/dev/null | grep -q libmpi || { skip "train ranks" "./train is not there, or built without MPI"; finish; }

# As root, more ranks than cores, each on any core.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 tmp train

# 400 documents, a line each, of words that follow one another by chance
awk 'BEGIN { srand(7); n = split("the a cat dog bird sees eats likes small old red house tree runs sleeps and or under over quickly", word, " ")
    for (d = 0; d < 400; d++) { for (left = 5 + int(rand() * 90); left > 0; left--) printf "%s ", word[1 + int(rand() * n)]; print "." } }' > "$tmp/text.txt"
run "$train" tokenize "$tmp/text.txt" --documents lines --val-fraction 0.02 --out "$tmp/text"
expect "train ranks: a text to train on" 0

common="--data $tmp/text_train_000000.bin --val-data $tmp/text_val_000000.bin --n-layer 2 --n-head 2 --d-model 32 --seq-len 32 --batch-size 8
    --val-tokens 1024 --sample-tokens 1 --device cpu --threads 1 --lr 0.003"

# ranks N OUT OPTION...: trains on N ranks in $tmp/OUT; of one rank without mpirun
ranks() {
    ranks=$1 out=$tmp/$2; shift 2
    if [ "$ranks" = 1 ]; then run timeout 100 "$train" $common --out "$out" "$@"
    else run timeout 100 mpirun -np "$ranks" --bind-to none "$train" $common --out "$out" "$@"; fi
}
# What a run has computed: every loss and norm that it logged, and the bits of its last checkpoint
figures() { grep 'loss":' "$tmp/$1/log.jsonl" | grep -oE '"(step|loss|grad_norm|val_loss)":[^,}]*'; }
losses() { [ "$(figures "$1" | grep -c loss)" -ge 4 ] && figures "$1" > "$tmp/a" && figures "$2" > "$tmp/b" && cmp "$tmp/a" "$tmp/b"; }
weights() {
    last=$(cd "$tmp/$1" && ls -d step_* | tail -n 1)
    for file in model.safetensors rank_0_of_1.bin; do cmp "$tmp/$1/$last/$file" "$tmp/$2/$last/$file" || return; done
}
same() { losses "$1" "$2" && weights "$1" "$2"; }
# same_as NAME A B: the last run ended well, in B, and its figures are those of A
same_as() { if [ "$status" = 0 ]; then holds "$1" same "$2" "$3"; else expect "$1" 0; fi; }
# near A B SHARE [KEY]: the last logged losses (or KEY, the first one) differ by no more than SHARE of A's
near() {
    python3 - "$tmp/$1/log.jsonl" "$tmp/$2/log.jsonl" "$3" "${4:-loss}" << 'PY'
import json, sys
key = sys.argv[4]
values = [[step[key] for step in map(json.loads, open(path)) if key in step] for path in sys.argv[1:3]]
a, b = [v[0 if key == "grad_norm" else -1] for v in values]
print("%s %.9g and %.9g, %.3g apart" % (key, a, b, abs(b / a - 1)))
sys.exit(not abs(b / a - 1) <= float(sys.argv[3]))
PY
}
near_as() { if [ "$status" = 0 ]; then holds "$1" near "$2" "$3" $4; else expect "$1" 0; fi; }

# ---- 1. --determinism ranks. 8 logical workers of two micro-batches each; a rank computes some of them.
workers="--determinism ranks --total-batch-tokens 4096 --max-steps 3"
sr="--precision bf16-sr --adam-moments bf16"
ranks 1 fp32 $workers
expect "train ranks: one rank" 0
ranks 1 sr $workers $sr
expect "train ranks: one rank in bf16-sr" 0
holds "train ranks: which computes something else" [ "$(figures fp32)" != "$(figures sr)" ]
for zero in 0 1; do
    for n in 2 4 8; do
        ranks $n "fp32-$n-$zero" $workers --zero $zero
        same_as "train ranks: $n ranks, --zero $zero: the bits of one" fp32 "fp32-$n-$zero"
        ranks $n "sr-$n-$zero" $workers $sr --zero $zero
        same_as "train ranks: $n ranks, --zero $zero, bf16-sr: the bits of one" sr "sr-$n-$zero"
    done
done
ranks 4 recompute $workers --zero 1 --recompute block
same_as "train ranks: 4 ranks that compute activations again" fp32 recompute
ranks 1 documents $workers --packing documents
ranks 4 documents-4 $workers --packing documents --zero 1
same_as "train ranks: 4 ranks, whole documents packed" documents documents-4
holds "train ranks: which are other rows" [ "$(figures documents)" != "$(figures fp32)" ]

# Weights of two types, so shares of unequal bytes, and masters that are the lower halves of weights
mixed="--precision layercast --master-weights split --precision-of norm=fp32,embedding=fp32,lm_head=fp32"
ranks 1 mixed $workers $mixed
ranks 4 mixed-4 $workers $mixed --zero 1
same_as "train ranks: 4 ranks, weights of two types and split masters: the bits of one" mixed mixed-4
run timeout 100 mpirun -np 1 "$train" $common --out "$tmp/launched" $workers
same_as "train ranks: one rank that mpirun starts" fp32 launched

# ---- 2. Without that level sums of f32 have another order. That moves a gradient by about 6e-8 of its size (half a unit of its last
# place), weights by as much of a step, and the loss by far less: seen 4e-10, and no more than 1e-7 is accepted.
steps="--total-batch-tokens 1536 --max-steps 5"
ranks 1 plain $steps
for zero in 0 1; do
    ranks 3 "plain-3-$zero" $steps --zero $zero
    near_as "train ranks: 3 ranks, --zero $zero: the loss of one" plain "plain-3-$zero" 1e-7
done
holds "train ranks: 3 ranks, --zero 0 and 1 have the same bits" same plain-3-0 plain-3-1
ranks 3 plain-3-again $steps --zero 1
same_as "train ranks: 3 ranks, a repetition has the same bits" plain-3-1 plain-3-again

# ---- 3. Checkpoints are those of one rank. before OUT FROM: OUT is what FROM was at step 3.
before() { mkdir "$tmp/$1" && cp -r "$tmp/$2/step_0000000003" "$tmp/$1/" && sed '/"step":[4-9]/d' "$tmp/$2/log.jsonl" > "$tmp/$1/log.jsonl"; }
workers="--determinism ranks --total-batch-tokens 6144 --max-steps 6 --checkpoint-every 3 --resume auto"
ranks 4 whole $workers --zero 1
expect "train ranks: 4 ranks, two checkpoints" 0 'saved .*step_0000000003' 'saved .*step_0000000006'
for how in '1 0' '2 0' '2 1' '8 1'; do
    before "resumed-${how% *}-${how#* }" whole
    ranks ${how% *} "resumed-${how% *}-${how#* }" $workers --zero ${how#* }
    same_as "train ranks: resumed by ${how% *}, --zero ${how#* }: the bits of the run that was not stopped" whole "resumed-${how% *}-${how#* }"
done
holds "train ranks: which did resume" grep -q 'resumed from' "$tmp/out"
steps="--total-batch-tokens 6144 --max-steps 6 --checkpoint-every 3 --resume auto"
ranks 4 whole-run $steps --zero 0
before resumed-3 whole-run
ranks 3 resumed-3 $steps --zero 1
near_as "train ranks: resumed by 3, the loss of the run that was not stopped" whole-run resumed-3 1e-7
cp -r "$tmp/whole-run" "$tmp/by-config"
run timeout 100 mpirun -np 2 --bind-to none "$train" --config "$tmp/whole-run/run.json" --out "$tmp/by-config" --max-steps 8
expect "train ranks: two ranks take over the options of four: --config RUN/run.json" 0 'resumed from .*step_0000000006' 'saved .*step_0000000008'

# With differences of weights ranks compute with other weights than the masters: both are saved.
steps="--total-batch-tokens 1024 --max-steps 6 --checkpoint-every 3 --resume auto --comm-quant sdp4bit --zero 1 --ranks-per-node 2"
for precision in fp32 bf16; do
    ranks 4 sdp-$precision $steps --precision $precision
    expect "train ranks: SDP4Bit on 2 x 2 ranks, $precision" 0 'saved .*step_0000000003'
    before sdp-$precision-4 sdp-$precision
    ranks 4 sdp-$precision-4 $steps --precision $precision
    same_as "train ranks: SDP4Bit, resumed: the bits of the run that was not stopped" sdp-$precision sdp-$precision-4
done
before sdp-2 sdp-fp32
ranks 2 sdp-2 $steps --precision fp32
near_as "train ranks: SDP4Bit, resumed by two ranks" sdp-fp32 sdp-2 0.001
before sdp-1 sdp-fp32
run "$train" $common --out "$tmp/sdp-1" --total-batch-tokens 1024 --max-steps 6 --resume auto --precision fp32
near_as "train ranks: SDP4Bit, resumed by one rank in full precision" sdp-fp32 sdp-1 0.001

# ---- 4. In few bits. Padded parts and messages decide what rank 0 sends in a step, which the log says to the byte:
#   weights     a share of each part, as a message, to all others
#   gradients   to each other rank of its node a message for each node; to its like on each other node a message
# of n numbers a message has n codes of 4 or 8 bits and n / group scales of 4 bytes, and ends at a multiple of 16.
# sent OUT RANKS_PER_NODE WEIGHTS GRADS: "none" is 32 bits
sent() {
    python3 - "$tmp/$1" "$2" "$3" "$4" << 'PY'
import glob, json, math, sys
out, m, weights, grads = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
P = 4
M = P // m
parts = {}
for row in json.load(open(sorted(glob.glob(out + "/step_*/manifest.json"))[-1]))["parameters"]:
    name = row["name"]
    part = name.split(".")[1] if name.startswith("block.") else "embedding" if "embedding" in name else "head"
    parts[part] = parts.get(part, 0) + math.ceil(row["flat"][1] / 16) * 16
assert len(parts) == 4, parts
group = {"weights": 2048, "grads": 128}
unit = P * max([16] + [group[kind] for kind, bits in (("weights", weights), ("grads", grads)) if bits != "none"])

def message(n, bits, group):
    assert n % group == 0
    return math.ceil((n * bits // 8 + 4 * n // group) / 16) * 16

wanted = dict.fromkeys(("weights_inside", "weights_between", "gradients_inside", "gradients_between"), 0)
for size in parts.values():
    n = math.ceil(size / unit) * unit // P
    share = 4 * n if weights == "none" else message(n, 8 if weights == "int8" else 4, group["weights"])
    wanted["weights_inside"] += (m - 1) * share
    wanted["weights_between"] += (P - m) * share
    if grads == "none":
        wanted["gradients_inside"] += (m - 1) * 4 * n
        wanted["gradients_between"] += (P - m) * 4 * n
    else:
        wanted["gradients_inside"] += (m - 1) * M * message(n, 4 if grads == "int4" else 8, group["grads"])
        wanted["gradients_between"] += (M - 1) * message(n, 8 if grads == "int8" else 4, group["grads"])
steps = [step["sent"] for step in map(json.loads, open(out + "/log.jsonl")) if "sent" in step]
for sent in steps:
    sent = {key: sent[key] for key in wanted}
    if sent != wanted: sys.exit("sent %s, wanted %s" % (sent, wanted))
sys.exit(not steps)
PY
}
learning="--total-batch-tokens 1024 --max-steps 30 --zero 1"
ranks 4 full $learning --ranks-per-node 2
expect "train ranks: 30 steps in full precision" 0
holds "train ranks: full precision: the bytes sent" sent full 2 none none
# quantised NAME RANKS_PER_NODE WEIGHTS GRADS SHARE: trains to the loss of full precision but for SHARE, and sends so many bytes; the first
# step, whose weights are not quantised yet, has the norm of its gradients
quantised() {
    ranks 4 "$1-$2" $learning --ranks-per-node $2 --quant-weights $3 --quant-grads $4
    near_as "train ranks: $1, $2 a node: the loss of full precision" full "$1-$2" $5
    holds "train ranks: $1, $2 a node: the first norm" near full "$1-$2" $6 grad_norm
    holds "train ranks: $1, $2 a node: the bytes sent" sent "$1-$2" $2 $3 $4
}
quantised int8-weights 2 int8 none 0.002 0
quantised int4-weights 2 int4 none 0.03 0
quantised diff4-weights 2 diff4 none 0.0005 0
quantised int4-grads 2 none int4 0.02 0.05
quantised int8-grads 2 none int8 0.001 0.003
quantised two-level-grads 2 none two-level 0.01 0.02
quantised hadamard-grads 2 none two-level-hadamard 0.015 0.01
for n in 1 4; do
    quantised zeropp $n int8 int4 0.02 0.05
    quantised int4-int8 $n int4 int8 0.03 0.003
    quantised diff4-two-level $n diff4 two-level 0.01 0.02
    quantised sdp4bit $n diff4 two-level-hadamard 0.015 0.01
done

# ---- 5. What is refused: by all ranks, and said once.
once() { [ "$(grep -c '^{"code"' "$tmp/err")" = 1 ] && [ "$(grep -c 'what to do: .' "$tmp/err")" = 1 ]; }
# refused RANKS "OPTIONS" WHY REMEDY
refused() {
    ranks "$1" refused $2
    expect "train ranks: $1, $2: refused" 2 "^error: rank 0: .*$3" "what to do: .*$4"
    holds "train ranks: once, and nothing is left behind" eval 'once && [ ! -e "$tmp/refused" ]'
}
refused 2 "--quant-weights diff4" 'with --zero 0 every rank has them all' '--zero 1'
refused 2 "--quant-grads int8" 'with --zero 0 every rank needs them all' '--zero 1'
refused 2 "--zero 1 --comm-quant sdp4bit --determinism ranks --total-batch-tokens 4096" 'promises the same bits for any number of ranks' '--determinism batch'
refused 2 "--zero 1 --quant-grads int8 --determinism ranks --total-batch-tokens 4096" '--quant-grads int8 loses digits' '--determinism batch'
refused 2 "--quant-weights-group 100" '--quant-weights-group 100 is no power of two' 'choose 64'
refused 2 "--quant-grads-group 129" '--quant-grads-group 129 is no power of two' 'choose 128'
refused 2 "--zero 1 --quant-weights int8 --precision bf16-sr" '--precision bf16-sr keeps none' '--precision bf16'
refused 2 "--zero 1 --quant-weights int8 --precision layercast --precision-of norm=fp32" 'stored in several types' 'without --precision-of'
refused 2 "--zero 3" 'zero' '.'
refused 3 "--total-batch-tokens 1024" '32 rows of 32 tokens, which 3 ranks cannot share out equally' 'a multiple of 96'
refused 2 "--total-batch-tokens 1000" 'not a whole number of rows' 'a multiple of --seq-len'
refused 3 "--total-batch-tokens 6144 --determinism ranks" 'there are 3 ranks' '1, 2, 4 or 8'
refused 4 "--total-batch-tokens 512 --determinism batch" 'units of 256 tokens' 'multiple of 8 for --batch-size'
refused 2 "--total-batch-tokens 1024 --determinism ranks" 'each of 8 logical workers as many whole micro-batches' 'a multiple of 2048'
refused 3 "--ranks-per-node 2" '3 ranks are not nodes of 2 each' '.'
run timeout 60 mpirun -np 1 --bind-to none "$train" $common --out "$tmp/refused" --seed 1 : -np 1 --bind-to none "$train" $common --out "$tmp/refused" --seed 2
expect "train ranks: ranks with other options are refused" 2 '^error: rank 0: the options of rank 1 are not those of rank 0' 'one command line'
holds "train ranks: once, and nothing is left behind" eval 'once && [ ! -e "$tmp/refused" ]'

run timeout 60 mpirun -np 1 --bind-to none "$train" $common --out "$tmp/refused" : -np 1 --bind-to none "$train" $common --out "$tmp/refused" --zero x
holds "train ranks: a mistake of one rank alone is said by it" grep -q '^error: rank 1: .*zero' "$tmp/err"

# ---- 6. Faults. start RANKS OUT OPTION...: trains in the background, without an end; the ranks' process ids to $tmp/pid.RANK, exit codes
# to $tmp/code.RANK, what they say to $tmp/said.RANK. A rank's shell stays until all have ended, so that mpirun does not end the others.
start() {
    rm -f "$tmp"/code.* "$tmp"/said.* "$tmp"/pid.*
    export ranks="$1" out="$tmp/$2"; shift 2
    timeout 60 mpirun -np "$ranks" --bind-to none sh -c 'me=${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}
        "$train" "$@" > "$tmp/said.$me" 2>&1 & echo $! > "$tmp/pid.$me"
        wait $!; code=$?; echo $code > "$tmp/code.$me"
        for i in $(seq 400); do [ "$(ls "$tmp" | grep -c "^code")" -lt "$ranks" ] || break; sleep 0.05; done
        exit $code' sh $common --out "$out" --total-batch-tokens 1536 --max-steps 1000000 --lr-schedule constant "$@" > "$tmp/out" 2> "$tmp/err" < /dev/null &
    mpirun=$!
}
waits() { for i in $(seq 400); do eval "$1" && return; sleep 0.05; done; return 1; }
trained() { waits "grep -q '\"step\":$1,\"loss\"' '$out/log.jsonl' 2>/dev/null"; }
signal() { trained 7 && kill "-$1" "$(cat "$tmp/pid.$2")"; }
# ended NAME "CODES" RANK... MESSAGE: exit codes by rank; the last lines of each of these ranks have that message
ended() {
    name=$1 wanted=$2; shift 2
    wait $mpirun
    codes=$(cat "$tmp"/code.* 2>/dev/null | tr '\n' ' ')
    for message; do :; done
    [ "$codes" = "$wanted " ] || { fail "$name" "exit codes $codes, wanted $wanted" "$(tail -qn 1 "$tmp"/said.*)"; return; }
    for rank; do
        [ "$rank" != "$message" ] || break
        tail -n 3 "$tmp/said.$rank" | grep -q -e "$message" || { fail "$name" "rank $rank: $(tail -n 1 "$tmp/said.$rank")"; return; }
    done
    ok "$name"
}
newest() { cd "$tmp/$1" && ls -d step_* | tail -n 1 | sed 's/step_0*//'; }
# goes_on NAME OUT RANKS: the newest checkpoint is whole, and a run of so many ranks trains on from it
goes_on() {
    step=$(newest "$2")
    run "$train" inspect "$(ls -d "$tmp/$2"/step_* | tail -n 1)"
    expect "$1: the newest checkpoint is whole" 0
    ranks "$3" "$2" --total-batch-tokens 1536 --lr-schedule constant --resume auto --max-steps $((step + 2))
    expect "$1: $3 ranks go on from it" 0 "resumed from .*$step" "saved .*$((step + 2))"
}
start 3 killed --zero 1 --checkpoint-every 3
signal KILL 2
ended "train ranks: one is killed: the others end with 7 and name it" "7 7 137" 0 1 'rank 2 (host .*) ended without a word'
goes_on "train ranks: one is killed" killed 2
start 3 killed-0 --checkpoint-every 3
signal KILL 0
ended "train ranks: also where it is rank 0" "137 7 7" 1 2 'rank 0 (host .*) ended without a word'
goes_on "train ranks: rank 0 is killed" killed-0 3

start 3 hangs --zero 1 --checkpoint-every 3 --peer-timeout 2
signal STOP 1
holds "train ranks: one hangs: the others end" waits '[ -e "$tmp/code.0" ] && [ -e "$tmp/code.2" ]'
kill -KILL "$(cat "$tmp/pid.1")"
ended "train ranks: with 7, and name it" "7 137 7" 0 2 'no answer from rank .*1.* after 2 s'
goes_on "train ranks: one hangs" hangs 1

for signal in 'TERM 2' 'USR1 1'; do
    start 3 "stopped-${signal% *}" --zero 1
    signal $signal
    ended "train ranks: SIG${signal% *} to rank ${signal#* } alone: all save and end with 75" "75 75 75" ''
    holds "train ranks: and rank 0 says why" grep -q 'stopping after step .*: signal received' "$tmp/said.0"
done
step=$(newest stopped-USR1)
for out in "stopped-USR1 --resume auto" never-stopped; do
    ranks 3 $out --zero 1 --total-batch-tokens 1536 --lr-schedule constant --max-steps $((step + 2))
done
same_as "train ranks: a run that goes on after it has the bits of one that was not stopped" never-stopped stopped-USR1

# To mpirun, which passes it on to all: as a user or a batch system asks a run to stop. The ranks wait for rank 0 to have saved.
out=$tmp/asked
timeout 60 mpirun -np 3 --bind-to none "$train" $common --out "$out" --zero 1 --total-batch-tokens 1536 --max-steps 1000000 > "$tmp/out" 2> "$tmp/err" < /dev/null &
mpirun=$!
trained 7 && kill -USR1 "$(tr -d ' ' < /proc/$mpirun/task/$mpirun/children)"
status=0; wait $mpirun || status=$?
expect "train ranks: SIGUSR1 to mpirun: saved" 75 'stopping after step .*: signal received' 'saved .*step_'

touch "$tmp/in-the-way"
start 3 in-the-way
ended "train ranks: a file where the run's folder is to be: rank 0 says it, the others why they end" "8 7 7" 0 1 2 'in-the-way'
start 3 vanishes --checkpoint-every 2
trained 3
mv "$tmp/vanishes" "$tmp/vanished" && touch "$tmp/vanishes"
ended "train ranks: rank 0 cannot save any more: it says it, the others why they end" "8 7 7" 0 1 2 'vanishes'

left_behind() {
    for exe in /proc/[0-9]*/exe; do
        [ "$(readlink "$exe" 2>/dev/null)" != "$train" ] || grep -lzs -e "$tmp" "${exe%exe}cmdline"
    done
}
waits '[ -z "$(left_behind)" ]'
holds "train ranks: no process is left behind" [ -z "$(left_behind)" ]
finish
