"""Controls that were trained on their own: the points of a finished grid, compared by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from evaluation.activity import as_json
from neuro.metrics.estimate import mean_of

if TYPE_CHECKING:
    from pathlib import Path

TABLE = "points.csv"
PARAMETER, SUMMARY = "param.", "summary."
SEED = "seed"
MEASURES = (
    "validation_accuracy",
    "ideal_observer_accuracy",
    "kc_active_fraction",
    "pn_active_fraction",
    "kc_odor_correlation",
    "pn_odor_correlation",
)
MISSING = (
    "No grid of training runs was given. Run one, for example `./run --grid "
    "experiments/fly_olfaction/experiment.toml`, copy its points.csv out of the run folder, and "
    'evaluate again with --config \'data.inputs.2={path="PATH/points.csv", name="controls"}\'.'
)


def read_retrained(place: Path) -> dict[str, Any]:
    """Average the completed points of a grid over seeds, condition by condition.

    Args:
        place: a grid's points.csv, or a folder that holds it.

    Returns:
        parameters: the keys that vary beside the seed; measures: those the grid has; conditions: in
        the order of the points, each with its values, measures (mean and standard error over seeds)
        and, from the second on, the difference from the first, paired by seed; incomplete: points
        left out.

    Raises:
        ValueError: it is no such table, or no point has completed.
    """
    path = place / TABLE if place.is_dir() else place
    points = pd.read_csv(path)
    measures = [name for name in MEASURES if SUMMARY + name in points]
    if not {"state", SEED} <= set(points) or not measures:
        msg = f"{path} is no points.csv of a grid of training runs: it has {list(points.columns)}"
        raise ValueError(msg)
    done = points[points["state"] == "completed"]
    if done.empty:
        msg = f"no point of {path} has completed: finish it with `./run --grid --resume`"
        raise ValueError(msg)
    varied = [name for name in points if name.startswith(PARAMETER) and name != PARAMETER + SEED]
    grouped = done.groupby(varied, sort=False, dropna=False) if varied else [("all", done)]
    groups = [group for _, group in grouped]
    return {
        "parameters": [name.removeprefix(PARAMETER) for name in varied],
        "measures": measures,
        "conditions": [_condition(group, groups[0], varied, measures) for group in groups],
        "incomplete": len(points) - len(done),
    }


def _condition(
    group: pd.DataFrame, reference: pd.DataFrame, varied: list[str], measures: list[str]
) -> dict[str, Any]:
    own, first = (table.drop_duplicates(SEED).set_index(SEED) for table in (group, reference))
    condition = {
        "values": [str(group[name].iloc[0]) for name in varied],
        "seeds": [int(seed) for seed in own.index],
        "measures": {name: as_json(mean_of(own[SUMMARY + name])) for name in measures},
    }
    if group is not reference:
        condition["difference"] = {
            name: as_json(mean_of((own[SUMMARY + name] - first[SUMMARY + name]).dropna()))
            for name in measures
        }
    return condition
