#!/bin/sh
# Training on ranks with a GPU each, under the SIMT runner: over NCCL (its stand-in) and over MPI the losses are the same, and near the CPU's.
# Uses build/train_simt and ./train.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
train=$repo/build/train_simt
command -v mpirun >/dev/null || { skip "ranks on GPUs" "mpirun is not installed"; finish; }
[ -x "$train" ] || { skip "ranks on GPUs" "build/train_simt is not there"; finish; }
ldd "$train" | grep -q libmpi || { skip "ranks on GPUs" "build/train_simt is built without MPI"; finish; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive
cd "$tmp" || exit 1
seq 3000 | sed 's/.*/the number & and its neighbours/' > text.txt
"$train" tokenize text.txt --out text > /dev/null || exit 1
# trained OUT OPTIONS...
trained() {
    out=$1; shift
    run timeout 200 mpirun -np 2 --bind-to none "$train" --data 'text_train_*.bin' --n-layer 1 --d-model 32 --n-head 2 --seq-len 16 --batch-size 2 --total-batch-tokens 64 \
        --max-steps 2 --sample-tokens 1 --threads 1 --zero 1 --out "$out" "$@"
    [ "$status" = 0 ] || fail "ranks on GPUs: $out" "status $status: $(tail -n 2 err | tr '\n' ' ')"
}
losses() { sed -n 's/.*"loss":\([0-9.]*\).*/\1/p' "$1/log.jsonl" | tr '\n' ' '; }
near() { awk -v a="$(losses "$1")" -v b="$(losses "$2")" 'BEGIN { n = split(a, x, " "); m = split(b, y, " "); if (n != 2 || m != 2) exit 1; for (i = 1; i <= n; i++) if (x[i] - y[i] > 2e-3 || y[i] - x[i] > 2e-3) exit 1 }'; }

for quant in none sdp4bit; do
    for transport in mpi nccl; do
        trained "$quant-$transport" --device cuda --precision bf16 --transport $transport --comm-quant $quant
        holds "ranks on GPUs: $quant over $transport" grep -q "\"transport\": \"$transport\"" "$quant-$transport/run.json"
    done
    trained "$quant-cpu" --device cpu --precision bf16 --comm-quant $quant
    holds "ranks on GPUs: $quant: the losses of both transports" [ "$(losses $quant-mpi)" = "$(losses $quant-nccl)" ]
    holds "ranks on GPUs: $quant: near the CPU's" near $quant-mpi $quant-cpu
done
finish
