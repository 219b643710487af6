"""The file that hands recorded activity from stage to stage: what a network received and did.

One .npz file holds these arrays, no more and no fewer (T steps, B trials, N_in inputs, N cells,
K odors, S sampled steps; P input spikes, Q output spikes):

    name              type     shape       meaning
    dt_ms             float64  ()          length of a step
    n_trials          int64    ()          B
    n_inputs          int64    ()          N_in
    n_cells           int64    ()          N
    input_offsets     int64    (T + 1,)    input spikes of step t are those from
                                           input_offsets[t] to input_offsets[t + 1] - 1
    input_trial       int32    (P,)        trial of each input spike
    input_unit        int32    (P,)        input that spiked
    output_offsets    int64    (T + 1,)    the same of the cells
    output_trial      int32    (Q,)
    output_unit       int32    (Q,)
    patterns_hz       float32  (K, N_in)   rates of the inputs under each odor alone
    mixture_step      int64    (S,)        steps at which the mixture was sampled
    mixture           float32  (S, B, K)   share of each odor, sums to 1 over K; rates of the inputs
                                           are mixture @ patterns_hz

Spikes are sorted by (step, trial, unit); a unit spikes at most once a step.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neuro.spiking.spike_trains import SpikeTrains
from neuro.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

REMEDY = "write it with neuro.spiking.spike_data.save_spike_data"
_TRAINS = ("offsets", "trial", "unit")
# Number of axes of each array.
_SCHEMA = {
    "dt_ms": 0,
    "n_trials": 0,
    "n_inputs": 0,
    "n_cells": 0,
    **{f"{name}_{part}": 1 for name in ("input", "output") for part in _TRAINS},
    "patterns_hz": 2,
    "mixture_step": 1,
    "mixture": 3,
}


class OdorMixtures(NamedTuple):
    """What the inputs smelled: see the module's docstring."""

    patterns_hz: NDArray[np.float32]
    mixture_step: NDArray[np.int64]
    mixture: NDArray[np.float32]


class SpikeData(NamedTuple):
    """Activity of a network in B trials.

    Attributes:
        input: spikes of the inputs.
        output: spikes of the cells.
        dt_ms: length of a step.
        odors: what drove the inputs.
    """

    input: SpikeTrains
    output: SpikeTrains
    dt_ms: float
    odors: OdorMixtures


def save_spike_data(path: Path, data: SpikeData) -> None:
    """Write activity; equal data give equal bytes. The file appears whole or not at all.

    Raises:
        ValueError: input, output and odors differ in steps, trials or units.
    """
    _check(data)
    arrays: dict[str, Any] = {
        "dt_ms": np.float64(data.dt_ms),
        "n_trials": np.int64(data.input.n_trials),
        "n_inputs": np.int64(data.input.n_units),
        "n_cells": np.int64(data.output.n_units),
    }
    for name, trains in (("input", data.input), ("output", data.output)):
        arrays |= {f"{name}_{part}": getattr(trains, part) for part in _TRAINS}
    arrays |= data.odors._asdict()
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def load_spike_data(path: Path) -> SpikeData:
    """Read activity and check it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or arrays that do not fit together.
    """
    if not path.is_file():
        msg = f"there is no spike data {path}: name the run of the stage that writes it"
        raise FileNotFoundError(msg)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _from_arrays(arrays)
    except (zipfile.BadZipFile, AttributeError, EOFError, ValueError) as error:
        msg = f"{path} is no spike data ({error}): {REMEDY}"
        raise ValueError(msg) from error


def _from_arrays(arrays: dict[str, Any]) -> SpikeData:
    if wrong := sorted(_SCHEMA.keys() ^ arrays.keys()):
        missing = [name for name in wrong if name in _SCHEMA]
        msg = f"it lacks {missing} and holds {[name for name in wrong if name not in _SCHEMA]}"
        raise ValueError(msg)
    for name, n_axes in _SCHEMA.items():
        if arrays[name].ndim != n_axes:
            msg = f"{name} has shape {arrays[name].shape}, not {n_axes} axes"
            raise ValueError(msg)
    data = SpikeData(
        input=_trains(arrays, "input", int(arrays["n_inputs"])),
        output=_trains(arrays, "output", int(arrays["n_cells"])),
        dt_ms=float(arrays["dt_ms"]),
        odors=OdorMixtures(arrays["patterns_hz"], arrays["mixture_step"], arrays["mixture"]),
    )
    _check(data)
    return data


def _trains(arrays: dict[str, Any], name: str, n_units: int) -> SpikeTrains:
    offsets, trial, unit = (arrays[f"{name}_{part}"] for part in _TRAINS)
    return SpikeTrains(offsets, trial, unit, int(arrays["n_trials"]), n_units)


def _check(data: SpikeData) -> None:
    """Refuse parts that are not of the same steps, trials and inputs."""
    steps, trials = (
        (data.input.n_steps, data.output.n_steps),
        (
            data.input.n_trials,
            data.output.n_trials,
        ),
    )
    n_odors, n_inputs = data.odors.patterns_hz.shape
    mixture = (len(data.odors.mixture_step), trials[0], n_odors)
    if (
        len(set(steps)) > 1
        or len(set(trials)) > 1
        or n_inputs != data.input.n_units
        or data.odors.mixture.shape != mixture
        or not data.dt_ms > 0
    ):
        msg = (
            f"input and output have {steps} steps and {trials} trials, patterns_hz {n_inputs} of "
            f"{data.input.n_units} inputs, mixture the shape {data.odors.mixture.shape} of "
            f"{mixture}, dt_ms is {data.dt_ms!r}: they must fit together"
        )
        raise ValueError(msg)
