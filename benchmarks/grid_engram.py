"""Grids of engram for grid.py: the repository, what its records say afterwards, its memory."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grid_peers import FIRST, answers
from launch import SCRIPT, Project
from timing import Case, environment

GRID = """\
SLOTS_PER_DEVICE = 2
PRELOAD = {preload!r}


def configurations(base):
    for n in range({first}, {first} + {count}):
        yield {{**base, "n": n}}, f"n{{n}}"
"""

MEGABYTE = 1_000_000
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sweep(Project):
    """Somebody's repository with a grid of `count` points."""

    def __init__(
        self, root: Path, count: int, options: argparse.Namespace, *, first: str = ""
    ) -> None:
        """Lay it out and commit it; `first` is the module that a point imports, if any."""
        self.count = count
        self.door = [options.python, str(options.engram.resolve() / "run_experiment.py")]
        preload = [first] if first else []
        files = {
            "script.py": f"import {first}\n{SCRIPT}" if first else SCRIPT,
            "grid.py": GRID.format(preload=preload, first=FIRST, count=count),
        }
        root.mkdir(parents=True)
        super().__init__(root, 0, files)

    def grid(self, name: str, *, cold: bool) -> Case:
        """The whole grid; GPUs, where there are any, are hidden: two processor slots run it."""
        words = [*self.door, "--grid", "grid.py", "experiment.toml", *(["--cold"] if cold else [])]
        return Case(
            name,
            words,
            self.root,
            environ={"CUDA_VISIBLE_DEVICES": ""},
            check=lambda: self.check_warmth(cold=cold),
        )

    def newest(self) -> Path:
        """The folder of the newest grid."""
        return max(self.root.glob("runs/**/grid.json"), key=lambda file: file.parent.name).parent

    def check_warmth(self, *, cold: bool) -> None:
        """See that the grid completed, and the way that was asked for."""
        record = json.loads((self.newest() / "grid.json").read_text())
        if record["state"] != "completed" or record["warm"]["used"] == cold:
            msg = f"{self.newest()}: {record['state']!r}, warm: {record['warm']!r}"
            raise RuntimeError(msg)

    def runs(self) -> list[tuple[Path, dict[str, Any]]]:
        """The run folders of the newest grid with their records."""
        files = self.newest().glob("*/metadata.json")
        return [(file.parent, json.loads(file.read_text())) for file in files]

    def equal(self, count: int) -> int:
        """How many points have one completed record each, and the number that is theirs."""
        wanted, found = answers(count), {}
        for folder, record in self.runs():
            point = record["grid"]["point"]
            right = record["state"] == "completed" and point not in found
            result = folder / "outputs" / "result.txt"
            found[point] = right and result.read_text() == wanted.get(point)
        return sum(found.values())


class Memory(NamedTuple):
    """Resident bytes at a time."""

    when: float
    dispatcher: int
    child: int  # the largest of its children


class Long(NamedTuple):
    """What the first and the last points of one long grid cost."""

    first_ms: float
    last_ms: float
    ratio: float
    dispatcher_first: float
    dispatcher_last: float
    child_first: float
    child_last: float
    right: int


def run_long(sweep: Sweep, case: Case, window: int) -> Long:
    """Run a long grid once, watching it, and compare its first `window` points with its last."""
    watched = watch(case)
    if case.check is not None:
        case.check()
    times = [record["times"] for _, record in sweep.runs()]
    began = min(seconds(each["started"]) for each in times)
    ended = sorted(seconds(each["ended"]) for each in times)
    first = (ended[window - 1] - began) / window
    last = (ended[-1] - ended[-1 - window]) / window
    early = [one for one in watched if began <= one.when <= ended[window - 1]] or watched[:1]
    late = [one for one in watched if ended[-1 - window] <= one.when <= ended[-1]] or watched[-1:]
    memory = [
        statistics.median(getattr(one, whose) for one in seen) / MEGABYTE
        for whose in ("dispatcher", "child")
        for seen in (early, late)
    ]
    return Long(first * 1000, last * 1000, last / first, *memory, sweep.equal(sweep.count))


def long_row(name: str, points: int, window: int, taken: Sequence[Long]) -> dict[str, Any]:
    """Medians over all rounds."""
    middle = Long(*(statistics.median(values) for values in zip(*taken, strict=True)))
    right = sum(one.right for one in taken)
    return {
        "case": name,
        "points": points,
        "window": window,
        **middle._asdict(),
        "last_/_first": middle.ratio,
        "dispatcher_MB": f"{middle.dispatcher_first:.1f} -> {middle.dispatcher_last:.1f}",
        "largest_child_MB": f"{middle.child_first:.1f} -> {middle.child_last:.1f}",
        "rounds": len(taken),
        "right": right,
        "numbers_right": f"{right} of {points * len(taken)}",
    }


def watch(case: Case, every_s: float = 0.1) -> list[Memory]:
    """Run a case and look at its memory now and then.

    Raises:
        RuntimeError: it failed.
    """
    seen: list[Memory] = []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            case.command,
            cwd=case.cwd,
            env=environment(**case.environ),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        while process.poll() is None:
            children = (resident(pid) for pid in children_of(process.pid))
            seen.append(Memory(time.time(), resident(process.pid), max(children, default=0)))
            time.sleep(every_s)
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()[-2000:]
            msg = f"{case.name} ended with {process.returncode}:\n{text}"
            raise RuntimeError(msg)
    return seen


def resident(pid: int) -> int:
    """The resident memory of a process; 0 when it is gone, or where there is no /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def children_of(pid: int) -> list[int]:
    """The processes that a process has started itself."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def seconds(moment: str) -> float:
    """A record's time as seconds since 1970."""
    return datetime.datetime.fromisoformat(moment).timestamp()


if __name__ == "__main__":
    sys.exit("this file holds what grid.py measures of engram; run that")
