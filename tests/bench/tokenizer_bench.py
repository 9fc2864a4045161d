"""Speed of ./train's tokenizer beside Hugging Face's tokenizers: the same documents, one thread each, ids compared.

    make tokenizer_bench
    python tests/bench/tokenizer_bench.py --tokenizer FILE_OR_FOLDER TEXT_FILE...

A document is a file, or 200 lines of a file. Both sides encode all documents of a file three times; the best time counts. MB = 10^6 bytes.
"""
import argparse
import os
import pathlib
import subprocess
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402  (reads the variables above)


def documents_of(path):
    lines = pathlib.Path(path).read_bytes().decode("utf-8", "replace").splitlines(keepends=True)
    return ["".join(lines[i : i + 200]) for i in range(0, len(lines), 200)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--ours", default="build/tokenizer_bench")
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    path = pathlib.Path(args.tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    library = tokenizers.Tokenizer.from_file(str(path))
    print("tokenizers %s, %s, %d tokens" % (tokenizers.__version__, path, library.get_vocab_size()))
    for file in args.files:
        documents = documents_of(file)
        megabytes = sum(len(d.encode()) for d in documents) / 1e6
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            encoded = library.encode_batch(documents, add_special_tokens=False)
            best = min(best, time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as folder:
            text = os.path.join(folder, "documents")
            pathlib.Path(text).write_bytes(b"".join(b"%d\n%s" % (len(d.encode()), d.encode()) for d in documents))
            ids = os.path.join(folder, "ids")
            ours = float(subprocess.run([args.ours, str(path), text, ids], check=True, capture_output=True, text=True).stdout)
            same = pathlib.Path(ids).read_text().split() == [str(i) for e in encoded for i in e.ids]
        print("%-30s %6.1f MB  tokenizers %6.1f MB/s   ./train %6.1f MB/s   ratio %.2f   ids %s"
              % (os.path.basename(file), megabytes, megabytes / best, megabytes / ours, best / ours, "equal" if same else "DIFFER"))


if __name__ == "__main__":
    main()
