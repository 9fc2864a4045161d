"""Feeds a run's log to Weights & Biases: the trainer knows nothing of it, and a service that is down costs no step.

    python3 scripts/wandb_feed.py runs/mine                     a finished run, or what there is of one
    python3 scripts/wandb_feed.py runs/mine --follow            while it trains; ends with the run, or with Ctrl-C
    python3 scripts/wandb_feed.py runs/mine --dry-run           prints what would be sent, one JSON object a line; needs no wandb
    WANDB_MODE=offline python3 scripts/wandb_feed.py runs/mine  to ./wandb, for `wandb sync` later

Steps of wandb never go back. Where the log's do (a run that was resumed from an earlier checkpoint), the log is taken as the report takes it:
the later records hold. What was sent already stays, and steps that are done again are passed over: they have the same numbers.
RUN/wandb_id keeps the name under which wandb knows the run, so that a second feed goes on with it.
"""

import argparse
import json
import os
import sys
import time
import uuid
from pathlib import Path

# key in log.jsonl -> name in wandb, the same as in TensorBoard
NUMBERS = {"loss": "loss/train", "lr": "lr", "grad_norm": "grad_norm", "tokens": "tokens", "tok_per_s": "speed/tok_per_s", "ms": "speed/ms",
           "mfu": "speed/mfu", "val_loss": "loss/val", "val_bits_per_byte": "val/bits_per_byte", "hellaswag": "val/hellaswag"}
KINDS = ("loss", "val_loss", "sample", "checkpoint", "note")


def fail(code, message, remedy):
    print(f"error: {message}\n  what to do: {remedy}", file=sys.stderr)
    sys.exit(code)


def parse(line):
    """A line as a record; None for one that is torn or foreign."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int) and not isinstance(record["step"], bool) and record["step"] >= 0
    return record if whole else None


class Log:
    """log.jsonl as it grows. A resume may replace the file by a shorter one: then it is read from its beginning again."""

    def __init__(self, path):
        self.path, self.inode, self.offset, self.ignored = path, None, 0, 0

    def new_records(self):
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self.inode or status.st_size < self.offset:
                self.inode, self.offset = status.st_ino, 0
            file.seek(self.offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the last line may be in the middle of being written
        self.offset += len(whole)
        records = []
        for line in whole.split(b"\n"):
            if line.strip():
                record = parse(line)
                if record is None:
                    self.ignored += 1
                else:
                    records.append(record)
        return records


def settled(records):
    """Without what later records of the same or an earlier step overtake."""
    kept, last = {}, -1
    for record in records:
        step, kind = record["step"], next((k for k in KINDS if k in record), "")
        if step < last:
            kept = {key: old for key, old in kept.items() if key[0] <= step}
        kept.pop((step, kind), None)
        kept[step, kind] = record
        last = step
    return list(kept.values())


class Feed:
    """Hands records on in ascending steps, no number twice."""

    def __init__(self, send, first_step=0):
        self.send, self.step, self.sent, self.passed_over = send, first_step, set(), 0

    def record(self, record):
        step, values = record["step"], {}
        if step > self.step:
            self.step, self.sent = step, set()
        for key, name in NUMBERS.items():
            value = record.get(key, "absent")
            if value is None or isinstance(value, (int, float)) and not isinstance(value, bool):
                values[name] = float("nan") if value is None else value  # null: not finite
        if isinstance(record.get("sample"), str):
            values["sample"] = record["sample"]
        values = {name: value for name, value in values.items() if step == self.step and name not in self.sent}
        if values:
            self.send(step, values)
            self.sent |= values.keys()
        elif step < self.step:
            self.passed_over += 1


def open_wandb(run, settings, project):
    try:
        import wandb
    except ImportError:
        fail(1, "the Python package wandb is not installed", "pip install wandb, or look at the run with ./train report or --tensorboard")
    id_file = run / "wandb_id"
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:12] + "\n")
    session = wandb.init(project=project, name=run.resolve().name, id=id_file.read_text().strip(), resume="allow", config=settings.get("options", {}))

    def send(step, values):
        if "sample" in values:
            text = values["sample"].replace("&", "&amp;").replace("<", "&lt;")
            values = {**values, "sample": wandb.Html(f"<pre style='white-space:pre-wrap'>{text}</pre>")}
        session.log(values, step=step)

    return session, send


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--project", default="train.cu", help="wandb's project (train.cu)")
    parser.add_argument("--follow", action="store_true", help="go on while the run trains")
    parser.add_argument("--dry-run", action="store_true", help="print instead of sending")
    options = parser.parse_args()
    log = Log(options.run / "log.jsonl")
    try:
        records = settled(log.new_records())
        settings = json.loads((options.run / "run.json").read_text()) if (options.run / "run.json").exists() else {}
    except (OSError, ValueError) as error:
        fail(3, f"{options.run} cannot be read as a run directory: {error}", "name the directory given to --out")

    session = None
    if options.dry_run:
        feed = Feed(lambda step, values: print(json.dumps({"step": step, **values}), flush=True))
    else:
        session, send = open_wandb(options.run, settings, options.project)
        feed = Feed(send, session.step)
    last_step = settings.get("options", {}).get("max-steps", float("inf"))
    try:
        while True:
            for record in records:
                feed.record(record)
            # the last thing that a run logs is its last checkpoint
            if not options.follow or any("checkpoint" in r and r["step"] >= last_step for r in records):
                break
            time.sleep(1)
            records = log.new_records()
    except KeyboardInterrupt:
        pass
    if session:
        session.finish()
    print(f"fed up to step {feed.step}; {log.ignored} lines were no records, {feed.passed_over} records had been sent before", file=sys.stderr)


if __name__ == "__main__":
    main()
