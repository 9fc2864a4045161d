#!/bin/sh
# Runs fuzz targets, as many at a time as there are cores (JOBS), and prints a line for each: what it executed, covered and found.
# usage: sh tests/fuzz/run.sh BUILD_FOLDER SECONDS 'TARGET...'|all       `make fuzz` calls it
# What was learnt stays in BUILD_FOLDER/corpus/TARGET and is where the next run begins. A finding is left in BUILD_FOLDER/found/TARGET.
# Exit codes: 0 nothing found, 1 something was.
set -u
build=$1 seconds=$2 names=$3
here=$(dirname "$0")
[ "$names" != all ] || names=$(sed -n 's/^ *{"\([a-z_]*\)", fuzz_.*/\1/p' "$here/targets.cpp")
jobs=${JOBS:-$(nproc)}

# A file of a few kilobytes must not make a reader ask for more than 64 MiB at once, nor take 5 seconds.
limits='-malloc_limit_mb=64 -rss_limit_mb=512 -timeout=5 -max_len=16384'
export ASAN_OPTIONS=quarantine_size_mb=16:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

fuzz_one() {
    name=$1 corpus=$build/corpus/$1 found=$build/found/$1 log=$build/$1.log
    mkdir -p "$corpus" "$found"
    ln -sf fuzz "$build/$name"
    "$build/$name" --write-seeds="$build/seeds/$name" || return 1
    set -- "$corpus" "$build/seeds/$name"
    [ ! -d "$here/findings/$name" ] || set -- "$@" "$here/findings/$name"
    words=
    [ ! -e "$here/$name.dict" ] || words=-dict=$here/$name.dict
    status=0
    # shellcheck disable=SC2086  # lists of options
    "$build/$name" $limits $words -max_total_time="$seconds" -artifact_prefix="$found/" -print_final_stats=1 "$@" > "$log" 2>&1 || status=$?
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    findings=$(find "$found" -type f | wc -l)
    printf '%-15s %10s executions  %5s edges  %3s in the corpus  %s\n' "$name" "${executed:-?}" "${edges:-?}" "$(find "$corpus" -type f | wc -l)" \
        "$([ "$status" = 0 ] && echo "nothing found" || echo "FOUND: $findings, see $log")"
    return "$status"
}

status=0 running=''
finish() { for job in $running; do wait "$job" || status=1; done; running=''; }
for name in $names; do
    fuzz_one "$name" &
    running="$running $!"
    # shellcheck disable=SC2086
    set -- $running
    [ $# -lt "$jobs" ] || finish
done
finish
exit "$status"
