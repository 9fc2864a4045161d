#!/bin/sh
# scripts/wandb_feed.py --dry-run: what would be sent from whole, torn, growing and resumed logs. wandb itself is not needed.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
command -v python3 >/dev/null || { skip "wandb_feed" "python3 is not installed"; finish; }
feed() { run python3 "$repo/scripts/wandb_feed.py" "$@"; }
cd "$tmp" || exit 1
mkdir -p whole torn back grows

feed;                             expect "wandb_feed: no run is a usage error" 2 usage
feed nowhere --dry-run;           expect "wandb_feed: a missing run is named" 3 "nowhere" "what to do"

# ---- a whole log
cat > whole/log.jsonl <<'END'
{"step":0,"val_loss":5.5,"val_bits_per_byte":7.9,"tokens":0,"time":0.1}
{"step":1,"loss":5.25,"lr":0.001,"grad_norm":0.5,"tokens":4096,"tok_per_s":25000,"ms":161,"mfu":0.41,"gemm_fraction":0.6,"time":0.3}
{"step":2,"loss":null,"lr":0.002,"grad_norm":null,"tokens":8192,"tok_per_s":25000,"ms":161,"time":0.5,"skipped":"loss is not finite"}
{"step":2,"val_loss":5,"hellaswag":0.25,"tokens":8192,"time":0.6}
{"step":2,"sample":"In the <beginning>\n","time":0.7}
{"step":2,"checkpoint":"step_0000000002","time":0.8}
{"step":2,"note":"remarkable","time":0.8}
END
cat > wanted.txt <<'END'
{"step": 0, "tokens": 0, "loss/val": 5.5, "val/bits_per_byte": 7.9}
{"step": 1, "loss/train": 5.25, "lr": 0.001, "grad_norm": 0.5, "tokens": 4096, "speed/tok_per_s": 25000, "speed/ms": 161, "speed/mfu": 0.41}
{"step": 2, "loss/train": NaN, "lr": 0.002, "grad_norm": NaN, "tokens": 8192, "speed/tok_per_s": 25000, "speed/ms": 161}
{"step": 2, "loss/val": 5, "val/hellaswag": 0.25}
{"step": 2, "sample": "In the <beginning>\n"}
END
feed whole --dry-run;             expect "wandb_feed: a whole log" 0 "fed up to step 2; 0 lines were no records"
holds "wandb_feed: every number under its name, none twice at a step" cmp out wanted.txt
holds "wandb_feed: a dry run leaves nothing behind" [ ! -e whole/wandb_id ]

# ---- torn and foreign lines, and an unfinished last one
printf '%s\n' '{"step":1,"loss":4}' '{"step":2,"lo{"step":3,"loss":2}' '[1]' '{"step":-1,"loss":1}' '{"step":true,"loss":1}' '' '{"step":4,"loss":"x"}' '{"step":5,"loss":1}' > torn/log.jsonl
printf '{"step":6,"loss":0.5}' >> torn/log.jsonl
feed torn --dry-run;              expect "wandb_feed: torn lines are passed over and counted" 0 "4 lines were no records"
printf '%s\n' '{"step": 1, "loss/train": 4}' '{"step": 5, "loss/train": 1}' > wanted.txt
holds "wandb_feed: the others are sent" cmp out wanted.txt

# ---- a log whose steps go back: the later records hold
printf '%s\n' '{"step":1,"loss":1}' '{"step":2,"loss":2}' '{"step":2,"val_loss":2.5}' '{"step":3,"loss":3}' '{"step":3,"val_loss":9}' '{"step":2,"loss":20}' '{"step":3,"loss":30}' > back/log.jsonl
feed back --dry-run;              expect "wandb_feed: steps that go back" 0
printf '%s\n' '{"step": 1, "loss/train": 1}' '{"step": 2, "loss/val": 2.5}' '{"step": 2, "loss/train": 20}' '{"step": 3, "loss/train": 30}' > wanted.txt
holds "wandb_feed: are replaced by what came later" cmp out wanted.txt

# ---- following a run that grows, is replaced by a resume, and ends
echo '{"options":{"max-steps":5}}' > grows/run.json
printf '%s\n' '{"step":1,"loss":1}' '{"step":2,"loss":2}' '{"step":3,"loss":3}' > grows/log.jsonl
python3 "$repo/scripts/wandb_feed.py" grows --dry-run --follow > out 2> err < /dev/null &
follower=$!
trap 'kill $follower 2>/dev/null; rm -rf "$tmp"' EXIT
lines() { for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do [ "$(wc -l < out)" -ge "$1" ] && return; sleep 0.2; done; }
lines 3
printf '%s\n' '{"step":1,"loss":1}' '{"step":2,"loss":2}' '{"step":3,"loss":3}' '{"step":3,"val_loss":3.5}' > replaced
mv replaced grows/log.jsonl  # resumed from step 3, after what was due at its step
lines 4
printf '{"step":4,"lo' >> grows/log.jsonl; sleep 1.2
printf 'ss":4}\n{"step":5,"loss":5}\n{"step":5,"checkpoint":"step_0000000005"}\n' >> grows/log.jsonl
lines 6
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$follower" 2>/dev/null || break; sleep 0.3; done
if kill -0 "$follower" 2>/dev/null; then fail "wandb_feed: --follow ends with the run"; else ok "wandb_feed: --follow ends with the run"; fi
printf '%s\n' '{"step": 1, "loss/train": 1}' '{"step": 2, "loss/train": 2}' '{"step": 3, "loss/train": 3}' '{"step": 3, "loss/val": 3.5}' '{"step": 4, "loss/train": 4}' \
    '{"step": 5, "loss/train": 5}' > wanted.txt
holds "wandb_feed: --follow sends each number once, over a resume" cmp out wanted.txt
finish
