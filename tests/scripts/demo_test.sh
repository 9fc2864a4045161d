#!/bin/sh
# scripts/demo.sh and scripts/reproduce/ with a stand-in for ./train that notes how it was called.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
cp -R "$repo/scripts" "$tmp/scripts"
cd "$tmp" || exit 1
demo() { run sh scripts/demo.sh "$@"; }

demo;                         expect "demo: says so when ./train is not built" 2 "not built yet"
for recipe in gpt2_124m gpt2_350m bible_gpt2 tinystories; do
    run sh "scripts/reproduce/$recipe.sh"
    expect "reproduce: $recipe says so when ./train is not built" 2 "not built yet"
done

cat > train <<'END'
#!/bin/sh
echo "$*" >> calls.txt
case $1 in
    tokenize) : > corpora/bible_train_000000.bin; : > corpora/bible_val_000000.bin ;;
    report) exit "$(cat report_status)" ;;
    --preset) mkdir -p runs/demo/step_0000000100; exit "$(cat wanted_status)" ;;
esac
END
chmod +x train
echo 0 > wanted_status
echo 5 > report_status  # off the committed curve: with own options that is right

mkdir corpora
printf 'Genesis 1\n1 In the beginning\n%s\n' "$(seq 1 2000)" > corpora/bible.txt  # there already: the program bible is not needed
demo --max-steps 50;          expect "demo: runs to its end" 0 "its curve"
sed '/^generate/s/ .*--prompt.*/ PROMPT/; s/ .*--max-steps/ ... --max-steps/' calls.txt | cut -d ' ' -f 1-4 | head -n 3 > order.txt
printf 'tokenize corpora/bible.txt --out corpora/bible\n--preset ... --max-steps 50\ngenerate PROMPT\n' | cut -d ' ' -f 1-4 > wanted.txt
holds "demo: tokenizes, trains with the options given, generates" cmp order.txt wanted.txt
holds "demo: reports last" [ "$(tail -n 1 calls.txt | cut -d ' ' -f 1-2)" = "report runs/demo" ]
bits() { sed "s/.*\"$1 -9\": \([0-9.]*\).*/\1/" corpora/bible_baselines.json; }
for packer in gzip bzip2; do
    command -v $packer >/dev/null || { skip "demo: $packer" "not installed"; continue; }
    # compressed bytes = nats per byte x bytes / (8 ln 2)
    bytes=$(awk -v nats="$(bits $packer)" -v plain="$(wc -c < corpora/bible.txt)" 'BEGIN { printf "%.0f", nats * plain / 5.545177444 }')
    real=$($packer -9 < corpora/bible.txt | wc -c)
    holds "demo: $packer's nats per byte" [ $((bytes - real)) -ge -1 -a $((bytes - real)) -le 1 ]
done

rm -r runs
demo;                         expect "demo: without own options it is held to the curve" 5
echo 0 > report_status
: > calls.txt
demo;                         expect "demo: a finished run is told, and how to start anew" 0 "rm -r runs/demo"
holds "demo: tokenizes once" [ "$(grep -c tokenize calls.txt)" -eq 0 ]
rm -r runs
demo;                         holds "demo: a run that trained is not called finished" sh -c "! grep -q 'finished before' '$tmp/err'"
echo 75 > wanted_status
demo;                         expect "demo: a saved run keeps its exit code" 75 "goes on from there"
echo 5 > wanted_status; : > calls.txt
demo;                         expect "demo: a failed run keeps its exit code" 5
holds "demo: and generates nothing" [ "$(grep -c generate calls.txt)" -eq 0 ]

echo 0 > wanted_status
run sh scripts/reproduce/bible_gpt2.sh --seed 7
holds "reproduce: bible_gpt2 trains the demo with other parts" grep -q -e "--preset demo --norm layernorm .* --out runs/bible_gpt2 .*--seed 7" calls.txt
run sh scripts/reproduce/tinystories.sh
expect "reproduce: tinystories says what to get" 2 "get_corpus.sh tinystories"
run sh scripts/reproduce/gpt2_124m.sh --dry-run --seed 7
expect "reproduce: 124m is the preset, on its shards" 0 "--preset gpt2-124m-llmc " "--seed 7" "'corpora/fineweb10B/fineweb_train_\*.bin'"
BATCH_SIZE=8 run sh scripts/reproduce/gpt2_350m.sh --dry-run
expect "reproduce: 350m is the preset, its micro-batch free" 0 "--preset gpt2-350m-llmc .*fineweb100B.*--batch-size 8 "
finish
