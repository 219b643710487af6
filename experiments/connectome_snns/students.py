"""What students are given and what comes out, in both stages that have them.

file                        what it is
student_structure.npz       the network as the student knew it, in the format of
                            neuro.connectome.network_structure
target_scaling_factors.npz  the factors to be found: recurrent [group of pre, group of post],
                            feedforward [group of inputs, group of post]; cell_groups and
                            input_groups, their names
scaling_factors.npz         the factors found, the same arrays; hidden, the cells not seen
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from stages import MODEL, SPIKE_DATA, Model, find_stage, load_model

from neuro.connectome.network_structure import save_structure
from neuro.connectome.perturbation import add_noise, draw_perturbation
from neuro.metrics.recovery import (
    log_factor_correlation,
    mean_absolute_difference,
    median_relative_error,
)
from neuro.models.student import FactorTables, Groups, log_factors, make_groups, used_pairs
from neuro.spiking.spike_data import SpikeData, load_spike_data

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neuro.connectome.network_structure import NetworkStructure
    from neuro.models.physiology import Physiology
    from neuro.spiking.network import Network

TEACHER = "generate_teacher"
# Random streams of a seed, one each, so that noise, say, leaves the factors as they are.
FACTORS, NOISE, HIDDEN = range(3)


@dataclass(frozen=True)
class TaskLaw:
    """What a student is not told; the keys of a [task] table.

    Attributes:
        grouping: whose connections share a factor, see neuro.models.student.make_groups.
        factor_variance: of the unknown factors on weights, whose mean is 1.
        noise_fraction: standard deviation of the noise on each weight, relative to the weight.
        hidden_fraction: share of the cells of each group whose spikes are not seen.
    """

    grouping: str
    factor_variance: float
    noise_fraction: float
    hidden_fraction: float

    def __post_init__(self) -> None:
        """Refuse a share that leaves nothing to see.

        Raises:
            ValueError: so it is.
        """
        if not 0 <= self.hidden_fraction < 1:
            msg = f"hidden_fraction = {self.hidden_fraction!r} must be >= 0 and below 1"
            raise ValueError(msg)


class Task(NamedTuple):
    """What a student knows, and what it is to find.

    Attributes:
        structure: graph and weights as the student knows them.
        physiology: of the cells.
        groups: whose connections share a factor.
        target: the factors that undo the unknown ones.
        used: which of them any synapse has, as `FactorTables.flat` orders them.
        hidden: which cells are not seen, shape (N,).
    """

    structure: NetworkStructure
    physiology: Physiology
    groups: Groups
    target: FactorTables
    used: NDArray[np.bool_]
    hidden: NDArray[np.bool_]

    @property
    def visible(self) -> torch.Tensor:
        """Numbers of the cells that are seen."""
        return torch.from_numpy(np.flatnonzero(~self.hidden))


class Trials(NamedTuple):
    """Recorded activity of some trials, chunk by chunk.

    Attributes:
        data: of all trials.
        chosen: numbers of the trials.
        chunk_steps: steps of a chunk; the last one may be shorter.
    """

    data: SpikeData
    chosen: torch.Tensor
    chunk_steps: int

    @property
    def n_chunks(self) -> int:
        """Chunks of a trial."""
        return -(-self.data.input.n_steps // self.chunk_steps)

    def inputs(self, chunk: int) -> torch.Tensor:
        """Return spikes of the inputs, shape (T, B, N_in)."""
        return self.data.input.dense(*self.span(chunk))[:, self.chosen]

    def outputs(self, chunk: int) -> torch.Tensor:
        """Return spikes of the teacher's cells, shape (T, B, N)."""
        return self.data.output.dense(*self.span(chunk))[:, self.chosen]

    def span(self, chunk: int) -> tuple[int, int]:
        """Return the first step of a chunk, and the one after its last."""
        first = chunk * self.chunk_steps
        return first, min(first + self.chunk_steps, self.data.input.n_steps)


def load_teacher(input_dir: Path | None) -> tuple[Model, SpikeData]:
    """Read the teacher among the inputs.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: its spikes are those of another network.
    """
    folder = find_stage(input_dir, [TEACHER], (*MODEL, SPIKE_DATA))
    model, data = load_model(folder), load_spike_data(folder / SPIKE_DATA)
    network = (model.structure.n_inputs, model.structure.n_cells)
    recorded = (data.input.n_units, data.output.n_units)
    if network != recorded:
        msg = f"{folder}: the network has (inputs, cells) = {network}, the spikes {recorded}"
        raise ValueError(msg)
    return model, data


def split_trials(
    data: SpikeData, *, validation_trials: int, chunk_ms: float
) -> tuple[Trials, Trials]:
    """Return the trials to learn from, and the last ones, to look at only.

    Raises:
        ValueError: either would have none.
    """
    n_trials = data.input.n_trials
    if not 0 < validation_trials < n_trials:
        msg = f"validation_trials = {validation_trials!r} must be in 1 .. {n_trials - 1}"
        raise ValueError(msg)
    training, validation = torch.arange(n_trials).tensor_split([n_trials - validation_trials])
    steps = max(1, round(chunk_ms / data.dt_ms))
    return Trials(data, training, steps), Trials(data, validation, steps)


def make_task(model: Model, law: TaskLaw, *, seed: int) -> Task:
    """Multiply the teacher's weights by unknown factors and noise, and hide cells."""
    structure = model.structure
    groups = make_groups(structure, law.grouping)
    of_factors, of_noise, of_hidden = (
        np.random.default_rng([seed, purpose]) for purpose in (FACTORS, NOISE, HIDDEN)
    )
    cells, inputs = groups.cells.ids.numpy(), groups.inputs.ids.numpy()
    weights, targets = {}, []
    for (name, size), pre in zip(groups.sizes.items(), (cells, inputs), strict=True):
        edges = getattr(structure, name)
        unknown = draw_perturbation(size, variance=law.factor_variance, generator=of_factors)
        noisy = add_noise(edges.weight, noise_fraction=law.noise_fraction, generator=of_noise)
        factor = unknown.factor[pre[edges.pre], cells[edges.post]]
        weights[f"{name}_weight"] = (noisy * factor).astype(np.float32)
        targets.append(torch.from_numpy(unknown.target))
    return Task(
        structure=dataclasses.replace(structure, **weights),
        physiology=model.physiology,
        groups=groups,
        target=FactorTables(*targets),
        used=used_pairs(structure, groups).flat() > 0,
        hidden=_hide(cells, law.hidden_fraction, of_hidden),
    )


def _hide(
    groups: NDArray[np.int64], fraction: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose a share of the cells of each group."""
    hidden = np.zeros(len(groups), dtype=bool)
    for group in np.unique(groups):
        members = generator.permutation(np.flatnonzero(groups == group))
        hidden[members[: round(fraction * len(members))]] = True
    return hidden


def factors_of(network: Network) -> FactorTables:
    """Return the scaling factors that a student has now."""
    return FactorTables(*(table.detach().exp() for table in log_factors(network)))


def measure_recovery(found: FactorTables, task: Task) -> dict[str, float]:
    """Compare factors with those to be found, over all that any synapse has.

    The correlation is NaN while all factors are equal, as they are at the start.
    """
    recovered, true = found.flat()[task.used], task.target.flat()[task.used]
    return {
        "log_factor_correlation": log_factor_correlation(recovered, true),
        "median_relative_error": median_relative_error(recovered, true),
        "mean_absolute_difference": mean_absolute_difference(recovered, true),
    }


def defined(summary: dict[str, float]) -> dict[str, float | None]:
    """Return a summary with None for what is not a number."""
    return {name: None if np.isnan(value) else value for name, value in summary.items()}


def save_targets(folder: Path, task: Task) -> None:
    """Write what the student knows, and the truth, before anything is learned."""
    save_structure(folder / "student_structure.npz", task.structure)
    np.savez(folder / "target_scaling_factors.npz", **_tables(task.target, task.groups))


def save_factors(folder: Path, found: FactorTables, task: Task) -> None:
    """Write what was found, and who was hidden."""
    tables = _tables(found, task.groups)
    np.savez(folder / "scaling_factors.npz", **tables, hidden=np.flatnonzero(task.hidden))


def _tables(tables: FactorTables, groups: Groups) -> dict[str, NDArray]:
    return {
        "recurrent": tables.recurrent.double().numpy(),
        "feedforward": tables.feedforward.double().numpy(),
        "cell_groups": np.array(groups.cells.names),
        "input_groups": np.array(groups.inputs.names),
    }


def draw_recovery(path: Path, found: FactorTables, task: Task) -> None:
    """Draw found against true factors, beside the line of equality."""
    # Learning needs no drawing, which takes a second to import.
    from neuro import plots

    with plots.publication():
        figure = plots.new_figure(width_in=3.4, height_in=3.2)
        recovered, true = found.flat()[task.used], task.target.flat()[task.used]
        plots.draw_recovery(figure.subplots(), true, recovered, start=np.ones_like(true))
        plots.save_png(figure, path)
