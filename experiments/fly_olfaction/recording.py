"""What a training run leaves of its validation trials: measures, responses.npz, figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from neuro.metrics import activity
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

    from classification import Build
    from parameters import Parameters
    from trials import Trials

# Populations that are measured, by the names that summaries use.
POPULATIONS = {"kc": "KC", "pn": "ALPN"}
# Trials whose every spike is kept.
RASTER_TRIALS = 3


class Presented(NamedTuple):
    """Trials that were presented, and what the network made of them.

    Attributes:
        trials: which.
        logits: shape (n, C).
        counts: spikes of all units, int32, shape (n, N).
    """

    trials: Trials
    logits: torch.Tensor
    counts: torch.Tensor


def summarize(built: Build, presented: Presented) -> dict[str, float]:
    """Measure how well odors are named and how active the neurons are, trial by trial."""
    correct = presented.logits.argmax(dim=1) == presented.trials.label
    accuracy = correct.double().mean().item()
    counts = {name: counts_of(built, presented, kind) for name, kind in POPULATIONS.items()}
    measures = {
        "active_fraction": activity.active_fraction,
        "lifetime_sparseness": activity.lifetime_sparseness,
        "odor_correlation": activity.pair_correlation,
    }
    return {
        "validation_accuracy": accuracy,
        "validation_accuracy_se": activity.standard_error(accuracy, len(correct)),
    } | {
        f"{name}_{measure}": function(count)
        for measure, function in measures.items()
        for name, count in counts.items()
    }


def counts_of(built: Build, presented: Presented, cell_class: str) -> torch.Tensor:
    """Return the spike counts of a class of neurons, shape (n, units)."""
    chosen = (built.network.units["cell_class"] == cell_class).to_numpy()
    return presented.counts[:, torch.from_numpy(chosen)]


def save_responses(path: Path, built: Build, presented: Presented, parameters: Parameters) -> None:
    """Write the validation trials: odor, duration, decision, spike counts, and whose they are."""
    trials, samples, units = presented.trials, built.samples, built.network.units
    receptors = built.receptors
    np.savez_compressed(
        path,
        odor=np.array(built.odors.names),
        chemical_class=np.array(built.odors.chemical_class),
        label=trials.label.numpy(),
        decided=presented.logits.argmax(dim=1).numpy(),
        logits=presented.logits.float().numpy(),
        duration_ms=np.array([samples.duration_ms(k) for k in trials.ids.tolist()]),
        sample_id=trials.ids,
        unit_id=units["root_id"].to_numpy(),
        cell_class=as_text(units["cell_class"]),
        cell_type=as_text(units["cell_type"]),
        side=as_text(units["side"]),
        count=presented.counts.numpy().astype(np.uint16),
        orn_id=receptors["root_id"].to_numpy(),
        orn_glomerulus=as_text(receptors["glomerulus"]),
        orn_count=samples.total_counts(trials.ids).astype(np.uint16),
        trial_ms=parameters.odor.trial_ms,
        dt_ms=parameters.dt_ms,
        network=parameters.model,
        **record_raster(built, trials),
    )


def as_text(values: Any) -> np.ndarray:  # noqa: ANN401
    """Return names as an array of text, "" where there is none."""
    return values.fillna("").astype(str).to_numpy(dtype=str)


@torch.no_grad()
def record_raster(built: Build, trials: Trials) -> dict[str, np.ndarray]:
    """Return every spike of the first trials: its trial, step and unit."""
    some = torch.arange(min(RASTER_TRIALS, len(trials.ids)))
    spikes = built.network(trials.prepared(some), record_spikes=True).spikes
    trial, step, unit = spikes.transpose(0, 1).nonzero(as_tuple=True)
    found = {"raster_trial": trial, "raster_step": step, "raster_unit": unit}
    return {name: places.numpy().astype(np.int32) for name, places in found.items()}


def draw_figures(
    output_dir: Path,
    built: Build,
    presented: Presented,
    history: list[dict[str, float]],
    *,
    ceiling: float,
) -> None:
    """Draw learning.png, activity.png and confusion.png."""
    # Training needs no drawing, which takes a second to import.
    from neuro import plots
    from neuro.plots import odors as figures

    label, n_odors = presented.trials.label, len(built.odors.names)
    right = history[-1]["validation/accuracy"]
    units = built.network.units
    with plots.publication():
        drawn = {
            "learning": figures.draw_learning(
                [row["train/loss"] for row in history],
                [row["validation/accuracy"] for row in history],
                [row["validation/accuracy_se"] for row in history],
                ceiling=ceiling,
                chance=1 / n_odors,
            ),
            "activity": figures.draw_activity(
                {
                    "PN": counts_of(built, presented, "ALPN"),
                    "KC": counts_of(built, presented, "KC"),
                },
                list(units["cell_type"][units["cell_class"] == "KC"]),
                trial_s=built.samples.law.trial_ms / MS_PER_S,
            ),
            "confusion": figures.draw_probabilities(
                presented.logits.softmax(dim=1),
                label,
                built.odors.chemical_class,
                title=f"{right:.1%} of {len(label)} trials of {n_odors} odors named right",
            ),
        }
        for name, figure in drawn.items():
            plots.save_png(figure, output_dir / f"{name}.png")
