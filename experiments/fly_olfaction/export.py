"""Write a trained full pathway for PyNN and NIR, and hold NEST's spikes against ours.

Reads what a training run of the full pathway left (`trained`) and the tables. Leaves pynn/, a
folder that runs with PyNN alone, and network.nir. Where a Python with PyNN and the simulator is
found (`ENGRAM_PYNN_PYTHON`, else this one) the script is run and its spike counts are compared
with those of our own simulation of the same trials; otherwise the summary says why not.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from classification import find_inhibition
from handed_on import load_network

from engram import progress
from neuro.export import (
    PynnExport,
    PynnMissing,
    PynnReadout,
    PynnResult,
    SpinnakerMachine,
    compare_spike_counts,
    run_pynn,
    write_pynn,
)
from neuro.models.fly_pathway import FlyPathway
from neuro.spiking import LeakyReadout
from neuro.spiking.nir import NirError, NirMissing, ReadoutLayer, to_nir

if TYPE_CHECKING:
    from pathlib import Path

    from handed_on import Trained

# What the parts are called in both exports.
CELLS, ODORS = "cells", "odors"


@dataclass(frozen=True)
class Pynn:
    """The keys of [pynn] in parameters_export.toml, which says what each means."""

    backend: str
    timestep_ms: float
    timeout_s: float


@dataclass(frozen=True)
class Parameters:
    """The keys of parameters_export.toml."""

    threads: int
    trials: int
    readout: bool
    run: bool
    nir: bool
    pynn: Pynn
    spinnaker: SpinnakerMachine


class Simulated(NamedTuple):
    """Trials and what the network makes of them here.

    Attributes:
        receptors: spikes of the receptor neurons, shape (T, B, receptor neurons).
        spikes: of all other neurons, shape (T, B, N).
        outputs: of the readout, without its bias, shape (T, B, C).
    """

    receptors: torch.Tensor
    spikes: torch.Tensor
    outputs: torch.Tensor


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str]:
    """Export, run and compare."""
    parameters = read_parameters(params_file)
    torch.set_num_threads(parameters.threads)
    with progress.bar("export", total=4) as bar:
        trained = load_trained(input_dir)
        here = simulate(trained, parameters.trials)
        bar.advance()
        written = write_for_pynn(output_dir / "pynn", trained, here, parameters)
        bar.advance()
        summary: dict[str, float | int | str] = {
            "pynn_backend": written.backend,
            "synapses": written.n_synapses,
            "late_synapses": written.late_synapses,
            "trials": here.spikes.shape[1],
            "dt_ms": trained.parameters.dt_ms,
            "nir": write_nir(output_dir / "network.nir", trained)
            if parameters.nir
            else "not asked for",
        }
        bar.advance()
        if not parameters.run:
            return summary | {"not_compared": "run = false"}
        summary |= compare(written, trained, here, parameters)
        bar.advance()
    return summary


def read_parameters(params_file: Path) -> Parameters:
    """Read parameters_export.toml."""
    values = tomllib.loads(params_file.read_text(encoding="utf-8"))
    pynn, machine = Pynn(**values.pop("pynn")), SpinnakerMachine(**values.pop("spinnaker"))
    return Parameters(**values, pynn=pynn, spinnaker=machine)


def load_trained(input_dir: Path | None) -> Trained:
    """Build the network of a run again.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: it is the compact network.
    """
    for name, remedy in {
        "trained": 'name a run of full.toml: [[data.inputs]] run = "latest:fly_olfaction_full"',
        "tables": "get the tables with `./run fetch fly_olfaction`",
    }.items():
        if input_dir is None or not (input_dir / name).is_dir():
            msg = f"there is no folder {name!r} in the inputs ({input_dir}): {remedy}"
            raise FileNotFoundError(msg)
    inhibition = find_inhibition(input_dir)
    trained = load_network(input_dir / "trained", input_dir / "tables", inhibition)
    if not isinstance(trained.built.network, FlyPathway):
        msg = (
            "the run is of the compact network, whose APL is a graded value that neither PyNN's "
            "standard cells nor NIR can say; name a run of full.toml"
        )
        raise ValueError(msg)
    return trained


@torch.no_grad()
def simulate(trained: Trained, n_trials: int) -> Simulated:
    """Present the first validation trials."""
    built = trained.built
    receptors = built.samples.batch(built.validation[:n_trials], trained.parameters.dt_ms)
    response = built.network(built.network.prepare(receptors), record_spikes=True)
    return Simulated(receptors, response.spikes, response.outputs)


def write_for_pynn(
    folder: Path, trained: Trained, here: Simulated, parameters: Parameters
) -> PynnExport:
    """Write the PyNN folder."""
    model = trained.built.network
    readouts = {}
    if parameters.readout:
        readouts[ODORS] = PynnReadout(
            CELLS, model.readout.weight, readout_of(trained), units=model.readout.unit
        )
    backend = parameters.pynn.backend
    return write_pynn(
        folder,
        {CELLS: model.network},
        {"receptors": here.receptors},
        readouts=readouts,
        backend=backend,
        timestep_ms=parameters.pynn.timestep_ms or None,
        machine=parameters.spinnaker if backend == "spinnaker" else None,
    )


def readout_of(trained: Trained) -> LeakyReadout:
    """Return the integrators of the readout; their bias is added to a logit, after the maximum."""
    full = trained.parameters.full
    n_odors = len(trained.built.odors.names)
    return LeakyReadout(n_outputs=n_odors, dt_ms=full.dt_ms, tau_ms=full.tau_out_ms, bias=False)


def write_nir(path: Path, trained: Trained) -> str:
    """Write the NIR graph; return "written", or why it was not."""
    model = trained.built.network
    weights = torch.zeros(model.network.n_units, model.readout.weight.shape[1])
    weights[model.readout.unit] = model.readout.weight.detach()
    layer = ReadoutLayer(CELLS, weights, readout_of(trained))
    try:
        graph = to_nir({CELLS: model.network}, readouts={ODORS: layer})
    except (NirError, NirMissing) as error:
        return str(error)
    import nir

    nir.write(path, graph)
    return "written"


def compare(
    written: PynnExport, trained: Trained, here: Simulated, parameters: Parameters
) -> dict[str, float | int | str]:
    """Run the script; return how well both agree, or why they are not compared."""
    try:
        result = run_pynn(written, timeout_s=parameters.pynn.timeout_s)
    except PynnMissing as missing:
        return {"not_compared": str(missing)}
    found = result.spikes[CELLS]
    every = compare_spike_counts(here.spikes, found)
    kind = trained.built.network.units["cell_class"].to_numpy()
    summary = {
        "spike_count_correlation": every.correlation,
        "equal_count_fraction": every.equal_fraction,
        "spikes": every.spikes,
        "pynn_spikes": every.other_spikes,
    }
    for name, cells in {"pn": "ALPN", "kc": "KC"}.items():
        those = torch.from_numpy(kind == cells)
        part = compare_spike_counts(here.spikes[..., those], found[..., those.numpy()])
        summary[f"{name}_spike_count_correlation"] = part.correlation
    if parameters.readout:
        summary |= compare_readout(trained, here, result)
    return {name: value for name, value in summary.items() if not np.isnan(value)}


def compare_readout(trained: Trained, here: Simulated, result: PynnResult) -> dict[str, float]:
    """Return how outputs correlate over time, and in how many trials both name the same odor."""
    full = trained.parameters.full
    first = round(full.read_from_ms / full.dt_ms)
    bias = trained.built.network.bias_out.detach().numpy()
    both = here.outputs.numpy(), result.potentials[ODORS]
    decided = [(outputs[first:].max(axis=0) + bias).argmax(axis=1) for outputs in both]
    return {
        "output_correlation": float(np.corrcoef(*(outputs.reshape(-1) for outputs in both))[0, 1]),
        "same_decision_fraction": float(np.mean(decided[0] == decided[1])),
    }
