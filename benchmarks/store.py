"""Time the store: list, filter, sort and rebuild over many runs, each as a whole process.

    python benchmarks/store.py [--runs 10000] [--repeats 7]

Peak memory is that of the process, as the kernel counts it. The floors are a bare interpreter and
the same question asked of the same SQLite file by `import sqlite3` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DOOR = str(CHECKOUT / "run_experiment.py")

PARAMETERS = """\
lr = {lr!r}  # learning rate
epochs = {epochs}
batch_size = 64
optimizer = "adam"
seed = {seed}
dropout = 0.1
weight_decay = 1e-4
device = "cpu"

[model]
hidden = [128, 64]
tau_mem_ms = {tau!r}
tau_syn_ms = 5.0
threshold = 1.0
surrogate = "fast_sigmoid"
slope = 25.0

[data]
n_steps = 25
max_rate_hz = 100.0
validation_fraction = 0.2
shuffle = true
"""

FLOOR = """\
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
text = '''SELECT run_id, brief FROM (
SELECT s.run, s.number FROM facts s WHERE s.key = 'summary.accuracy'
AND s.run IN (SELECT run FROM facts WHERE key = 'param.lr' AND number > 0.05)
ORDER BY s.number DESC LIMIT 50) JOIN runs ON id = run'''
print(len(database.execute(text).fetchall()))
"""

REBUILD = """\
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from engram.index import Index
from engram.paths import RootPaths
Index(RootPaths(Path(sys.argv[2]))).rebuild()
"""


def main():
    options = argparse.ArgumentParser(description="Time the store.")
    options.add_argument("--runs", type=int, default=10_000)
    options.add_argument("--repeats", type=int, default=7)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        made = [sys.executable, __file__, "--make", str(root), str(given.runs)]
        subprocess.run(made, check=True)
        (Path(folder) / ".git").mkdir()
        (Path(folder) / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        measure(root, given.runs, given.repeats)


def measure(root, count, repeats):
    rebuild = [sys.executable, "-c", REBUILD, str(CHECKOUT / "lib"), str(root)]
    once(rebuild, root.parent)
    listing = [sys.executable, DOOR, "list"]
    cases = {
        "bare interpreter": [sys.executable, "-c", "pass"],
        "raw sqlite3, filter + sort": [
            sys.executable,
            "-c",
            FLOOR,
            str(root / ".engram/index.sqlite"),
        ],
        "list": listing,
        "list state=failed": [*listing, "state=failed"],
        "list 'param.lr>0.05' --sort=-summary.accuracy": [
            *listing,
            "param.lr>0.05",
            "--sort=-summary.accuracy",
        ],
        "list --limit 0 (all rows)": [*listing, "--limit", "0"],
        "list --json (all rows)": [*listing, "--json"],
        "show latest": [sys.executable, DOOR, "show", "latest"],
    }
    # The folders must have come to rest: what is younger than two seconds is listed again.
    deadline = time.time() + 3
    while time.time() < deadline:
        once(listing, root.parent)
    taken = {name: [] for name in cases}
    for _ in range(repeats):
        for name, command in cases.items():
            taken[name].append(once(command, root.parent))
    rebuilt = [once(rebuild, root.parent) for _ in range(3)]
    print(
        f"{count} runs, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, "
        f"medians of {repeats}"
    )
    for name, values in [*taken.items(), ("rebuild of the index (3)", rebuilt)]:
        walls, peaks = zip(*values, strict=True)
        print(f"| {name} | {statistics.median(walls) * 1000:.0f} ms | {max(peaks) / 1e6:.0f} MB |")


def once(command, cwd):
    """Wall seconds and peak bytes of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        message = f"{command} ended with {process.returncode}"
        raise RuntimeError(message)
    return wall, usage.ru_maxrss * 1024


def make(root, count):
    """Write many finished runs, as they look on the disk."""
    sys.path.insert(0, str(CHECKOUT / "lib"))
    from engram import record
    from engram.paths import RunPaths

    choose = random.Random(0)
    for number in range(count):
        name = choose.choice(["digits", "olfaction", "maze"])
        when = 1_760_000_000 + number * 61
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(when))
        paths = RunPaths(root / name / f"{stamp}.000Z-{name}-{number:06x}")
        paths.provenance.mkdir(parents=True)
        values = {"lr": round(choose.uniform(1e-4, 0.1), 6), "epochs": choose.randint(1, 90)}
        values |= {"seed": number, "tau": round(choose.uniform(5, 50), 3)}
        paths.parameters.write_text(PARAMETERS.format(**values))
        made = synthetic_record(paths.run_id, name, when, choose)
        made["record_sha256"] = record.record_sha256(made)
        paths.metadata.write_text(json.dumps(made, indent=2) + "\n")


def synthetic_record(run_id, name, when, choose):
    from engram.record import iso_utc

    state = choose.choices(["completed", "failed", "interrupted"], [90, 8, 2])[0]
    cause = "main returned" if state == "completed" else "ValueError: loss is nan"
    message = "the commit is on no remote yet"
    return {
        "schema_version": 1,
        "engram": {"version": "0.1.0"},
        "run_id": run_id,
        "experiment": name,
        "description": "rate-coded digits into a two-layer LIF classifier",
        "state": state,
        "exit": {"code": 0, "signal": None, "cause": cause, "exception": None},
        "argv": ["experiments/digits/experiment.toml", "--set", "lr=0.01"],
        "script": {"path": f"experiments/{name}/train.py", "blob": "b" * 40},
        "code": {
            "commit": f"{choose.getrandbits(160):040x}",
            "branch": "main",
            "remotes": {"origin": "https://example.org/lab/project.git"},
            "on_remote": False,
            "dirty": False,
            "live": False,
            "patch_sha256": None,
            "snapshot_commit": "c" * 40,
            "source_sha256": "d" * 64,
            "submodules": [],
        },
        "repository": {"root": "/home/somebody/project"},
        "hashes": dict.fromkeys(("parameters", "experiment", "environment", "lock_file"), "e" * 64),
        "overrides": {"parameters": ["lr=0.01"], "experiment": []},
        "inputs": [],
        "seed": 0,
        "hash_seed": 0,
        "timeout_s": None,
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "cpu": "x",
            "gpus": [],
            "packages": 120,
        },
        "host": "node7",
        "user": "somebody",
        "lease": {"host": "node7", "boot_id": "f" * 36, "pid": 4242, "start_time": 123456},
        "times": {
            "created": iso_utc(when),
            "started": iso_utc(when + 0.1),
            "ended": iso_utc(when + 60),
            "run_s": 59.9,
            "total_s": 60.1,
        },
        "usage": {
            "wall_s": 59.9,
            "cpu_user_s": 100.0,
            "cpu_system_s": 2.0,
            "max_rss_bytes": 600_000_000,
        },
        "parents": {"resumed_from": None, "rerun_of": None},
        "comparison": None,
        "summary": {
            "accuracy": choose.random(),
            "loss": choose.expovariate(1),
            "epochs": choose.randint(1, 90),
            "best_epoch": choose.randint(1, 90),
        },
        "findings": [
            {
                "code": "unpushed_commit",
                "severity": "note",
                "message": message,
                "evidence": "c" * 40,
            }
        ],
        "wandb": None,
        "outputs": {"files": 7, "size": 123_456, "sha256": "a" * 64},
        "logs": {"out_sha256": "a" * 64, "err_sha256": "b" * 64},
        "reruns": [],
        "tags": ["sweep"] if choose.random() < 0.1 else [],
        "notes": [],
        "pinned": False,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
