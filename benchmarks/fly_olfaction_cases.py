"""What fly_olfaction.py times: a training step of the fly's pathway in several implementations."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from timing import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "lib"))

from neuro.connectome.circuit import COLUMNS, Circuit, load_circuit, make_circuit  # noqa: E402
from neuro.connectome.odors import load_odors  # noqa: E402
from neuro.losses import max_over_time  # noqa: E402
from neuro.models.fly_pathway import FlyPathway, Settings, gain_of_edges  # noqa: E402
from neuro.models.typed_lif import NeuronSettings  # noqa: E402
from neuro.spiking.filters import exponential_filter  # noqa: E402
from neuro.spiking.odor_samples import OdorSamples  # noqa: E402
from neuro.spiking.odor_trials import OdorLaw  # noqa: E402
from neuro.training.memory import keep_freed_memory  # noqa: E402, F401

BACKENDS = ("loop", "sequence", "event")
SEGMENT_STEPS = 50  # as the experiment has it
NEURONS = NeuronSettings(tau_syn_ms=20.0, tau_mem_ms=20.0)
SLOPE, TAU_OUT_MS = 50.0, 200.0
READ_FROM = 0.3  # of a trial: 150 of 500 ms
LAW = OdorLaw(
    rate_at_response_1_hz=192.0,
    concentration=0.5,
    baseline_hz=8.0,
    trial_ms=500,
    duration_min_ms=70,
    duration_end_ms=500,
    counts="bernoulli",
)
# As calibration finds them at first: local neurons at 10 Hz, PNs at 8, a tenth of the KCs active.
GAINS = {
    "ORN->ALLN": 10.7,
    "ORN->ALPN": 15.2,
    "ALLN->ALPN": 5.0,
    "ALPN->KC": 2.63,
    "ALPN->APL": 8.62,
    "KC->APL": 8.62,
    "APL->KC": 1.0,
    "KC->MBON": 100.0,
}


class Task(NamedTuple):
    """A circuit, and what drives its receptor neurons: responses to odors, shape (C, P)."""

    circuit: Circuit
    response: np.ndarray


class Output(NamedTuple):
    """Spikes, shape (T, B, N), and logits, shape (B, C), with gradients."""

    spikes: torch.Tensor
    logits: torch.Tensor


class Case(NamedTuple):
    """A batch, the values that are trained, and the implementations by name."""

    source: torch.Tensor
    label: torch.Tensor
    trained: tuple[torch.Tensor, ...]
    implementations: dict[str, Callable[[], Output]]


def real_task(tables: Path) -> Task:
    """The adult's pathway, with lumped inhibition, and 281 odors."""
    circuit = load_circuit(tables)
    return Task(circuit, load_odors(tables).drive(circuit.inputs["receptors"]))


def random_task(n_hidden: int) -> Task:
    """Random pairs of the same edge classes, for a machine without the tables."""
    generator = np.random.default_rng(0)
    size = {"ORN": n_hidden // 4, "ALPN": n_hidden // 5, "KC": n_hidden - n_hidden // 5}
    cell_class = np.repeat(list(size), list(size.values()))
    root_id = np.arange(len(cell_class))
    neurons = pd.DataFrame({name: "" for name in COLUMNS}, index=root_id)
    neurons["root_id"], neurons["cell_class"], neurons["sign"] = root_id, cell_class, 1
    neurons["cell_type"] = pd.Series(cell_class) + (root_id % 4).astype(str)
    neurons["is_input"] = cell_class == "ORN"
    neurons["is_hidden"] = ~neurons["is_input"]
    parts = []
    for pre, post in (("ORN", "ALPN"), ("ALPN", "KC")):
        ends = [generator.choice(root_id[cell_class == one], 5 * n_hidden) for one in (pre, post)]
        parts.append(
            pd.DataFrame({"pre": ends[0], "post": ends[1], "edge_class": f"{pre}->{post}"})
        )
    pairs = pd.concat(parts).drop_duplicates(["pre", "post"], ignore_index=True)
    pairs = pairs.assign(strength=generator.random(len(pairs)) + 0.1, origin="modelled", sign=1)
    response = 0.4 * generator.random((20, size["ORN"]))
    return Task(make_circuit(neurons, pairs), response)


def make_case(task: Task, *, n_trials: int, n_steps: int, dt_ms: int = 1) -> Case:
    """Draw a batch, and set up the implementations on the same parameters.

    Trained are, as published, membrane time constants and biases by cell type, one factor on all
    weights from the receptor neurons and one on those among the others, and the readout.
    """
    samples = OdorSamples(LAW, task.response, 0, 1 + n_trials)
    generator = torch.Generator().manual_seed(n_trials)
    ids = torch.randperm(len(samples), generator=generator)[:n_trials].numpy()
    source = samples.batch(ids, dt_ms)[:n_steps].contiguous()
    settings = Settings(
        dt_ms=dt_ms,
        neurons=NEURONS,
        tau_out_ms=TAU_OUT_MS,
        read_from_ms=READ_FROM * n_steps * dt_ms,
        surrogate_slope=SLOPE,
        trainable="global",
        gains=GAINS,
    )
    torch.manual_seed(0)
    model = FlyPathway(task.circuit, n_classes=samples.n_odors, settings=settings)
    steps = {
        f"torch.sparse {layout.upper()}": _by_steps(model, task.circuit, source, layout)
        for layout in ("csr", "coo")
    }
    ours = {backend: _ours(model, source, backend) for backend in BACKENDS}
    ours["event in segments"] = _ours(model, source, "event", SEGMENT_STEPS)
    label = torch.from_numpy(samples.label(ids))
    return Case(source, label, tuple(model.parameters()), steps | ours)


def _ours(
    model: FlyPathway, source: torch.Tensor, backend: str, segment_steps: int | None = None
) -> Callable[[], Output]:
    def run() -> Output:
        model.network.backend, model.network.segment_steps = backend, segment_steps
        response = model(model.prepare(source), record_spikes=True)
        return Output(response.spikes, response.logits)

    return run


def _by_steps(
    model: FlyPathway, circuit: Circuit, source: torch.Tensor, layout: str
) -> Callable[[], Output]:
    """The network stepped in Python, with torch.sparse products and snntorch's surrogate.

    At its best: one product for the input of all steps, states kept as (N, B), which the sparse
    products ask for, no gradient to weights that are not trained, and the readout as one product.
    """
    from snntorch import surrogate

    n_steps, n_trials, n_inputs = source.shape
    n_units = len(circuit.hidden)
    scale = 10.0 / model.settings.dt_ms
    incoming = _sparse(circuit.forward, (n_units, n_inputs), scale, layout)
    lateral = _sparse(circuit.recurrent, (n_units, n_units), scale, layout)
    spike = surrogate.fast_sigmoid(slope=SLOPE)
    unit = torch.from_numpy(circuit.readout)
    first = round(READ_FROM * n_steps)
    projections = model.network.projections

    def run() -> Output:
        neuron = model.network.model()
        a = torch.exp(-model.settings.dt_ms / torch.tensor(neuron.tau_syn_ms))
        b = torch.exp(-model.settings.dt_ms / neuron.tau_mem_ms)[:, None]
        bias = neuron.bias[:, None]
        gain, lateral_gain = (
            projections[name].scaling_factors for name in ("receptors", "recurrent")
        )
        columns = source.permute(2, 0, 1).reshape(n_inputs, -1)
        arriving = torch.sparse.mm(incoming, columns).view(-1, n_steps, n_trials)
        syn = mem = spikes = arriving.new_zeros(n_units, n_trials)
        seen = []
        for t in range(n_steps):
            x = gain * arriving[:, t] + lateral_gain * torch.sparse.mm(lateral, spikes)
            syn = a * syn + (1 - a) * x
            mem = b * (mem * (1 - spikes.detach())) + (1 - b) * (syn + bias)
            spikes = spike(mem - 1)
            seen.append(spikes)
        raster = torch.stack(seen).transpose(1, 2)
        read = raster[:, :, unit] @ model.readout.weight
        outputs = exponential_filter(read, model.readout.kappa).values
        return Output(raster, max_over_time(outputs[first:]) + model.bias_out)

    return run


def _sparse(edges: tuple, shape: tuple[int, int], scale: float, layout: str) -> torch.Tensor:
    """Return the weights [post, pre] of a set of edges."""
    at = torch.stack([torch.from_numpy(edges.post), torch.from_numpy(edges.pre)])
    weight = torch.from_numpy(edges.weight).float() * (gain_of_edges(edges, GAINS) * scale)
    torch.sparse.check_sparse_tensor_invariants.disable()
    matrix = torch.sparse_coo_tensor(at, weight, shape).coalesce()
    if layout == "coo":
        return matrix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this layout is in beta
        return matrix.to_sparse_csr()
