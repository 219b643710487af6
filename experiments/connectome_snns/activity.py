"""What a network does while nothing is learned: recorded, measured and drawn by several stages."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from engram import progress
from neuro.losses.cv import interval_moments
from neuro.losses.firing_rate import mean_rate_hz
from neuro.metrics.trains import train_cv, train_rates_hz
from neuro.spiking.spike_trains import SpikeTrains

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.connectome.network_structure import NetworkStructure
    from neuro.spiking.inputs import InputStream
    from neuro.spiking.network import Network


class Activity(NamedTuple):
    """T steps of B trials.

    Attributes:
        input: spikes of the inputs.
        output: spikes of the cells.
        activation_step: steps at which activations of odors were sampled, shape (S,).
        activation: shape (S, B, K).
        potential: of the first cells in the first trial, in mV, shape (T, cells).
        backend: that simulated.
    """

    input: SpikeTrains
    output: SpikeTrains
    activation_step: np.ndarray
    activation: torch.Tensor
    potential: torch.Tensor
    backend: str


class Measured(NamedTuple):
    """Statistics of each cell, shape (N,); cv is NaN for cells with fewer than two intervals."""

    rate_hz: np.ndarray
    cv: np.ndarray


@torch.no_grad()
def record(
    network: Network,
    stream: InputStream,
    *,
    n_steps: int,
    chunk_steps: int,
    shown: list[int],
    title: str,
) -> Activity:
    """Simulate from rest, chunk by chunk.

    Args:
        network: reads "feedforward".
        stream: of input spikes.
        n_steps: T.
        chunk_steps: steps of a chunk; activations are sampled at the first.
        shown: cells whose potential is kept.
        title: of the progress bar.
    """
    carry, backend = None, ""
    parts: list[tuple[SpikeTrains, SpikeTrains]] = []
    activations, potentials = [], []
    starts = range(0, n_steps, chunk_steps)
    with progress.bar(title, total=n_steps) as bar:
        for first in starts:
            chunk = stream.draw(min(chunk_steps, n_steps - first))
            result = network({"feedforward": chunk.spikes}, carry=carry, record_potential=True)
            carry, backend = result.carry, result.backend
            parts.append(
                (SpikeTrains.from_dense(chunk.spikes), SpikeTrains.from_dense(result.spikes))
            )
            activations.append(chunk.activation[0].clone())
            potentials.append(result.potential[:, 0, shown].clone())
            bar.advance(len(chunk.spikes))
    inputs, outputs = (SpikeTrains.join(one) for one in zip(*parts, strict=True))
    return Activity(
        inputs,
        outputs,
        np.array(starts, dtype=np.int64),
        torch.stack(activations),
        torch.cat(potentials),
        backend,
    )


def measure(activity: Activity, *, settle_steps: int, dt_ms: float) -> Measured:
    """Measure cells from a step on, when the start at rest is forgotten."""
    trains = activity.output.span(settle_steps)
    return Measured(train_rates_hz(trains, dt_ms=dt_ms), train_cv(trains))


@torch.no_grad()
def measure_chunk(
    spikes: torch.Tensor, structure: NetworkStructure, *, dt_ms: float
) -> dict[str, float]:
    """Return rates by type, the share of active cells, and the mean CV of a chunk.

    For the CV the trials, shape (T, B, N), are laid end to end, as no trial has many intervals.
    """
    rate_hz = mean_rate_hz(spikes, dt_ms=dt_ms).numpy()
    rates = by_type(rate_hz, structure)
    values = {f"rate_hz/{name}": float(one.mean()) for name, one in rates.items()}
    values["active_fraction"] = float((rate_hz > 0).mean())
    joined = spikes.transpose(0, 1).reshape(-1, 1, spikes.shape[2])
    number, first, second = interval_moments(joined)
    enough = number > 1
    if enough.any():
        variance = number[enough] * second[enough] / first[enough].square() - 1
        values["cv"] = variance.clamp_min(0).sqrt().mean().item()
    return values


def summarize(
    measured: Measured, structure: NetworkStructure, *, prefix: str = ""
) -> dict[str, float]:
    """Return mean rate, share of active cells and median CV of each cell type."""
    summary = {}
    for number, name in enumerate(structure.cell_type_names.tolist()):
        own = structure.cell_type_ids == number
        cv = measured.cv[own]
        summary |= {
            f"{prefix}rate_{name}_hz": float(measured.rate_hz[own].mean()),
            f"{prefix}active_fraction_{name}": float((measured.rate_hz[own] > 0).mean()),
            f"{prefix}cv_{name}": float(np.median(cv[np.isfinite(cv)]))
            if np.isfinite(cv).any()
            else float("nan"),
        }
    return summary


def save_statistics(path: Path, measured: Measured, structure: NetworkStructure) -> None:
    """Write one row for each cell: number, type, assembly, rate, CV (empty where it has none)."""
    types = structure.cell_type_names[structure.cell_type_ids]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["cell", "type", "assembly", "rate_hz", "cv"])
        for cell, row in enumerate(
            zip(types, structure.assembly_ids, measured.rate_hz, measured.cv, strict=True)
        ):
            name, assembly, rate_hz, cv = row
            shown = "" if np.isnan(cv) else f"{cv:.6g}"
            table.writerow([cell, name, assembly, f"{rate_hz:.6g}", shown])


def by_type(values: np.ndarray, structure: NetworkStructure) -> dict[str, np.ndarray]:
    """Split values of cells, shape (N,), by the name of their type."""
    names = structure.cell_type_names.tolist()
    return {name: values[structure.cell_type_ids == number] for number, name in enumerate(names)}
