"""Vocabularies and ids from Hugging Face's tokenizers, for tests/data/tokenizer_json_test.cpp.

    python tests/golden/make_tokenizers.py --out tests/golden/tokenizers      # tokenizers 0.23; half a minute

fragments.txt    pieces of text that are hard in one way or another, one a line; a byte that is not printable ASCII is written \\xNN
KIND.json        three vocabularies, learned from text mixed from the fragments, each with its kind's own pipeline
KIND.cases       text, ids, decoded text (special tokens left out) of short mixtures: tabs between, ids in decimal
KIND.hashes      FNV-1a of the ids of 64 mixtures of 900 fragments each, more than a megabyte in all

classes.txt      of every class of characters that a pattern uses: how many code points, and FNV-1a of them; and FNV-1a of the NFC of every
                 code point, alone and between other marks, in UTF-8; and which characters ever join one before them

The test mixes text by the same rule (mixture). A fragment may be broken UTF-8: the library gets bytes.decode("utf-8", "replace").
gpt2_prefix is gpt2.json with add_prefix_space true.
"""
import argparse
import json
import os
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TEXT = """The quick brown fox jumps over the lazy dog.| In the beginning God created the heaven and the earth.
| and the darkness he called Night.|I'm, you're, we've, they'll, he'd, it's, don't|I'M YOU'RE WE'VE THEY'LL HE'D IT'S DON'T|'\u017f '\u017ft x'\u017f|'s't're've'm'll'd|'S'T'Re'vE'M'Ll'lL'D
|\u2019s \u2019t it\u2019s|0|42| 1234567890| 3.14159e-10|\u0661\u0662\u0663 \u0967\u0968 \u2167 \u00bd\u00b2 \u3007|12a34b567|1,000,000.00
|def encode(self, text: str) -> list[int]:\n    return [self.ranks[b] for b in text.encode("utf-8")]\n|#include <vector>\n\nint main(int argc, char** argv) {\n\tfor (int i = 0; i < argc; ++i) {\n\t\tstd::printf("%d\\n", i);\n\t}\n}\n
|if (x != nullptr && y->z >= 0x1F) { a[i++] ^= ~b; }  // why?\r\n|SELECT * FROM t WHERE id = 'x''y';--|<div class="a">&nbsp;&lt;</div>|https://example.org/a_b?c=d&e=%20f#g|user@example.com|\\begin{equation} E = mc^2 \\end{equation}
|Zürich, Straße, naïve façade, œuvre, Ærøskøbing, İstanbul ıi, ﬁ ﬀ ﬆ|Zu\u0308rich, nai\u0308ve fac\u0327ade, A\u030angstro\u0308m \u212b \u2126 \u212a|q\u0323\u0307 q\u0307\u0323 s\u0323\u0307 \u1e69 \u1e9b\u0323|\u0344 \u0340\u0341 \u0374 \u037e \u0387|e\u0301\u0301\u0323e a\u0328\u0301
|Привет, мир! Съешь же ещё этих мягких булок. Й и\u0306 ё е\u0308|Γειά σου Κόσμε, ά α\u0301 \u1fbe|שָׁלוֹם עוֹלָם \ufb2a \u05e9\u05c1|مرحبا بالعالم \u0622 \u0627\u0653|नमस्ते दुनिया \u0958 \u0915\u093c|สวัสดีชาวโลก กำ|한국어 \u1112\u1161\u11ab\u1100\u116e\u11a8 \uac00\u11a8|東京都、こんにちは世界。が か\u3099 \u30d0 \u30cf\u3099|中文分詞不需要空格，但是需要字節。\uf900 \u2f800|\u1715\u0323a\u1715\u0323 \u09fe\u0301 \u0c3c\u0c55|\u11935\u11930
|\U0001f600\U0001f44b\U0001f3fd|\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea \u2764\ufe0f| \u2603\u2602\u2605 \u2192 \u221e \u20ac \u00a3
|   three   spaces   |\t\ttabs\t|\n\n\n|\r\n\r\n|  \n \n  x|\n x|a \u00a0\u00a0 b|\u0085\u0085x|\u2028\u2029 y|\u3000\u3000z|\u180e\u180e w \u180ev|\u1680\u2000\u200a\u202f\u205f|\x0b\x0c \x1c\x1d\x1e\x1f| \u200b\u200b|\ufeff\ufeff|\x00\x01\x7f
|<|endoftext|>| <|endoftext|> |<|begin_of_text|>|<|end_of_text|>|<|im_start|>user\nhi<|im_end|>\n|<tool_call>{"a": 1}</tool_call>|<tool|<too|<|endof|<|<||| cafe\u0301s |café| s\u0323tas |\u1e63ta|<|reserved_0|>
|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|abababababababababababababababababababababababababababababababababababababababababababab|                                                                                  x|zqzqzqj zqzqzqj zq
|\u0870\u0897 \u1c89\u1c8a \ua7cb \U000105c0\U000105c1 \U0001f1e6|\U00031350\U00031351 \U0002ebf0|\U00010d40\U00010d41 \U0001ccf0|\U0001e5f1\U0001e5d0|\ue000\U000f0000\U0010ffff\ufffd\ufffe"""

BROKEN = [b"\x80", b"\xbf\xbf", b"\xc0\xaf", b"\xc1\xbf", b"\xc3", b"\xc3(", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xe2\x82", b"\xe2(\xa1", b"\xed\xa0\x80\xed\xb0\x80",
          b"\xed\xbf\xbf", b"\xef\xbf", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf0\x8f\xbf\xbf", b"\xf1\x80\x80(", b"\xf4\x90\x80\x80", b"\xf5\x80", b"\xf8\x88\x80\x80\x80", b"\xfe\xff",
          b"ab\xffcd", b"caf\xe9 ol\xe9", b"\xff\xfe\x00\x41"]


def fragments():
    texts, current = [], []
    for part in TEXT.split("|"):
        texts.append(part)
    # special tokens hold the border sign: write them again, whole
    specials = ["<|endoftext|>", " <|endoftext|> ", "<|begin_of_text|>", "<|end_of_text|>x", "<|im_start|>user\nhi<|im_end|>\n", "<|endof", "<|", "<|reserved_0|>"]
    texts = [t for t in texts if t] + specials
    return [t.encode("utf-8") for t in texts] + BROKEN


def escape(data):
    return "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x5C else "\\x%02x" % b for b in data)


def mixture(pieces, seed, count):
    """count pieces, drawn by a linear congruential generator."""
    out, x = [], seed
    for _ in range(count):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append(pieces[(x >> 33) % len(pieces)])
    return b"".join(out)


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        h = (h ^ i) * 0x100000001B3 % 2**64
    return h


def code_points():
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def class_of(pattern):
    """The code points that a pattern matches: what is gone when matches are removed."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    matched, points = [], code_points()
    for i in range(0, len(points), 4096):
        left = set("".join(piece for piece, _ in split.pre_tokenize_str("".join(map(chr, points[i : i + 4096])))))
        matched += [c for c in points[i : i + 4096] if chr(c) not in left]
    return matched


def classes():
    rows = []
    for pattern in (r"\s", r"\S", r"\p{L}", r"\p{N}", r"\p{M}", r"[^\s\p{L}\p{N}]", "(?i:s)", "(?i:t)", "(?i:r)", "(?i:e)", "(?i:v)", "(?i:m)", "(?i:l)", "(?i:d)"):
        matched = class_of(pattern)
        rows.append("%s\t%d\t%016x\n" % (pattern, len(matched), fnv(matched)))
    normalizer = normalizers.NFC()
    # a mark after the point shows its combining class if that is higher, a mark before the point if it is lower
    for i, (before, after) in enumerate((("", ""), ("q\u0301", ""), ("q", "\u0323"), ("a\u0301", "\u0323"))):
        rows.append("nfc\t%d\t%016x\n" % (i, fnv(b"".join(normalizer.normalize_str(before + chr(c) + after).encode() for c in code_points()))))
    joining = set()  # second characters of canonical compositions, from Python's own tables
    for c in code_points():
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            joining.add(int(parts[1], 16))
    joining |= set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))  # Hangul, which composes by rule
    rows.append("joins\t%d\t%s\n" % (len(joining), ",".join("%X" % c for c in sorted(joining))))
    return "".join(rows)


def build(kind, texts):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "gpt2":
        tokenizer.pre_tokenizer = byte_level
        added = [AddedToken("<|endoftext|>", special=True, normalized=True)]
    else:
        split = pre_tokenizers.Split(Regex(LLAMA3 if kind == "llama3" else QWEN2), behavior="isolated", invert=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        if kind == "llama3":
            added = [AddedToken(t, special=True, normalized=False) for t in ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_0|>")]
        else:
            tokenizer.normalizer = normalizers.NFC()
            added = [AddedToken(t, special=True, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
            added += [AddedToken(t, special=False, normalized=False) for t in ("<tool_call>", "</tool_call>", "<tool")]
            added += [AddedToken("s\u0323ta", special=False, normalized=True)]
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    file = json.loads(tokenizer.to_str())
    # two tokens that no merge makes: only ignore_merges finds them
    for token in ("zqzqzqj", "\u0120zqzqzqj"):
        file["model"]["vocab"][token] = len(file["model"]["vocab"])
    if kind == "gpt2":
        file["model"]["merges"] = [" ".join(m) for m in file["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.add_special_tokens([t for t in added if t.special])
    tokenizer.add_tokens([t for t in added if not t.special])
    file = json.loads(tokenizer.to_str())
    if kind == "gpt2":
        file["model"]["merges"] = [" ".join(m) for m in file["model"]["merges"]]
    return json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    os.makedirs(out, exist_ok=True)
    pieces = fragments()

    def write(name, text):
        with open(os.path.join(out, name), "w", encoding="utf-8", newline="\n") as f:
            f.write(text)

    write("fragments.txt", "".join(escape(p) + "\n" for p in pieces))
    write("classes.txt", classes())
    texts = [mixture(pieces, seed, 900).decode("utf-8", "replace") for seed in range(64)]
    print("mixtures: %d bytes" % sum(len(mixture(pieces, seed, 900)) for seed in range(64)))
    learned = [p for p in pieces if b"zqzq" not in p]
    corpus = [mixture(learned, seed, 900).decode("utf-8", "replace") for seed in range(64)]
    files = {kind: build(kind, corpus) for kind in ("gpt2", "llama3", "qwen2")}
    for kind, text in files.items():
        write(kind + ".json", text)
    files["gpt2_prefix"] = files["gpt2"].replace('"add_prefix_space":false', '"add_prefix_space":true')
    short = [b""] + pieces + [mixture(pieces, 1000 + seed, 2 + seed % 4) for seed in range(200)]
    for kind, text in files.items():
        tokenizer = Tokenizer.from_str(text)
        rows = []
        for data in short:
            ids = tokenizer.encode(data.decode("utf-8", "replace"), add_special_tokens=False).ids
            rows.append("\t".join([escape(data), " ".join(map(str, ids)), escape(tokenizer.decode(ids, skip_special_tokens=True).encode("utf-8"))]) + "\n")
        write(kind + ".cases", "".join(rows))
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        write(kind + ".hashes", "".join("%016x\n" % fnv(e.ids) for e in encoded))


if __name__ == "__main__":
    main()
