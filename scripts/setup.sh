#!/bin/sh
# Installs what building, testing and demonstrating ./train needs, from the distribution's own packages
# (Debian 12 and later, Ubuntu 22.04 and later). Does nothing, quickly, where everything is there already.
set -eu

usage() {
    cat <<'END'
usage: sh scripts/setup.sh [--prefix DIR [--lean]]

Looks for make, a C++20 compiler and the libraries of ./train, and installs what is missing:
  as root                  with apt-get install
  as an ordinary user      prints the one line to run, and ends with 2
  --prefix DIR             needs no root: downloads the libraries' packages and unpacks them into DIR. The Makefile
                           looks into .deps, so: --prefix .deps (another folder: make DEPS=DIR). All of them are
                           unpacked, also those that this system has: the folder can travel to a machine without network.
                           MPI is not among them: it does not run from another folder than its own.
  --lean                   with --prefix: without oneDNN, documentation and static libraries, an eighth of the size
  --help                   this text

CXX names the compiler (default g++).
Exit codes: 0 everything required is there; 2 usage, or root or another system is needed; 8 a download failed.
END
}

say()  { printf '%s\n' "$@" >&2; }
fail() { code=$1; shift; say "setup: $*"; exit "$code"; }

prefix='' lean=''
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:-}
                  [ -n "$prefix" ] || fail 2 "--prefix needs a folder, for example --prefix .deps"
                  shift ;;
        --prefix=?*) prefix=${1#*=} ;;
        --lean) lean=1 ;;
        --help|-h) usage; exit 0 ;;
        *) fail 2 "unknown argument '$1' (see --help)" ;;
    esac
    shift
done
[ -z "$lean" ] || [ -n "$prefix" ] || fail 2 "--lean goes with --prefix"
cxx=${CXX:-g++}
deps=${prefix:-$(dirname "$0")/../.deps}

# ---- what there is to look for: name, package, required or optional, what its absence means
items() {
    cat <<'END'
make     make               required nothing can be built
compiler g++                required nothing can be built
cli11    libcli11-dev       required ./train cannot be built
json     nlohmann-json3-dev required ./train cannot be built
xxhash   libxxhash-dev      required ./train cannot be built
doctest  doctest-dev        optional make test cannot be built
onednn   libdnnl-dev        optional matrix products are slower: our own are used instead of oneDNN's
pcre2    libpcre2-dev       optional vocabularies of GPT-2, Llama 3, Qwen (tokenizer.json) cannot be read
utf8proc libutf8proc-dev    optional vocabularies that normalize text (Qwen) cannot be read
openmpi  libopenmpi-dev     optional ./train runs as one rank only
mpirun   openmpi-bin        optional nothing starts several ranks
bible    bible-kjv          optional make demo has no text to train on
bzip2    bzip2              optional the demo's report lacks the line of bzip2
END
}

# Prints the names that are found. The headers are asked of the compiler, in the way the Makefile does it.
look() {
    ! command -v make >/dev/null || echo make
    for pair in cli11=CLI/CLI.hpp json=nlohmann/json.hpp xxhash=xxhash.h doctest=doctest/doctest.h onednn=oneapi/dnnl/dnnl.hpp \
        pcre2=pcre2.h utf8proc=utf8proc.h; do
        name=${pair%=*} header=${pair#*=}
        if command -v "${cxx%% *}" >/dev/null; then
            printf '#if __has_include(<%s>)\n%s\n#endif\n' "$header" "$name"
        elif [ -e "$deps/usr/include/$header" ] || [ -e "/usr/include/$header" ]; then
            echo "$name"
        fi
    done | preprocess
    ! command -v mpicc >/dev/null || echo openmpi
    ! command -v mpirun >/dev/null || echo mpirun
    ! { command -v bible || [ -x "$deps/usr/bin/bible" ]; } >/dev/null || echo bible
    ! command -v bzip2 >/dev/null || echo bzip2
}
# shellcheck disable=SC2086  # CXX may hold flags, or a wrapper before the compiler
preprocess() {
    command -v "${cxx%% *}" >/dev/null || { cat; return; }
    { echo compiler; cat; } | $cxx -std=c++20 -isystem "$deps/usr/include" -E -P -x c++ - 2>/dev/null || true
}
is_in() { case " $2 " in *" $1 "*) ;; *) return 1 ;; esac; }  # is_in WORD "LIST": so lists are words with blanks between

# missing required|optional: the packages of that kind whose item is not in $now
missing() {
    items | while read -r name package kind _; do
        [ "$kind" != "$1" ] || is_in "$name" "$now" || printf '%s ' "$package"
    done
}

report() {
    say ""
    items | while read -r name package kind effect; do
        if is_in "$name" "$before"; then state=found; effect=
        elif is_in "$name" "$now"; then state=installed; effect=
        else state=missing; effect="$kind: $effect"; fi
        printf '%-9s %-19s %-10s %s\n' "$name" "$package" "$state" "$effect" | sed 's/ *$//' >&2
    done
}

# ---- apt
has_apt() { command -v apt-get >/dev/null && command -v apt-cache >/dev/null && command -v dpkg-deb >/dev/null; }
have_package_lists() { ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1; }
available() { apt-cache policy "$1" 2>/dev/null | grep -q '^ *Candidate: *[^ (]'; }

# Splits the packages given into $offered and $lacking, what the release has and has not.
split_offered() {
    offered='' lacking=''
    for package in "$@"; do
        if available "$package"; then offered="$offered $package"; else lacking="$lacking $package"; fi
    done
}

# split_offered, after refreshing the package lists if something seems to be lacking.
choose() {
    split_offered "$@"
    [ -z "$lacking" ] || { apt-get update -q >&2 || true; split_offered "$@"; }
    for package in $lacking; do say "setup: this release has no package $package"; done
}

apt_install() { apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >&2; }

# shellcheck disable=SC2046,SC2086  # lists of package names
install_as_root() {
    export DEBIAN_FRONTEND=noninteractive
    choose $(missing required) $(missing optional)
    [ -n "$offered" ] || return 0
    apt_install $offered && return
    say "setup: refreshing the package lists and trying again"
    apt-get update -q >&2 || true
    apt_install $offered && return
    split_offered $(missing required)  # an optional package must not stand in the way
    [ -z "$offered" ] || apt_install $offered || fail 8 "apt-get could not install:$offered"
}

# ---- without root: packages unpacked into a folder
# What is unpacked: headers, and what they and bible-kjv load at run time. The C library comes with the compiler.
# shellcheck disable=SC2086
with_run_time_libraries() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
        while read -r name; do
            case " $* " in *" $name "*) echo "$name"; continue ;; esac
            case $name in
                *:*|*\ *) ;;  # another architecture; a "Depends:" line
                libdnnl[0-9]*|ocl-icd-libopencl1|libgomp1|libxxhash[0-9]*|bible-kjv-text|libreadline[0-9]*|libtinfo[0-9]*|\
                libpcre2-8-[0-9]*|libutf8proc[0-9]*) echo "$name" ;;
            esac
        done | sort -u
}

# Lists of our own, which need no root: for a machine whose lists are empty or out of date.
refresh_private_lists() {
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    printf 'Dir::State "%s/state";\nDir::Cache "%s/cache";\n' "$work" "$work" > "$work/apt.conf"
    export APT_CONFIG="$work/apt.conf"
    say "setup: reading the package lists"
    apt-get update -q >&2 || true
}

# shellcheck disable=SC2046,SC2086
unpack_into_prefix() {
    seeds="libcli11-dev nlohmann-json3-dev libxxhash-dev doctest-dev libdnnl-dev libpcre2-dev libutf8proc-dev bible-kjv"
    [ -z "$lean" ] || seeds=$(echo "$seeds" | sed 's/libdnnl-dev //')
    mkdir -p "$prefix" || fail 2 "the folder $prefix cannot be made"
    deps=$(cd "$prefix" && pwd)
    unpacked=$(cat "$deps/packages.txt" 2>/dev/null || true)
    wanted=
    for package in $seeds; do
        printf '%s\n' "$unpacked" | grep -q "^${package}_" || wanted="$wanted $package"
    done
    [ -n "$wanted" ] || return 0

    work=$deps/.download
    rm -rf "$work"
    mkdir -p "$work/debs"
    split_offered $wanted
    [ -z "$lacking" ] || { refresh_private_lists; split_offered $wanted; }
    for package in $lacking; do say "setup: this release has no package $package"; done
    [ -n "$offered" ] || fail 8 "none of the packages is offered by the sources of this system"
    (cd "$work/debs" && apt-get download -q $(with_run_time_libraries $offered) >&2) || {
        refresh_private_lists
        rm -f "$work"/debs/*
        (cd "$work/debs" && apt-get download -q $(with_run_time_libraries $offered) >&2) || fail 8 "a download failed; what it said stands above"
    }
    for deb in "$work"/debs/*.deb; do
        dpkg-deb -x "$deb" "$deps" || fail 8 "$deb cannot be unpacked"
    done
    [ -z "$lean" ] || rm -rf "$deps/usr/share/doc" "$deps/usr/share/man" "$deps"/usr/lib/*/*.a
    # Written last: what an interrupted run left behind is unpacked again.
    for deb in "$work"/debs/*.deb; do basename "$deb" .deb; done >> "$deps/packages.txt"
    rm -rf "$work"

    libraries=$(printf '%s:' "$deps"/usr/lib/*/ "$deps"/lib/*/)
    for file in "$deps"/usr/lib/*/libdnnl.so "$deps/usr/bin/bible"; do
        [ ! -e "$file" ] || ! LD_LIBRARY_PATH=$libraries ldd "$file" 2>/dev/null | grep 'not found' >&2 ||
            say "setup: $file lacks the library above: it works only where that is installed"
    done
}

# ---- what to do
before=$(look | tr '\n' ' ')
now=$before
required=$(missing required) optional=$(missing optional)

if [ -n "$prefix" ]; then
    has_apt || fail 2 "--prefix unpacks Debian packages and needs apt-get and dpkg-deb; this system lacks them"
    unpack_into_prefix
elif [ -n "$required$optional" ] && has_apt && [ "$(id -u)" = 0 ]; then
    install_as_root
fi

now=$(look | tr '\n' ' ')
required=$(missing required) optional=$(missing optional)
report
[ -n "$required$optional" ] || exit 0

status=2
if ! has_apt; then
    say "" "This system has no apt-get. Install with its own package manager: make, a C++20 compiler (GCC 11 or Clang 14 or later)," \
        "CLI11, nlohmann/json and xxHash; optional are doctest, oneDNN, PCRE2, utf8proc, Open MPI and bible-kjv (the text of make demo)."
elif [ -z "$prefix" ] && [ "$(id -u)" = 0 ]; then
    status=8
    [ -z "$required" ] ||
        say "setup: still missing: $required(Ubuntu has some of these in its component \"universe\"; g++ must know -std=c++20)"
else
    # shellcheck disable=SC2086  # a list of package names
    set -- $required
    for package in $optional; do
        if available "$package" || ! have_package_lists; then set -- "$@" "$package"; fi
    done
    if [ $# -gt 0 ]; then
        say "" "To install what is missing, run:"
        printf 'sudo apt-get update && sudo apt-get install -y --no-install-recommends %s\n' "$*"
        [ -n "$prefix" ] || say "or, without root and for all but make, the compiler and MPI:  sh scripts/setup.sh --prefix .deps"
    fi
fi
[ -z "$required" ] || exit "$status"
