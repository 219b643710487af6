"""The responses that a trained network left: validation trials, what was decided, spike counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

# Layers in the order of the pathway; a network may lack any but the first three.
LAYERS = ("ALLN", "ALPN", "KC", "APL", "MBON", "DAN")
# Receptor neurons that the published network has among the hidden ones: nothing drives them.
UNDRIVEN = "ORN, undriven"
# The layers that every network has, by the names used in figures.
MAIN_LAYERS = {"ORN": "ORN", "PN": "ALPN", "KC": "KC"}


class Responses(NamedTuple):
    """n trials of C odors, N hidden units and M receptor neurons (ORN).

    Attributes:
        odor: names, shape (C,).
        chemical_class: of each odor, "" where unknown, shape (C,).
        label: presented odor, shape (n,).
        decided: named odor, shape (n,).
        logits: shape (n, C).
        duration_ms: of the odor, shape (n,).
        sample_id: number of each trial among all samples, shape (n,).
        unit_id: root ids, shape (N,).
        cell_class: shape (N,).
        cell_type: shape (N,).
        side: shape (N,).
        count: spikes in a trial, shape (n, N).
        orn_id: root ids, shape (M,).
        orn_glomerulus: shape (M,).
        orn_count: spikes in a trial, shape (n, M).
        trial_ms: length of a trial.
        dt_ms: length of a step of the network.
        network: "full" or "compact".
        raster_trial: of each spike of the first trials, shape (spike,).
        raster_step: shape (spike,).
        raster_unit: positions in unit_id, shape (spike,).
    """

    odor: np.ndarray
    chemical_class: np.ndarray
    label: np.ndarray
    decided: np.ndarray
    logits: np.ndarray
    duration_ms: np.ndarray
    sample_id: np.ndarray
    unit_id: np.ndarray
    cell_class: np.ndarray
    cell_type: np.ndarray
    side: np.ndarray
    count: np.ndarray
    orn_id: np.ndarray
    orn_glomerulus: np.ndarray
    orn_count: np.ndarray
    trial_ms: np.ndarray
    dt_ms: np.ndarray
    network: np.ndarray
    raster_trial: np.ndarray
    raster_step: np.ndarray
    raster_unit: np.ndarray


def load_responses(path: Path) -> Responses:
    """Read and check what a training run wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an array is missing or does not fit the others.
    """
    if not path.is_file():
        msg = (
            f"the trained run has no {path.name} ({path}): train a network first, for example "
            "`./run experiments/fly_olfaction/experiment.toml`"
        )
        raise FileNotFoundError(msg)
    with np.load(path, allow_pickle=False) as saved:
        if missing := sorted(set(Responses._fields) - set(saved.files)):
            msg = f"{path} lacks {', '.join(missing)}: train the network again with this code"
            raise ValueError(msg)
        found = Responses(**{name: saved[name] for name in Responses._fields})
    _check(found, path)
    return found


def hidden_layers(responses: Responses) -> dict[str, np.ndarray]:
    """Return the positions of the hidden units of each class, in the order of the pathway."""
    present = set(responses.cell_class.tolist())
    ordered = [name for name in LAYERS if name in present] + sorted(present - set(LAYERS))
    return {
        UNDRIVEN if name == "ORN" else name: np.flatnonzero(responses.cell_class == name)
        for name in ordered
    }


def layer_counts(responses: Responses) -> dict[str, np.ndarray]:
    """Return the spike counts of each class of neurons, receptor neurons first, (n, units) each."""
    hidden = hidden_layers(responses).items()
    counts = {name: responses.count[:, members] for name, members in hidden}
    return {"ORN": responses.orn_count, **counts}


def main_counts(responses: Responses) -> dict[str, np.ndarray]:
    """Return the spike counts of ORNs, PNs and KCs."""
    counts = layer_counts(responses)
    return {name: counts[layer] for name, layer in MAIN_LAYERS.items()}


def _check(found: Responses, path: Path) -> None:
    n, n_odors, n_units, n_orns = (
        len(array) for array in (found.label, found.odor, found.unit_id, found.orn_id)
    )
    expected = {
        **dict.fromkeys(("decided", "duration_ms", "sample_id"), (n,)),
        **dict.fromkeys(("cell_class", "cell_type", "side"), (n_units,)),
        "chemical_class": (n_odors,),
        "logits": (n, n_odors),
        "count": (n, n_units),
        "orn_count": (n, n_orns),
        "orn_glomerulus": (n_orns,),
        **dict.fromkeys(("raster_step", "raster_unit"), found.raster_trial.shape),
    }
    for name, shape in expected.items():
        if getattr(found, name).shape != shape:
            msg = f"{path}: {name} has shape {getattr(found, name).shape}, not {shape}"
            raise ValueError(msg)
    if lacking := set(MAIN_LAYERS.values()) - {"ORN"} - set(found.cell_class.tolist()):
        msg = f"{path} holds no {' and no '.join(sorted(lacking))}; the report is about them"
        raise ValueError(msg)
