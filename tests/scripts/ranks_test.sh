#!/bin/sh
# Several ranks: the communicator's tests under mpirun, and what becomes of the others when a rank dies, hangs or fails.
# Uses build/run_tests and build/run_simt (or those in $BUILD).
# shellcheck disable=SC2016,SC2317  # the ranks' shells expand their own variables; run() calls mpi()
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
cd "$repo" || exit 1
build=$repo/${BUILD:-build}
command -v mpirun >/dev/null || { skip "ranks" "mpirun is not installed"; finish; }
ldd "$build/run_tests" 2>/dev/null | grep -q libmpi || { skip "ranks" "$build/run_tests is not there, or built without MPI"; finish; }

# As root, more ranks than cores, each on any core.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 tmp build
mpi() { ranks=$1; shift; timeout 100 mpirun -np "$ranks" --bind-to none "$@"; }

# suite NAME RANKS PROGRAM: rank 0 prints; what the others say is shown where they fail
suite() {
    rm -f "$tmp"/rank.*
    export program="$3"
    run mpi "$2" sh -c 'exec "$build/$program" -ts=ranks > "$tmp/rank.${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}" 2>&1'
    cases=$(cat "$tmp"/rank.* | grep -c 'cases:.* 0 failed')
    if [ "$status" = 0 ] && [ "$cases" = "$2" ]; then ok "$1"; else fail "$1" "status $status, $cases of $2 ranks passed" "$(grep -h -m 8 'ERROR\|values\|CASE' "$tmp"/rank.*)"; fi
}
for ranks in 1 2 3 4 8; do suite "ranks: $ranks" $ranks run_tests; done
TEST_RANKS_PER_NODE=2 TEST_LARGEST_MESSAGE=999 suite "ranks: 4 on two nodes, messages in pieces of 999 bytes" 4 run_tests
TEST_RANKS_PER_NODE=1 suite "ranks: 3 on three nodes" 3 run_tests
if [ -e "$build/run_simt" ]; then suite "ranks: 2 with a GPU's tensors (under the SIMT runner)" 2 run_simt; else skip "ranks: GPU" "no $build/run_simt"; fi

# fault WHICH RANKS: each rank's exit code to $tmp/code.RANK, what it says to $tmp/said.RANK. A rank's shell stays until all have ended, so
# that mpirun, which kills the ranks that are left as soon as one has failed, does not end what is to end by itself.
fault() {
    rm -f "$tmp"/code.* "$tmp"/said.*
    export TEST_FAULT="$1" ranks="$2"
    run mpi "$2" sh -c 'me=${OMPI_COMM_WORLD_RANK:-$PMIX_RANK}
        "$build/run_tests" -ts="rank faults" --no-skip > /dev/null 2> "$tmp/said.$me"; code=$?
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
        tail -n 1 "$tmp/said.$rank" | grep "^{\"code\":7,.*}\$" | grep -q "$message" || { fail "$name" "rank $rank: $(tail -n 1 "$tmp/said.$rank")"; return; }
    done
    ok "$name"
}
fault none 4;                            verdict "ranks: without a fault all end well" "0 0 0 0" ""
fault killed 4;                          verdict "ranks: one is killed: the others end with 7 and name it" "7 7 7 137" 0 1 2 "rank 3 (host .*, process [0-9]*) ended without a word"
fault "killed 0" 4;                      verdict "ranks: also where it is rank 0" "137 7 7 7" 1 2 3 "rank 0 (host .*) ended without a word"
fault "killed while others compute" 3;   verdict "ranks: and where the others do not wait for anybody" "7 7 137" 0 1 "rank 2 (host .*) ended without a word"
fault throws 3;                          verdict "ranks: one fails: the others say why" "7 7 3" 0 1 "rank 2 (host .*) failed: the shard is broken"
fault "throws 0" 3;                      verdict "ranks: also where it is rank 0" "3 7 7" 1 2 "rank 0 (host .*) failed: the shard is broken"
fault exits 3;                           verdict "ranks: one ends without a goodbye" "7 0 7" 0 2 "rank 1 (host .*) ended without a word"
fault slow 3;                            verdict "ranks: one that is slow is waited for" "0 0 0" ""
fault "sends more" 2;                    verdict "ranks: one sends more than the others expect" "7 7" 0 "rank 1 sent 36 bytes where 28 were expected\|rank 0 sent 28 bytes where 36 were expected"
fault "sends much more" 2;               verdict "ranks: much more" "7 7" 0 "rank 1 sent 8000008 bytes where 8000000 were expected\|rank 0 sent 8000000 bytes where 8000008 were expected"
fault "sends less" 2;                    verdict "ranks: less" "7 7" 0 "rank 1 sent 20 bytes where 28 were expected\|rank 0 sent 28 bytes where 20 were expected"
fault "another call" 2;                  verdict "ranks: one makes another call" "7 7" 0 "disagree in all_reduce (operation 11 of the world communicator): rank 1 called barrier\|disagree in barrier (operation 11 of the world communicator): rank 0 called all_reduce"
fault "signal after a loss" 3;           verdict "ranks: a lost rank outranks a signal to stop" "7 7 137" 0 1 "rank 2 (host .*) ended without a word"

# A stopped rank does not end by itself: mpirun ends it, once the first of the others has failed.
export TEST_FAULT=stopped
start=$(date +%s)
run mpi 3 sh -c 'exec "$build/run_tests" -ts="rank faults" --no-skip > /dev/null'
took=$(($(date +%s) - start))
[ "$status" != 0 ] && status=failed
expect "ranks: one hangs: its silence is named at the deadline" failed '^{"code":7,.*no answer from rank 1 after 2 s in all_reduce (operation 11 of the world communicator)'
holds "ranks: within seconds" [ "$took" -ge 2 -a "$took" -le 9 ]
# Without our shells between, as a user starts it.
TEST_FAULT=killed run mpi 3 "$build/run_tests" -ts="rank faults" --no-skip
[ "$status" != 0 ] && status=failed
expect "ranks: mpirun reports the failure" failed 'ended without a word'
sleep 0.2
left_behind() {
    for exe in /proc/[0-9]*/exe; do
        [ "$(readlink "$exe" 2>/dev/null)" != "$build/run_tests" ] || grep -lzs -e '-ts=rank faults' "${exe%exe}cmdline"
    done
}
holds "ranks: no process is left behind" [ -z "$(left_behind)" ]
TEST_RANKS_PER_NODE=2 run mpi 3 "$build/run_tests" -ts=ranks
expect "ranks: nodes that do not divide the ranks are refused" 1 '3 ranks are not nodes of 2 each'
# srun whose processes MPI takes for runs of one rank each
run env SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=0 timeout 30 "$build/run_tests" -ts=ranks
expect "ranks: a launcher whose ranks MPI does not know is refused" 1 'srun started 4 ranks, and MPI knows of 1'
finish
