"""Time 100 ms of a whole brain, forward only, beside Brian2's C++ standalone mode.

    python3.11 -m venv /tmp/brian && /tmp/brian/bin/pip install "brian2==2.9.0" "numpy==2.2.6"
    python benchmarks/spiking_whole_brain.py --brian /tmp/brian/bin/python [--docs]

138,639 neurons with the constants of Shiu et al. 2024 and 15 million random edges in place of those
of FlyWire. 113 neurons are kicked at 150 Hz (quiet, as active as the published runs), or 4,000
(busy). Everybody gets the same kicks: Brian2 from a list, ours draw them within the time that is
measured. So the spikes can be compared one by one, and are. Brian2 reports the CPU time of its loop
without the set-up, which the last table shows apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
from timing import (
    CHECKOUT,
    add_output_options,
    children_cpu_s,
    heading,
    machine,
    once,
    report,
    table,
)

sys.path.insert(0, str(CHECKOUT / "lib"))

from neuro.spiking import native  # noqa: E402
from neuro.spiking.whole_brain import (  # noqa: E402
    PoissonKicks,
    Wiring,
    simulate_whole_brain,
    wire,
)
from neuro.spiking.whole_brain_kicks import kicked_neurons  # noqa: E402

DT_MS = 0.1
WEIGHT_MV = 0.275
SYNAPSES_AN_EDGE = 3.6  # 54.5 million synapses on 15.1 million pairs
EXCITATORY = 0.65
RATE_HZ = 150.0
REGIMES = {"quiet": 113, "busy": 4000}
COLUMNS = {
    "regime": "{}",
    "type": "{}",
    "implementation": "{}",
    "spikes": "{:,}",
    "unequal": "{}",
    "cpu_ms": "{:.1f}",
    "least_cpu_ms": "{:.1f}",
    "wall_ms": "{}",
    "times_faster": "{}",
    "x_floor": "{:.1f}",
    "active": "{}",
    "dense": "{}",
}
SETUP = {"what": "{}", "cpu_s": "{:.1f}", "wall_s": "{:.1f}"}


class Cost(NamedTuple):
    """CPU and wall seconds; Brian2 does not say the wall time of its loop."""

    cpu_s: float
    wall_s: float | None


class Outcome(NamedTuple):
    """Spikes as (step, neuron), by step and neuron, and the fractions of ours."""

    spikes: np.ndarray
    active: float | None = None
    dense: float | None = None


@dataclass
class Contestant:
    """One implementation of one regime in one type."""

    name: str
    run: Callable[[], tuple[Outcome, Cost]]
    costs: list[Cost] = field(default_factory=list)
    outcome: Outcome | None = None


def main() -> int:
    """Measure, compare and print."""
    options = parser().parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    where, rows, setup = machine(), [], []
    with tempfile.TemporaryDirectory() as folder:
        began, wall = children_cpu_s(), perf_counter()
        # An empty cache, so that it is compiled.
        os.environ["TORCH_EXTENSIONS_DIR"] = folder
        native.library("whole_brain.cpp")
        cpu_s, wall_s = children_cpu_s() - began, perf_counter() - wall
        setup.append({"what": "ours: compile, once on a machine", "cpu_s": cpu_s, "wall_s": wall_s})
        for precision in options.types:
            wiring = random_wiring(options, precision, setup)
            bytes_per_s = read_bytes_per_s(wiring)
            groups = {
                regime: contestants(regime, wiring, options, Path(folder), setup)
                for regime in options.regimes
            }
            for number in range(options.rounds):
                for group in groups.values():
                    take_turns(group, number)
            for regime, group in groups.items():
                rows += rows_of(regime, wiring, group, bytes_per_s)
    text = "\n\n".join([heading(where), table(rows, COLUMNS), table(setup, SETUP), note(options)])
    report(options, "whole brain", text, {"machine": where, "rows": rows, "setup": setup})
    return int(any(row["unequal"] not in ("0", "") for row in rows if row["type"] == "float64"))


def random_wiring(
    options: argparse.Namespace, precision: str, setup: list[dict[str, Any]]
) -> Wiring:
    """Draw edges with a geometric number of synapses each and signs by neuron."""
    generator = np.random.default_rng(1)
    n, n_edges = options.neurons, options.edges
    pre = generator.integers(0, n, n_edges, dtype=np.int32)
    post = generator.integers(0, n, n_edges, dtype=np.int32)
    sign = np.where(generator.random(n) < EXCITATORY, 1, -1)
    count = np.minimum(generator.geometric(1 / SYNAPSES_AN_EDGE, n_edges), 50)
    weights = (sign[pre] * count * WEIGHT_MV).astype(precision)
    began, wall = process_time(), perf_counter()
    made = wire(pre, post, weights, n_neurons=n)
    setup.append(cost_row(f"ours: sort the edges, {precision}", began, wall))
    return made


def contestants(
    regime: str,
    wiring: Wiring,
    options: argparse.Namespace,
    folder: Path,
    setup: list[dict[str, Any]],
) -> list[Contestant]:
    """Return what is to be timed in one regime; Brian2, where it is, comes first."""
    kicks = PoissonKicks(np.arange(REGIMES[regime]), RATE_HZ, seed=3)

    def ours(mode: str, engine: str) -> Callable[[], tuple[Outcome, Cost]]:
        return lambda: run_ours(wiring, kicks, options.steps, mode=mode, engine=engine)

    made = [Contestant(f"ours, {mode}", ours(mode, "native")) for mode in ("all", "active", "auto")]
    made.append(Contestant("ours, numpy", ours("all", "numpy")))
    if options.brian is None:
        return made
    program = build_brian2(regime, wiring, kicks, options, folder, setup)
    return [Contestant("Brian2 C++ standalone", lambda: run_brian2(program)), *made]


def run_ours(
    wiring: Wiring, kicks: PoissonKicks, n_steps: int, *, mode: str, engine: str
) -> tuple[Outcome, Cost]:
    """Simulate here."""
    began, wall = process_time(), perf_counter()
    made = simulate_whole_brain(wiring, kicks, n_steps=n_steps, mode=mode, engine=engine)
    cost = Cost(process_time() - began, perf_counter() - wall)
    spikes = np.stack([made.steps, made.neurons], axis=1)
    return Outcome(spikes, made.active_fraction, made.dense_fraction), cost


def build_brian2(
    regime: str,
    wiring: Wiring,
    kicks: PoissonKicks,
    options: argparse.Namespace,
    folder: Path,
    setup: list[dict[str, Any]],
) -> Path:
    """Have Brian2 write and compile its program; return the program's folder."""
    precision = str(wiring.weights_mv.dtype)
    network, program = folder / "network.npz", folder / f"{regime}-{precision}"
    kicked = np.asarray(kicks.neurons, np.int32)
    schedule = kicks.schedule(kicked, dt_ms=DT_MS, n_steps=options.steps)
    each = [kicked_neurons(schedule, step) for step in range(options.steps)]
    np.savez(
        network,
        pre=np.repeat(np.arange(wiring.n_neurons, dtype=np.int32), np.diff(wiring.offsets)),
        post=wiring.targets,
        weights_mv=wiring.weights_mv,
        kick_steps=np.repeat(np.arange(options.steps), [len(some) for some in each]),
        kick_neurons=np.concatenate(each),
        n_neurons=wiring.n_neurons,
        n_kicked=len(kicked),
        n_steps=options.steps,
    )
    script = Path(__file__).with_name("whole_brain_brian2.py")
    said = once([str(options.brian), str(script), str(network), str(program), precision], folder)
    what = f"Brian2: write and compile, {regime}, {precision}"
    setup.append({"what": what, "cpu_s": said.cpu_s, "wall_s": said.wall_s})
    _, loop = run_brian2(program)
    whole = once([str(program / "main")], program)
    what = f"Brian2: start the program, {regime}, {precision}"
    setup.append({"what": what, "cpu_s": whole.cpu_s - loop.cpu_s, "wall_s": whole.wall_s})
    return program


def run_brian2(program: Path) -> tuple[Outcome, Cost]:
    """Run Brian2's program; read the CPU time of its loop and its spikes."""
    subprocess.run([str(program / "main")], cwd=program, check=True, stdout=subprocess.DEVNULL)
    results = program / "results"
    loop_s = float((results / "last_run_info.txt").read_text().split()[0])
    neurons = np.fromfile(next(results.glob("_dynamic_array_spikemonitor_i_*")), np.int32)
    times_s = np.fromfile(next(results.glob("_dynamic_array_spikemonitor_t_*")), np.float64)
    steps = np.round(times_s * 1000 / DT_MS).astype(np.int64)
    spikes = np.stack([steps, neurons], axis=1)
    return Outcome(spikes[np.lexsort((neurons, steps))]), Cost(loop_s, None)


def take_turns(group: Sequence[Contestant], number: int) -> None:
    """Time all contestants once, each round from another one on."""
    at = number % len(group)
    for one in [*group[at:], *group[:at]]:
        one.outcome, cost = one.run()
        one.costs.append(cost)


def rows_of(
    regime: str, wiring: Wiring, group: Sequence[Contestant], bytes_per_s: float
) -> list[dict[str, Any]]:
    """Return the lines of one regime and type."""
    base = group[0]
    rows = []
    for one in group:
        cpu_s = [cost.cpu_s for cost in one.costs]
        walls = [cost.wall_s for cost in one.costs if cost.wall_s is not None]
        ratios = [a.cpu_s / b.cpu_s for a, b in zip(base.costs, one.costs, strict=True)]
        outcome = one.outcome
        fired = outcome.spikes[:, 1]
        edges = int((wiring.offsets[fired + 1] - wiring.offsets[fired]).sum())
        floor_s = edges * (4 + wiring.weights_mv.itemsize) / bytes_per_s
        rows.append(
            {
                "regime": regime,
                "type": str(wiring.weights_mv.dtype),
                "implementation": one.name,
                "spikes": len(fired),
                "unequal": str(unequal(outcome.spikes, base.outcome.spikes)),
                "cpu_ms": 1e3 * statistics.median(cpu_s),
                "least_cpu_ms": 1e3 * min(cpu_s),
                "wall_ms": f"{1e3 * statistics.median(walls):.1f}" if walls else "",
                "times_faster": f"{statistics.median(ratios):.1f}",
                "x_floor": statistics.median(cpu_s) / floor_s,
                "active": "" if outcome.active is None else f"{outcome.active:.2f}",
                "dense": "" if outcome.dense is None else f"{outcome.dense:.2f}",
            }
        )
    return rows


def unequal(some: np.ndarray, other: np.ndarray) -> int:
    """Count the spikes that only one of two rasters has."""
    return len(set(map(tuple, some.tolist())) ^ set(map(tuple, other.tolist())))


def read_bytes_per_s(wiring: Wiring) -> float:
    """Return how fast one thread reads the edges in their order."""
    times = []
    for _ in range(5):
        began = process_time()
        wiring.weights_mv.max()
        times.append(process_time() - began)
    return wiring.weights_mv.nbytes / statistics.median(times)


def cost_row(what: str, began: float, wall: float) -> dict[str, Any]:
    """Return a line of the set-up's table."""
    cpu_s, wall_s = process_time() - began, perf_counter() - wall
    return {"what": what, "cpu_s": cpu_s, "wall_s": wall_s}


def note(options: argparse.Namespace) -> str:
    """Say what the columns mean."""
    return (
        f"{options.neurons:,} neurons, {options.edges:,} edges, {options.steps:,} steps of "
        f"{DT_MS} ms, one thread, medians of {options.rounds} interleaved rounds. Unequal: spikes "
        "that only this row or only the regime's first has. Times faster: median of the rounds' "
        "ratios of CPU time to the first row. Floor: the time to read the edges of all spikes "
        "once, in order. Active: neurons away from rest; dense: neurons in blocks updated as a "
        "whole."
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--steps", type=int, default=1000, help="of 0.1 ms")
    made.add_argument("--neurons", type=int, default=138_639)
    made.add_argument("--edges", type=int, default=15_000_000)
    made.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    types = ("float32", "float64")
    made.add_argument("--types", nargs="+", choices=types, default=list(types))
    made.add_argument("--brian", type=Path, help="Python that has Brian2; without it ours alone")
    add_output_options(made)
    return made


if __name__ == "__main__":
    sys.exit(main())
