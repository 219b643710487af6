"""The trained network with one thing changed: APL removed, or its wiring or signs shuffled.

Learned values stay as they are; nothing is trained again, so a drop says that the trained network
depends on what was changed, not that a network without it could do no better.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evaluation.activity import as_json
from neuro.metrics.estimate import Estimate, clustered_mean, jackknife, mean_of, share
from neuro.metrics.similarity import correlation_matrix, mean_by_odor, odor_pair_correlation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MEASURES = ("accuracy", "kc_active_fraction", "pn_active_fraction", "kc_odor_correlation")
SHUFFLES = {
    "targets_within_type": "PN -> KC shuffled within type",
    "signs": "signs shuffled within class",
}


class Reaction(NamedTuple):
    """What a network did in n trials.

    Attributes:
        label: presented odor, shape (n,).
        decided: named odor, shape (n,).
        pn_count: spikes, shape (n, PN).
        kc_count: spikes, shape (n, KC).
    """

    label: np.ndarray
    decided: np.ndarray
    pn_count: np.ndarray
    kc_count: np.ndarray


def measure_controls(
    simulate: Callable[[str, int], Reaction | None], *, seeds: Sequence[int]
) -> dict[str, Any]:
    """Simulate the network as it was trained, and changed.

    Args:
        simulate: presents the same trials to the network with a change, "intact", "apl_removed" or
            a key of SHUFFLES, drawn with a seed; None where the network has nothing to change.
        seeds: of the shuffles.

    Returns:
        conditions: name, change, measures and, for shuffles, their values by_seed;
        apl_removed_minus_intact: differences in the same trials, where the network has an APL.
    """
    intact = simulate("intact", 0)
    if intact is None:
        msg = "the intact network must answer"
        raise ValueError(msg)
    conditions = [{"name": "as trained", "change": "intact", **measure_reaction(intact)}]
    found: dict[str, Any] = {"conditions": conditions, "n_trials": len(intact.label)}
    if (without := simulate("apl_removed", 0)) is not None:
        conditions.append(
            {"name": "APL -> KC removed", "change": "apl_removed", **measure_reaction(without)}
        )
        found["apl_removed_minus_intact"] = measure_difference(without, intact)
    for change, name in SHUFFLES.items():
        reactions = [simulate(change, seed) for seed in seeds]
        measured = [measure_reaction(one) for one in reactions if one is not None]
        if measured:
            conditions.append({"name": name, "change": change, **_over_seeds(measured)})
    return found


def measure_reaction(reaction: Reaction) -> dict[str, Any]:
    """Measure accuracy, activity and similarity of odors."""
    kc, pn = ((counts > 0).mean(axis=1) for counts in (reaction.kc_count, reaction.pn_count))
    means = mean_by_odor(reaction.kc_count, reaction.label).response
    return {
        "accuracy": as_json(share(reaction.decided == reaction.label)),
        "kc_active_fraction": as_json(clustered_mean(kc, reaction.label)),
        "pn_active_fraction": as_json(clustered_mean(pn, reaction.label)),
        "kc_odor_correlation": as_json(odor_pair_correlation(means)),
    }


def measure_difference(changed: Reaction, intact: Reaction) -> dict[str, Any]:
    """Return changed minus intact in the same trials, with errors of the difference."""
    active = [(one.kc_count > 0).mean(axis=1) for one in (changed, intact)]
    right = [(one.decided == one.label).astype(float) for one in (changed, intact)]
    return {
        "accuracy": as_json(mean_of(right[0] - right[1])),
        "kc_active_fraction": as_json(clustered_mean(active[0] - active[1], intact.label)),
        "kc_odor_correlation": as_json(correlation_change(changed, intact)),
    }


def correlation_change(changed: Reaction, intact: Reaction) -> Estimate:
    """Return the change of the mean correlation over pairs of odors that have one in both.

    The error leaves out each odor, of both networks, in turn; n counts the odors.
    """
    first, second = (
        correlation_matrix(mean_by_odor(one.kc_count, one.label).response)
        for one in (changed, intact)
    )
    difference = first - second
    defined = ~np.isnan(np.diag(difference))
    difference = difference[np.ix_(defined, defined)]
    n = len(difference)
    if n < 3:
        return Estimate(math.nan, math.nan, n)
    np.fill_diagonal(difference, 0)
    row = difference.sum(axis=1)
    without = (row.sum() - 2 * row) / ((n - 1) * (n - 2))
    return jackknife(row.sum() / (n * (n - 1)), without)


def _over_seeds(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard error over seeds of every measure, and the values behind them."""
    by_seed = {name: [one[name]["value"] for one in measured] for name in MEASURES}
    values = {
        name: [math.nan if value is None else value for value in by_seed[name]] for name in MEASURES
    }
    return {
        **{name: as_json(mean_of(values[name])) for name in MEASURES},
        "by_seed": by_seed,
    }
