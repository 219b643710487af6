"""Time the hashing of inputs against what sha256 and the disk allow, and the warm start after it.

    python benchmarks/inputs.py [--gigabytes 5] [--files 2000] [--rounds 5] [--folder FOLDER]

The same bytes lie once as one file and once as many. The limits are measured beside engram, in the
same rounds: sha256 over memory, and reading without hashing. What binds is the slower of the two;
one file can keep only one core busy, because sha256 is a chain. "Disk" means that the file's pages
were dropped from the page cache before, as far as the system lets an unprivileged process do so.

The warm start is the check of unchanged inputs whose hashes are known: in process, and as the
difference between whole runs with and without these inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launch import Project
from timing import (
    CHECKOUT,
    Case,
    add_output_options,
    environment,
    heading,
    interleave,
    machine,
    report,
    table,
    time_case,
)

sys.path.insert(0, str(CHECKOUT / "lib"))

from engram.inputs import check
from engram.manifest import hash_tree
from engram.paths import CachePaths, RunPaths
from engram.settings import InputSpec

BLOCK = 1 << 20
SETTLED_S = 2.5  # engram trusts no hash of a file that is younger than two seconds
SPARE = 2e9  # bytes that stay free on the disk
HASHING = {"layout": "{}", "what": "{}", "seconds": "{:.2f}", "GB/s": "{:.2f}", "of_limit": "{}"}
WARM = {"layout": "{}", "check_ms": "{:.1f}", "first_check_ms": "{:.1f}", "run_ms": "{:+.1f}"}

FIRST_CHECK = """\
import sys
from time import perf_counter
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from engram.inputs import check
from engram.paths import CachePaths
from engram.settings import InputSpec
began = perf_counter()
check([InputSpec(path=Path(sys.argv[2]))], output_dir=Path(sys.argv[3]), resolve_run=None,
    cache=CachePaths(Path(sys.argv[4])))
print((perf_counter() - began) * 1000)
"""


def main() -> int:
    """Measure both layouts, one after the other, and print."""
    options = parser().parse_args()
    size = int(options.gigabytes * 1e9)
    free = shutil.disk_usage(options.folder).free
    if free < size + SPARE:
        sys.exit(
            f"error: {options.folder} has {free / 1e9:.1f} GB free, {(size + SPARE) / 1e9:.1f} GB "
            "are needed: name another with --folder, or ask for less with --gigabytes"
        )
    where = machine()
    hashing: list[dict[str, Any]] = []
    warm: list[dict[str, Any]] = []
    for layout, count in (("one file", 1), (f"{options.files:,} files", options.files)):
        with tempfile.TemporaryDirectory(prefix="engram-bench-", dir=options.folder) as folder:
            data = Path(folder) / "data"
            write_files(data, size, count)
            hashing += hash_rows(layout, data, size, options.rounds)
            warm.append(warm_row(layout, data, Path(folder), options.runs))
    parts = (
        heading(where),
        table(hashing, HASHING),
        f"\nMedians of {options.rounds} interleaved rounds.\n",
        table(warm, WARM),
        f"\nMedians of {options.runs}; run: a whole run with these inputs minus one without.",
    )
    content = {"machine": where, "hashing": hashing, "warm": warm}
    report(options, "inputs", "\n".join(parts), content)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text, _, more = str(__doc__).partition("\n")
    top = argparse.ArgumentParser(
        description=text, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--gigabytes", type=float, default=5.0, help="how much is hashed")
    top.add_argument("--files", type=int, default=2000, help="files it is spread over")
    top.add_argument("--rounds", type=int, default=5, help="timings of the hashing")
    top.add_argument("--runs", type=int, default=15, help="timings of the warm start")
    top.add_argument("--folder", default=tempfile.gettempdir(), help="where the data is made")
    add_output_options(top)
    return top


def write_files(folder: Path, size: int, count: int) -> None:
    """Write files of random bytes that add up to `size`, and see them onto the disk."""
    folder.mkdir()
    block = os.urandom(BLOCK)
    for number in range(count):
        left = size // count
        with (folder / f"part{number:05d}.bin").open("wb", buffering=0) as stream:
            stream.write(number.to_bytes(8, "little"))
            left -= 8
            while left > 0:
                left -= stream.write(block[:left])
            os.fsync(stream.fileno())


def hash_rows(layout: str, data: Path, size: int, rounds: int) -> list[dict[str, Any]]:
    """Time engram and both limits on one layout."""
    paths = sorted(data.iterdir())
    threads = min(len(paths), len(os.sched_getaffinity(0)))
    counted = "1 thread" if threads == 1 else f"{threads} threads"
    work: dict[str, Callable[[], object]] = {
        f"sha256 over memory, {counted}": lambda: over_memory(size, threads),
        f"read from the disk, {counted}": lambda: read_all(paths, threads),
        "engram, from the disk": lambda: hash_tree(data),
        f"read from the page cache, {counted}": lambda: read_all(paths, threads),
        "engram, from the page cache": lambda: hash_tree(data),
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            if "disk" in name:
                drop_pages(paths)
            taken[name].append(timed(call))
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    sha, disk, own_disk, cached, own_cached = seconds
    limits = {
        own_disk: max(seconds[sha], seconds[disk]),
        own_cached: max(seconds[sha], seconds[cached]),
    }
    return [
        {
            "layout": layout,
            "what": name,
            "seconds": value,
            "GB/s": size / 1e9 / value,
            "of_limit": f"{value / limits[name]:.2f}" if name in limits else "",
        }
        for name, value in seconds.items()
    ]


def timed(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def over_memory(size: int, threads: int) -> None:
    """Let sha256 digest `size` bytes that lie in memory, in equal parts."""
    block = bytes(BLOCK)

    def digest() -> None:
        found = hashlib.sha256()
        for _ in range(size // threads // BLOCK):
            found.update(block)

    together([digest] * threads)


def read_all(paths: Sequence[Path], threads: int) -> None:
    """Read files and do nothing with what they hold."""
    queue: Iterator[Path] = iter(paths)
    lock = threading.Lock()

    def drain() -> None:
        buffer = bytearray(BLOCK)
        while True:
            with lock:
                path = next(queue, None)
            if path is None:
                return
            with path.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass

    together([drain] * threads)


def together(calls: Sequence[Callable[[], None]]) -> None:
    """Run calls in threads and wait for all."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def drop_pages(paths: Sequence[Path]) -> None:
    """Ask the kernel to forget these files' pages; they are on the disk already."""
    for path in paths:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_row(layout: str, data: Path, folder: Path, runs: int) -> dict[str, Any]:
    """Time the check of known inputs: in process, first in a process, and as part of a run."""
    time.sleep(
        max(0.0, max(path.stat().st_mtime for path in data.iterdir()) + SETTLED_S - time.time())
    )
    cache, output = CachePaths(folder / "cache"), folder / "runs"

    def again() -> object:
        specs = [InputSpec(path=data)]
        return check(specs, output_dir=output, resolve_run=no_run, cache=cache)

    again()
    checks = [timed(again) for _ in range(runs)]
    command = [sys.executable, "-c", FIRST_CHECK, str(CHECKOUT / "lib"), str(data), str(output)]
    first = [float(said([*command, str(cache.folder)])) for _ in range(runs)]
    return {
        "layout": layout,
        "check_ms": statistics.median(checks) * 1000,
        "first_check_ms": statistics.median(first),
        "run_ms": run_difference(data, folder, runs),
    }


def no_run(reference: str) -> RunPaths:
    """Refuse: no input here is an earlier run's."""
    raise LookupError(reference)


def said(command: Sequence[str]) -> str:
    """What a process prints."""
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return ended.stdout


def run_difference(data: Path, folder: Path, runs: int) -> float:
    """Milliseconds that known inputs add to a whole run."""
    project = Project(folder / "project", 0)
    declared = f'\n[[data.inputs]]\npath = "{data}"\n'
    plain = (project.root / "experiment.toml").read_text()
    (project.root / "with_inputs.toml").write_text(plain + declared)
    project.commit()
    door = [sys.executable, str(CHECKOUT / "run_experiment.py")]
    cases = [
        Case("without", [*door, "experiment.toml"], project.root, check=project.check),
        Case("with", [*door, "with_inputs.toml"], project.root, check=project.check),
    ]
    for case in cases:
        time_case(case)
    taken = interleave(cases, runs)
    middle = {name: statistics.median(s.wall_s for s in samples) for name, samples in taken.items()}
    return (middle["with"] - middle["without"]) * 1000


if __name__ == "__main__":
    sys.exit(main())
