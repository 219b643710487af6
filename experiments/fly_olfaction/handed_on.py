"""What a training run hands on, beside its checkpoints, so that its network can be built again.

file             what it is
parameters.toml  as the run was given it
network.json     the seed in use, gains of edge classes after calibration, and of each edge class
                 how many pairs it has and where they come from: data, modelled, shuffled
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from classification import Build, build
from parameters import Parameters, read_parameters

from engram import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

PARAMETERS, NETWORK, CHECKPOINTS = "parameters.toml", "network.json", "checkpoints"


class Trained(NamedTuple):
    """A network as it was after its last epoch, what it was trained on, and what was logged.

    Attributes:
        parameters: of the run.
        built: the network with what it had learned, and its samples.
        history: measures by name, one entry an epoch.
    """

    parameters: Parameters
    built: Build
    history: list[dict[str, float]]


def edge_classes(built: Build, parameters: Parameters) -> list[dict[str, Any]]:
    """Return pairs and origins of the edge classes that the network uses."""
    found = built.wiring.edge_table()
    if parameters.inhibition == "none":
        found = found[found["origin"] != "modelled"]
    return [
        {"edge_class": name, "pairs": int(pairs), "origin": origin, "sign_origin": signs}
        for name, pairs, origin, signs in found.itertuples(index=False)
    ]


def save_network(output_dir: Path, params_file: Path, parameters: Parameters, built: Build) -> None:
    """Hand on what the checkpoints do not hold."""
    (output_dir / PARAMETERS).write_bytes(params_file.read_bytes())
    values = {
        "seed": parameters.seed,
        "gains": built.gains,
        "edge_classes": edge_classes(built, parameters),
    }
    text = json.dumps(values, indent=1, sort_keys=True)
    (output_dir / NETWORK).write_text(text + "\n", encoding="utf-8")


def can_load(trained: Path) -> bool:
    """Whether a run handed on its network."""
    return all((trained / name).exists() for name in (PARAMETERS, NETWORK, CHECKPOINTS))


def load_network(trained: Path, tables: Path, inhibition_file: Path | None = None) -> Trained:
    """Build the network of a run again, with what it had learned at last.

    Args:
        trained: the run's folder.
        tables: the folder of tables.
        inhibition_file: the table that the run was given with inhibition = "file".

    Raises:
        engram.errors.ResumeError: the newest checkpoint is of another network.
        ValueError: it is of other neurons or other wiring.
    """
    parameters = read_trained(trained)
    with torch.random.fork_rng(devices=[]):
        built = build(parameters, tables, inhibition_file=inhibition_file)
    found = checkpoint.load(trained / CHECKPOINTS, partial=True, network=built.network)
    built.network.eval()
    return Trained(parameters, built, list(found.extra.get("history", [])))


def read_trained(trained: Path) -> Parameters:
    """Read the parameters of a run; whatever seed this one has does not matter."""
    handed_on = json.loads((trained / NETWORK).read_text(encoding="utf-8"))
    parameters = replace(read_parameters(trained / PARAMETERS), seed=handed_on["seed"])
    if parameters.full is None:
        return parameters
    return replace(parameters, full=replace(parameters.full, gains=handed_on["gains"]))
