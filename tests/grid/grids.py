"""Grids in somebody's repository: a script that does what its parameters say, and a witness."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Project

from engram import record
from engram.paths import RunPaths

WORK = """\
import json, os, pathlib, signal, sys, time, tomllib


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    kind, seconds = parameters.get("kind", "ok"), parameters.get("seconds", 0.0)
    began = time.monotonic()
    print("begin", parameters["value"], flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    if kind == "segfault":
        import ctypes

        ctypes.string_at(0)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(3)
    if kind == "raise":
        raise ValueError(f"no luck with {parameters['value']}")
    if kind == "hang":
        time.sleep(600)
    time.sleep(seconds)
    (output_dir / "result.txt").write_text(str(parameters["value"] * 2))
    if "WITNESS" in os.environ:
        seen = {
            "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "value": parameters["value"],
            "began": began,
            "ended": time.monotonic(),
        }
        with open(os.environ["WITNESS"], "a") as stream:
            stream.write(json.dumps(seen) + "\\n")
    return {"doubled": parameters["value"] * 2}
"""

GRID = """\
import copy


def configurations(base):
    for value in range({number}):
        parameters = copy.deepcopy(base)
        parameters["value"] = value
        yield parameters, f"value-{{value}}"
"""

PARAMETERS = 'value = 1\nkind = "ok"\nseconds = 0.0\n'


def set_up(project: Project, grid: str = "", *, number: int = 3, extra: str = "") -> Project:
    """Give a repository the script above and a grid file, committed."""
    project.write("work.py", WORK)
    project.write("parameters.toml", PARAMETERS)
    project.write("grid.py", (grid or GRID.format(number=number)) + extra)
    project.commit("grid")
    return project


def points(text: str) -> str:
    """A grid file of points written as a list of dicts; each is named by its position."""
    return (
        f"POINTS = {text}\n\n\n"
        "def configurations(base):\n"
        "    for number, point in enumerate(POINTS):\n"
        "        yield {**base, 'value': number, **point}, f'point-{number}'\n"
    )


def folders(project: Project) -> list[Path]:
    """The grid folders, oldest first."""
    return sorted(path.parent for path in (project.root / "runs").glob("*/grid.json"))


def grid_record(folder: Path) -> dict[str, Any]:
    """A grid's record, as it lies there."""
    return json.loads((folder / "grid.json").read_text())


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a grid's runs, oldest first."""
    found = sorted(path.parent for path in folder.glob("*/metadata.json"))
    return [record.load(RunPaths(path)) for path in found]


def by_point(folder: Path) -> dict[str, dict[str, Any]]:
    """The record of each point's last attempt."""
    made = sorted(records(folder), key=lambda item: item["grid"]["attempt"])
    return {item["grid"]["point"]: item for item in made}


def witnessed(path: Path) -> list[dict[str, Any]]:
    """What the scripts saw, in the order they ended."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it does not within that time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def living(text: str) -> list[int]:
    """Processes with this text in their environment; /proc is the witness."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if text.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found
