"""The wiring of a trained network with one thing shuffled, and a network on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from classification import OdorNetwork

from neuro.connectome.circuit import Circuit, load_circuit
from neuro.connectome.flywire import count_synapses, load_adult
from neuro.connectome.olfactory_pathway import Pathway, input_shares, pairs
from neuro.connectome.wiring_controls import shuffle_targets_within_type
from neuro.models.fly_olfaction import FlyOlfaction
from neuro.models.fly_pathway import FlyPathway

if TYPE_CHECKING:
    from pathlib import Path

    from classification import Build
    from parameters import Parameters

# Shuffles of an evaluation draw from streams of their own, apart from those of training.
EVALUATION = 17


def changed_wiring(
    wiring: Pathway | Circuit,
    parameters: Parameters,
    tables: Path,
    *,
    change: str,
    seed: int,
    inhibition_file: Path | None = None,
) -> Pathway | Circuit:
    """Return the wiring of a trained network, shuffled.

    Args:
        wiring: of the network.
        parameters: of the training run.
        tables: the folder of tables.
        change: "targets_within_type": Kenyon cells of one type and side exchange their PNs;
            "signs": neurons of one class exchange their signs.
        seed: of the shuffle.
        inhibition_file: the table that the run was given with inhibition = "file".
    """
    generator = np.random.default_rng([seed, EVALUATION])
    if isinstance(wiring, Pathway):
        return _shuffled_pathway(wiring, parameters, tables, change, generator)
    return load_circuit(
        tables,
        inhibition=parameters.inhibition,
        inhibition_file=inhibition_file,
        shuffle=change,
        generator=generator,
        sign_rule=parameters.sign_rule,
        receptor_map=parameters.receptor_map,
    )


def network_on(wiring: Pathway | Circuit, parameters: Parameters, built: Build) -> OdorNetwork:
    """Return a network on some wiring with the learned values of the trained one.

    Raises:
        ValueError: the wiring has other synapses, and each of them was trained.
    """
    n_classes = len(built.odors.names)
    # The readout's first weights, drawn here, are overwritten.
    with torch.random.fork_rng(devices=[]):
        network: OdorNetwork
        if isinstance(wiring, Pathway):
            lumped = parameters.inhibition == "lumped"
            settings = parameters.compact
            network = FlyOlfaction(
                wiring, n_classes=n_classes, settings=settings, inhibition=lumped
            )
        else:
            network = FlyPathway(wiring, n_classes=n_classes, settings=parameters.full)
    network.load_learned(built.network.state_dict())
    return network.eval()


def _shuffled_pathway(
    pathway: Pathway,
    parameters: Parameters,
    tables: Path,
    change: str,
    generator: np.random.Generator,
) -> Pathway:
    pn, kc = pathway.cells.pn, pathway.cells.kc
    if change == "signs":
        # The sign of a PN is that of all its weights; each of them drives a Kenyon cell.
        sign = np.where((pathway.pn_to_kc < 0).any(axis=1), -1, 1)
        drawn = generator.permutation(sign)
        return replace(pathway, pn_to_kc=drawn[:, None] * np.abs(pathway.pn_to_kc))
    neurons, edges = load_adult(tables, sign_rule="published", receptor_map=parameters.receptor_map)
    shuffled = shuffle_targets_within_type(pairs(edges, pn, kc), neurons, generator)
    sign = pn["sign"].to_numpy()[:, None]
    shares = input_shares(count_synapses(shuffled, pn, kc))
    return replace(pathway, pn_to_kc=sign * shares)
