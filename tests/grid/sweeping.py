"""W&B sweeps in somebody's repository: a script, its [grid] table, and what came of it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from conftest import Project
from grids import folders, records
from wandb_stand_in import StandIn

WORK = """\
import os, time, tomllib


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    p = tomllib.loads(params_file.read_text())
    loss = (p["x"] - 1) ** 2 + p["model"]["k"] / 10
    if p["logs"]:
        from engram import metrics

        with metrics.open(output_dir, wandb_config=wandb_config) as log:
            log(step=0, curve=loss + 1)
    time.sleep(p["seconds"])
    if p["x"] == p["breaks_at"]:
        raise ValueError("no luck")
    return {"loss": loss, "seen": os.environ.get("WANDB_SWEEP_ID", "none")}
"""
PARAMETERS = """\
x = 0
seconds = 0.0
breaks_at = -1
logs = false

[model]
k = 1
kind = "a"
"""
TABLE = """\
[wandb]
enabled = true
project = "fly"

[engine]
slots_per_device = {slots}

[grid]
search = "wandb"
metric = "loss"
{more}
{space}
"""
SPACE = "[grid.product]\nx = [0, 1, 2]\nmodel.k = [1, 2]\n"


def prepare(project: Project, more: str = "", *, space: str = SPACE, slots: int = 1) -> None:
    """Give a repository the script above and a [grid] table with a sweep, committed."""
    project.write("work.py", WORK)
    project.write("parameters.toml", PARAMETERS)
    lines = (project.root / "experiment.toml").read_text().split("\n[wandb]")[0]
    table = TABLE.format(more=more, space=space, slots=slots)
    project.write("experiment.toml", f"{lines}\n{table}")
    project.commit("sweep")


def edit(project: Project, old: str, new: str, name: str = "parameters.toml") -> None:
    """Change a file of a repository, and commit it."""
    text = (project.root / name).read_text()
    assert old in text
    project.write(name, text.replace(old, new))
    project.commit("edit")


def drawn(folder: Path) -> list[tuple[Any, ...]]:
    """(x, model.k) of a grid's points, in order."""
    lines = (folder / "points.jsonl").read_text().splitlines()
    found = [tomllib.loads(json.loads(line)["parameters"]) for line in lines]
    return [(point["x"], point["model"]["k"]) for point in found]


def completed(project: Project) -> list[tuple[Any, ...]]:
    """(x, model.k) of every run that completed, over all grids."""
    found = []
    for folder in folders(project):
        for item in records(folder):
            if item["state"] == "completed":
                text = (folder / item["run_id"] / "parameters.toml").read_text()
                point = tomllib.loads(text)
                found.append((point["x"], point["model"]["k"]))
    return sorted(found)


ALL = sorted((x, k) for x in (0, 1, 2) for k in (1, 2))


def sweep(project: Project, server: StandIn, *options: str, code: int = 0) -> str:
    """Run the grid; what it said."""
    done = project.run("--grid", "experiment.toml", *options, env=server.environ)
    assert done.returncode == code, done.stderr
    return done.stderr
