#!/bin/sh
# scripts/readme_results.py: the README's tables from made-up results of GPU rounds, and from none.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
command -v python3 > /dev/null || { skip "readme_results" "python3 is not installed"; finish; }
mkdir -p "$tmp/scripts" "$tmp/tests/bench/results"
cp "$repo/scripts/readme_results.py" "$tmp/scripts/"
cd "$tmp" || exit 1
printf 'before\n<!-- results -->\nold\n<!-- /results -->\nbetween\n<!-- performance -->\nold\n<!-- /performance -->\nafter\n' > README.md
write() { run python3 scripts/readme_results.py "$@"; }
shows() { name=$1; shift; for line; do grep -qF -- "$line" README.md || { fail "$name" "no '$line'" "$(grep -F -- "$(echo "$line" | cut -c1-20)" README.md | head -n 2)"; return; }; done; ok "$name"; }

write --check;    expect "readme_results: --check sees what is not shown" 1
write;            expect "readme_results: without any result" 0
shows "readme_results: says so in every cell" '| GPT-2 124M, T 1024 | not measured | not measured | not measured | not measured | not measured | not measured |' \
    "200 steps of GPT-2 124M in bf16 stay within 0.01 of PyTorch's losses | \`sh scripts/gpu_curve.sh\` | not measured |"
holds "readme_results: and leaves the text around alone" [ "$(grep -cx -e before -e between -e after README.md)" = 3 ]
holds "readme_results: the old is gone" sh -c '! grep -qx old README.md'
write --check;    expect "readme_results: --check is content" 0

# round DATE TOKENS-A-SECOND REHEARSAL
round() {
    cat <<END
{"date":"$1T10:00Z","gpu":"NVIDIA H200","driver":"580","cuda":"13.0","cpu_cores":16,"revision":"abc","rehearsal":$3,"seconds":500,"parts":{
"tests":{"result":"ok","seconds":9,"detail":"90 of 90 cases passed"},
"model":{"result":"left out","seconds":1,"detail":"no time was left"},
"repeat":{"result":"failed","seconds":9,"detail":"the weights differ"},
"gpt2":{"result":"ok","seconds":9,"detail":"","tok_per_s":$2,"steps":60,"last_loss":5.1,"mfu":0.47},
"gpt2_torch":{"result":"ok","seconds":9,"detail":"","pytorch":{"best":{"sdpa":"cudnn","tok_per_s":400000}}},
"gpt2_llmc":{"result":"ok","seconds":9,"detail":"","tok_per_s":250000},
"qwen3":{"result":"failed","seconds":9,"detail":"no memory"},
"kernels":{"result":"ok","seconds":9,"detail":"","bench":{"tables":[{"shapes":"gpt2-124m","rows":[
{"kernel":"matmul_forward","engine":"cublaslt","layer":"fc","shape":"65536,768,3072","seconds":0.0005,"flops":3.0e11,"bytes":1e9,"roof_seconds":0.0004,"limit":"peak"}]}]}}
}}
END
}
round 2026-01-02 500000 false > tests/bench/results/gpu_round_h200_2026-01-02.json
round 2026-01-01 300000 false > tests/bench/results/gpu_round_h200_2026-01-01.json
round 2026-01-03 900000 true > tests/bench/results/gpu_round_rehearsal.json
echo '{"steps":200,"largest_difference":0.00312,"verdict":"WITHIN"}' > tests/bench/results/gpu_curve_h200.json
write;            expect "readme_results: with results" 0
shows "readme_results: the newest of a card, ratios, and what is missing" \
    '| GPT-2 124M, T 1024 | NVIDIA H200, CUDA 13.0, revision abc, 2026-01-02 | 500,000 | 47.0 % | 400,000 (attention: cudnn) | 1.25 x | 2.00 x |' \
    '| Qwen3 0.6B, T 2048 | NVIDIA H200, CUDA 13.0, revision abc, 2026-01-02 | not measured | not measured | not measured | not measured | not measured |'
holds "readme_results: no rehearsal, nothing old" sh -c '! grep -q -e 900,000 -e 300,000 README.md'
shows "readme_results: kernels beside their roofs" '| matmul_forward cublaslt | fc | 65536,768,3072 | 500.0 us | 600.0 | 2,000 | 80 % (peak) |'
shows "readme_results: claims, failures too" '| ok: 90 of 90 cases passed (NVIDIA H200, CUDA 13.0, revision abc, 2026-01-02) |' '| failed: the weights differ (NVIDIA H200,' \
    '| WITHIN: at most 0.0031 apart, in 200 steps |'
finish
