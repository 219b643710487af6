"""From networks to a folder that runs with PyNN alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from neuro.export.backends import Backend, PynnError, find_backend
from neuro.export.layout import Layout, lay_out
from neuro.export.readouts import PynnReadout
from neuro.export.script import network_arrays, script_text
from neuro.export.spinnaker import SpinnakerMachine
from neuro.spiking.network import Network

SCRIPT, NETWORK, INPUTS, RESULTS = "run.py", "network.npz", "inputs.npz", "results.npz"
DESCRIPTION, MACHINE = "export.json", "spynnaker.cfg"


class PynnExport(NamedTuple):
    """A folder that was written, and what is in it.

    Attributes:
        folder: with run.py, network.npz, inputs.npz and export.json.
        backend: name of the one that the script is for.
        n_synapses: that are not zero.
        late_synapses: of these, how many act a time step of the simulator later than here.
    """

    folder: Path
    backend: str
    n_synapses: int
    late_synapses: int


def write_pynn(
    folder: Path,
    networks: Network | Mapping[str, Network],
    inputs: Mapping[str, torch.Tensor],
    *,
    readouts: Mapping[str, PynnReadout] | None = None,
    backend: str = "nest",
    timestep_ms: float | None = None,
    machine: SpinnakerMachine | None = None,
) -> PynnExport:
    """Write a script for PyNN with all that it needs; see `neuro.export.conversion`.

    A projection that has the name of another population comes from there, every other one that is
    not recurrent is an input of its name.

    Args:
        folder: to be made; files of an earlier export are replaced.
        networks: by name, or one, which is called "population".
        inputs: spikes of each input, whole numbers >= 0, shape (T, B, P).
        readouts: by name.
        backend: "nest", "brian2" or "spinnaker".
        timestep_ms: of the simulator; None takes that of the network, where both agree at every
            step. A shorter one makes synapses within a population less late, but lets cells
            spike between the steps of the network.
        machine: of backend "spinnaker", written to spynnaker.cfg; None leaves that to the settings
            of the user.

    Raises:
        PynnError: PyNN cannot say it, or inputs do not fit.
    """
    if machine is not None and backend != "spinnaker":
        msg = f"a SpiNNaker machine was given to backend = {backend!r}; use backend = 'spinnaker'"
        raise PynnError(msg)
    chosen = find_backend(backend)
    named = {"population": networks} if isinstance(networks, Network) else dict(networks)
    layout = lay_out(named, readouts or {}, backend=chosen, timestep_ms=timestep_ms)
    events, n_steps, n_trials = _events(inputs, layout, chosen)
    text = script_text(layout, chosen, n_steps=n_steps, n_trials=n_trials)
    config = None if machine is None else machine.config()
    description = _describe(layout, chosen, n_steps=n_steps, n_trials=n_trials)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).unlink(missing_ok=True)
    (folder / SCRIPT).write_text(text, encoding="utf-8")
    np.savez_compressed(folder / NETWORK, **network_arrays(layout, chosen))
    np.savez_compressed(folder / INPUTS, **events)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    if config is not None:
        (folder / MACHINE).write_text(config, encoding="utf-8")
    n_synapses = sum(len(table.pre) for table in layout.synapses)
    return PynnExport(folder, backend, n_synapses, layout.late_synapses)


def _events(
    inputs: Mapping[str, torch.Tensor], layout: Layout, backend: Backend
) -> tuple[dict[str, Any], int, int]:
    """Return trial, step and unit of each spike of each input, and numbers of steps and trials."""
    if set(inputs) != set(layout.inputs) or not inputs:
        msg = f"inputs are {sorted(inputs)!r}; the networks read {sorted(layout.inputs)!r}"
        raise PynnError(msg)
    n_steps, n_trials = next(iter(inputs.values())).shape[:2]
    events: dict[str, Any] = {}
    for name, spikes in inputs.items():
        if tuple(spikes.shape) != (n_steps, n_trials, layout.inputs[name]):
            msg = (
                f"input {name!r} has shape {tuple(spikes.shape)}; it must be "
                f"{(n_steps, n_trials, layout.inputs[name])}"
            )
            raise PynnError(msg)
        counts = spikes.detach().cpu()
        if bool((counts != counts.round()).any()) or bool((counts < 0).any()):
            msg = f"input {name!r} holds values that are no numbers of spikes; give spikes"
            raise PynnError(msg)
        if not backend.repeats and bool((counts > 1).any()):
            msg = (
                f"input {name!r} has several spikes of a unit in a step, of which {backend.title} "
                "would send one; make steps shorter"
            )
            raise PynnError(msg)
        places = counts.nonzero()
        each = places.repeat_interleave(counts[tuple(places.T)].long(), dim=0).numpy()
        for column, key in enumerate(("step", "trial", "unit")):
            events[f"{name}.{key}"] = each[:, column].astype(np.int32)
    return events, n_steps, n_trials


def _describe(
    layout: Layout, backend: Backend, *, n_steps: int, n_trials: int
) -> dict[str, object]:
    """Return what is needed to read the results in steps of the network."""
    return {
        "backend": backend.name,
        "dt_ms": layout.dt_ms,
        "timestep_ms": layout.timestep_ms,
        "steps": n_steps,
        "trials": n_trials,
        "parts": {
            name: {"units": part.n_units, "start_ms": part.start_ms, "readout": part.reads}
            for name, part in layout.parts.items()
        },
        "late_synapses": layout.late_synapses,
    }
