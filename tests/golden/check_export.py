"""Loads what ./train writes with transformers: exported models of every family, and the checkpoint of a real run.

    make train build/run_tests
    python tests/golden/check_export.py > tests/golden/huggingface/check_export.txt      # in the project's root; needs torch, transformers

Logits and losses must agree to 1e-4, and the tokenizer must give the same ids. Ends with an error where anything does not.
"""

import datetime
import os
import subprocess
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

TEXT = "In the beginning, the w\u00f6rld was \u65e5\u672c \t\n  <b>unformed</b>, 1234 \U0001f30d"


def run(*words, cwd):
    return subprocess.run([str(w) for w in words], cwd=cwd, check=True, capture_output=True, text=True, errors="replace").stdout


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def check_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(TEXT)["input_ids"] == list(TEXT.encode()), "ids differ"
    assert tokenizer.decode(list(TEXT.encode())) == TEXT, "text differs"
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 256 and tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer(TEXT + "<|endoftext|>")["input_ids"][-1] == 256
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == generation.bos_token_id == generation.pad_token_id == 256
    return type(tokenizer).__name__  # for qwen2 transformers takes Qwen2Tokenizer, whatever tokenizer_config.json names


def check_exported(root):
    subprocess.run(["build/run_tests", "-tc=Hugging Face: random models*"], env=dict(os.environ, EXPORT_TO=str(root)), check=True,
                   stdout=subprocess.DEVNULL)
    for place in sorted(root.iterdir()):
        expected, folder = load_file(place / "expected.safetensors"), place / "exported"
        model = load(folder)
        with torch.no_grad():
            logits = model(expected["tokens"].long()[None]).logits[0]
        difference = (logits - expected["logits"]).abs().max().item()
        stored = AutoModelForCausalLM.from_pretrained(folder).dtype
        print(f"{place.name:8s} {type(model).__name__:18s} {str(stored):15s} logits differ by at most {difference:.1e} of "
              f"{logits.abs().max():.2f}, tokenizer {check_tokenizer(folder)}")
        assert difference < 1e-4


def check_run(root):
    """A run as anybody makes it: its checkpoint, and an export of it, give the loss that ./train eval prints."""
    train = Path("train").resolve()
    (root / "text.txt").write_text("".join(f"In the beginning was the number {i * i}, {i % 7} others with it.\n" for i in range(300)))
    run(train, "tokenize", "text.txt", "--out", "text", cwd=root)
    shapes = {"gpt2": [], "llama": "--norm rmsnorm --position rope --mlp swiglu --bias 0 --tie-embeddings 0 --rope-scaling llama3:4:1:4:32".split(),
              "qwen2": "--norm rmsnorm --position rope --mlp swiglu --bias 0 --qkv-bias".split(),
              "qwen3": "--norm rmsnorm --position rope --mlp swiglu --bias 0 --qk-norm --head-size 24".split(),
              "qwen3_next": "--norm rmsnorm --position rope --mlp swiglu --bias 0 --qk-norm --head-size 24 --attn-gate elementwise".split()}
    for name, flags in shapes.items():
        run(train, "--preset", "tiny", "--data", "text_train_000000.bin", "--max-steps", 60, "--sample-tokens", 1, "--threads", 1, "--out", name,
            *flags, cwd=root)
        run(train, "export", "--model", name, "--out", name + "_export", cwd=root)
        printed = run(train, "eval", "--model", name, "--data", "text_val_000000.bin", "--seq-len", 32, cwd=root)
        loss = float(printed.split("loss")[1].split()[0])
        shard = (root / "text_val_000000.bin").read_bytes()[1024:]
        tokens = torch.frombuffer(bytearray(shard), dtype=torch.uint16).long()
        windows = (len(tokens) - 1) // 32
        inputs, targets = tokens[:windows * 32].view(windows, 32), tokens[1:windows * 32 + 1].view(windows, 32)
        folders = [root / name / "step_0000000060", root / (name + "_export")]
        for folder in folders[1:] if name == "qwen3_next" else folders:  # its checkpoints keep gains whole, in a form of their own
            model = load(folder)
            with torch.no_grad():
                theirs = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten()).item()
            print(f"{name:8s} {type(model).__name__:18s} {folder.name:15s} loss of ./train eval {loss:.5f}, of transformers {theirs:.5f}, "
                  f"tokenizer {check_tokenizer(folder)}")
            assert abs(theirs - loss) < 1e-4


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {datetime.date.today()}")
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        print("\nExported random models")
        check_exported(Path(a))
        print("\nRuns: the checkpoint itself, and its export")
        check_run(Path(b))
    print("\nall agree")


if __name__ == "__main__":
    main()
