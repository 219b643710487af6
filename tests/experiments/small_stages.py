"""Stages of connectome_snns at a size for tests: their main() called directly, and what it left."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from conftest import CHECKOUT

FOLDER = CHECKOUT / "experiments" / "connectome_snns"
# 60 cells and 30 inputs.
SMALL_CONNECTOME = {
    "connectome.cells.n_cells": 60,
    "connectome.recurrent.n_assemblies": 2,
    "connectome.inputs.n_cells": 30,
    "connectome.feedforward.probability": 0.3,
}


@dataclass(frozen=True)
class Stages:
    """Scripts by name, and what is changed in the small parameters of each, by dotted key."""

    modules: Mapping[str, ModuleType]
    small: Mapping[str, Mapping[str, object]]

    def __getitem__(self, stage: str) -> ModuleType:
        return self.modules[stage]

    def write_parameters(self, stage: str, path: Path, **changed) -> Path:
        values = tomllib.loads((FOLDER / "parameters" / "small" / f"{stage}.toml").read_text())
        for key, value in (dict(self.small[stage]) | changed).items():
            *tables, name = key.split(".")
            table = values
            for one in tables:
                table = table[one]
            assert name in table, key
            table[name] = value
        path.write_text(as_toml(values))
        return path

    def run(self, stage: str, folder: Path, *, input_dir=None, resume_from=None, **changed) -> dict:
        folder.mkdir()
        parameters = self.write_parameters(stage, folder.with_suffix(".toml"), **changed)
        return self[stage].main(input_dir, folder, parameters, resume_from=resume_from)


@contextmanager
def imported(names: Sequence[str], small: Mapping[str, Mapping[str, object]]) -> Iterator[Stages]:
    """The scripts as modules; what they change in PyTorch and in sys is put back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    known = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield Stages({name: importlib.import_module(name) for name in names}, small)
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(FOLDER):
            del sys.modules[name]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def as_toml(values: dict, prefix: str = "") -> str:
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(values[key])}" for key in values if key not in tables]
    text = "\n".join([f"[{prefix}]", *lines, ""] if prefix else [*lines, ""])
    for key, table in tables.items():
        text += as_toml(table, f"{prefix}.{key}" if prefix else key)
    return text


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but metrics, whose lines a resumed run continues."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("metrics")
    }


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
