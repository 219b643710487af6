"""What naming odors is made of: odors, wiring, network, trials.

`build` puts together what a training run learns with, and what a later stage needs to present more
trials to the network that it left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from parameters import WIRINGS, Parameters

from neuro.connectome.circuit import Circuit, load_circuit
from neuro.connectome.odors import Odors, load_odors
from neuro.connectome.olfactory_pathway import Pathway, load_pathway
from neuro.models.fly_olfaction import FlyOlfaction
from neuro.models.fly_pathway import FlyPathway
from neuro.models.pathway_calibration import Activity, calibrate
from neuro.spiking.odor_samples import OdorSamples

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Of every ten repetitions of an odor, these many are for training, validation and test.
PARTS = (7, 2, 1)
# The random stream of a seed that a shuffled wiring is drawn from.
SHUFFLE = 3
OdorNetwork = FlyOlfaction | FlyPathway


class Build(NamedTuple):
    """A network and what it is to learn.

    Attributes:
        odors: the classes.
        wiring: a Pathway of the compact network, a Circuit of the full one.
        receptors: the receptor neurons, a table.
        network: learned values as at first.
        samples: all trials; `response` of shape (odor, receptor neuron).
        train: numbers of those to learn from.
        validation: numbers of those to look at.
        activity: after calibration, None where there was none.
        gains: by edge class, after calibration.
    """

    odors: Odors
    wiring: Pathway | Circuit
    receptors: pd.DataFrame
    network: OdorNetwork
    samples: OdorSamples
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    activity: Activity | None
    gains: dict[str, float]

    @property
    def is_kc(self) -> NDArray[np.bool_]:
        """Which units of the network are Kenyon cells, shape (N,)."""
        return (self.network.units["cell_class"] == "KC").to_numpy()


def find_tables(input_dir: Path | None) -> Path:
    """Return the folder of tables among the inputs.

    Raises:
        FileNotFoundError: there is none.
    """
    if input_dir is None or not (input_dir / "tables").is_dir():
        msg = (
            f"there is no folder 'tables' in the inputs ({input_dir}): the data are not part of "
            "the repository. Get them with `./run fetch fly_olfaction`"
        )
        raise FileNotFoundError(msg)
    return input_dir / "tables"


def find_inhibition(input_dir: Path | None) -> Path | None:
    """Return the user's table of inhibition among the inputs, inhibition.parquet or .csv.

    Raises:
        ValueError: there are several.
    """
    files = [] if input_dir is None else sorted(input_dir.glob("inhibition.*"))
    if len(files) > 1:
        msg = f"the inputs hold {', '.join(file.name for file in files)}: give one of them"
        raise ValueError(msg)
    return files[0] if files else None


def build(
    parameters: Parameters,
    tables: Path,
    *,
    inhibition_file: Path | None = None,
    calibrated: bool = False,
) -> Build:
    """Put odors, wiring, network and trials together.

    Args:
        parameters: of a training run.
        tables: folder of the tables.
        inhibition_file: see `neuro.connectome.circuit.load_circuit`.
        calibrated: whether to find gains by `calibrate` where there is a calibration; not needed
            for a network that a checkpoint will be loaded into, as it holds the weights.
    """
    odors = load_odors(tables, classes=parameters.classes)
    wiring = load_wiring(parameters, tables, inhibition_file)
    receptors = wiring.cells.orn if isinstance(wiring, Pathway) else wiring.inputs
    samples = draw_samples(parameters, odors.drive(receptors["receptors"]))
    train, validation = choose_samples(samples, parameters.samples_per_class)
    activity, gains = None, {}
    if isinstance(wiring, Circuit):
        full = parameters.full
        if calibrated:
            found, activity = calibrate_full(parameters, wiring, samples, train)
            full = replace(full, gains=found)
        gains = dict(full.gains)
        network = FlyPathway(wiring, n_classes=len(odors.names), settings=full)
    else:
        network = FlyOlfaction(
            wiring,
            n_classes=len(odors.names),
            settings=parameters.compact,
            inhibition=parameters.inhibition == "lumped",
        )
    return Build(odors, wiring, receptors, network, samples, train, validation, activity, gains)


def load_wiring(
    parameters: Parameters, tables: Path, inhibition_file: Path | None = None
) -> Pathway | Circuit:
    """Load the wiring that the model is made of, real or shuffled."""
    shuffle = WIRINGS[parameters.model][parameters.pn_to_kc]
    generator = None
    if shuffle is not None:
        generator = np.random.default_rng([parameters.seed, SHUFFLE])
    if parameters.model == "compact":
        return load_pathway(tables, shuffle=generator, receptor_map=parameters.receptor_map)
    return load_circuit(
        tables,
        inhibition=parameters.inhibition,
        inhibition_file=inhibition_file,
        shuffle=shuffle,
        generator=generator,
        sign_rule=parameters.sign_rule,
        receptor_map=parameters.receptor_map,
    )


def draw_samples(parameters: Parameters, response: NDArray[np.float64]) -> OdorSamples:
    """Return as many repetitions of each odor as give every set its share."""
    asked = parameters.samples_per_class
    blocks = max(-(-asked["train"] // PARTS[0]), -(-asked["validation"] // PARTS[1]))
    return OdorSamples(parameters.odor, response, parameters.seed, blocks * sum(PARTS))


def choose_samples(samples: OdorSamples, per_class: dict[str, int]) -> list[NDArray[np.int64]]:
    """Return the numbers of the first samples of each odor in the training and validation set."""
    chosen = []
    for ids, name in zip(samples.split(samples.ids, PARTS), ("train", "validation"), strict=False):
        rank = pd.Series(ids).groupby(samples.label(ids)).cumcount().to_numpy()
        chosen.append(ids[rank < per_class[name]])
    return chosen


def calibrate_full(
    parameters: Parameters, circuit: Circuit, samples: OdorSamples, train: NDArray[np.int64]
) -> tuple[dict[str, float], Activity]:
    """Find gains on training trials, of odors spread over all."""
    full, targets = parameters.full, parameters.calibration
    every = len(train) / targets.trials
    ids = train[(np.arange(targets.trials) * every).astype(int)]
    spikes = samples.batch(ids, parameters.dt_ms)
    return calibrate(circuit, full, targets, spikes)


def prepared_batch(built: Build, ids: NDArray[np.int64], dt_ms: int) -> Any:  # noqa: ANN401
    """Make trials and prepare them for the network."""
    with torch.no_grad():
        return built.network.prepare(built.samples.batch(ids, dt_ms))
