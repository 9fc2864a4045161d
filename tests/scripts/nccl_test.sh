#!/bin/sh
# NCCL's engine under mpirun, without GPUs: the communicator's tests over NCCL's stand-in (tests/nccl), which transport is chosen, and what
# becomes of the others when a rank is lost. Uses build/run_simt (or that in $BUILD).
# shellcheck disable=SC2016,SC2317  # the ranks' shells expand their own variables; run() calls mpi()
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
cd "$repo" || exit 1
build=$repo/${BUILD:-build}

# The stand-in's declarations, held against NCCL's own.
header=$(find /usr/local/cuda/include "${CUDA_HOME:-/usr/local/cuda}/include" /usr/include -maxdepth 1 -name nccl.h 2>/dev/null | head -n 1)
if [ -n "$header" ]; then
    holds "nccl: the stand-in's header and NCCL's agree" g++ -std=c++20 -fsyntax-only -I. -isystem "$(dirname "$header")" -isystem "${CUDA_HOME:-/usr/local/cuda}/include" tests/nccl/agreement.cpp
else
    skip "nccl: header" "no nccl.h of NCCL's own"
fi

command -v mpirun >/dev/null || { skip "nccl" "mpirun is not installed"; finish; }
ldd "$build/run_simt" 2>/dev/null | grep -q libmpi || { skip "nccl" "$build/run_simt is not there, or built without MPI"; finish; }

# As root, more ranks than cores, each on any core.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 TEST_TRANSPORT=nccl tmp build
mpi() { ranks=$1; shift; timeout 200 mpirun -np "$ranks" --bind-to none "$@"; }

# suite NAME RANKS: each rank ends well and says so
suite() {
    rm -f "$tmp"/rank.*
    run mpi "$2" sh -c 'exec "$build/run_simt" -ts=ranks > "$tmp/rank.${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}" 2>&1'
    cases=$(cat "$tmp"/rank.* | grep -c 'cases:.* 0 failed')
    if [ "$status" = 0 ] && [ "$cases" = "$2" ]; then ok "$1"; else fail "$1" "status $status, $cases of $2 ranks passed" "$(grep -h -m 8 'ERROR\|values\|CASE' "$tmp"/rank.*)"; fi
}
for ranks in 1 2 3 8; do suite "nccl: $ranks ranks" $ranks; done
TEST_RANKS_PER_NODE=2 SIMT_SEED=3 suite "nccl: 4 on two nodes" 4

# fault WHICH RANKS: each rank's exit code to $tmp/code.RANK, what it says to $tmp/said.RANK. A rank's shell stays until all have ended, so
# that mpirun, which kills the ranks that are left as soon as one has failed, does not end what is to end by itself.
fault() {
    rm -f "$tmp"/code.* "$tmp"/said.*
    export TEST_FAULT="$1" ranks="$2"
    run mpi "$2" sh -c 'me=${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}
        "$build/run_simt" -ts="nccl faults" --no-skip > "$tmp/out.$me" 2> "$tmp/said.$me"; code=$?
        echo $code > "$tmp/code.$me"
        for i in $(seq 200); do [ "$(ls "$tmp" | grep -c "^code")" -lt "$ranks" ] || break; sleep 0.05; done
        exit $code'
    codes=$(cat "$tmp"/code.* 2>/dev/null | tr '\n' ' ')
}
# verdict NAME "CODES" RANK... MESSAGE: the exit codes by rank, and the last line of each of these ranks is our JSON with that message
verdict() {
    name=$1 wanted=$2; shift 2
    for message; do :; done
    [ "$codes" = "$wanted " ] || { fail "$name" "exit codes $codes, wanted $wanted" "$(tail -qn 1 "$tmp"/said.*)"; return; }
    for rank; do
        [ "$rank" != "$message" ] || break
        tail -n 1 "$tmp/said.$rank" | grep "^{\"code\":[27],.*}\$" | grep -q "$message" || { fail "$name" "rank $rank: $(tail -n 1 "$tmp/said.$rank")"; return; }
    done
    ok "$name"
}
fault none 3;    verdict "nccl: without a fault all end well" "0 0 0" ""
holds "nccl: it is NCCL that they used" grep -q 'transport nccl; $' "$tmp/out.2"
fault killed 3;  verdict "nccl: one is killed: the others end with 7 and name it" "7 137 7" 0 2 "rank 1 (host .*, process [0-9]*) ended without a word"
fault throws 3;  verdict "nccl: one fails: the others say why" "7 3 7" 0 2 "rank 1 (host .*) failed: the shard is broken"
export SIMT_PCI_BUS_ID=one
fault automatic 2; verdict "nccl: two ranks share a GPU: it is MPI" "0 0" ""
holds "nccl: and they say so" grep -q 'transport mpi; .*ranks 0 and 1 share a GPU' "$tmp/out.0"
fault none 2;    verdict "nccl: sharing a GPU and NCCL together are refused" "2 2" 0 1 "NCCL cannot be used: ranks 0 and 1 share a GPU"
unset SIMT_PCI_BUS_ID
fault automatic 2; verdict "nccl: each has a GPU: it is NCCL" "0 0" ""
holds "nccl: without being asked for" grep -q 'transport nccl; ' "$tmp/out.0"

# A stopped rank does not end by itself: mpirun ends it, once the first of the others has failed.
export TEST_FAULT=stopped
start=$(date +%s)
run mpi 3 sh -c 'exec "$build/run_simt" -ts="nccl faults" --no-skip > /dev/null'
took=$(($(date +%s) - start))
[ "$status" != 0 ] && status=failed
expect "nccl: one hangs: the operation is named at the deadline" failed '^{"code":7,.*all_reduce (operation 5 of the world communicator) is not done after 2'
holds "nccl: within seconds" [ "$took" -ge 2 -a "$took" -le 12 ]
finish
