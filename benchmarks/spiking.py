"""Time recurrent spiking layers, forward and with the backward pass, against other ways to do it.

    python benchmarks/spiking.py [--series dense sparse conductance] [--rounds 5] [--docs]

All implementations of a row's network get the same weights and inputs and are timed in turn, so
that a busy minute hits all alike. Beside each time stands what makes it comparable: spikes that
differ from the first row's, and the largest difference of a gradient, relative to its largest
value. CPU time of one thread counts; times are medians, ratios medians of the ratios of the rounds.
Two lengths T tell what is paid once from what is paid a step.

    python benchmarks/spiking.py --memory [--docs]     # peak memory, each in a process of its own
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from spiking_cases import Implementation, Layer, Result, conductance, dense, sparse
from timing import add_output_options, heading, machine, report, table

BACKWARD_FLOOR_SIZE = 2048  # of the square matrices whose product sets the arithmetic floor
SERIES: dict[str, tuple[Callable[..., Layer], list[tuple[int, ...]]]] = {
    "dense": (
        dense,
        [
            (256, 1, 100), (256, 1, 500), (256, 32, 25), (256, 32, 100), (1024, 1, 25),
            (1024, 1, 100), (1024, 32, 10), (1024, 32, 40), (4096, 1, 20), (4096, 1, 60),
        ],
    ),
    "sparse": (
        sparse,
        [
            (5000, 250_000, 1, 10), (5000, 250_000, 1, 20), (5000, 250_000, 8, 5),
            (5000, 250_000, 8, 10), (138_639, 15_000_000, 1, 5), (138_639, 15_000_000, 1, 10),
        ],
    ),
    "conductance": (
        conductance, [(1000, 8, 50), (1000, 8, 100), (5000, 8, 12), (5000, 8, 24)],
    ),
}  # fmt: skip
COLUMNS = {
    "network": "{}",
    "T": "{}",
    "implementation": "{}",
    "forward_ms": "{:.1f}",
    "times_faster": "{}",
    "forward_+_backward_ms": "{:.1f}",
    "times_faster_": "{}",
    "wall_ms": "{:.1f}",
    "x_floor": "{}",
    "firing": "{:.1%}",
    "spikes_unequal": "{}",
    "gradient_error": "{}",
}
MEMORY = {
    "network": "{}",
    "T": "{}",
    "implementation": "{}",
    "bytes_a_neuron_step": "{}",
    "peak_MB": "{:.0f}",
}


class Timing(NamedTuple):
    """CPU seconds of a forward pass and of one with its backward pass; wall seconds of that."""

    forward_s: float
    both_s: float
    wall_s: float


def main() -> int:
    """Measure the series that were asked for, and print."""
    options = parser().parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        return print_memory(*options.memory_of)
    if options.memory:
        return report_memory(options)
    where, texts, numbers = machine(), [], {}
    flop_per_s = matrix_flop_per_s()
    for name in options.series:
        make, sizes = SERIES[name]
        rows = []
        for size in sizes if options.sizes is None else [sizes[i] for i in options.sizes]:
            layer = make(*size)
            kept = [one for one in layer.implementations if one.name not in options.without]
            rows += measure(layer._replace(implementations=kept), options.rounds, flop_per_s)
        numbers[name] = rows
        columns = (
            COLUMNS if name == "dense" else {k: v for k, v in COLUMNS.items() if k != "x_floor"}
        )
        texts.append(f"{name}\n\n{table(rows, columns)}")
    note = (
        f"One thread; CPU time, medians of {options.rounds} interleaved rounds; torch "
        f"{torch.__version__}. A product of two {BACKWARD_FLOOR_SIZE}-square matrices runs at "
        f"{flop_per_s / 1e9:.0f} GFLOP/s: x floor divides by the time that forward and backward "
        "products of dense arithmetic would take at that rate. (d): another gradient, by design."
    )
    report(
        options, options.section, "\n\n".join([heading(where), *texts, note]),
        {"machine": where, **numbers},
    )  # fmt: skip
    return int(any(row["wrong"] for rows in numbers.values() for row in rows))


def measure(layer: Layer, rounds: int, flop_per_s: float) -> list[dict[str, Any]]:
    """Time the implementations of one network in turn and compare what they return."""
    results = [result_of(layer, one) for one in layer.implementations]
    taken: list[list[Timing]] = [[] for _ in layer.implementations]
    for number in range(rounds):
        order = range(len(taken))
        for index in [*order[number % len(taken) :], *order[: number % len(taken)]]:
            taken[index].append(time_once(layer, layer.implementations[index]))
    rows = []
    for one, result, timings in zip(layer.implementations, results, taken, strict=True):
        row = row_of(layer, one, timings, taken[0], flop_per_s)
        rows.append(row | compare(one, result, results[0]))
        print(f"{row['network']}, T = {row['T']}: {row['implementation']}: "
              f"{row['forward_+_backward_ms']:.1f} ms", file=sys.stderr, flush=True)  # fmt: skip
    return rows


def result_of(layer: Layer, one: Implementation) -> Result:
    """Run once, untimed: what is computed, compiled and cached at first is no part of the times."""
    spikes = one.forward()
    grads = torch.autograd.grad(loss_of(spikes), layer.weights)
    return Result(spikes.detach(), grads)


def loss_of(spikes: torch.Tensor) -> torch.Tensor:
    """Weigh every spike differently, the same in all implementations."""
    generator = torch.Generator().manual_seed(0)
    return (spikes * torch.randn(spikes.shape, generator=generator)).sum()


def time_once(layer: Layer, one: Implementation) -> Timing:
    """Time a forward pass without gradients, then one with its backward pass."""
    with torch.no_grad():
        began = process_time()
        one.forward()
        forward_s = process_time() - began
    weight = torch.randn(layer.n_steps, layer.n_trials, layer.n_units)
    began, wall = process_time(), perf_counter()
    torch.autograd.grad(one.forward(), layer.weights, weight)
    return Timing(forward_s, process_time() - began, perf_counter() - wall)


def row_of(
    layer: Layer,
    one: Implementation,
    timings: Sequence[Timing],
    base: Sequence[Timing],
    flop_per_s: float,
) -> dict[str, Any]:
    """One line of the table."""

    def ratio(part: str) -> str:
        pairs = zip(base, timings, strict=True)
        return f"{statistics.median(getattr(a, part) / getattr(b, part) for a, b in pairs):.1f}"

    both_s = statistics.median(one.both_s for one in timings)
    floor_s = layer.floor_flop / flop_per_s
    return {
        "network": layer.size,
        "T": layer.n_steps,
        "implementation": one.name,
        "forward_ms": 1e3 * statistics.median(one.forward_s for one in timings),
        "times_faster": ratio("forward_s"),
        "forward_+_backward_ms": 1e3 * both_s,
        "times_faster_": ratio("both_s"),
        "wall_ms": 1e3 * statistics.median(one.wall_s for one in timings),
        "x_floor": f"{both_s / floor_s:.2f}" if floor_s else "",
    }


def compare(one: Implementation, result: Result, base: Result) -> dict[str, Any]:
    """Say whether an implementation did the same work as the first."""
    unequal = int((result.spikes != base.spikes).sum())
    error = max(
        float((mine - other).abs().max() / other.abs().max().clamp_min(1e-30))
        for mine, other in zip(result.grads, base.grads, strict=True)
    )
    return {
        "firing": float(base.spikes.mean()),
        "spikes_unequal": f"{unequal} of {int(base.spikes.sum())}",
        "gradient_error": f"{error:.0e}" if one.same_gradient else "(d)",
        "wrong": unequal > 0 or (one.same_gradient and not error < 1e-4) or math.isnan(error),
    }


def matrix_flop_per_s() -> float:
    """Return how fast one thread multiplies square matrices."""
    a = torch.randn(BACKWARD_FLOOR_SIZE, BACKWARD_FLOOR_SIZE)
    times = []
    for _ in range(5):
        began = process_time()
        a @ a
        times.append(process_time() - began)
    return 2 * BACKWARD_FLOOR_SIZE**3 / statistics.median(times)


def report_memory(options: argparse.Namespace) -> int:
    """Measure memory and print."""
    where, rows = machine(), measure_memory(options.memory_steps)
    note = "Of one training step each. A neuron-step's share is the slope between the two lengths."
    text = "\n\n".join([heading(where), table(rows, MEMORY), note])
    report(options, "spiking memory", text, {"machine": where, "memory": rows})
    return 0


def measure_memory(steps: Sequence[int]) -> list[dict[str, Any]]:
    """Peak memory of training steps of the conductance network, each in a process of its own.

    A neuron-step's share is the slope between two lengths.
    """
    rows = []
    for n_units, n_trials in ((1000, 8), (5000, 8)):
        for index, one in enumerate(conductance(20, 1, 2).implementations):
            if one.name == "step loop":
                continue
            peaks = []
            for n_steps in steps:
                size = [str(value) for value in (n_units, n_trials, n_steps, index)]
                command = [sys.executable, str(Path(__file__)), "--memory-of", *size]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                peaks.append(int(said))
            neuron_steps = (steps[1] - steps[0]) * n_units * n_trials
            rows.append(
                {
                    "network": f"N = {n_units:,}, B = {n_trials}",
                    "T": " and ".join(map(str, steps)),
                    "implementation": one.name,
                    "bytes_a_neuron_step": f"{(peaks[1] - peaks[0]) / neuron_steps:.0f}",
                    "peak_MB": peaks[1] / 1e6,
                }
            )
    return rows


def print_memory(n_units: int, n_trials: int, n_steps: int, index: int) -> int:
    """Take one training step and print the peak of this process's memory in bytes (Linux)."""
    layer = conductance(n_units, n_trials, n_steps)
    gc.collect()
    # Making the network takes more than a short step: the peak counts from here.
    Path("/proc/self/clear_refs").write_text("5")
    layer.implementations[index].forward().sum().backward()
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) * 1024)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--series", nargs="+", choices=list(SERIES), default=list(SERIES))
    made.add_argument("--rounds", type=int, default=5, help="timings of every implementation")
    made.add_argument(
        "--sizes", nargs="+", type=int, help="only these sizes of a series, by number"
    )
    made.add_argument("--without", nargs="+", default=(), help="leave these implementations out")
    made.add_argument("--memory", action="store_true", help="measure memory instead")
    made.add_argument("--memory-steps", nargs=2, type=int, default=(100, 300), metavar="T")
    made.add_argument("--memory-of", nargs=4, type=int, help=argparse.SUPPRESS)
    made.add_argument("--section", default="spiking", help="the part of the page --docs writes to")
    add_output_options(made)
    return made


if __name__ == "__main__":
    sys.exit(main())
