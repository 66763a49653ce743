"""What the tests that kill processes look at: how far a run has come, and what it has computed."""

import json
import time


def wait_for_chunks(processes, out, count):
    """Waits until the log holds so many whole lines, or one of the processes has ended."""
    while all(process.poll() is None for process in processes):
        log = out / "metrics.jsonl"
        if log.exists() and log.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)


def outcome(out):
    """What a run computed: its rows bit for bit, its whole log and its config."""
    rows = json.loads((out / "results.json").read_text())["rows"]
    return json.dumps(rows), (out / "metrics.jsonl").read_bytes(), (out / "config.json").read_bytes()
