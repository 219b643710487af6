"""What the benchmarks share: one process timed, cases interleaved, the machine in words, tables."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]


class Sample(NamedTuple):
    """What one process cost; CPU and memory are those of its waited-for children too."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass
class Case:
    """One thing to time.

    Attributes:
        name: its row in the table.
        command: the process.
        cwd: where it runs.
        environ: its variables beyond those of `environment`.
        prepare: called before every timing, outside of it.
        check: called after every timing, outside of it; raises when the work was not done.
    """

    name: str
    command: Sequence[str]
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], object] | None = None
    check: Callable[[], object] | None = None


def environment(**more: str) -> dict[str, str]:
    """The shell's variables without those that change Python, git or engram, then `more`.

    PYTHONDONTWRITEBYTECODE above all: with it every start compiles every module again.
    """
    left_out = ("PYTHON", "GIT_", "ENGRAM_")
    return {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | more


def once(command: Sequence[str], cwd: Path, environ: Mapping[str, str] | None = None) -> Sample:
    """Run one process to its end and say what it cost.

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    before = children_cpu_s()
    with tempfile.TemporaryFile() as said:
        began = perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**(environ or {})),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = perf_counter() - began
        await_orphans()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()[-2000:]
            msg = f"{shlex.join(command)} ended with {process.returncode}:\n{text}"
            raise RuntimeError(msg)
    return Sample(wall_s, children_cpu_s() - before, usage.ru_maxrss * 1024)


def children_cpu_s() -> float:
    """The CPU time of all processes that were waited for, here or by those that were."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def adopt_orphans() -> None:
    """Have every descendant whose parent ends come to this process (Linux).

    `once` then waits, outside of its timing, for what a command left in the background, and counts
    its CPU time.
    """
    if sys.platform == "linux":
        import ctypes

        become_subreaper = 36
        ctypes.CDLL(None, use_errno=True).prctl(become_subreaper, 1, 0, 0, 0)


def await_orphans(seconds: float = 60) -> None:
    """Wait for the processes that were adopted; end those that stay longer."""
    deadline = monotonic() + seconds
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        if monotonic() > deadline:
            listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            for pid in map(int, listed.split()):
                os.kill(pid, signal.SIGKILL)
        sleep(0.02)


def time_case(case: Case) -> Sample:
    """Prepare, time and check one case."""
    if case.prepare is not None:
        case.prepare()
    sample = once(case.command, case.cwd, case.environ)
    if case.check is not None:
        case.check()
    return sample


def interleave(cases: Sequence[Case], rounds: int) -> dict[str, list[Sample]]:
    """Time every case once a round, so that a busy minute of the machine hits all alike.

    Each round starts with another case: nobody always runs after the same neighbor.
    """
    taken: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for number in range(rounds):
        at = number % len(cases)
        for case in [*cases[at:], *cases[:at]]:
            taken[case.name].append(time_case(case))
    return taken


def summarize(taken: Mapping[str, Sequence[Sample]], base: str) -> list[dict[str, Any]]:
    """One row a case: median and fastest wall, both as multiples of `base` too, and median CPU."""

    def middle(samples: Sequence[Sample]) -> float:
        return statistics.median(sample.wall_s for sample in samples)

    def fastest(samples: Sequence[Sample]) -> float:
        return min(sample.wall_s for sample in samples)

    return [
        {
            "case": name,
            "wall_ms": middle(samples) * 1000,
            "fastest_ms": fastest(samples) * 1000,
            "cpu_ms": statistics.median(sample.cpu_s for sample in samples) * 1000,
            "times": middle(samples) / middle(taken[base]),
            "times_fastest": fastest(samples) / fastest(taken[base]),
        }
        for name, samples in taken.items()
    ]


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A Markdown table.

    Args:
        rows: values by key.
        columns: key -> format, such as "{:.0f} ms"; the key is the heading, "_" shown as a space.
    """
    lines = ["| " + " | ".join(key.replace("_", " ") for key in columns) + " |"]
    lines.append("|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(columns))) + "|")
    for row in rows:
        cells = (form.format(row[key]) for key, form in columns.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where and when this was measured, and by which command."""
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": usable,
        "memory_gb": round(pages / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "git": git.stdout.removeprefix("git version ").strip() or None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "command": shlex.join(["python", _shown(sys.argv[0]), *sys.argv[1:]]),
    }


def processor() -> str:
    """The processor's name, as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _shown(path: str) -> str:
    full = Path(path).resolve()
    return str(full.relative_to(CHECKOUT)) if full.is_relative_to(CHECKOUT) else full.name


def heading(where: Mapping[str, Any]) -> str:
    """The machine as a line above a table."""
    return (
        f"{where['processor']}, {where['cores']} cores, {where['memory_gb']} GB, "
        f"{where['system']}, Python {where['python']}, git {where['git']}, {where['date']}, "
        f"load {where['load'][0]} at the start\n`{where['command']}`\n"
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where the numbers go beside the terminal."""
    page = CHECKOUT / "docs" / "benchmarks.md"
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument(
        "--docs",
        type=Path,
        nargs="?",
        const=page,
        metavar="FILE",
        help="put the tables into this page, by default docs/benchmarks.md",
    )


def report(
    options: argparse.Namespace, section: str, text: str, content: Mapping[str, Any]
) -> None:
    """Print the tables, and write them where the options say.

    Args:
        options: with `json` and `docs`, as `add_output_options` made them.
        section: the name between whose two markers the page keeps these tables.
        text: the tables.
        content: the numbers.

    Raises:
        ValueError: the page has no such section.
    """
    print(text)
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if options.docs is not None:
        replace_section(options.docs, section, text)


def replace_section(page: Path, section: str, text: str) -> None:
    """Put new text between `<!-- SECTION -->` and `<!-- end of SECTION -->`."""
    opening, closing = f"<!-- {section} -->\n", f"<!-- end of {section} -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(opening)
    _, ended, after = rest.partition(closing)
    if not (found and ended):
        msg = f"{page}: there are no lines {opening.strip()!r} and {closing.strip()!r}"
        raise ValueError(msg)
    page.write_text(f"{before}{opening}\n{text.strip()}\n\n{closing}{after}", encoding="utf-8")
