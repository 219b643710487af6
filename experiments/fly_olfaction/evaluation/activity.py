"""Accuracy, activity, sparseness and similarity, as a table that JSON can hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.responses import UNDRIVEN, layer_counts, main_counts
from neuro.metrics.estimate import Estimate, mean_of, share
from neuro.metrics.group_activity import GroupActivity, measure_group, measure_groups
from neuro.metrics.similarity import correlation_matrix, mean_by_odor

if TYPE_CHECKING:
    from evaluation.responses import Responses

MEASURES = GroupActivity._fields[3:]
MOST_CONFUSED = 12


def as_json(estimate: Estimate) -> dict[str, float | int | None]:
    """Return an estimate with None for what could not be measured."""
    value, error = (None if math.isnan(x) else float(x) for x in estimate[:2])
    return {"value": value, "error": error, "n": int(estimate.n)}


def group_as_json(group: GroupActivity) -> dict[str, Any]:
    """Return a group's measures by name."""
    return {
        "n_units": group.n_units,
        "n_trials": group.n_trials,
        **{name: as_json(getattr(group, name)) for name in MEASURES},
    }


def measure_accuracy(responses: Responses, observer: np.ndarray | None) -> dict[str, Any]:
    """Compare what the network and the ideal observer decided in the same trials.

    Args:
        responses: of the network.
        observer: the observer's decisions, shape (n,); None where it could not be asked.
    """
    right = responses.decided == responses.label
    accuracy = {
        "network": as_json(share(right)),
        "chance": 1 / len(responses.odor),
        "n_odors": len(responses.odor),
        "n_odors_presented": len(np.unique(responses.label)),
        "n_trials": len(right),
    }
    if observer is not None:
        best = observer == responses.label
        accuracy["ideal_observer"] = as_json(share(best))
        accuracy["difference"] = as_json(mean_of(right.astype(float) - best))
    return accuracy


def most_confused(responses: Responses) -> list[dict[str, Any]]:
    """Return the pairs of odors of which one was taken for the other most often."""
    wrong = responses.decided != responses.label
    pairs = np.column_stack([responses.label[wrong], responses.decided[wrong]])
    found, times = np.unique(pairs, axis=0, return_counts=True)
    shown = np.bincount(responses.label, minlength=len(responses.odor))
    order = np.lexsort((found[:, 1], found[:, 0], -times))[:MOST_CONFUSED]
    return [
        {
            "presented": str(responses.odor[found[i, 0]]),
            "named": str(responses.odor[found[i, 1]]),
            "times": int(times[i]),
            "of": int(shown[found[i, 0]]),
        }
        for i in order
    ]


def measure_classes(responses: Responses) -> dict[str, Any]:
    """Measure each class of neurons, in the order of the pathway."""
    trial_ms = float(responses.trial_ms)
    return {
        name: group_as_json(measure_group(name, counts, responses.label, trial_ms=trial_ms))
        for name, counts in layer_counts(responses).items()
    }


def measure_types(responses: Responses) -> dict[str, Any]:
    """Measure each cell type of the hidden neurons, and receptor neurons by glomerulus."""
    trial_ms = float(responses.trial_ms)
    classes = np.where(responses.cell_class == "ORN", UNDRIVEN, responses.cell_class)
    keys = [f"{kind}/{name}" for kind, name in zip(classes, responses.cell_type, strict=True)]
    glomeruli = [f"ORN/{name}" for name in responses.orn_glomerulus]
    measured = [
        *measure_groups(responses.orn_count, responses.label, glomeruli, trial_ms=trial_ms),
        *measure_groups(responses.count, responses.label, keys, trial_ms=trial_ms),
    ]
    return {
        group.group: {
            "cell_class": group.group.partition("/")[0],
            "cell_type": group.group.partition("/")[2],
            **group_as_json(group),
        }
        for group in measured
    }


def rank_kc_types(types: dict[str, Any]) -> list[str]:
    """Return the keys of the Kenyon cell types, most active first."""
    kenyon = [key for key, one in types.items() if one["cell_class"] == "KC"]
    return sorted(kenyon, key=lambda key: (-types[key]["active_fraction"]["value"], key))


def similarity_matrices(responses: Responses) -> dict[str, np.ndarray]:
    """Return the correlations of mean responses to the odors presented, ORN, PN and KC."""
    return {
        name: correlation_matrix(mean_by_odor(counts, responses.label).response)
        for name, counts in main_counts(responses).items()
    }
