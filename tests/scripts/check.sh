# Read by the *_test.sh files here: each check prints one line, "ok NAME" or "FAIL NAME" with what was seen.
# shellcheck shell=sh disable=SC2034
set -u
repo=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d)
failures=0
trap 'status=$?; rm -rf "$tmp"; exit $status' EXIT
trap 'exit 130' INT TERM

ok()   { echo "ok $1"; }
fail() { failures=$((failures + 1)); echo "FAIL $1"; shift; printf '     %s\n' "$@"; }
skip() { echo "ok $1 # skipped: $2"; }

# run COMMAND...: its output to $tmp/out and $tmp/err, its status to $status
run() { status=0; "$@" > "$tmp/out" 2> "$tmp/err" < /dev/null || status=$?; }

# expect NAME STATUS [GREP-PATTERN...]: the last run ended with STATUS, and every pattern is in what it printed
expect() {
    name=$1 wanted=$2; shift 2
    seen="status $status (wanted $wanted): $(tail -n 3 "$tmp/err" | tr '\n' ' ')"
    [ "$status" = "$wanted" ] || { fail "$name" "$seen"; return; }
    for pattern in "$@"; do
        grep -q -e "$pattern" "$tmp/out" "$tmp/err" || { fail "$name" "no '$pattern' in the output" "$seen"; return; }
    done
    ok "$name"
}

# holds NAME COMMAND...: the command succeeds
holds() { name=$1; shift; if "$@" > "$tmp/holds" 2>&1; then ok "$name"; else fail "$name" "$*" "$(head -n 3 "$tmp/holds")"; fi; }

finish() { [ "$failures" = 0 ]; exit; }
