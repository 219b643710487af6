"""Searches in somebody's repository: a script with learning curves, and optuna as a reader."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from grids import folders, records

optuna = pytest.importorskip("optuna", reason="searches need optuna")

WORK = """\
import math, os, time, tomllib


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    from engram import metrics

    p = tomllib.loads(params_file.read_text())
    loss = (p["x"] - 1) ** 2 + p["model"]["k"] / 10
    with metrics.open(output_dir) as log:
        for step in range(p["steps"]):
            log(step=step, loss=loss + 1 / (step + 1), other=step)
            time.sleep(p["seconds"])
    if p["x"] < p["breaks_below"]:
        raise ValueError("x is too small")
    if p["result"] == "nan":
        return {"loss": math.nan}
    return {p["result"]: loss}
"""
PARAMETERS = """\
x = 0.0
rate = 1.0
steps = 3
seconds = 0.0
breaks_below = -100
result = "loss"

[model]
k = 1
kind = "a"
"""
SPACE = """\
[grid.space]
x = {uniform = [-5, 5]}
rate = {loguniform = [1e-4, 1]}
model.k = {int = [1, 9], step = 2}
model.kind = {choice = ["a", "b", "c"]}
"""
SMALL = '[grid.space]\nmodel.k = {int = [1, 3]}\nmodel.kind = {choice = ["a", "b"]}\n'
ONE, TWO = "[engine]\nslots_per_device = 1\n", "[engine]\nslots_per_device = 2\n"


def prepare(project: Project, grid: str, *, space: str = SPACE, engine: str = ONE) -> None:
    """Give a repository the script above and a [grid] table, committed."""
    project.write("work.py", WORK)
    project.write("parameters.toml", PARAMETERS)
    experiment = (project.root / "experiment.toml").read_text()
    head = '[grid]\nsearch = "optuna"\nmetric = "loss"\n'
    project.write("experiment.toml", f"{experiment}\n{engine}\n{head}{grid}\n{space}")
    project.commit("search")


def drawn(folder: Path) -> list[dict[str, Any]]:
    """The parameters in a grid's points.jsonl, in order."""
    lines = (folder / "points.jsonl").read_text().splitlines()
    return [tomllib.loads(json.loads(line)["parameters"]) for line in lines]


def study_of(folder: Path) -> Any:
    """The study in a grid's folder, as optuna itself reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / ".grid/search.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=folder.name, storage=storage)


def searched(project: Project, *options: str, code: int = 0) -> Path:
    """Run the search; the folder it made."""
    done = project.run("--grid", "experiment.toml", *options)
    assert done.returncode == code, done.stderr
    return folders(project)[-1]


def ended(folder: Path) -> bool:
    """Whether the runs of a killed grid are over."""
    return all(item["state"] not in ("created", "running") for item in records(folder))
