#!/bin/sh
# ./train verify-determinism under mpirun: real ranks beside one alone, and a broken promise on purpose.
# Uses ./train (or that in $TRAIN_BINARY).
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
train=$(realpath "${TRAIN_BINARY:-$repo/train}")
command -v mpirun >/dev/null || { skip "verify-determinism" "mpirun is not installed"; finish; }
ldd "$train" 2>/dev/null | grep -q libmpi || { skip "verify-determinism" "$train is not there, or built without MPI"; finish; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive
cd "$tmp" || exit 1
seq 9000 | sed 's/.*/the number & and its neighbours/' > text.txt
"$train" tokenize text.txt --out text > /dev/null || exit 1
verify() { ranks=$1; shift; run timeout 100 mpirun -np "$ranks" --bind-to none "$train" verify-determinism --data 'text_train_*.bin' --preset tiny --n-layer 1 --d-model 32 --n-head 2 \
    --seq-len 64 --batch-size 4 --total-batch-tokens 2048 --threads 1 --steps 2 "$@"; }
# once NAME PATTERN: it was printed, and by one rank alone
once() { seen=$(cat "$tmp/out" "$tmp/err" | grep -c -e "$2"); if [ "$seen" = 1 ]; then ok "$1"; else fail "$1" "$seen times: $2"; fi; }

hashes=
for zero in 0 1; do
    verify $((2 + 2 * zero)) --determinism ranks --zero $zero
    expect "verify-determinism: $ranks ranks, --zero $zero" 0 "$ranks ranks on 1 node, --zero $zero" '^weights of all ranks  *yes  *yes' '^1 rank alone, in each process  *yes  *yes' \
        '^saved and resumed after step 1  *yes  *yes' '^8 ranks, simulated in one process  *yes  *yes' 'promises was kept'
    once "verify-determinism: one rank prints, --zero $zero" '^repeated  *yes  *yes'
    hashes=$hashes$(sed -n 's/^(the first trial) *//p' out)
done
half=$(printf '%s' "$hashes" | cut -c "1-$((${#hashes} / 2))")
holds "verify-determinism: 2 ranks and 4 end in the same bits" [ -n "$half" -a "$half$half" = "$hashes" ]

# In few bits, on two nodes. Another micro-batch sums in another order: that differs, and rank 0 says so without failing.
verify 4 --ranks-per-node 2 --zero 1 --comm-quant sdp4bit --precision bf16 --device cpu
expect "verify-determinism: 4 ranks on 2 nodes in 4 bits" 0 '4 ranks on 2 nodes' '^weights of all ranks  *yes  *yes' '^repeated  *yes  *yes' '^saved and resumed after step 1  *yes  *yes' \
    '^8 micro-batches of 1 rows  *no  *no, from step 1 on'

verify 2 --determinism ranks --zero 2
[ "$status" != 0 ] && status=failed
expect "verify-determinism: a mistake is refused" failed '^{"code":2,'
once "verify-determinism: and told once" '^error: '
finish
