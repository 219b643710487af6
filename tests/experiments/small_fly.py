"""The fly experiment on hand-made tables of a dozen neurons and four odors: in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pandas as pd
import torch
from conftest import CHECKOUT

from neuro.connectome import fly_tables

sys.path.append(str(CHECKOUT / "tests" / "neuro"))
from tiny_fly import write_tables  # noqa: E402

FOLDER = CHECKOUT / "experiments" / "fly_olfaction"
FILES = {"compact": "parameters.toml", "full": "parameters_full.toml"}
SMALL: dict[str, dict[str, object]] = {
    "compact": {"network.dt_ms": 10},
    "full": {
        "network.dt_ms": 5,
        "calibration.trials": 8,
        "calibration.halvings": 6,
        "calibration.ln_rate_hz": 40.0,
        "calibration.pn_rate_hz": 60.0,
        "calibration.kc_active": 0.6,
    },
}
BOTH = {
    "classes": "published_284",
    "epochs": 2,
    "batch_size": 8,
    "samples_per_class": {"train": 6, "validation": 4},
}
# Starts main in a process of its own; with a number, that process is killed once it has saved as
# many epochs.
IN_A_PROCESS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import train
from engram.checkpoint import Checkpoints
inputs, folder, parameters, kill_after, resume = sys.argv[2:7]
saving = Checkpoints.save
def save(self, step, **values):
    saving(self, step, **values)
    if kill_after and step == int(kill_after):
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.save = save
train.main(
    Path(inputs), Path(folder), Path(parameters), resume_from=Path(resume) if resume else None
)
"""


def write_small_tables(folder: Path) -> Path:
    """Write the tables of the small fly, and four odors that it can tell apart."""
    write_tables(folder)
    names = ["ethanol", "water", "acetone", "nothing"]
    selected = pd.DataFrame(
        {"Or1": [1.0, 0.0, 0.6, 0.0], "Or2": [0.0, 1.0, 0.6, 0.0]}, index=pd.Index(names)
    )
    odors = pd.DataFrame({"Name": names, "Class": ["alcohol", None, "ketone", None]})
    selected.to_parquet(fly_tables.table_path(folder, fly_tables.DOOR_SELECTED))
    odors.to_parquet(fly_tables.table_path(folder, fly_tables.DOOR_ODORS))
    return folder


def write_parameters(model: str, path: Path, /, **changed: object) -> Path:
    """Write small parameters; keys of tables with dots."""
    values = tomllib.loads((FOLDER / FILES[model]).read_text())
    for key, value in {**BOTH, **SMALL[model], **changed}.items():
        *tables, name = key.split(".")
        table = values
        for one in tables:
            table = table[one]
        assert name in table, key
        table[name] = value
    path.write_text(as_toml(values))
    return path


def as_toml(values: dict) -> str:
    """Write tables of one level; gains have keys such as "APL->KC"."""
    lines = [f"{key} = {json.dumps(one)}" for key, one in values.items() if type(one) is not dict]
    for name, table in values.items():
        if type(table) is dict:
            lines.append(f"[{name}]")
            lines += [f"{json.dumps(key)} = {json.dumps(one)}" for key, one in table.items()]
    return "\n".join([*lines, ""])


@contextmanager
def imported(name: str) -> Iterator[ModuleType]:
    """A script as a module; what it changes in PyTorch and in sys is put back at the end."""
    import importlib

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    known = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module(name)
    sys.path.remove(str(FOLDER))
    for other in set(sys.modules) - known:
        if Path(getattr(sys.modules[other], "__file__", None) or "/").is_relative_to(FOLDER):
            del sys.modules[other]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filling


def start(
    inputs: Path,
    folder: Path,
    parameters: Path,
    *,
    kill_after: int | None = None,
    resume_from: Path | None = None,
    hash_seed: str = "0",
) -> int:
    """Run main in a process of its own and return how it ended."""
    folder.mkdir()
    given = [FOLDER, inputs, folder, parameters, kill_after or "", resume_from or ""]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, *map(str, given)],
        env=os.environ
        | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def newest_checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoints/step-*"))


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_results(first: Path, second: Path) -> None:
    for name in ("responses.npz", "learning.png", "activity.png", "confusion.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    both = [(newest_checkpoint(folder) / "state.pt").read_bytes() for folder in (first, second)]
    assert both[0] == both[1]
