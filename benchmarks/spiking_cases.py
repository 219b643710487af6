"""What spiking.py times: one network in several implementations, with results to compare."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from timing import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "lib"))

from neuro.spiking.edges import make_edges
from neuro.spiking.neurons import LIF, ConductanceLIF, Synapse
from neuro.spiking.simulate import simulate
from neuro.spiking.surrogate import ATan, FastSigmoid, Triangle, spike
from neuro.spiking.synapses import Synapses

BETA, DT_MS, N_INPUTS = 0.9, 1.0, 200


class Result(NamedTuple):
    """What must agree: spikes, shape (T, B, N), and gradients of the weights."""

    spikes: torch.Tensor
    grads: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Implementation:
    """One row.

    Attributes:
        name: in the table.
        forward: returns the spikes, with a gradient when weights require one.
        same_gradient: whether its gradients are to be compared.
    """

    name: str
    forward: Callable[[], torch.Tensor]
    same_gradient: bool = True


class Layer(NamedTuple):
    """A network of one size: its weights, and its implementations by name."""

    size: str
    n_units: int
    n_trials: int
    n_steps: int
    weights: tuple[torch.Tensor, ...]
    implementations: list[Implementation]
    floor_flop: float = 0.0


def dense(n_units: int, n_trials: int, n_steps: int) -> Layer:
    """A recurrent layer of LIF units with 200 inputs that fires at three to four percent."""
    generator = torch.Generator().manual_seed(n_units + n_trials)
    source = (torch.rand(n_steps, n_trials, N_INPUTS, generator=generator) < 0.05).float()
    spread = 0.2 / math.sqrt(n_units * 0.037)
    recurrent = torch.randn(n_units, n_units, generator=generator) * spread
    incoming = torch.randn(N_INPUTS, n_units, generator=generator) * 0.105
    weights = (recurrent.requires_grad_(), incoming.requires_grad_())

    def ours(backend: str, surrogate: ATan | Triangle) -> Callable[[], torch.Tensor]:
        neuron = LIF(tau_mem_ms=-DT_MS / math.log(BETA), surrogate=surrogate)

        def forward() -> torch.Tensor:
            synapses = [Synapses(weights[0]), Synapses(weights[1], None, 0, source)]
            return simulate(neuron, synapses, n_units=n_units, dt_ms=DT_MS, backend=backend).spikes

        return forward

    per_step = 2 * n_trials * (n_units**2 + N_INPUTS * n_units)
    backward = 2 * n_trials * (2 * n_units**2 + N_INPUTS * n_units)
    return Layer(
        f"N = {n_units}, B = {n_trials}",
        n_units,
        n_trials,
        n_steps,
        weights,
        [
            Implementation("snntorch RLeaky", _snntorch(weights, source)),
            Implementation("step loop", ours("loop", ATan(2.0))),
            Implementation("sequence", ours("sequence", ATan(2.0))),
            Implementation("event", ours("event", ATan(2.0))),
            Implementation("event, triangle", ours("event", Triangle(0.5)), same_gradient=False),
        ],
        float(n_steps * (per_step + backward)),
    )


def _snntorch(
    weights: tuple[torch.Tensor, ...], source: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """Its recurrent layer, stepped as its documentation does, with the same weights."""
    import snntorch
    from snntorch import surrogate

    recurrent, incoming = weights
    layer = snntorch.RLeaky(
        beta=BETA, linear_features=recurrent.shape[0], spike_grad=surrogate.atan(alpha=2.0)
    )
    layer.recurrent = _Transposed(recurrent)

    def forward() -> torch.Tensor:
        spikes, potential = layer.init_rleaky()
        seen = []
        for now in source:
            spikes, potential = layer(now @ incoming, spikes, potential)
            seen.append(spikes)
        return torch.stack(seen)

    return forward


class _Transposed(torch.nn.Module):
    """A linear map by weights [pre, post] that are kept elsewhere."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.held = [weights]

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        return spikes @ self.held[0]


def sparse(n_units: int, n_edges: int, n_trials: int, n_steps: int) -> Layer:
    """A recurrent layer with trained values on fixed random edges, driven by a current."""
    generator = torch.Generator().manual_seed(n_units + n_trials)
    pairs = torch.randint(0, n_units * n_units, (n_edges,), generator=generator).unique()
    edges, _ = make_edges(pairs // n_units, pairs % n_units, n_pre=n_units, n_post=n_units)
    spread = 0.15 / math.sqrt(n_edges / n_units * 0.065)
    values = (torch.randn(len(pairs), generator=generator) * spread).requires_grad_()
    drive = torch.rand(n_steps, n_trials, n_units, generator=generator) * 0.28
    weights = (values, drive.requires_grad_())

    def ours(backend: str, surrogate: ATan | Triangle) -> Callable[[], torch.Tensor]:
        neuron = LIF(tau_mem_ms=-DT_MS / math.log(BETA), surrogate=surrogate)

        def forward() -> torch.Tensor:
            return simulate(
                neuron,
                [Synapses(values, edges)],
                n_units=n_units,
                dt_ms=DT_MS,
                drive=drive,
                backend=backend,
            ).spikes

        return forward

    return Layer(
        f"N = {n_units:,}, E = {len(pairs):,}, B = {n_trials}",
        n_units,
        n_trials,
        n_steps,
        weights,
        [
            Implementation("gather, index_add", ours("loop", ATan(2.0))),
            Implementation("sequence", ours("sequence", ATan(2.0))),
            Implementation("event", ours("event", ATan(2.0))),
            Implementation("event, triangle", ours("event", Triangle(0.5)), same_gradient=False),
        ],
    )


KINDS = [
    Synapse("E AMPA", 0, 4.177, 0.0, 0.1, 5.0),
    Synapse("E NMDA", 0, 0.448, 0.0, 10.0, 70.0),
    Synapse("I GABA_A", 1, 8.139, -70.0, 1.0, 6.0),
    Synapse("input AMPA", 2, 4.177, 0.0, 0.1, 5.0),
    Synapse("input NMDA", 2, 0.448, 0.0, 10.0, 70.0),
]


def conductance(n_units: int, n_trials: int, n_steps: int) -> Layer:
    """Conductance-based LIF units, a fifth of them inhibitory, with 0.3 N inputs at 6 Hz.

    Trained are scaling factors by cell type, as in a student of unknown factors.
    """
    generator = torch.Generator().manual_seed(n_units)
    n_inputs, n_excitatory = int(0.3 * n_units), int(0.8 * n_units)

    def wire(n_pre: int, density: float, mean: float) -> torch.Tensor:
        there = torch.rand(n_pre, n_units, generator=generator) < density
        size = torch.empty(n_pre, n_units).log_normal_(-0.5, 1.0, generator=generator) * mean
        return there * size

    recurrent = wire(n_units, 0.06, 0.02 * 1000 / n_units)
    recurrent[n_excitatory:] *= 4
    incoming = wire(n_inputs, 0.06, 0.15 * 1000 / n_units)
    kind = (torch.arange(n_units) >= n_excitatory).long()
    source = (torch.rand(n_steps, n_trials, n_inputs, generator=generator) < 0.012).float()
    log_factors = torch.zeros(2, 2).requires_grad_()
    log_factors_in = torch.zeros(1, 2).requires_grad_()
    weights = (log_factors, log_factors_in)
    neuron = ConductanceLIF(
        tau_mem_ms=torch.where(kind == 0, 85.0, 50.0),
        g_leak_ns=torch.where(kind == 0, 1.35, 0.9),
        threshold_mv=torch.where(kind == 0, -38.0, -45.0),
        v_reset_mv=-60.0,
        e_leak_mv=-60.0,
        synapses=KINDS,
        surrogate=FastSigmoid(0.5),
    )
    pre, post = recurrent.nonzero(as_tuple=True)
    size, n_post = recurrent[pre, post], 3 * n_units
    edges, order = make_edges(pre, kind[pre] * n_units + post, n_pre=n_units, n_post=n_post)
    pre, post, size = pre[order], post[order], size[order]
    pre_in, post_in = incoming.nonzero(as_tuple=True)
    size_in = incoming[pre_in, post_in]
    edges_in, order_in = make_edges(pre_in, 2 * n_units + post_in, n_pre=n_inputs, n_post=n_post)
    post_in, size_in = post_in[order_in], size_in[order_in]

    def ours(backend: str) -> Callable[[], torch.Tensor]:
        def forward() -> torch.Tensor:
            values = size * log_factors.exp()[kind[pre], kind[post]]
            values_in = size_in * log_factors_in.exp()[0, kind[post_in]]
            synapses = [Synapses(values, edges), Synapses(values_in, edges_in, 0, source)]
            return simulate(neuron, synapses, n_units=n_units, dt_ms=DT_MS, backend=backend).spikes

        return forward

    return Layer(
        f"N = {n_units:,}, B = {n_trials}",
        n_units,
        n_trials,
        n_steps,
        weights,
        [
            Implementation(
                "dense products a cell type",
                _dense_products(neuron, recurrent, incoming, kind, source, weights),
            ),
            Implementation("step loop", ours("loop")),
            Implementation("sequence", ours("sequence")),
            Implementation("event", ours("event")),
        ],
    )


def _dense_products(
    neuron: ConductanceLIF,
    recurrent: torch.Tensor,
    incoming: torch.Tensor,
    kind: torch.Tensor,
    source: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
) -> Callable[[], torch.Tensor]:
    """The same network as packages of dense tensors step it, by autograd.

    Each presynaptic cell type holds one dense product (pre, N, 2, kinds) of weights and the jumps
    of rise and decay; a step multiplies the spikes of a cell type with it.
    """
    n_units = len(kind)
    c = neuron.constants(dt_ms=DT_MS, n_units=n_units, like=recurrent)
    jumps = torch.stack([-c.jump[:, 0], c.jump[:, 0]])
    sources = [(kind == 0).nonzero()[:, 0], (kind == 1).nonzero()[:, 0]]
    groups = [(recurrent[sources[0]], [0, 1]), (recurrent[sources[1]], [2]), (incoming, [3, 4])]
    products = [w[:, :, None, None] * jumps[None, None][..., kinds] for w, kinds in groups]
    decay = torch.stack([c.rise[:, 0], c.decay[:, 0]])

    def forward() -> torch.Tensor:
        factors, factors_in = weights[0].exp(), weights[1].exp()
        scale = [factors[0][kind], factors[1][kind], factors_in[0][kind]]
        v = c.reset.expand(source.shape[1], n_units)
        s = torch.zeros_like(v)
        g = v.new_zeros(*v.shape, 2, len(neuron.synapses))
        seen = []
        for now in source:
            total = g.sum(2)
            current = (total * (v[..., None] - c.e_rev[:, 0])).sum(-1)
            free = v + c.leak * (c.e_leak - v) - c.dt_per_c * current
            held = s.detach()
            v = free * (1 - held) + c.reset * held
            arriving = [
                torch.einsum("bi,ijrk->bjrk", spikes, product) * factor[:, None, None]
                for spikes, product, factor in zip(
                    (s[:, sources[0]], s[:, sources[1]], now), products, scale, strict=True
                )
            ]
            g = g * decay + torch.cat(arriving, dim=-1)
            s = spike(v - c.threshold, neuron.surrogate)
            seen.append(s)
        return torch.stack(seen)

    return forward
