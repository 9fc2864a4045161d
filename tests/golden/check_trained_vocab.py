"""Holds a vocabulary learned by ./train tokenize --train-vocab against Hugging Face's tokenizers on the same text.

Learns both, compares the merges and the bytes per token, loads our tokenizer.json there, and compares every id of our shards with what
the library encodes with it. Documents are parted by lines of <|endoftext|>; nothing is held out. check_trained_vocab.txt is its last result.

    python tests/golden/check_trained_vocab.py corpora/bible.txt --vocab-size 8192       # tokenizers, numpy; not part of make test
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PATTERNS = {  # as the three families' tokenizer.json files have them
    "gpt2": None,  # ByteLevel's own
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def library_tokenizer(documents, vocab_size, pattern):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if PATTERNS[pattern] is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def merges_of(tokenizer_json):
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in json.loads(tokenizer_json)["model"]["merges"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--pattern", choices=PATTERNS, default="llama3")
    parser.add_argument("--train", default="./train")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/text"
        began = time.time()
        subprocess.run([args.train, "tokenize", "--train-vocab", str(args.vocab_size), "--pattern", args.pattern, "--val-fraction", "0",
                        "--out", prefix, str(args.text)], check=True, stdout=subprocess.DEVNULL)
        our_seconds = time.time() - began
        ours_json = Path(f"{prefix}_tokenizer.json").read_text()
        shards = sorted(Path(folder).glob("text_train_*.bin"))
        width = {20240520: np.uint16, 20240801: np.uint32}[int(np.fromfile(shards[0], np.int32, 1)[0])]
        our_ids = np.concatenate([np.fromfile(shard, width, offset=1024) for shard in shards]).astype(np.int64)

    documents, current = [], []
    for line in args.text.read_bytes().decode("utf-8", "replace").splitlines(keepends=True):
        if line.rstrip("\r\n") != "<|endoftext|>":
            current.append(line)
            continue
        documents.append("".join(current))
        current = []
    documents = [d for d in documents + ["".join(current)] if d.strip()]

    began = time.time()
    theirs = library_tokenizer(documents, args.vocab_size, args.pattern)
    their_seconds = time.time() - began
    ours = Tokenizer.from_str(ours_json)
    a, b = merges_of(ours_json), merges_of(theirs.to_str())
    same_prefix = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    size = sum(len(d.encode()) for d in documents)
    eot = ours.token_to_id("<|endoftext|>")
    loaded = np.array([i for e in ours.encode_batch(documents, add_special_tokens=False) for i in [eot, *e.ids]])
    their_tokens = sum(len(e.ids) for e in theirs.encode_batch(documents, add_special_tokens=False))
    our_tokens = len(our_ids) - len(documents)
    decoded = all(ours.decode(e.ids) == d for e, d in zip(ours.encode_batch(documents[:200]), documents))

    print(f"{args.text.name}, {size:,} bytes, {len(documents):,} documents; pattern {args.pattern}; tokenizers {tokenizers.__version__}")
    print(f"vocabulary        ours {ours.get_vocab_size():,}  library {theirs.get_vocab_size():,}")
    print(f"merges            ours {len(a):,}  library {len(b):,}  in common {len(set(a) & set(b)):,}  the same in order: the first {same_prefix:,}")
    print(f"bytes per token   ours {size / our_tokens:.4f}  library {size / their_tokens:.4f}")
    print(f"our file there    {len(loaded):,} ids, our shards {len(our_ids):,}: {'equal' if np.array_equal(loaded, our_ids) else 'DIFFERENT'};"
          f" decoding gives {'the text back' if decoded else 'OTHER TEXT'}")
    print(f"seconds           ours {our_seconds:.1f} (with writing the shards)  library {their_seconds:.1f} (learning only)")


if __name__ == "__main__":
    main()
