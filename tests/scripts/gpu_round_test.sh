#!/bin/sh
# gpu_round.sh and gpu_curve.sh: what they refuse, and how a round goes whose parts succeed, fail, hang and are left out. The executables, PyTorch
# and llm.c are stand-ins here; `TRAINCU_ROUND_REHEARSE=1 sh scripts/gpu_round.sh` does it with the real ones.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
command -v python3 > /dev/null || { skip "gpu_round" "python3 is not installed"; finish; }
command -v timeout > /dev/null || { skip "gpu_round" "timeout is not installed"; finish; }
mkdir -p "$tmp/tree/scripts" "$tmp/tree/tests/bench" "$tmp/tree/build" "$tmp/bin" "$tmp/llmc"
cp "$repo/scripts/gpu_round.sh" "$repo/scripts/gpu_curve.sh" "$tmp/tree/scripts/"
cd "$tmp/tree" || exit 1
mkdir -p src/some; touch README.md tests/README.md src/some/README.md
stub() { cat > "$1"; chmod +x "$1"; }

# ---- stand-ins. What goes wrong is named in $tmp/wrong.
export WRONG="$tmp/wrong"
: > "$WRONG"
stub "$tmp/bin/nvidia-smi" < /dev/null
stub "$tmp/bin/python" <<'END'
#!/bin/sh
[ "$1" != -c ] || { ! grep -q no_torch "$WRONG"; exit; }
[ "$1" != - ] || exec python3 "$@"
! grep -q torch_fails "$WRONG" || { echo 'CUDA out of "memory"' >&2; exit 1; }
while [ $# -gt 0 ]; do [ "$1" != --losses ] || losses=$2; shift; done
[ -z "${losses:-}" ] || { echo step,loss,grad_norm; for i in 1 2 3 4 5 6 7 8; do echo "$i,$((9 - i)).0,1"; done; } > "$losses"
echo '{"torch": "2.11", "runs": [{"sdpa": "flash", "tok_per_s": 800}], "best": {"sdpa": "flash", "ms": 2, "tok_per_s": 800}}'
END
# A runner of tests, and a ./train whose weights are what its name and its faults say.
stub build/run_simt <<'END'
#!/bin/sh
case "$*" in *--list-test-suites*) printf '[doctest] listing all test suites\n====\nnorm\ndevice command\n[doctest] 2 suites\n'; exit ;; esac
case "$*" in *--count*) echo "[doctest] unskipped test cases passing the current filters: $(grep -q no_model "$WRONG" && echo 0 || echo 6)"; exit ;; esac
if [ "$*" = '--test-suite=device command' ] && grep -q test_crashes "$WRONG"; then echo 'terminate called'; exit 134; fi
if [ "$*" = '--test-suite=norm' ] && grep -q tests_fail "$WRONG"; then echo '[doctest] test cases:  6 |  4 passed | 2 failed | 0 skipped'; exit 1; fi
echo '[doctest] test cases:  6 |  6 passed | 0 failed | 0 skipped'
END
stub train <<'END'
#!/bin/sh
[ "$1" != --version ] || { echo "train.cu made-up"; exit; }
if [ "$1" = bench ]; then
    while [ $# -gt 0 ]; do [ "$1" != --json ] || echo '{"tables": [{"rows": [{"kernel": "k"}]}]}' > "$2"; shift; done; exit
fi
[ "$1" != tokenize ] || exit 0
! grep -q hangs "$WRONG" || exec sleep 60
if [ "$1" = verify-determinism ]; then ! grep -q bits_break "$WRONG" || exit 5; exit; fi
steps=8 all="$*"
while [ $# -gt 0 ]; do
    case $1 in --out) out=$2 ;; --max-steps) steps=$2 ;; --resume) resumes=1 ;; esac
    shift
done
mkdir -p "$out"
case $all in
    *'--precision bf16-sr'*) ! grep -q mode_fails "$WRONG" || { echo 'the loss is "NaN"' >&2; exit 5; } ;;
    *'--precision fp32'*) ! grep -q few_steps "$WRONG" || { steps=10; touch "$out/few"; } ;;
    *'--precision bf16 --max'*) ! grep -q one_stuck "$WRONG" || exec sleep 60 ;;
    *'--determinism off'*) ! grep -q base_fails "$WRONG" || exit 6 ;;
esac
printf '{\n  "attention-kernel": "auto",\n  "parameters": 100,\n  "gemm_engine": "own (made-up)",\n  "memory": {\n    "weights": 200,\n    "gradients": 400,\n    "optimizer": 1200,\n    "training scratch": 50\n  }\n}\n' > "$out/run.json"
seed=same
! { grep -q differs "$WRONG" && [ "${out##*/}" = twice ]; } || seed=other
if [ "${out##*/}" = killed ] && [ -z "${resumes:-}" ] && ! grep -q too_quick "$WRONG"; then
    mkdir -p "$out/step_0000000010"; exec sleep 30
fi
for i in $(seq 1 "$steps"); do  # slow until the tenth step
    printf '{"step":%d,"loss":%d.0,"tokens":%d,"mfu":0.25,"time":%d.5}\n' "$i" $((9 - i)) $((i * 1000)) $((i + (i < 10 ? 0 : 100)))
done > "$out/log.jsonl"
! grep -q other_curve "$WRONG" || sed -i 's/"step":8,"loss":1.0/"step":8,"loss":1.2/' "$out/log.jsonl"
last=$out/step_$(printf '%010d' "$steps")
mkdir -p "$last"; echo $seed > "$last/model.safetensors"
! grep -q slow "$WRONG" && [ ! -e "$out/few" ] || exit 75
END
stub "$tmp/llmc/train_gpt2cu" <<'END'
#!/bin/sh
echo 'step 20/20 | loss 5.5 (+nanz)| norm 1.0 (+nanz)| lr 1e-4 | 2.0 ms | 50.0% bf16 MFU | 500.0 tok/s'
END
export PATH="$tmp/bin:$PATH" TRAINCU_ROUND_REHEARSE=1
round() { run sh scripts/gpu_round.sh --out out --python "$tmp/bin/python" --revision abc "$@"; }
# what PART KEY: of the JSON file
what() { python3 -c 'import json, sys; print(json.load(open("out/gpu_round.json"))["parts"][sys.argv[1]].get(sys.argv[2], "absent"))' "$@"; }
# mode_is PART MODE KEY VALUE: of the JSON's row of a mode
mode_is() {
    holds "gpu_round: $1 $2 $3 $4" python3 -c 'import json, sys; rows = json.load(open("out/gpu_round.json"))["parts"][sys.argv[1]][sys.argv[1]]; assert [str(r.get(sys.argv[3], "absent")) for r in rows if r["mode"] == sys.argv[2]] == [sys.argv[4]]' "$@"
}
part_is() { holds "gpu_round: $1 $2 $3" [ "$(what "$1" "$2")" = "$3" ]; }

round --wrong;                     expect "gpu_round: an unknown argument" 2 "unknown argument"
round --budget soon;               expect "gpu_round: a budget that is no number" 2 "not a number"
round --only tests,naps;           expect "gpu_round: a part that does not exist" 2 "no part 'naps'"
round --llmc;                      expect "gpu_round: a value that is missing" 2 "needs a value"
run sh scripts/gpu_round.sh --help; expect "gpu_round: --help" 0 "usage"

round --llmc "$tmp/llmc";          expect "gpu_round: all is well" 0 "tests *ok .*12 of 12 cases passed" "resume *ok .*killed after step_0000000010" \
                                       "gpt2 *ok .*1000 tokens/s, MFU 25.0 %" "gpt2_torch *ok .*800 tokens/s (attention: flash)" "gpt2: 1.25 x torch" \
                                       "gpt2: 2.00 x llmc" "kernels *ok .*1 kernels timed" "attention *ok .*timed beside PyTorch" "initcheck *ok" \
                                       "precisions *ok .*bf16 1000 tokens/s, bf16-sr 1.00, layercast 1.00,.*; left out: layercast-bf16x2, layercast-bf16x3$" \
                                       "levels *ok .*off 1000 tokens/s, run 1.00, batch 1.00, ranks 1.00; ranks verified$"
part_is gpt2 tok_per_s 1000.0
part_is gpt2_llmc tok_per_s 500.0
mode_is precisions fp32 tok_per_s 1000.0
mode_is precisions layercast-split ratio 1.0
mode_is precisions layercast-split options '--precision layercast --fp32-products fp32 --master-weights split --attention-kernel auto'
mode_is precisions bf16 bytes_per_parameter 18.0
mode_is precisions bf16 memory_bytes 1850
mode_is precisions bf16 gemm_engine 'own (made-up)'
mode_is precisions layercast-bf16x2 result 'left out'
mode_is levels ranks options '--precision bf16 --determinism ranks'
part_is levels verify_determinism "{'level': 'ranks', 'exit_code': 0}"
part_is gpt2_torch pytorch "{'torch': '2.11', 'runs': [{'sdpa': 'flash', 'tok_per_s': 800}], 'best': {'sdpa': 'flash', 'ms': 2, 'tok_per_s': 800}}"
part_is kernels bench "{'tables': [{'rows': [{'kernel': 'k'}]}]}"
holds "gpu_round: attention has both sides of both head sizes" python3 -c 'import json; a = json.load(open("out/gpu_round.json"))["parts"]["attention"]["attention"]; assert [sorted(s) for s in a.values()] == [["ours", "pytorch"]] * 2 and all(s["pytorch"] for s in a.values())'
holds "gpu_round: one log of all parts" grep -q '======== initcheck: ok' out/gpu_round.log
holds "gpu_round: the revision" grep -q '"revision":"abc"' out/gpu_round.json
holds "gpu_round: few files, all in one place" [ "$(find out -type f | wc -l)" -le 3 ]

printf 'tests_fail\ntorch_fails\ndiffers\nno_model\n' > "$WRONG"
round;                             expect "gpu_round: parts that fail do not stop it" 1 "tests *failed .*10 of 12 cases passed; failed: norm" "repeat *failed .*the weights differ" \
                                       "model *left out .*no tests of the whole model" "gpt2_torch *failed .*CUDA out of" "attention *failed .*ours is timed" "qwen3 *ok" "gpt2_llmc *left out"
part_is gpt2_torch detail 'CUDA out of "memory"'
part_is resume result ok
echo test_crashes > "$WRONG"
round --only tests;                expect "gpu_round: a suite that dies is named, the others count" 1 "tests *failed .*6 of 6 cases passed; failed: device command"
echo slow > "$WRONG"
round --only gpt2;                 expect "gpu_round: a run that is out of time has a figure" 0 "gpt2 *ok .*1000 tokens/s"
echo too_quick > "$WRONG"
round --only resume;               expect "gpu_round: a run that ended before the kill proves nothing" 1 "resume *failed .*before it could be killed"
echo no_torch > "$WRONG"
round --only gpt2,gpt2_torch,attention; expect "gpu_round: without PyTorch" 0 "gpt2_torch *left out .*has no PyTorch" "attention *ok .*no PyTorch to compare with"
holds "gpu_round: --only leaves the others out" sh -c '! grep -q qwen3 out/gpu_round.json'
printf 'mode_fails\nbase_fails\nfew_steps\n' > "$WRONG"
round --only precisions,levels;    expect "gpu_round: a mode that fails does not stop the others" 1 "precisions *failed .*bf16 1000 tokens/s, layercast 1.00.*; failed: bf16-sr, fp32$" \
                                       "levels *failed .*run 1000 tokens/s, batch 1000 tokens/s, ranks 1000 tokens/s; ranks verified; failed: off$"
mode_is precisions bf16-sr result failed
mode_is precisions bf16-sr detail 'the loss is "NaN"'
mode_is precisions fp32 detail '10 steps: too few for a figure'
mode_is levels run ratio absent
echo bits_break > "$WRONG"
ln -s ../train build/train_simt
round --only precisions,levels;    expect "gpu_round: a level that does not keep its promise" 1 "precisions *ok .*layercast-bf16x2 1.00, layercast-bf16x3 1.00, layercast 1.00" "levels *failed .*ranks 1.00; ranks BROKEN$"
part_is levels verify_determinism "{'level': 'ranks', 'exit_code': 5}"
rm build/train_simt
echo one_stuck > "$WRONG"
mkdir "$tmp/part"
run env ROUND_WORK="$tmp/part" ROUND_SECONDS=70 sh scripts/gpu_round.sh --part precisions
expect "gpu_round: a mode that hangs is stopped, the others run" 1 "^::detail bf16-sr .*, fp32 [^;]*; left out: [^;]*; failed: bf16$"
echo hangs > "$WRONG"
round --only repeat,gpt2 --budget 21; expect "gpu_round: what hangs is stopped" 1 "repeat *over"
part_is gpt2 result "left out"
: > "$WRONG"
round --budget 3;                  expect "gpu_round: no time, no parts, but a table and a file" 0 "start *left out" "no time was left"

curve() { run sh scripts/gpu_curve.sh --out out --python "$tmp/bin/python" --steps 8 "$@"; }
curve --wrong;                     expect "gpu_curve: an unknown argument" 2 "unknown argument"
curve --steps many;                expect "gpu_curve: steps that are no number" 2 "not a number"
curve --steps 5;                   expect "gpu_curve: fewer steps than a mean takes" 2 "more than 5"
curve;                             expect "gpu_curve: the same losses" 0 "^WITHIN"
echo other_curve > "$WRONG"
curve;                             expect "gpu_curve: a loss that is 0.2 off moves the mean by 0.04" 5 "^OUTSIDE.*at most 0.040000 (at step 8)"
curve --within 0.05;               expect "gpu_curve: which may be allowed" 0 "^WITHIN"
holds "gpu_curve: the curves as CSV" grep -qx '8,1.2,1.0,3.040000,3.000000' out/gpu_curve.csv
curve --steps 9;                   expect "gpu_curve: a step that is missing" 5 "step 9 is missing"
echo no_torch > "$WRONG"
curve;                             expect "gpu_curve: without PyTorch" 2 "has no PyTorch"
finish
