"""What teacher and student share: the graph, the task, the network, and the files between them.

A teacher hands on a folder with

    file           what it is
    graph.npz      who drives whom, in the format of neuro.connectome.neuron_graph
    teacher.json   [network] and [task] of its parameters, its seed, its samples
    teacher.npz    the values it learned, one array for each name of its state
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from neuro.connectome.circuit import load_circuit
from neuro.connectome.larva import larva_circuit
from neuro.connectome.neuron_graph import (
    NeuronGraph,
    RandomGraphLaw,
    circuit_graph,
    load_graph,
    random_graph,
    save_graph,
)
from neuro.models.wired_network import Activity, WiredNetwork, WiredSettings
from neuro.spiking.random_manifold import ManifoldLaw, RandomManifolds
from neuro.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECTOMES = ("random", "larva", "adult")
GRAPH, SETTINGS, VALUES = "graph.npz", "teacher.json", "teacher.npz"
# Random stream of a seed that the wiring is drawn from.
WIRING = 2


@dataclass(frozen=True)
class LearningRates:
    """Step sizes of Adam: of logarithms of weights, of biases and logarithms of time constants."""

    weights: float
    intrinsic: float
    readout: float

    def optimizer(self, network: WiredNetwork) -> torch.optim.Adam:
        """Return Adam on all that requires gradients."""
        rates = {
            "feedforward": self.weights,
            "recurrent": self.weights,
            "intrinsic": self.intrinsic,
            "readout": self.readout,
        }
        groups = [
            {"params": parameters, "lr": rates[name]}
            for name, parameters in network.parts().items()
            if parameters[0].requires_grad
        ]
        return torch.optim.Adam(groups)


@dataclass(frozen=True)
class SampleCounts:
    """Samples to learn from, to look at while learning, and to report on: the first, the next."""

    train: int
    validation: int
    test: int

    def __post_init__(self) -> None:
        """Refuse sets that are empty.

        Raises:
            ValueError: one is.
        """
        if min(dataclasses.astuple(self)) < 2:
            msg = f"samples = {dataclasses.asdict(self)!r} must hold at least 2 of each kind"
            raise ValueError(msg)

    def ids(self, name: str) -> np.ndarray:
        """Return the numbers of the samples of one kind."""
        sizes = dataclasses.asdict(self)
        first = sum(list(sizes.values())[: list(sizes).index(name)])
        return np.arange(first, first + sizes[name])


class Samples(NamedTuple):
    """The task, its samples, and steps of a trial."""

    task: RandomManifolds
    counts: SampleCounts
    dt_ms: float
    n_steps: int

    def spikes(self, samples: np.ndarray) -> torch.Tensor:
        """Return spikes of the inputs, shape (T, B, P)."""
        return self.task.batch(samples, dt_ms=self.dt_ms, n_steps=self.n_steps)

    def labels(self, samples: np.ndarray) -> torch.Tensor:
        """Return classes, shape (B,)."""
        return torch.from_numpy(self.task.labels(samples))


class Teacher(NamedTuple):
    """What a student is given: the graph, the network that learned, and its task."""

    graph: NeuronGraph
    network: WiredNetwork
    samples: Samples


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


def make_graph(
    connectome: str, law: RandomGraphLaw, input_dir: Path | None, *, seed: int
) -> NeuronGraph:
    """Draw a graph, or read that of the larva or of the adult from the tables among the inputs.

    Raises:
        ValueError: the connectome is unknown.
        FileNotFoundError: there are no tables.
    """
    if connectome not in CONNECTOMES:
        msg = f"connectome = {connectome!r} is none of {', '.join(map(repr, CONNECTOMES))}"
        raise ValueError(msg)
    if connectome == "random":
        return random_graph(law, np.random.default_rng([seed, WIRING]))
    if input_dir is None or not (input_dir / "tables").is_dir():
        msg = (
            f"connectome = {connectome!r} needs the folder 'tables' among the inputs "
            f"({input_dir}): get it with `./run fetch fly_olfaction` and use "
            "experiments/fly_olfaction/teacher_connectome.toml"
        )
        raise FileNotFoundError(msg)
    if connectome == "larva":
        return circuit_graph(larva_circuit(input_dir / "tables"))
    return circuit_graph(load_circuit(input_dir / "tables"))


def make_samples(
    law: ManifoldLaw, counts: SampleCounts, graph: NeuronGraph, *, dt_ms: float, seed: int
) -> Samples:
    """Return the task for the inputs of a graph."""
    task = RandomManifolds(law, n_inputs=graph.n_inputs, seed=seed)
    return Samples(task, counts, dt_ms, int(np.ceil(law.duration_ms / dt_ms - 1e-9)))


def make_network(
    graph: NeuronGraph, settings: WiredSettings, law: ManifoldLaw, *, seed: int, backend: str
) -> WiredNetwork:
    """Make a network that has learned nothing."""
    generator = torch.Generator().manual_seed(seed)
    return WiredNetwork(
        graph, settings, n_outputs=law.n_classes, generator=generator, backend=backend
    )


def save_teacher(folder: Path, teacher: Teacher, *, seed: int) -> None:
    """Write what students read."""
    save_graph(folder / GRAPH, teacher.graph)
    samples = teacher.samples
    settings = {
        "seed": seed,
        "network": dataclasses.asdict(teacher.network.settings),
        "task": dataclasses.asdict(samples.task.law),
        "samples": dataclasses.asdict(samples.counts),
    }
    text = json.dumps(settings, indent=1) + "\n"
    write_whole(folder / SETTINGS, lambda file: file.write(text.encode()))
    values = {name: value.numpy() for name, value in teacher.network.state_dict().items()}
    write_whole(folder / VALUES, lambda file: np.savez(file, **values))


def load_teacher(input_dir: Path | None, *, backend: str) -> Teacher:
    """Read the teacher among the inputs.

    Raises:
        FileNotFoundError: it is not there; says what to do.
        RuntimeError: its values are those of another graph.
    """
    folder = None if input_dir is None else input_dir / "teacher"
    if folder is None or not all((folder / name).is_file() for name in (GRAPH, SETTINGS, VALUES)):
        msg = (
            f"there is no teacher in the inputs ({folder}): run one first, "
            "`./run experiments/fly_olfaction/teacher.toml`, and name it in the experiment: "
            '[[data.inputs]] run = "latest:teacher", or a run of another name with name = "teacher"'
        )
        raise FileNotFoundError(msg)
    values = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    graph, seed = load_graph(folder / GRAPH), values["seed"]
    settings, law = WiredSettings(**values["network"]), ManifoldLaw(**values["task"])
    network = make_network(graph, settings, law, seed=seed, backend=backend)
    with np.load(folder / VALUES, allow_pickle=False) as file:
        network.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})
    counts = SampleCounts(**values["samples"])
    samples = make_samples(law, counts, graph, dt_ms=settings.dt_ms, seed=seed)
    return Teacher(graph, network.eval(), samples)


def batches(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield samples in the order of PyTorch's global random stream, which checkpoints hold."""
    for batch in torch.randperm(len(samples)).split(size):
        yield samples[batch.numpy()]


@torch.no_grad()
def run_all(network: WiredNetwork, samples: Samples, chosen: np.ndarray, size: int) -> Activity:
    """Present samples without noise and without learning, in batches of a size."""
    was_training = network.training
    network.eval()
    parts = [
        network(samples.spikes(batch)) for batch in np.array_split(chosen, -(-len(chosen) // size))
    ]
    network.train(was_training)
    return Activity(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))
