#!/bin/sh
# scripts/experiments at a size of seconds, with the real ./train: do they run, are their tables of the runs they made, are failed runs said to be so?
# shellcheck disable=SC2016  # awk's fields
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
command -v python3 > /dev/null || { skip "experiments" "python3 is not installed"; finish; }
mkdir "$tmp/tree"
cp -R "$repo/scripts" "$tmp/tree/scripts"
cd "$tmp/tree" || exit 1
for name in gated_attention flashbias layercast; do
    run sh scripts/experiments/$name.sh;       expect "experiments: $name says so when ./train is not built" 2 "not built yet"
done

# ---- the task
generate() { python3 scripts/experiments/bigram_backcopy.py --out "$1" --train-documents 200 --val-documents 60 --seed "$2" > "$1.least"; }
generate a 1; generate b 1; generate c 2
holds "experiments: the same seed makes the same shards" cmp a/train_000000.bin b/train_000000.bin
holds "experiments: another seed makes others" sh -c '! cmp -s a/train_000000.bin c/train_000000.bin'
holds "experiments: after a trigger comes what stood before it, except after BOS" python3 - <<'END'
import array
ids = array.array("H", open("a/train_000000.bin", "rb").read()[1024:])
starts = [i for i, id in enumerate(ids) if id == 32] + [len(ids)]
assert len(starts) == 201 and starts[0] == 0 and max(ids) == 32
copies = others = 0
for begin, end in zip(starts, starts[1:]):
    document = ids[begin:end]
    assert 2 <= len(document) <= 256 and document[1] >= 3
    for t in range(2, len(document) - 1):
        copied = document[t + 1] == document[t - 1]
        assert copied or document[t] >= 3
        copies, others = copies + (document[t] < 3), others + (copied and document[t] >= 3)
assert copies > 100 and others < len(ids) / 2, (copies, others)
assert 48 < len(ids) / 200 < 80, len(ids)
END
holds "experiments: the least loss is below that of guessing" awk '{ exit !($1 > 0.5 && $1 < 3.4965) }' a.least

[ -x "$repo/train" ] || { skip "experiments: the runs" "./train is not built"; finish; }
ln -s "$repo/train" train
run ./train inspect a/val_000000.bin
expect "experiments: the shards are what ./train reads" 0 "vocabulary *33, end-of-text 32" "documents *60, [0-9.]* tokens each"

# ---- a ./train that notes its calls, and whose runs with a learning rate of 1e-2 fail
cat > noting <<'END'
#!/bin/sh
echo "$*" >> calls.txt
case " $* " in *" headwise "*" --lr 1e-2 "*" --max-steps 4 "*) exit 4 ;; esac
exec ./train "$@"
END
chmod +x noting
export THREADS=1 TRAIN=./noting
run sh scripts/experiments/gated_attention.sh huge;   expect "experiments: an unknown size is refused" 2 "no size 'huge'"
run sh scripts/experiments/gated_attention.sh gpu;    expect "experiments: the large size wants shards" 2 "name the shards"
run sh scripts/experiments/gated_attention.sh test
out=runs/experiments/gated_attention_test
expect "experiments: gated_attention runs" 0 "^| elementwise | 0[.][0-9]* (0[.][0-9]*, 0[.][0-9]*) | 0[.]0[0-9]* | .* | 0[.][0-9]* (0[.]" "headwise-lr1e-2: ended with 4"
holds "experiments: its table is what it printed" grep -q "^| none | 0[.].* - | - |" $out/table.md
holds "experiments: a run that failed is called diverged, its arm's highest rate is the one below" \
    grep -q "^| headwise | [0-9.]* | diverged | 1e-3 |" $out/table.md
holds "experiments: the others are not" grep -q "^| none | [0-9.]* | [0-9.]* | 1e-2 |" $out/table.md
holds "experiments: the page has all runs of the first table" [ "$(tr '>' '\n' < $out/report.html | grep -c 'elementwise-seed2')" -gt 0 ]
loss=$(python3 -c "import json; print('%.4f' % json.load(open('$out/none-seed1/eval.json'))['data'][0]['loss'])")
holds "experiments: the loss is that of the evaluation" grep -q "^| none | .*($loss, " $out/table.md
: > calls.txt
run sh scripts/experiments/gated_attention.sh test;   expect "experiments: and again, from the runs that are there" 0 "^| elementwise"
holds "experiments: nothing is trained twice" [ "$(grep -vc '^report' calls.txt)" -eq 0 ]

# ---- biases
for i in $(seq 400); do echo "$i In the beginning was the word, and the word was $i."; done > text.txt
: > calls.txt
run env TEXT=text.txt sh scripts/experiments/flashbias.sh test
expect "experiments: flashbias runs" 0 "^| alibi | 0 | [0-9.]* ([0-9.]*) | [0-9.]* ([0-9.]*) |" "^| relative | 288 |"
for arm in learned factors8 file spatial; do
    holds "experiments: $arm refuses the longer context" grep -q "^| $arm | .* | refused |$" runs/experiments/flashbias_test/table.md
done
holds "experiments: ALiBi's matrix is two factors" grep -q "alibi.safetensors: rank 2 keeps at least 100.0000 %" runs/experiments/flashbias_test/file-seed1.txt
holds "experiments: every arm is its option" [ "$(grep -c -e '--attn-bias \(alibi\|relative\|factors:8\|file:[^ ]*\|spatial:[^ ]*\) ' calls.txt)" -eq 5 ]
# ---- precisions
: > calls.txt
run env TEXT=text.txt sh scripts/experiments/layercast.sh test
expect "experiments: layercast runs" 0 "^| layercast | [0-9.]* | [0-9.e-]* ([0-9.e-]*) |" "^| bf16-sr | [0-9.]* |"
holds "experiments: other micro-batches are other losses, in bf16 more than in fp32" python3 - runs/experiments/layercast_test/table.md <<'END'
import sys
spread = {line.split("|")[1].strip(): float(line.split("|")[3].split("(")[0]) for line in open(sys.argv[1]) if line.startswith("| ") and "(" in line.split("|")[3]}
sys.exit(not (0 < spread["fp32"] < spread["bf16"] / 10 and spread["layercast"] < spread["bf16"] / 10))
END
: > calls.txt
run env TEXT=text.txt sh scripts/experiments/layercast.sh test
holds "experiments: nothing of layercast is trained twice" [ "$(grep -vc '^report' calls.txt)" -eq 0 ]
finish
