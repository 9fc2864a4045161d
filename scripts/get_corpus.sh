#!/bin/sh
# Gets a text or a set of token shards to train on, whole or not at all, and prints the command that comes next.
set -eu

usage() {
    cat <<'END'
usage: sh scripts/get_corpus.sh NAME [--out PATH] [--shards N]

NAME is one of
  bible            the King James Version, from the program `bible` (package bible-kjv; no network): 4.3 MB, 1,189 chapters
  tinyshakespeare  1.1 MB of plays, one text
  tinystories      2.2 GB of short stories (TinyStoriesV2-GPT4), training and validation text
  fineweb10B       web text as GPT-2 tokens: 103 shards of 100 million tokens, 200 MB each, and one for validation
  fineweb100B      the same, 1,030 shards
  hellaswag        10,042 questions with four endings each, 12 MB, to score models with
or a file or folder of your own text, which needs no getting.

  --out PATH   where to (default corpora/NAME): PATH.txt, for tinystories PATH_train.txt and PATH_valid.txt, for
               hellaswag PATH_val.jsonl, for fineweb the folder PATH
  --shards N   training shards of fineweb to get (default 1)
  --help       this text

Downloads need curl. They go to FILE.part, go on where they were interrupted, and become FILE when the length is the server's
and, for shards, the one their header tells. CORPUS_MIRROR=URL takes every file from URL/NAME/FILE instead of its public address.
Exit codes: 0 done; 2 usage, or a program is missing; 3 what came is not what it should be; 8 a download failed.
END
}

say()  { printf '%s\n' "$@" >&2; }
fail() { code=$1; shift; say "get_corpus: $*"; exit "$code"; }

name='' out='' shards=1
while [ $# -gt 0 ]; do
    case $1 in
        --help|-h) usage; exit 0 ;;
        --out|--shards) [ -n "${2:-}" ] || fail 2 "$1 needs a value (see --help)"
            if [ "$1" = --out ]; then out=$2; else shards=$2; fi
            shift ;;
        -*) fail 2 "unknown option '$1' (see --help)" ;;
        *) [ -z "$name" ] || fail 2 "one NAME at a time, not '$name' and '$1'"
           name=$1 ;;
    esac
    shift
done
[ -n "$name" ] || { usage >&2; exit 2; }
out=${out:-corpora/$name}
case $shards in ''|*[!0-9]*|0*) fail 2 "--shards must be a number from 1, not '$shards'" ;; esac

make_parent() { mkdir -p "$(dirname "$1")" || fail 8 "the folder of $1 cannot be made"; }
size_of() { if [ -e "$1" ]; then wc -c < "$1" | tr -d ' '; else echo 0; fi; }

# ---- the bible: one call of the program prints it all; headings stand at the left margin, verses are indented
get_bible() {
    text=$out.txt
    if [ -s "$text" ]; then say "$text is there already"; return; fi
    deps=${DEPS:-$(dirname "$0")/../.deps}
    if command -v bible >/dev/null && [ -e /usr/lib/bible.data ]; then
        program=bible data=/usr/lib
    elif [ -x "$deps/usr/bin/bible" ]; then
        deps=$(cd "$deps" && pwd)
        program=$deps/usr/bin/bible data=$deps/usr/lib
        LD_LIBRARY_PATH=$(printf '%s:' "$deps"/usr/lib/*/ "$deps"/lib/*/)${LD_LIBRARY_PATH:-}
        export LD_LIBRARY_PATH
    else
        fail 2 "the program 'bible' is not installed: run  sh scripts/setup.sh  (package bible-kjv)"
    fi
    make_parent "$text"
    (cd "$data" && "$program" -p . -l9999 Gen1:1-Rev22:21 < /dev/null) | LC_ALL=C awk '
        /^[^ ]/ { if (chapters++) print "<|endoftext|>"; print }
        /^ /    { sub(/^ +/, ""); print }' > "$text.part"
    chapters=$(grep -c '^[1-3A-Z][A-Za-z ]* [0-9]*$' "$text.part" || true)
    verses=$(grep -c '^[0-9][0-9]* [^0-9]*$' "$text.part" || true)
    [ "$chapters $verses" = "1189 31102" ] ||
        fail 3 "the program 'bible' printed $chapters chapters and $verses verses, not 1189 and 31102; see $text.part"
    mv "$text.part" "$text"
    say "$text: $chapters chapters, $verses verses, $(size_of "$text") bytes"
}

# ---- downloads
# Prints the length of the file at an address. Hugging Face tells it before its redirection, others at the end of it.
server_length() {
    headers=$(curl -sSIL --connect-timeout 20 --max-time 120 -w 'last-code: %{http_code}\n' "$1") || return 1
    printf '%s\n' "$headers" | tr -d '\r' | awk -v url="$1" '
        { key = tolower($1) }
        key == "content-length:" { length_ = $2 }
        key == "x-linked-size:"  { linked = $2 }
        key == "last-code:"      { code = $2 }
        END {
            if (linked != "") { print linked; exit }
            if (code == 200 && length_ != "") { print length_; exit }
            if (code == 200) code = "200 and no length"
            print "get_corpus: " url ": the server answers " code > "/dev/stderr"
            exit (code >= 500 || code == 429) ? 1 : 9  # 1: another try may help
        }'
}

# fetch URL FILE [CHECK]: CHECK FILE.part must succeed before the file gets its name
fetch() {
    url=$1 file=$2 part=$2.part
    if [ -e "$file" ]; then say "$file is there already"; return; fi
    command -v curl >/dev/null || fail 2 "curl is needed for downloads: install the packages curl and ca-certificates"
    make_parent "$file"
    say "$url"
    progress=-sS
    [ ! -t 2 ] || progress=--progress-bar
    failures=0 restarts=0
    while :; do
        before=$(size_of "$part") status=0
        length=$(server_length "$url") || status=$?
        [ "$status" != 9 ] || fail 8 "$url cannot be had"
        if [ "$status" = 0 ]; then
            [ "$before" -le "$length" ] || { rm -f "$part"; before=0; }  # the rest of some other file
            [ "$before" = "$length" ] || curl -fL $progress --connect-timeout 20 --speed-limit 1000 --speed-time 60 \
                -C - -o "$part" "$url" || status=$?
            [ "$(size_of "$part")" != "$length" ] || break
            [ "$status" != 0 ] || fail 8 "$url ended after $(size_of "$part") of $length bytes; $part is kept"
            [ "$status" != 23 ] || fail 8 "$part cannot be written: is the disk full?"
            if [ "$status" = 33 ]; then
                restarts=$((restarts + 1))
                [ "$restarts" -lt 5 ] || fail 8 "$url breaks off again and again, and its server cannot resume"
                say "this server cannot resume: beginning anew"
                rm -f "$part"
                continue
            fi
        fi
        # A try that brought something does not count.
        if [ "$(size_of "$part")" -gt "$before" ]; then failures=1; else failures=$((failures + 1)); fi
        [ "$failures" -lt 5 ] || fail 8 "$url: gave up after 5 tries without progress; run this again to go on from $(size_of "$part") bytes"
        say "interrupted at $(size_of "$part") bytes: trying again"
        sleep "$failures"
    done
    ${3:-true} "$part"
    mv "$part" "$file"
}

# A shard is 256 int32 (magic number, version, count of tokens) and then its tokens, two bytes each.
check_shard() {
    # shellcheck disable=SC2046  # three numbers
    set -- "$1" $(od -An -t u4 -N 12 "$1")
    [ "${2:-} ${3:-}" = "20240520 1" ] && [ "$(size_of "$1")" = $((1024 + 2 * $4)) ] && return
    mv "$1" "${1%.part}.refused"
    fail 3 "${1%.part} is not a whole token shard: header '${2:-} ${3:-} ${4:-}', $(size_of "${1%.part}.refused") bytes; kept as ${1%.part}.refused"
}

# A question a line, all of them labelled.
check_hellaswag() {
    lines=$(grep -c '' "$1" || true) labelled=$(grep -c '"label": *[0-3]' "$1" || true)
    [ "$lines" -gt 0 ] && [ "$lines" = "$labelled" ] && return
    mv "$1" "${1%.part}.refused"
    fail 3 "${1%.part} is not the labelled set: $labelled of $lines lines have a label; kept as ${1%.part}.refused"
}

get_fineweb() {  # get_fineweb SHARDS_THERE_ARE
    [ "$shards" -le "$1" ] || fail 2 "$name has $1 training shards, not $shards"
    base=${CORPUS_MIRROR:+$CORPUS_MIRROR/$name}
    base=${base:-https://huggingface.co/datasets/kjj0/$name-gpt2/resolve/main}
    fetch "$base/fineweb_val_000000.bin" "$out/fineweb_val_000000.bin" check_shard
    i=1
    while [ "$i" -le "$shards" ]; do
        file=$(printf 'fineweb_train_%06d.bin' "$i")
        fetch "$base/$file" "$out/$file" check_shard
        i=$((i + 1))
    done
}

next() { printf '%s\n' '' next: "$@"; }

# ---- what to do
case $name in
    bible)
        get_bible
        next "./train tokenize $out.txt --out $out" ;;
    tinyshakespeare)
        fetch "${CORPUS_MIRROR:-https://raw.githubusercontent.com/karpathy/char-rnn/master/data}/tinyshakespeare/input.txt" "$out.txt"
        next "./train tokenize $out.txt --out $out" ;;
    tinystories)
        base=${CORPUS_MIRROR:+$CORPUS_MIRROR/$name}
        base=${base:-https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main}
        fetch "$base/TinyStoriesV2-GPT4-valid.txt" "${out}_valid.txt"
        fetch "$base/TinyStoriesV2-GPT4-train.txt" "${out}_train.txt"
        next "./train tokenize ${out}_train.txt --out $out --val-fraction 0" \
            "./train tokenize ${out}_valid.txt --out ${out}_valid --val-fraction 0" \
            "./train --data '${out}_train_*.bin' --val-data '${out}_valid_train_*.bin'" ;;
    hellaswag)
        fetch "${CORPUS_MIRROR:-https://raw.githubusercontent.com/rowanz/hellaswag/master/data}${CORPUS_MIRROR:+/$name}/hellaswag_val.jsonl" \
            "${out}_val.jsonl" check_hellaswag
        next "./train tokenize --multiple-choice ${out}_val.jsonl --tokenizer TOKENIZER --out ${out}_val.bin" \
            "./train eval --model RUN --hellaswag ${out}_val.bin" ;;
    fineweb10B|fineweb100B)
        if [ "$name" = fineweb10B ]; then get_fineweb 103; else get_fineweb 1030; fi
        next "./train --preset gpt2-124m --data '$out/fineweb_train_*.bin' --val-data $out/fineweb_val_000000.bin" ;;
    *)
        [ -e "$name" ] || fail 2 "'$name' is no corpus known here and no file or folder (see --help)"
        [ -r "$name" ] || fail 2 "'$name' cannot be read"
        say "$name needs no getting: it can be tokenized as it is"
        next "./train tokenize $name --out corpora/$(basename "$name" .txt)" ;;
esac
