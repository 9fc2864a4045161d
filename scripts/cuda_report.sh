#!/bin/sh
# What each GPU kernel takes of the hardware, from what the assembler said when it was compiled: registers, shared memory, stack, spills.
# tests/cuda/report.txt holds the figures that are accepted; a rise over it is a kernel that became slower without anyone noticing.
set -eu

usage() {
    cat <<'END'
usage: sh scripts/cuda_report.sh [--check|--update] [--table FILE] LOG...

LOG is what nvcc -Xptxas -v wrote on stderr while it compiled one file; make CUDA=1 keeps it beside each object (*.cu.o.log).
  (neither)      prints the kernels of the logs
  --check        compares them with the table: ends with 1 where registers, shared memory, stack or spills rose, where a kernel is not
                 in the table, and where the assembler serialised wgmma. Only architectures that are in the logs are compared, and
                 only with the compiler release that the table was made with.
  --update       writes them into the table, in place of all rows of their architectures
  --table FILE   [tests/cuda/report.txt]
NVCC names the compiler [/usr/local/cuda/bin/nvcc, or the one in the PATH].
END
}
fail() { printf 'cuda_report: %s\n' "$1" >&2; exit 2; }

mode=print table=$(dirname "$0")/../tests/cuda/report.txt
while [ $# -gt 0 ]; do
    case $1 in
        --check|--update) mode=${1#--} ;;
        --table) [ -n "${2:-}" ] || fail "--table needs a file"; table=$2; shift ;;
        --help|-h) usage; exit 0 ;;
        -*) fail "unknown argument '$1' (see --help)" ;;
        *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || fail "no logs given: build first, make CUDA=1 ARCH=90a cuda"
for log in "$@"; do [ -r "$log" ] || fail "$log cannot be read"; done
export LC_ALL=C

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# ARCH REGISTERS SHARED STACK SPILL_STORES SPILL_LOADS SYMBOL; stack and spills of functions that a kernel calls are added to its own
awk '
    /Compiling entry function/ { split($0, part, "\047"); kernel = part[2]; arch = part[4]; stack = stores = loads = 0 }
    /bytes stack frame/ && kernel != "" { stack += $1; stores += $5; loads += $9 }
    /: Used [0-9]+ registers/ && kernel != "" {
        registers = shared = 0
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^registers/) registers = $(i - 1)
            if ($i ~ /^smem/) shared = $(i - 2)
        }
        print arch, registers, shared, stack, stores, loads, kernel
        kernel = ""
    }' "$@" > "$work/symbols"
[ -s "$work/symbols" ] || fail "no kernel in the logs: they must hold what nvcc -Xptxas -v says"

# "void traincu::gpu::k<traincu::bf16, 8>(float*)" as k<bf16, 8>; the greatest figure where two objects hold the same kernel
c++filt < "$work/symbols" | awk '
    {
        figures = $1; for (i = 2; i <= 6; i++) figures = figures " " $i
        name = substr($0, length(figures) + 2)
        sub(/^void /, "", name)
        gsub(/traincu::(gpu::)?/, "", name)
        depth = 0
        for (i = 1; i <= length(name); i++) {
            c = substr(name, i, 1)
            if (c == "<") depth++
            if (c == ">") depth--
            if (c == "(" && depth == 0) break
        }
        name = substr(name, 1, i - 1)
        key = $1 " " name
        for (i = 2; i <= 6; i++) if (!((key, i) in most) || $i + 0 > most[key, i]) most[key, i] = $i + 0
        archs[key] = $1; names[key] = name
    }
    END {
        for (key in names)
            printf "%-7s %9d %7d %6d %12d %11d  %s\n", archs[key], most[key, 2], most[key, 3], most[key, 4], most[key, 5], most[key, 6], names[key]
    }' | sort -k7 -k1,1 > "$work/rows"
heading='arch    registers  shared  stack spill_stores spill_loads  kernel'

nvcc=${NVCC:-/usr/local/cuda/bin/nvcc}
[ -n "${NVCC:-}" ] || [ -x "$nvcc" ] || nvcc=nvcc
release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p')
release=${release:-unknown}

status=0
if grep -Eh 'C751[0-2]|wgmma.*serialized' "$@" > "$work/serialised"; then
    echo "cuda_report: the assembler serialised wgmma:" >&2
    cat "$work/serialised" >&2
    [ "$mode" != check ] || status=1
fi

case $mode in
    print)
        printf '%s\n' "$heading"
        cat "$work/rows" ;;
    update)
        awk '{ print $1 }' "$work/rows" | sort -u > "$work/archs"
        {
            cat "$work/rows"
            [ ! -e "$table" ] || awk 'NR == FNR { built[$1]; next } FNR > 2 && !($1 in built)' "$work/archs" "$table"
        } | sort -k7 -k1,1 > "$work/table"
        mkdir -p "$(dirname "$table")"
        { echo "$release, -O3"; echo "$heading"; cat "$work/table"; } > "$work/whole"
        mv "$work/whole" "$table"
        echo "cuda_report: $(wc -l < "$work/rows") kernels of $(tr '\n' ' ' < "$work/archs")in $table" ;;
    check)
        [ -r "$table" ] || fail "there is no table $table: make one with --update"
        made_with=$(sed -n '1s/,.*//p' "$table")
        if [ "$made_with" != "$release" ]; then
            echo "cuda_report: not compared: the table was made with $made_with, this is $release"
            exit $status
        fi
        awk '
            NR == FNR { if (FNR > 2) { name = named(); for (i = 2; i <= 6; i++) accepted[$1, name, i] = $i; known[$1, name] }; next }
            {
                name = named(); seen++
                if (!(($1, name) in known)) { print "cuda_report: not in the table: " $1 " " name; bad++; next }
                met[$1, name]; built[$1]
                for (i = 2; i <= 6; i++)
                    if ($i > accepted[$1, name, i]) { printf "cuda_report: %s of %s on %s rose from %d to %d\n", title[i], name, $1, accepted[$1, name, i], $i; bad++ }
                    else if ($i < accepted[$1, name, i]) fell++
            }
            function named(  text) { text = $0; sub(/^[^ ]+ +[0-9]+ +[0-9]+ +[0-9]+ +[0-9]+ +[0-9]+ +/, "", text); return text }
            BEGIN { title[2] = "registers"; title[3] = "shared memory"; title[4] = "stack"; title[5] = "spill stores"; title[6] = "spill loads" }
            END {
                for (key in known) { split(key, part, SUBSEP); if (part[1] in built && !(key in met)) gone++ }
                if (fell || gone) printf "cuda_report: %d figures fell, %d kernels are gone: --update keeps that\n", fell, gone
                printf "cuda_report: %d kernels, %d complaints\n", seen, bad
                exit bad > 0
            }' "$table" "$work/rows" >&2 || status=1 ;;
esac
exit $status
