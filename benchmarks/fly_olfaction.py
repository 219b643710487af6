"""Time a training step of the fly's olfactory pathway, beside the same network by torch.sparse.

    python benchmarks/fly_olfaction.py --tables data/fly_olfaction/tables [--docs]

2,113 receptor neurons, 7,616 hidden ones with their synapses, 5,177 of them read out for 281 odors:
one batch of trials, forward and back to all that is trained. All implementations get the same
parameters and spikes and are timed in turn, so that a busy minute hits all alike; beside each time
stands what makes it comparable, spikes that differ from the first row's and the largest difference
of a gradient, relative to its largest value. One thread; CPU time and wall time of a sample-step,
one step of one trial; times are medians, ratios medians of the ratios of the rounds. Memory is the
most that a process of its own holds beyond what it had before the step. As in the experiment,
freed memory is kept for the next batch (`neuro.training.memory`): for all rows, which gain by it.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from fly_olfaction_cases import (
    Case,
    Task,
    keep_freed_memory,
    make_case,
    random_task,
    real_task,
)
from timing import add_output_options, heading, machine, report, table
from torch.nn import functional

COLUMNS = {
    "trials": "{}",
    "T": "{}",
    "implementation": "{}",
    "forward_us": "{:.1f}",
    "forward_+_backward_us": "{:.1f}",
    "times_faster": "{:.1f}",
    "wall_us": "{:.1f}",
    "times_faster_wall": "{:.1f}",
    "memory_MB": "{:.0f}",
    "spikes_unequal": "{}",
    "gradient_error": "{:.0e}",
}


class Timing(NamedTuple):
    """CPU seconds of a forward pass and of a whole training step; wall seconds of that."""

    forward_s: float
    both_s: float
    wall_s: float


class Result(NamedTuple):
    """What must agree: spikes, shape (T, B, N), and gradients of all that is trained."""

    spikes: torch.Tensor
    grads: tuple[torch.Tensor, ...]


def main() -> int:
    """Measure and print."""
    options = parser().parse_args()
    torch.set_num_threads(1)
    kept = keep_freed_memory()
    task = random_task(options.units) if options.tables is None else real_task(options.tables)
    if options.memory_of is not None:
        return print_memory(task, options)
    where, rows = machine(), []
    for n_trials in options.trials:
        case = make_case(task, n_trials=n_trials, n_steps=options.steps, dt_ms=options.dt_ms)
        rows += measure(case, options)
    circuit = "" if options.tables else f" A random circuit of {options.units} units."
    memory = "kept" if kept else "given back"
    note = (
        f"One thread, medians of {options.rounds} interleaved rounds, torch {torch.__version__}, "
        f"steps of {options.dt_ms} ms, freed memory {memory}.{circuit}\n{activity(case, task)}"
    )
    text = "\n\n".join([heading(where), table(rows, COLUMNS), note])
    report(options, "fly olfaction", text, {"machine": where, "rows": rows})
    return int(any(row["wrong"] for row in rows))


def measure(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the implementations in turn and compare what they return."""
    names = [name for name in case.implementations if name not in options.without]
    # The first run is not timed: what is computed, compiled and cached at first is no part of it.
    results = [result_of(case, name) for name in names]
    taken: dict[str, list[Timing]] = {name: [] for name in names}
    for number in range(options.rounds):
        at = number % len(names)
        for name in [*names[at:], *names[:at]]:
            taken[name].append(time_once(case, name))
    n_steps, n_trials, _ = case.source.shape
    rows = []
    for name, result in zip(names, results, strict=True):
        timings, base = taken[name], taken[names[0]]
        rows.append(
            {
                "trials": n_trials,
                "T": n_steps,
                "implementation": name,
                "forward_us": per_step(case, [one.forward_s for one in timings]),
                "forward_+_backward_us": per_step(case, [one.both_s for one in timings]),
                "times_faster": ratio(base, timings, "both_s"),
                "wall_us": per_step(case, [one.wall_s for one in timings]),
                "times_faster_wall": ratio(base, timings, "wall_s"),
                "memory_MB": memory_bytes(name, n_trials, options) / 1e6,
                **compare(result, results[0]),
            }
        )
    return rows


def result_of(case: Case, name: str) -> Result:
    """Take one training step and return what must agree."""
    spikes, logits = case.implementations[name]()
    grads = torch.autograd.grad(functional.cross_entropy(logits, case.label), case.trained)
    return Result(spikes.detach(), grads)


def time_once(case: Case, name: str) -> Timing:
    """Time a forward pass without gradients, then a training step."""
    gc.collect()
    with torch.no_grad():
        began = process_time()
        case.implementations[name]()
        forward_s = process_time() - began
    began, wall = process_time(), perf_counter()
    result_of(case, name)
    return Timing(forward_s, process_time() - began, perf_counter() - wall)


def per_step(case: Case, seconds: Sequence[float]) -> float:
    """Median in microseconds a sample-step."""
    n_steps, n_trials, _ = case.source.shape
    return 1e6 * statistics.median(seconds) / (n_steps * n_trials)


def ratio(base: Sequence[Timing], timings: Sequence[Timing], part: str) -> float:
    """Median over the rounds of base over timing."""
    pairs = zip(base, timings, strict=True)
    return statistics.median(getattr(a, part) / getattr(b, part) for a, b in pairs)


def compare(result: Result, base: Result) -> dict[str, Any]:
    """Say whether an implementation did the same work as the first."""
    unequal = int((result.spikes != base.spikes).sum())
    error = max(
        float((mine - other).abs().max() / other.abs().max().clamp_min(1e-30))
        for mine, other in zip(result.grads, base.grads, strict=True)
    )
    return {
        "spikes_unequal": f"{unequal} of {int(base.spikes.sum())}",
        "gradient_error": error,
        "wrong": unequal > 0 or not error < 1e-3 or math.isnan(error),
    }


def activity(case: Case, task: Task) -> str:
    """Say how active the network was."""
    with torch.no_grad():
        counts = next(reversed(case.implementations.values()))().spikes.sum(dim=0)
    read = counts[:, task.circuit.readout]
    return (
        f"{(read > 0).float().mean():.0%} of the Kenyon cells spike in a trial, "
        f"{read.mean():.2f} times on average; all hidden neurons, {counts.mean():.2f} times."
    )


def memory_bytes(name: str, n_trials: int, options: argparse.Namespace) -> int:
    """Peak memory of one training step, in a process of its own."""
    if not options.memory:
        return 0
    command = [sys.executable, str(Path(__file__)), "--memory-of", name, "--trials", str(n_trials)]
    for option in ("units", "steps", "dt_ms", "tables"):
        if getattr(options, option) is not None:
            command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_memory(task: Task, options: argparse.Namespace) -> int:
    """Take one training step and print the peak of this process's memory in bytes (Linux)."""
    n_trials = options.trials[0]
    case = make_case(task, n_trials=n_trials, n_steps=options.steps, dt_ms=options.dt_ms)
    gc.collect()
    # Reading the tables takes more than a short step: the peak counts from here.
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    result_of(case, options.memory_of)
    print(status_bytes("VmHWM") - before)
    return 0


def status_bytes(field: str) -> int:
    """A field of this process's status; not ru_maxrss, which is inherited from the parent."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if field in line) * 1024


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--tables", type=Path, help="the fly's tables; without, a random circuit")
    made.add_argument("--units", type=int, default=2000, help="of the random circuit")
    made.add_argument("--trials", nargs="+", type=int, default=[1, 8, 32], metavar="B")
    made.add_argument("--steps", type=int, default=500, metavar="T")
    made.add_argument("--dt-ms", type=int, default=1)
    made.add_argument("--rounds", type=int, default=5, help="timings of every implementation")
    made.add_argument("--without", nargs="+", default=(), help="leave these implementations out")
    made.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--memory-of", help=argparse.SUPPRESS)
    add_output_options(made)
    return made


if __name__ == "__main__":
    sys.exit(main())
