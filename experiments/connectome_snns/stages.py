"""What the stages share: how they read parameters and what they hand to each other.

    file                   written by                             what it is
    network_structure.npz  generate_connectome,                   neuro.connectome.network_structure
                           homeostatic_plasticity,
                           generate_teacher (as it was given)
    physiology.json        the same three                         neuro.models.physiology
    odor_patterns.npy      the same three                         rates of the inputs in Hz under
                                                                  each odor, float32 (odor, input)
    spike_data.npz         generate_teacher                       neuro.spiking.spike_data

A stage takes the one before as a declared input, and hands on what the next ones need: a student
needs the teacher's folder and no other.
"""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from neuro.connectome.network_structure import NetworkStructure, load_structure, save_structure
from neuro.models.physiology import Physiology, load_physiology, save_physiology
from neuro.spiking.inputs import OdorMixture, OdorMixtureInput
from neuro.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

STRUCTURE = "network_structure.npz"
PHYSIOLOGY = "physiology.json"
PATTERNS = "odor_patterns.npy"
SPIKE_DATA = "spike_data.npz"
MODEL = (STRUCTURE, PHYSIOLOGY, PATTERNS)


class Model(NamedTuple):
    """What stages hand on.

    Attributes:
        structure: the graph with its weights.
        physiology: of its cells and synapses.
        patterns_hz: rates of the inputs under each odor, float32, shape (K, N_in).
    """

    structure: NetworkStructure
    physiology: Physiology
    patterns_hz: NDArray[np.float32]


def read_parameters(params_file: Path) -> dict[str, Any]:
    """Read a parameter file; `./run --seed` reaches a script as ENGRAM_SEED."""
    values = tomllib.loads(params_file.read_text(encoding="utf-8"))
    values["seed"] = int(os.environ.get("ENGRAM_SEED", values["seed"]))
    return values


def make_reproducible(seed: int, threads: int) -> None:
    """Fix what bits depend on: threads and the global random stream."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def find_stage(input_dir: Path | None, stages: Sequence[str], files: Sequence[str]) -> Path:
    """Return the folder of the earlier stage among the inputs.

    Args:
        input_dir: as `main` received it.
        stages: names that the input may have.
        files: that its folder must hold.

    Raises:
        FileNotFoundError: none is there, or it lacks a file; says which command writes it.
    """
    remedy = (
        f"run it first, `./run experiments/connectome_snns/{stages[0]}.toml`, and name it in the "
        f'experiment: [[data.inputs]] run = "latest:{stages[0]}"'
    )
    for stage in stages:
        if input_dir is not None and (folder := input_dir / stage).is_dir():
            if missing := [name for name in files if not (folder / name).is_file()]:
                msg = f"the input {stage} ({folder}) lacks {', '.join(missing)}: {remedy}"
                raise FileNotFoundError(msg)
            return folder
    msg = f"there is no stage {' or '.join(stages)} in the inputs ({input_dir}): {remedy}"
    raise FileNotFoundError(msg)


def make_input(model: Model, mixture: OdorMixture, dt_ms: float) -> OdorMixtureInput:
    """Return the source of input spikes under changing mixtures of the model's odors."""
    return OdorMixtureInput(torch.from_numpy(model.patterns_hz), mixture, dt_ms)


def load_model(folder: Path) -> Model:
    """Read what `save_model` wrote.

    Raises:
        ValueError: the parts do not fit together.
    """
    structure = load_structure(folder / STRUCTURE)
    patterns_hz = np.load(folder / PATTERNS, allow_pickle=False)
    if patterns_hz.shape[1:] != (structure.n_inputs,):
        msg = (
            f"{folder / PATTERNS} has shape {patterns_hz.shape}; the network has "
            f"{structure.n_inputs} inputs"
        )
        raise ValueError(msg)
    return Model(structure, load_physiology(folder / PHYSIOLOGY), patterns_hz)


def save_model(folder: Path, model: Model) -> None:
    """Hand a model on."""
    save_structure(folder / STRUCTURE, model.structure)
    save_physiology(folder / PHYSIOLOGY, model.physiology)
    patterns_hz = model.patterns_hz.astype(np.float32)
    write_whole(folder / PATTERNS, lambda file: np.save(file, patterns_hz))
