#!/bin/sh
# scripts/get_corpus.sh: the bible whole and always the same; downloads from a loopback server that misbehaves on purpose.
# shellcheck source=tests/scripts/check.sh
. "$(dirname "$0")/check.sh"
get() { run sh "$repo/scripts/get_corpus.sh" "$@"; }
cd "$tmp" || exit 1

# ---- usage
get --help;                       expect "get_corpus: --help tells the names" 0 fineweb10B tinyshakespeare
get;                              expect "get_corpus: no name is a usage error" 2 usage
get nonsense;                     expect "get_corpus: an unknown name is a usage error" 2 "'nonsense'"
get fineweb10B --shards 0;        expect "get_corpus: --shards 0 is refused" 2 "from 1"
get fineweb10B --shards 104;      expect "get_corpus: more shards than there are" 2 "103 training shards"
echo "some text" > mine.txt
get mine.txt;                     expect "get_corpus: a file of one's own needs no getting" 0 "^./train tokenize mine.txt --out corpora/mine$"

# ---- the bible
if command -v bible >/dev/null || [ -x "${DEPS:-$repo/.deps}/usr/bin/bible" ]; then
    get bible;                    expect "get_corpus: bible prints the next command" 0 "^./train tokenize corpora/bible.txt --out corpora/bible$"
    holds "get_corpus: 1,189 chapters lie between 1,188 separators" [ "$(grep -c '^<|endoftext|>$' corpora/bible.txt)" -eq 1188 ]
    head -n 2 corpora/bible.txt > head.txt
    printf 'Genesis 1\n1 In the beginning God created the heaven and the earth.\n' > wanted.txt
    holds "get_corpus: the bible begins at the beginning" cmp head.txt wanted.txt
    tail -n 1 corpora/bible.txt > tail.txt
    echo "21 The grace of our Lord Jesus Christ be with you all. Amen." > wanted.txt
    holds "get_corpus: the bible ends at its end" cmp tail.txt wanted.txt
    COLUMNS=40 LC_ALL=C get bible --out again
    holds "get_corpus: the same bytes for every terminal" cmp corpora/bible.txt again.txt
else
    skip "get_corpus: bible" "the program bible is not installed"
fi

# ---- downloads
if ! command -v python3 >/dev/null || ! command -v curl >/dev/null; then
    skip "get_corpus: downloads" "python3 and curl are needed"
    finish
fi
cat > server.py <<'END'
# Files by name; "cut" names break off in mid-file at the first GET, "norange" ones cannot resume, "short" ones promise too much to HEAD.
import http.server, struct
def shard(tokens, told): return struct.pack("<3i", 20240520, 1, told) + bytes(1012) + bytes(range(200)) * (tokens // 100)
files = {"/fineweb10B/fineweb_val_000000.bin": shard(1000, 1000), "/fineweb10B/fineweb_train_000001.bin": shard(90000, 90000),
         "/fineweb10B/fineweb_train_000002.bin": shard(1000, 1100),
         "/tinystories/TinyStoriesV2-GPT4-valid.txt": b"Once upon a time. " * 5000, "/tinystories/TinyStoriesV2-GPT4-train.txt": b"x" * 100,
         "/hellaswag/hellaswag_val.jsonl": b'{"ctx": "a", "endings": ["b", "c"], "label": 1}\n' * 30,
         "/unlabelled/hellaswag/hellaswag_val.jsonl": b'{"ctx": "a", "endings": ["b", "c"]}\n' * 30}
cut = {"/fineweb10B/fineweb_train_000001.bin", "/tinystories/TinyStoriesV2-GPT4-valid.txt"}
norange = {"/tinystories/TinyStoriesV2-GPT4-valid.txt"}
short = {"/tinystories/TinyStoriesV2-GPT4-train.txt": 150}
class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, head):
        body = files.get(self.path)
        asked = self.headers.get("Range")
        if not head: print(self.path, asked, flush=True)
        if body is None: return self.send_error(404)
        begin = int(asked[6:].split("-")[0]) if asked and self.path not in norange else 0
        length = short.get(self.path, len(body)) if head else len(body) - begin
        self.send_response(206 if begin else 200)
        if begin: self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(length)); self.end_headers()
        if head: return
        if self.path in cut:
            cut.remove(self.path)
            self.wfile.write(body[:len(body) // 2]); self.wfile.flush(); self.close_connection = True
        else: self.wfile.write(body[begin:])
    def do_GET(self): self.reply(False)
    def do_HEAD(self): self.reply(True)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
open("port.part", "w").write(str(server.server_port)); __import__("os").rename("port.part", "port")
server.serve_forever()
END
python3 server.py > requests.txt 2>/dev/null &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$tmp"' EXIT
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -e port ] || sleep 0.1; done
CORPUS_MIRROR=http://127.0.0.1:$(cat port) no_proxy=127.0.0.1
export CORPUS_MIRROR no_proxy

get fineweb10B --shards 1;        expect "get_corpus: a broken transfer ends well" 0 "trying again" "--data 'corpora/fineweb10B/fineweb_train_\*.bin'"
size=$(wc -c < corpora/fineweb10B/fineweb_train_000001.bin)
holds "get_corpus: the shard is whole" [ "$size" -eq 181024 ]
holds "get_corpus: what had come was not fetched twice" grep -q 'train_000001.bin bytes=[1-9]' requests.txt
asked=$(wc -l < requests.txt)
get fineweb10B;                   expect "get_corpus: what is there is not fetched again" 0 "is there already"
holds "get_corpus: nor even asked for" [ "$(wc -l < requests.txt)" -eq "$asked" ]

get fineweb10B --shards 2;        expect "get_corpus: a shard shorter than its header tells is refused" 3 "not a whole token shard"
holds "get_corpus: a refused shard gets no shard's name" [ ! -e corpora/fineweb10B/fineweb_train_000002.bin ]

get tinystories;                  expect "get_corpus: a file shorter than the server told is refused" 8 "ended after 100 of 150 bytes"
holds "get_corpus: a short file gets no name" [ ! -e corpora/tinystories_train.txt ]
holds "get_corpus: a server that cannot resume is begun anew" [ "$(wc -c < corpora/tinystories_valid.txt)" -eq 90000 ]

get hellaswag;                    expect "get_corpus: hellaswag prints the next command" 0 "^./train tokenize --multiple-choice corpora/hellaswag_val.jsonl"
holds "get_corpus: hellaswag has its questions" [ "$(grep -c label corpora/hellaswag_val.jsonl)" -eq 30 ]
CORPUS_MIRROR=$CORPUS_MIRROR/unlabelled
get hellaswag --out test;         expect "get_corpus: questions without labels are refused" 3 "0 of 30 lines have a label"
holds "get_corpus: nor do they get the name" [ ! -e test_val.jsonl ]
CORPUS_MIRROR=${CORPUS_MIRROR%/unlabelled}

get tinyshakespeare;              expect "get_corpus: a missing address ends at once" 8 "answers 404"
kill "$server"
finish
