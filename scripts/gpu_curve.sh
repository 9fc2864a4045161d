#!/bin/sh
# Does a GPU in bf16 learn what PyTorch learns? GPT-2 124M trains for 200 steps of 131,072 tokens of real text, here and in PyTorch, from the
# same weights and on the same batches; the running means of the two losses must stay within 0.01 of each other.
set -eu
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: sh scripts/gpu_curve.sh --prepare     with network: text from the distribution's packages, a vocabulary of its own, shards in .deps/curve
       sh scripts/gpu_curve.sh [options]     on the GPU

  --out DIR        where gpu_curve.csv and gpu_curve.json go [$OUT, or runs/gpu_curve]
  --steps N        optimizer steps [200]
  --within X       what is allowed [0.01]
  --python PYTHON  an interpreter with PyTorch [python3]
Ends with 5 where the curves part. TRAINCU_ROUND_REHEARSE=1: without a GPU, a tiny model in fp32 on the README files.
END
}
fail() { code=$1; shift; printf 'gpu_curve: %s\n' "$1" >&2; exit "$code"; }

prepare='' out=${OUT:-runs/gpu_curve} steps='' within=0.01 python=python3
while [ $# -gt 0 ]; do
    case $1 in
        --prepare) prepare=1 ;;
        --out|--steps|--within|--python) [ -n "${2:-}" ] || fail 2 "$1 needs a value"
            case $1 in --out) out=$2 ;; --steps) steps=$2 ;; --within) within=$2 ;; --python) python=$2 ;; esac
            shift ;;
        --help|-h) usage; exit 0 ;;
        *) fail 2 "unknown argument '$1' (see --help)" ;;
    esac
    shift
done
case $steps in *[!0-9]*|0) fail 2 "--steps: '$steps' is not a number of steps" ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
shards=.deps/curve

if [ -n "$prepare" ]; then
    [ -x ./train ] || fail 2 "./train is not built yet: run  make"
    mkdir -p "$work/debs" "$work/text"
    sh scripts/get_corpus.sh bible --out "$work/bible" > /dev/null
    mv "$work/bible.txt" "$work/text/"
    (cd "$work/debs" && apt-get download -q anarchism perl-doc dict-gcide >&2) || fail 8 "a download failed"
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/tree"; done
    # an essay of a thousand pages, a manual, a dictionary
    find "$work/tree" -path '*anarchism*' -name '*.html*' -exec sh -c 'for f; do case $f in *.gz) gzip -dc "$f" ;; *) cat "$f" ;; esac; echo "<|endoftext|>"; done' sh {} + |
        sed -e 's/<|endoftext|>/\n&\n/' -e 's/<[^|>]*>//g' -e 's/&nbsp;/ /g; s/&quot;/"/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g' > "$work/text/essay.txt"
    find "$work/tree" -name '*.pod' -exec sh -c 'for f; do cat "$f"; echo "<|endoftext|>"; done' sh {} + > "$work/text/manual.txt"
    gzip -dc < "$(find "$work/tree" -name gcide.dict.dz)" > "$work/text/dictionary.txt"
    for f in "$work"/text/*.txt; do iconv -c -f UTF-8 -t UTF-8 "$f" > "$f.clean" || true; mv "$f.clean" "$f"; done
    wc -c "$work"/text/*.txt
    mkdir -p "$shards"
    ./train tokenize "$work"/text/*.txt --train-vocab 50257 --val-fraction 0 --out "$shards/text" --force
    du -sk "$shards"
    exit 0
fi

if [ -n "${TRAINCU_ROUND_REHEARSE:-}" ]; then
    train=$PWD/train device='--device cpu' batch='--seq-len 64 --batch-size 4 --total-batch-tokens 512' steps=${steps:-40}
    shape='--preset tiny' torch='--precision fp32 --no-compile' rate='--lr 3e-3 --warmup-steps 5' mean_of=5
    cat README.md ./*/README.md src/*/README.md > "$work/text.txt"
    "$train" tokenize "$work/text.txt" --out "$work/text" --val-fraction 0 > /dev/null
    data="$work/text_train_*.bin"
else
    train=$PWD/train device='--device cuda --precision bf16' batch='--seq-len 1024 --batch-size 64 --total-batch-tokens 131072' steps=${steps:-200}
    shape='--preset gpt2-124m --vocab-size 0' torch='--precision bf16' rate='--lr 6e-4 --warmup-steps 20' mean_of=20
    if [ -x .deps/round/train ]; then  # carried; its libraries too
        train=$PWD/.deps/round/train LD_LIBRARY_PATH=$(printf '%s:' "$PWD"/.deps/usr/lib/*/)${LD_LIBRARY_PATH:-}
        export LD_LIBRARY_PATH
    fi
    data="$shards/text_train_*.bin"
    ls "$shards"/text_train_*.bin > /dev/null 2>&1 || fail 2 "no shards in $shards: run  sh scripts/gpu_curve.sh --prepare  where there is network"
fi
[ -x "$train" ] || fail 2 "./train is not built yet: run  make"
"$python" -c 'import torch' 2> /dev/null || fail 2 "$python has no PyTorch: name an interpreter that has it with --python"
[ "$steps" -gt "$mean_of" ] || fail 2 "--steps: more than $mean_of are needed"
mkdir -p "$out"
common="$batch $rate --lr-schedule cosine --min-lr-fraction 0.1"

# shellcheck disable=SC2086  # lists of options
ours() { name=$1; shift; "$train" --data "$data" --shuffle false --skip-zscore 0 $device --sample-tokens 1 --out "$work/$name" "$@" > "$work/$name.log" 2>&1 || { cat "$work/$name.log" >&2; fail 1 "./train failed"; }; }
# shellcheck disable=SC2086
{
    ours begin $shape $batch --max-steps 1 --lr 0  # a step of length 0: the weights that both begin with
    begin=$(echo "$work"/begin/step_*)
    ours run --model "$begin" $common --max-steps "$steps"
    "$python" tests/bench/pytorch_baseline.py --model "$begin" --data "$data" $common $torch --steps "$steps" --warmup 2 --losses "$work/torch.csv" > "$work/torch.json"
}

awk '
    function value(key) { return match($0, "\"" key "\":[-+.0-9e]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) : "nan" }
    /"loss":/ { print value("step") "," value("loss") }' "$work/run/log.jsonl" > "$work/ours.csv"
speed=$(sed -n 's/.*"best": {.*"tok_per_s": *\([0-9.]*\).*/\1/p' "$work/torch.json")
awk -F, -v n="$mean_of" -v within="$within" -v csv="$out/gpu_curve.csv" -v json="$out/gpu_curve.json" -v wanted="$steps" -v torch_speed="${speed:-0}" '
    FNR == NR { a[$1] = $2; next }
    FNR > 1 { b[$1] = $2 }
    END {
        print "step,train_cu,pytorch,train_cu_mean,pytorch_mean" > csv
        worst = 0; bad = 0
        for (i = 1; i <= wanted; i++) {
            if (!(i in a) || !(i in b) || a[i] + 0 != a[i] || b[i] + 0 != b[i]) { bad = 1; print "gpu_curve: step " i " is missing, or no number"; break }
            sa += a[i]; sb += b[i]
            if (i > n) { sa -= a[i - n]; sb -= b[i - n] }
            if (i < n) { printf "%d,%s,%s,,\n", i, a[i], b[i] > csv; continue }
            difference = (sa - sb) / n; if (difference < 0) difference = -difference
            if (difference > worst) { worst = difference; at = i }
            printf "%d,%s,%s,%.6f,%.6f\n", i, a[i], b[i], sa / n, sb / n > csv
        }
        verdict = bad || worst > within ? "OUTSIDE" : "WITHIN"
        printf "{\"steps\":%d,\"mean_of\":%d,\"largest_difference\":%.6f,\"at_step\":%d,\"within\":%s,\"verdict\":\"%s\",\"last_loss\":%.6f,\"pytorch_last_loss\":%.6f,\"pytorch_tok_per_s\":%s}\n", wanted, n, worst, at, within, verdict, a[wanted], b[wanted], torch_speed > json
        printf "%s: means of %d losses differ by at most %.6f (at step %d); %s allowed; last losses %.4f and %.4f\n", verdict, n, worst, at, within, a[wanted], b[wanted]
        exit verdict == "WITHIN" ? 0 : 5
    }' "$work/ours.csv" "$work/torch.csv"
