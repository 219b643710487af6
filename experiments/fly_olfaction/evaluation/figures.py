"""Figures of the report; a function returns None where there is nothing to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.activity import similarity_matrices
from evaluation.responses import hidden_layers, main_counts
from neuro.metrics.activity import sparseness
from neuro.metrics.estimate import Estimate
from neuro.metrics.similarity import mean_by_odor
from neuro.plots.interventions import draw_interventions
from neuro.plots.layers import draw_layer_rasters
from neuro.plots.odors import draw_learning, draw_probabilities
from neuro.plots.similarity import draw_similarity_matrices
from neuro.plots.tuning import RankedType, draw_ranked_types, draw_sparseness, draw_tuning_curves
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from evaluation.responses import Responses


def learning(history: Sequence[dict[str, float]], accuracy: dict[str, Any]) -> Figure | None:
    """Draw the training curves that the run logged, one entry an epoch."""
    if not history or "ideal_observer" not in accuracy:
        return None
    return draw_learning(
        [row["train/loss"] for row in history],
        [row["validation/accuracy"] for row in history],
        [row["validation/accuracy_se"] for row in history],
        ceiling=accuracy["ideal_observer"]["value"],
        chance=accuracy["chance"],
    )


def confusion(responses: Responses) -> Figure:
    """Draw what was named when each odor was presented; odors that were not are left out."""
    shown, label = np.unique(responses.label, return_inverse=True)
    named = np.zeros((len(label), len(shown)))
    place = {int(odor): code for code, odor in enumerate(shown)}
    for trial, decided in enumerate(responses.decided.tolist()):
        if decided in place:
            named[trial, place[decided]] = 1
    right = float(np.mean(responses.decided == responses.label))
    return draw_probabilities(
        named,
        label,
        [str(responses.chemical_class[odor]) for odor in shown],
        title=f"{right:.1%} of {len(label)} trials of {len(shown)} odors named right",
        what="Share of trials named so",
    )


def similarity(responses: Responses) -> Figure:
    """Draw the correlations of odors in receptor neurons, PNs and KCs side by side."""
    presented = np.unique(responses.label)
    groups = [str(responses.chemical_class[odor]) for odor in presented]
    return draw_similarity_matrices(similarity_matrices(responses), groups)


def tuning(responses: Responses) -> Figure:
    """Draw the tuning curves of PNs and KCs."""
    to_hz = MS_PER_S / float(responses.trial_ms)
    counts = main_counts(responses)
    return draw_tuning_curves(
        {
            name: mean_by_odor(counts[name], responses.label).response * to_hz
            for name in ("PN", "KC")
        }
    )


def selectivity(responses: Responses) -> Figure:
    """Draw lifetime and population sparseness of receptor neurons, PNs and KCs."""
    means = {
        name: mean_by_odor(counts, responses.label).response
        for name, counts in main_counts(responses).items()
    }
    return draw_sparseness(
        {name: sparseness(mean, axis=0) for name, mean in means.items()},
        {name: sparseness(mean, axis=1) for name, mean in means.items()},
    )


def raster(responses: Responses, orn_spikes: np.ndarray | None, trial: int = 0) -> Figure | None:
    """Draw the spikes of every layer in one of the recorded trials.

    Args:
        responses: of the network.
        orn_spikes: of receptor neurons in that trial, shape (T, M); None leaves them out.
        trial: which of the recorded ones.
    """
    mine = responses.raster_trial == trial
    if not mine.any():
        return None
    n_steps = round(float(responses.trial_ms) / float(responses.dt_ms))
    spikes = np.zeros((n_steps, len(responses.unit_id)), dtype=np.uint8)
    spikes[responses.raster_step[mine], responses.raster_unit[mine]] = 1
    layers = {} if orn_spikes is None else {"ORN": orn_spikes}
    for name, members in hidden_layers(responses).items():
        # Classes that nothing drives would be empty panels.
        if spikes[:, members].any():
            layers[name] = spikes[:, members]
    odor = responses.odor[responses.label[trial]]
    return draw_layer_rasters(
        layers,
        dt_ms=float(responses.dt_ms),
        odor_ms=float(responses.duration_ms[trial]),
        title=str(odor),
    )


def kc_types(types: dict[str, Any], ranked: Sequence[str]) -> Figure:
    """Draw the Kenyon cell types, most active first."""
    return draw_ranked_types(
        [
            RankedType(
                types[key]["cell_type"],
                types[key]["n_units"],
                _estimate(types[key]["active_fraction"]),
                _estimate(types[key]["rate_hz"]),
            )
            for key in ranked
        ]
    )


def interventions(controls: dict[str, Any]) -> Figure:
    """Draw accuracy, KC activity and KC odor correlation of the changed networks."""
    named = {
        "Accuracy": "accuracy",
        "KC active": "kc_active_fraction",
        "KC odor correlation": "kc_odor_correlation",
    }
    conditions = controls["conditions"]
    return draw_interventions(
        {
            title: {one["name"]: _estimate(one[key]) for one in conditions}
            for title, key in named.items()
        },
        {
            title: {one["name"]: one["by_seed"][key] for one in conditions if "by_seed" in one}
            for title, key in named.items()
        },
    )


def _estimate(found: dict[str, Any]) -> Estimate:
    value, error = (np.nan if found[key] is None else found[key] for key in ("value", "error"))
    return Estimate(value, error, found["n"])
