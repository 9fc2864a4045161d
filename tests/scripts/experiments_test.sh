#!/bin/sh
# scripts/experiments at a size of seconds, with the real ./train: do they run, are their tables of the runs they made, are failed runs said to be so?
# shellcheck disable=SC2016  # awk's fields
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
command -v python3 > /dev/null || { skip "experiments" "python3 is not installed"; finish; }
mkdir "$tmp/tree"
cp -R "$repo/scripts" "$tmp/tree/scripts"
cd "$tmp/tree" || exit 1
for name in gated_attention flashbias layercast sdp4bit; do
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
# ---- ranks that send in few bits
command -v mpirun > /dev/null || { skip "experiments: sdp4bit" "mpirun is not installed"; finish; }
ldd ./train | grep -q libmpi || { skip "experiments: sdp4bit" "./train is built without MPI"; finish; }
: > calls.txt
run env TEXT=text.txt sh scripts/experiments/sdp4bit.sh test
out=runs/experiments/sdp4bit_test
expect "experiments: sdp4bit runs" 0 "^| none | none | none | [0-9.]* ([0-9.]*) | - | - |" "^| int4 | int4 | none | .* | +[0-9.]* (+" "^| int4 is at least 3 % worse | " \
    "^| sdp4bit | diff4 | two-level-hadamard | " "^| zeropp | int8 | int4 | " "^| two-level | none | two-level | " "^| diff4 | diff4 | none | "
holds "experiments: each arm is four ranks" [ "$(grep -c -e '--ranks-per-node 2 --zero 1' calls.txt)" -eq 28 ]
holds "experiments: the change is that of the two losses" python3 - $out <<'END'
import json, sys
out = sys.argv[1]
end = lambda arm: [r["val_loss"] for r in map(json.loads, open(f"{out}/{arm}-seed1/log.jsonl")) if "val_loss" in r][-1]
rows = [line.split("|") for line in open(f"{out}/table.md") if line.startswith("| ")]
for arm in ("diff4", "two-level", "two-level-hadamard", "sdp4bit", "zeropp", "int4"):
    change = 100 * (end(arm) - end("none")) / end("none")
    assert any(r[1].strip() == arm and r[5].split()[0] == f"{change:+.2f}" for r in rows if len(r) == 8), (arm, change)
for claim in (r for r in rows if len(r) == 5 and "full precision" in r[1]):
    assert claim[3].strip() == ("yes" if abs(float(claim[2])) <= 1 else "no"), claim
END
# Counted by hand: a vocabulary of 257 is stored as 320 rows of 32, a block has 12 x 32 x 32 + 2 x 32 numbers, the head 32; four ranks.
holds "experiments: the bytes are those of the parts, cut to whole groups for each rank" python3 - $out <<'END'
import json, sys
parts = (320 * 32, 12 * 32 * 32 + 2 * 32, 32)
def sent(arm):
    return [r["sent"] for r in map(json.loads, open(f"{sys.argv[1]}/{arm}-seed1/log.jsonl")) if "sent" in r][-1]
def shares(group):  # of a rank, in groups
    return [-(-n // (4 * group)) for n in parts]
up = lambda n: -(-n // 16) * 16
codes8, codes4 = 128 + 4, 64 + 4  # bytes of a group of 128
inside, between = "_inside", "_between"
def check(arm, weights, first, second):
    s = sent(arm)
    assert (s["weights" + inside], s["weights" + between]) == (weights, 2 * weights), (arm, s, weights)
    assert (s["gradients" + inside], s["gradients" + between]) == (first, second), (arm, s, first, second)
whole = 16 * sum(shares(16))
check("none", 2 * whole, 4 * whole, 2 * 4 * whole)
diff4 = sum(up(n * (1024 + 4)) for n in shares(2048))
check("diff4", diff4, 4 * 2048 * sum(shares(2048)), 2 * 4 * 2048 * sum(shares(2048)))
check("two-level", 2 * 128 * sum(shares(128)), 2 * sum(up(n * codes8) for n in shares(128)), sum(up(n * codes4) for n in shares(128)))
wide = [n * 16 for n in shares(2048)]
check("sdp4bit", diff4, 2 * sum(up(n * codes8) for n in wide), sum(up(n * codes4) for n in wide))
check("zeropp", sum(up(n * (2048 + 4)) for n in shares(2048)), 2 * sum(up(n * codes4) for n in wide), sum(up(n * codes4) for n in wide))
END
python3 scripts/experiments/tables.py sdp4bit $out --arms 'none diff4 two-level two-level-hadamard sdp4bit zeropp int4' --seeds '1 2' > stopped.md
holds "experiments: of a study that was stopped, the table is that of the runs that ended" cmp stopped.md $out/table.md
holds "experiments: the page has all arms" [ "$(tr '>' '\n' < $out/report.html | grep -c 'two-level-hadamard-seed1')" -gt 0 ]
holds "experiments: the formula is the paper's: bytes of 393,216 numbers on 2 x 2 ranks, of 10,485,760 on 2 x 4" python3 - <<'END'
import sys
sys.path.insert(0, "scripts/experiments")
from tables import sent_by_formula
options = {"precision": "bf16", "quant-weights-group": 2048, "quant-grads-group": 128}
def check(n, ranks, weights, grads, *wanted):
    s = sent_by_formula(options | {"quant-weights": weights, "quant-grads": grads}, ranks, 2)
    found = tuple(n * s[key] for key in ("weights_inside", "weights_between", "gradients_inside", "gradients_between"))
    assert found == wanted, (ranks, weights, grads, found)
check(393216, 4, "diff4", "two-level-hadamard", 148032 / 3, 148032 * 2 / 3, 202752, 52224)
check(393216, 4, "none", "none", 589824 / 3, 589824 * 2 / 3, 1179648 / 3, 1179648 * 2 / 3)
check(10485760, 8, "diff4", "two-level", 4605440 * 3 / 7, 4605440 * 4 / 7, 8110080, 696320)
check(10485760, 8, "none", "none", 18350080 * 3 / 7, 18350080 * 4 / 7, 36700160 * 3 / 7, 36700160 * 4 / 7)
check(10485760, 8, "int8", "int4", 10485760 * (1 + 4 / 2048) * 3 / 8, 10485760 * (1 + 4 / 2048) / 2, 0.53125 * 10485760 * 3 / 4, 696320)
END
: > calls.txt
run env TEXT=text.txt sh scripts/experiments/sdp4bit.sh test
expect "experiments: sdp4bit again, from the runs that are there" 0 "^| int4 | int4 |"
holds "experiments: nothing of sdp4bit is trained twice" [ "$(grep -vc '^report' calls.txt)" -eq 0 ]
finish
