"""The trained network, built again from its run to present more trials to it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from classification import OdorNetwork, find_inhibition
from handed_on import Trained, can_load, edge_classes, load_network

from engram import progress
from evaluation.changes import changed_wiring, network_on
from evaluation.controls import Reaction, measure_controls
from neuro.metrics.ideal_observer import ideal_observer_decisions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evaluation.responses import Responses

# What stands in the report where a network could not be built again.
MISSING = (
    "The trained run did not hand on its network (parameters.toml, network.json, checkpoints), so "
    "nothing was simulated: train again with this code."
)
UNASKED = "No simulation was asked for (trials_per_odor = 0)."


class Options(Protocol):
    """The keys of [controls] in parameters_evaluate.toml."""

    trials_per_odor: int
    seeds: list[int]
    batch_size: int


class Simulation:
    """A trained network, and the validation trials that changed ones are to be shown.

    Args:
        trained: the network; None where the run did not hand it on.
        tables: the folder of tables, beside the table of inhibition of a run that was given one.
        responses: of the training run.
        options: how much to simulate.
    """

    def __init__(
        self, trained: Trained | None, tables: Path, responses: Responses, options: Options
    ) -> None:
        """Choose the first validation trials of each odor; see the class."""
        self.trained, self.tables, self.responses = trained, tables, responses
        self.options = options
        self.ids = first_trials(responses, options.trials_per_odor)

    def observer_decisions(self) -> np.ndarray | None:
        """Return what the ideal observer makes of the run's validation trials, shape (n,)."""
        if self.trained is None:
            return None
        samples = self.trained.built.samples
        counts = self.responses.orn_count.astype(np.int64)
        return ideal_observer_decisions(counts, samples.law, samples.response)

    def edge_classes(self) -> list[dict[str, Any]]:
        """Return pairs and origins of each edge class, where the network is at hand."""
        if self.trained is None:
            return []
        return edge_classes(self.trained.built, self.trained.parameters)

    def receptor_spikes(self, trial: int) -> np.ndarray | None:
        """Return the spikes of receptor neurons in one of the run's trials, shape (T, M)."""
        if self.trained is None:
            return None
        dt_ms = self.trained.parameters.dt_ms
        return self.trained.built.samples.counts(int(self.responses.sample_id[trial]), dt_ms)

    def measure_controls(self) -> dict[str, Any] | None:
        """Simulate the changed networks; None where that cannot or shall not be."""
        if self.trained is None or not len(self.ids):
            return None
        runs = 2 + 2 * len(self.options.seeds)
        with progress.bar("simulate", total=runs * len(self.ids)) as bar:
            return measure_controls(partial(self._react, bar), seeds=self.options.seeds)

    @property
    def history(self) -> list[dict[str, float]]:
        """What was logged while it was trained, one entry an epoch."""
        return [] if self.trained is None else self.trained.history

    @property
    def missing(self) -> str:
        """Why nothing was simulated."""
        return MISSING if self.trained is None else UNASKED

    def _react(self, bar: progress.Bar, change: str, seed: int) -> Reaction | None:
        """Present the trials to the network with a change; None where it has nothing to change."""
        network = self._changed(change, seed)
        if network is None:
            bar.advance(len(self.ids))
            return None
        samples, units = self.trained.built.samples, network.units["cell_class"].to_numpy()
        decided, counts = [], []
        for first in range(0, len(self.ids), self.options.batch_size):
            ids = self.ids[first : first + self.options.batch_size]
            with torch.no_grad():
                batch = samples.batch(ids, self.trained.parameters.dt_ms)
                response = network(network.prepare(batch))
            decided.append(response.logits.argmax(dim=1).numpy())
            counts.append(response.counts.to(torch.int32).numpy())
            bar.advance(len(ids))
        every = np.concatenate(counts)
        return Reaction(
            samples.label(self.ids),
            np.concatenate(decided),
            every[:, units == "ALPN"],
            every[:, units == "KC"],
        )

    def _changed(self, change: str, seed: int) -> OdorNetwork | None:
        parameters, built = self.trained.parameters, self.trained.built
        if change == "intact":
            return built.network
        if change == "apl_removed":
            if parameters.inhibition == "none":
                return None
            network = network_on(built.wiring, parameters, built)
            network.silence("APL->KC")
            return network
        wiring = changed_wiring(
            built.wiring,
            parameters,
            self.tables,
            inhibition_file=find_inhibition(self.tables.parent),
            change=change,
            seed=seed,
        )
        return network_on(wiring, parameters, built)


def open_trained(inputs: dict[str, Path], responses: Responses, options: Options) -> Simulation:
    """Build the network of a training run again, where the run handed it on."""
    tables, folder = inputs["tables"], inputs["trained"]
    inhibition = find_inhibition(tables.parent)
    trained = load_network(folder, tables, inhibition) if can_load(folder) else None
    return Simulation(trained, tables, responses, options)


def first_trials(responses: Responses, per_odor: int) -> np.ndarray:
    """Return the sample numbers of the first trials of each odor."""
    seen: dict[int, int] = {}
    chosen: list[int] = []
    pairs: Sequence[tuple[int, int]] = list(
        zip(responses.label.tolist(), responses.sample_id.tolist(), strict=True)
    )
    for label, sample_id in pairs:
        if seen.get(label, 0) < per_odor:
            seen[label] = seen.get(label, 0) + 1
            chosen.append(sample_id)
    return np.array(chosen, dtype=np.int64)
