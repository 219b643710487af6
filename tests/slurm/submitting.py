"""Repositories whose runs are Slurm jobs, and what tests ask of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conftest import Project

from engram.grid.attempts import attempts
from engram.paths import GridPaths, RunPaths

if TYPE_CHECKING:
    from cluster import Cluster

ENGINE = """
[engine]
kind = "slurm"
gres = "gpu:1"
time = "10m"
memory = "200M"
"""

WORK = """\
import json, os, pathlib, sys, time, tomllib


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    began = time.time()
    print("begin", parameters["value"], flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    end = began + parameters["seconds"]
    while time.time() < end and not pathlib.Path(parameters["until"]).exists():
        time.sleep(0.02)
    if parameters["value"] == 13:
        raise ValueError("no luck")
    (output_dir / "result.txt").write_text(str(parameters["value"] * 2))
    gpu = int(os.environ.get("CUDA_VISIBLE_DEVICES", "-1"))
    return {"doubled": parameters["value"] * 2, "gpu": gpu, "began": began, "ended": time.time()}
"""

GRID = """\
import copy


def configurations(base):
    for value in {values}:
        parameters = copy.deepcopy(base)
        parameters["value"] = value
        yield parameters, f"value-{{value}}"
"""


def with_grid(project: Project, *values: int) -> Project:
    """Give a repository a grid file."""
    project.write("grid.py", GRID.format(values=list(values)))
    project.commit("grid")
    return project


def grid_of(project: Project) -> GridPaths:
    """The newest grid of a repository."""
    return GridPaths(sorted((project.root / "runs").glob("*-grid-*"))[-1])


def last_runs(grid: GridPaths) -> dict[str, dict[str, Any]]:
    """The record of the last attempt at each point, by the point's name."""
    return {tried[-1].point: tried[-1].record for tried in attempts(grid).values()}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait(slurm: Cluster, ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something is so, or fail with what the watcher has to say."""

    def look() -> object:
        assert process.poll() is None, process.communicate()
        return ready()

    slurm.until(look)


def begun(project: Project, number: int = 1, word: str = "begin") -> list[RunPaths]:
    """The runs of single runs and grids whose script has begun, once they are that many."""
    logs = (project.root / "runs").glob("*/*Z-*/log.out")
    runs = [RunPaths(path.parent) for path in logs if word in path.read_text()]
    return runs if len(runs) >= number else []
