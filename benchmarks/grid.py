"""Time grids of trivial points on two workers, against bare subprocesses and other tools.

    python benchmarks/grid.py [--rounds 9] [--points 50]
    python benchmarks/grid.py --setup --peers FOLDER     # once: installs the other tools there
    python benchmarks/grid.py --peers FOLDER --docs      # then: all in one interleaved run

Every point reads its parameters and writes one number, another one in each point; after every
timing the numbers are compared with what is right, and the table says how many were. Three series:
trivial points, for engram and the other tools; points that import torch; and many points, to see
whether the last ones cost as much as the first, in time and in memory. CPU time holds that of all
descendants, also of those that a tool leaves in the background (Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grid_peers
import grid_programs
import peers
from grid_engram import Long, Sweep, long_row, run_long
from grid_rounds import Entry, measure
from timing import (
    CHECKOUT,
    Case,
    add_output_options,
    adopt_orphans,
    heading,
    machine,
    report,
    table,
)

BASE = "bare python script.py a point"
COLUMNS = {
    "case": "{}",
    "points": "{}",
    "ms_a_point": "{:.1f}",
    "times": "{:.2f}",
    "fastest_ms": "{:.1f}",
    "times_fastest": "{:.2f}",
    "cpu_ms": "{:.1f}",
    "rounds": "{}",
    "numbers_right": "{}",
}
LONG_COLUMNS = {
    "case": "{}",
    "points": "{}",
    "window": "{}",
    "first_ms": "{:.1f}",
    "last_ms": "{:.1f}",
    "last_/_first": "{:.2f}",
    "dispatcher_MB": "{}",
    "largest_child_MB": "{}",
    "rounds": "{}",
    "numbers_right": "{}",
}
EXPLAINED = """\
Medians of interleaved rounds; the time of the whole process, divided by its points; times: of the
first row. Numbers right: of all points of all rounds, those whose number was compared and is right.
"""
LONG_EXPLAINED = """\
Medians of rounds. First and last: the time a point in the first and last window of points, in the
order of their ends. MB: resident memory in the first and last window, of the process that was
started and of the largest of its children.
"""


def main() -> int:
    """Install, or measure and print; 1 when a number of engram or of the floor was wrong."""
    options = parser().parse_args()
    if options.setup:
        return set_up(options)
    adopt_orphans()
    where = machine()
    texts, content, right = [heading(where)], {"machine": where}, True
    with tempfile.TemporaryDirectory(prefix="engram-grid-", dir=options.folder) as folder:
        for name in options.series:
            text, found, good = SERIES[name](Path(folder) / name, options)
            texts.append(text)
            content[name] = found
            right = right and good
    report(options, options.section, "\n".join(texts), content)
    return 0 if right else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text, _, more = str(__doc__).partition("\n")
    top = argparse.ArgumentParser(
        description=text, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = CHECKOUT / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    top.add_argument("--rounds", type=int, default=9, help="timings of every case")
    top.add_argument("--slow-rounds", type=int, default=3, help="timings of the slowest tools")
    top.add_argument("--points", type=int, default=50, help="trivial points")
    top.add_argument("--torch-points", type=int, default=10, help="points that import torch")
    top.add_argument("--torch-many", type=int, default=200, help="the same, warm only")
    top.add_argument("--many", type=int, default=2000, help="points of the long warm grid")
    top.add_argument("--many-cold", type=int, default=1000, help="points of the long cold grid")
    top.add_argument("--many-rounds", type=int, default=3, help="how often these two are run")
    top.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES), help="tables")
    top.add_argument("--peers", type=Path, help="folder of the other tools' environments")
    top.add_argument("--setup", action="store_true", help="make these environments, then stop")
    top.add_argument("--python", default=python, help="interpreter of scripts and runner")
    top.add_argument("--engram", type=Path, default=CHECKOUT, help="the checkout that is measured")
    top.add_argument("--folder", help="where the projects lie (default: the temporary folder)")
    top.add_argument("--section", default="grid", help="the part of the page --docs writes to")
    add_output_options(top)
    return top


def set_up(options: argparse.Namespace) -> int:
    """Install every peer, one after the other, and say what failed."""
    if options.peers is None:
        sys.exit("--setup needs --peers FOLDER: where the other tools are to be installed")
    options.peers.mkdir(parents=True, exist_ok=True)
    for peer in grid_peers.PEERS:
        reason = peers.install(peer, options.peers.resolve(), options.python)
        print(f"{peer.name}: {reason or 'installed'}", flush=True)
    return 0


Series = tuple[str, dict[str, Any], bool]


def trivial(folder: Path, options: argparse.Namespace) -> Series:
    """Trivial points: the floor, engram cold and warm, the peers."""
    count = options.points
    sweep = Sweep(folder / "engram", count, options)
    own = [
        scripts(BASE, folder / "bare", grid_programs.BARE, count, options),
        engram("engram, cold", sweep, options, cold=True),
        engram("engram, warm", sweep, options, cold=False),
    ]
    others, missing = peer_entries(folder / "peers", options)
    rows = measure([*own, *others])
    missing |= {entry.case.name: entry.problem for entry in others if entry.problem}
    notes = "\n".join(peer_notes(missing)) if options.peers else ""
    text = f"{table(rows, COLUMNS)}\n\n{EXPLAINED}\n{notes}\n"
    return text, {"cases": rows, "missing": missing}, not any(entry.wrong for entry in own)


def torch(folder: Path, options: argparse.Namespace) -> Series:
    """Points that import torch first: what a warm interpreter saves."""
    missing = {name: lacking(options.python, name) for name in ("torch", "joblib")}
    if missing["torch"]:
        return f"Points that import torch: {missing['torch']}\n", {"missing": missing}, True
    few = Sweep(folder / "few", options.torch_points, options, first="torch")
    many = Sweep(folder / "many", options.torch_many, options, first="torch")
    bare = {name: f"import torch\n{text}" for name, text in grid_programs.BARE.items()}
    own = [
        scripts(f"{BASE}, import torch", folder / "bare", bare, few.count, options),
        engram("engram, cold, import torch", few, options, cold=True),
        engram(f"engram, warm, PRELOAD torch, {few.count} points", few, options, cold=False),
        engram(f"engram, warm, PRELOAD torch, {many.count} points", many, options, cold=False),
    ]
    if not missing["joblib"]:
        files = dict(grid_programs.LOKY)
        files["work.py"] = f"import torch\n{files['work.py']}"
        files["sweep.py"] = files["sweep.py"].replace("loky", "joblib.externals.loky", 1)
        name = "joblib's loky in-process, import torch"
        own.append(scripts(name, folder / "loky", files, few.count, options))
    rows = measure(own)
    text = f"{table(rows, COLUMNS)}\n\n{EXPLAINED}\n"
    return text, {"cases": rows, "missing": missing}, not any(entry.wrong for entry in own)


def many(folder: Path, options: argparse.Namespace) -> Series:
    """Many trivial points: whether the last cost what the first do."""
    counts = {"warm": options.many, "cold": options.many_cold}
    windows = {name: max(1, count // 4) for name, count in counts.items()}
    taken: dict[str, list[Long]] = {name: [] for name in counts}
    for number in range(options.many_rounds):
        for name, count in counts.items():
            sweep = Sweep(folder / f"{name}{number}", count, options)
            case = sweep.grid(f"engram, {name}", cold=name == "cold")
            taken[name].append(run_long(sweep, case, windows[name]))
    rows = [
        long_row(f"engram, {name}", count, windows[name], taken[name])
        for name, count in counts.items()
    ]
    good = all(row["right"] == row["points"] * row["rounds"] for row in rows)
    return f"{table(rows, LONG_COLUMNS)}\n\n{LONG_EXPLAINED}", {"cases": rows}, good


SERIES = {"trivial": trivial, "torch": torch, "many": many}


def lacking(python: str, module: str) -> str | None:
    """Why an interpreter cannot import a module; None when it can."""
    asked = subprocess.run(
        [python, "-c", f"import {module}"], capture_output=True, text=True, check=False
    )
    return asked.stderr.strip().splitlines()[-1] if asked.returncode else None


def engram(name: str, sweep: Sweep, options: argparse.Namespace, *, cold: bool) -> Entry:
    """A grid of engram, in every round."""
    return Entry(sweep.grid(name, cold=cold), sweep.count, sweep.equal, options.rounds)


def scripts(
    name: str, folder: Path, files: Mapping[str, str], points: int, options: argparse.Namespace
) -> Entry:
    """A folder of scripts that need nothing but the interpreter; sweep.py runs them all."""
    for file, text in {**grid_peers.point_files(points), **files}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    results = grid_peers.Results(folder, "results/*.txt")
    case = Case(name, [options.python, "sweep.py"], folder, prepare=results.begin)
    return Entry(case, points, results.equal, options.rounds)


def peer_entries(folder: Path, options: argparse.Namespace) -> tuple[list[Entry], dict[str, Any]]:
    """The peers that are installed, and why the others cannot be measured."""
    entries: list[Entry] = []
    missing: dict[str, Any] = {}
    for peer in grid_peers.PEERS if options.peers else ():
        try:
            place = folder / peer.key
            case, results = grid_peers.case(peer, options.peers.resolve(), place, options.points)
        except RuntimeError as error:
            missing[peer.name] = str(error).splitlines()[-1]
            continue
        rounds = min(options.rounds, options.slow_rounds) if peer.slow else options.rounds
        timed = {"own": False, "warm_up": not peer.slow}
        entries.append(Entry(case, options.points, results.equal, rounds, **timed))
    return entries, missing


def peer_notes(missing: Mapping[str, str]) -> Iterator[str]:
    """What was timed of each peer, or why it was not."""
    for peer in grid_peers.PEERS:
        reason = missing.get(peer.name)
        yield f"- {peer.name}: {f'not measured: {reason}' if reason else peer.how}"


if __name__ == "__main__":
    sys.exit(main())
