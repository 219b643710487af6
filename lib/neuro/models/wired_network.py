"""A population on given edges with a leaky readout, of spiking or of rate units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from neuro.models.intrinsic import Intrinsic
from neuro.spiking.filters import exponential_filter
from neuro.spiking.fixed import FixedModule
from neuro.spiking.neurons import LIF, decay_per_step
from neuro.spiking.projection import Projection
from neuro.spiking.simulate import simulate
from neuro.spiking.surrogate import FastSigmoid
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from neuro.connectome.neuron_graph import NeuronGraph, SignedEdges

KINDS = ("spiking", "rate")
PARTS = ("feedforward", "recurrent", "intrinsic", "readout")


@dataclass(frozen=True)
class WiredSettings:
    """Values of a `WiredNetwork`; the keys of a [network] table.

    Attributes:
        kind: "spiking" or "rate".
        dt_ms: length of a step.
        tau_syn_ms: of all synapses.
        tau_mem_ms: range that membrane time constants are drawn from, evenly.
        tau_mem_limits_ms: that training keeps them in.
        bias: range that biases are drawn from, evenly, in thresholds.
        bias_limits: that training keeps them in.
        intrinsic_of: "groups", one bias and time constant a cell group, or "units".
        feedforward_gain, recurrent_gain: of the graph's weights at first.
        synapse_noise: standard deviation of what is added to each synaptic current in each step
            while training, in thresholds.
        surrogate_slope: of the fast-sigmoid surrogate gradient, per threshold.
        max_rate_hz: of rate units.
        tau_syn_out_ms, tau_mem_out_ms: of the readout.
    """

    kind: str
    dt_ms: float
    tau_syn_ms: float
    tau_mem_ms: tuple[float, float]
    tau_mem_limits_ms: tuple[float, float]
    bias: tuple[float, float]
    bias_limits: tuple[float, float]
    intrinsic_of: str
    feedforward_gain: float
    recurrent_gain: float
    synapse_noise: float
    surrogate_slope: float
    max_rate_hz: float
    tau_syn_out_ms: float
    tau_mem_out_ms: float

    def __post_init__(self) -> None:
        """Refuse an unknown kind.

        Raises:
            ValueError: so it is.
        """
        for name, known in (("kind", KINDS), ("intrinsic_of", ("groups", "units"))):
            if (value := getattr(self, name)) not in known:
                msg = f"{name} = {value!r} is none of {', '.join(map(repr, known))}"
                raise ValueError(msg)

    @property
    def decay_syn(self) -> float:
        """What is left of a synaptic current after a step, a."""
        return decay_per_step(dt_ms=self.dt_ms, tau_ms=self.tau_syn_ms)


class Activity(NamedTuple):
    """What a network did.

    Attributes:
        outputs: of the readout, shape (T, B, K).
        spikes: 0 or 1, or spikes expected in a step of rate units, shape (T, B, N).
        potential: before reset, shape (T, B, N).
    """

    outputs: torch.Tensor
    spikes: torch.Tensor
    potential: torch.Tensor

    @property
    def logits(self) -> torch.Tensor:
        """Highest value of each output, shape (B, K)."""
        return self.outputs.max(dim=0).values


class WiredNetwork(FixedModule):
    """N units on the edges of a graph; a readout of K outputs that never spikes.

        I[t] = a I[t-1] + (1 - a) (W1 x[t] + V s[t-1]) + noise
        U[t] = b U*[t-1] + (1 - b) (I[t] + bias)          b = exp(-dt / tau_mem)
        spiking:  s[t] = 1 if U[t] > 1 else 0; U* is 0 where it spiked
        rate:     s[t] = r_max dt min(max(U[t], 0), 1), a saturated ReLU; U* = U
        F[t] = a_out F[t-1] + W2 s[t]
        y[t] = b_out y[t-1] + (1 - b_out) F[t]

    A bias is minus the current I_c of psyentistJJ/Nengo2025-ccSNN, whose equations these are, with
    1 - a in front of the weights. Weights keep the sign of their presynaptic unit, w = sign
    exp(raw). The parts that can be trained, or unknown, are `PARTS`. A state of other units, or in
    another order, is refused on loading.

    Attributes:
        settings: see there.
        backend: see `neuro.spiking.simulate`.
        unit_id: of the graph, shape (N,).
        group: cell group of each unit, shape (N,).
    """

    unit_id: torch.Tensor
    group: torch.Tensor

    def __init__(
        self,
        graph: NeuronGraph,
        settings: WiredSettings,
        *,
        n_outputs: int,
        generator: torch.Generator,
        backend: str = "auto",
    ) -> None:
        """Take over the graph's weights; draw biases, time constants and the readout.

        Args:
            graph: who drives whom.
            settings: see there.
            n_outputs: K.
            generator: source of the randomness.
            backend: see `neuro.spiking.simulate`.
        """
        super().__init__()
        self.settings, self.backend, self.n_units = settings, backend, graph.n_units
        n_units = graph.n_units
        self.feedforward = _projection(
            graph.feedforward, graph.n_inputs, n_units, settings.feedforward_gain, delay=0
        )
        self.recurrent = _projection(
            graph.recurrent, n_units, n_units, settings.recurrent_gain, delay=1
        )
        self.register_buffer("unit_id", torch.from_numpy(graph.unit_id))
        self.register_buffer("group", torch.from_numpy(graph.group))
        grouped = settings.intrinsic_of == "groups"
        self.intrinsic = Intrinsic(self.group if grouped else torch.arange(graph.n_units))
        self.intrinsic.draw(settings.bias, settings.tau_mem_ms, generator)
        self.readout = TraceReadout(graph.readout, n_outputs, settings, generator)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each of `PARTS`."""
        return {
            "feedforward": list(self.feedforward.parameters()),
            "recurrent": list(self.recurrent.parameters()),
            "intrinsic": list(self.intrinsic.parameters()),
            "readout": list(self.readout.parameters()),
        }

    def forward(self, spikes: torch.Tensor) -> Activity:
        """Present spikes of the inputs, shape (T, B, P), from rest.

        Noise is drawn from PyTorch's global random stream, in training mode alone.
        """
        noise = None
        if self.training and self.settings.synapse_noise:
            size = (*spikes.shape[:2], self.n_units)
            # Divided by what multiplies all that arrives at a synapse.
            scale = self.settings.synapse_noise / (1 - self.settings.decay_syn)
            noise = torch.randn(size) * scale
        run = self._spiking if self.settings.kind == "spiking" else self._rate
        fired, potential = run(spikes, noise)
        return Activity(self.readout(fired), fired, potential)

    @torch.no_grad()
    def clip(self) -> None:
        """Put biases and time constants back into their limits; called after each update."""
        self.intrinsic.clip(self.settings.bias_limits, self.settings.tau_mem_limits_ms)

    def _spiking(
        self, spikes: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        bias, tau_mem_ms = self.intrinsic()
        neuron = LIF(
            tau_mem_ms=tau_mem_ms,
            tau_syn_ms=self.settings.tau_syn_ms,
            bias=bias,
            reset="zero",
            gain="normalized",
            surrogate=FastSigmoid(self.settings.surrogate_slope),
        )
        found = simulate(
            neuron,
            [*self.feedforward.synapses(spikes), *self.recurrent.synapses(None)],
            n_units=self.n_units,
            dt_ms=self.settings.dt_ms,
            drive=noise,
            backend=self.backend,
            record_potential=True,
        )
        if found.potential is None:
            msg = "no potentials were recorded"
            raise RuntimeError(msg)
        return found.spikes, found.potential

    def _rate(
        self, spikes: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        arriving = spikes @ _dense(self.feedforward)
        # Rates are never all but a few zero, so that lists of edges would save nothing.
        weights = _dense(self.recurrent)
        arriving = arriving if noise is None else arriving + noise
        bias, tau_mem_ms = self.intrinsic()
        a, b = self.settings.decay_syn, torch.exp(-self.settings.dt_ms / tau_mem_ms)
        per_step = self.settings.max_rate_hz * self.settings.dt_ms / MS_PER_S
        current = potential = rate = torch.zeros_like(arriving[0])
        rates, potentials = [], []
        for x in arriving.unbind(0):
            current = a * current + (1 - a) * (x + rate @ weights)
            potential = b * potential + (1 - b) * (current + bias)
            rate = per_step * potential.clamp(0, 1)
            rates.append(rate)
            potentials.append(potential)
        return torch.stack(rates), torch.stack(potentials)


class TraceReadout(FixedModule):
    """K outputs that low-pass the spikes of some units twice; see `WiredNetwork`.

    Attributes:
        weight: W2, shape (R, K).
        units: that are read, shape (R,).
    """

    units: torch.Tensor

    def __init__(
        self,
        units: np.ndarray,
        n_outputs: int,
        settings: WiredSettings,
        generator: torch.Generator,
    ) -> None:
        """Draw weights of variance 1 / R."""
        super().__init__()
        self.register_buffer("units", torch.as_tensor(units, dtype=torch.int64))
        drawn = torch.randn(len(units), n_outputs, generator=generator)
        self.weight = nn.Parameter(drawn / len(units) ** 0.5)
        self._decays = [
            decay_per_step(dt_ms=settings.dt_ms, tau_ms=tau_ms)
            for tau_ms in (settings.tau_syn_out_ms, settings.tau_mem_out_ms)
        ]

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Return outputs, shape (T, B, K)."""
        current, membrane = self._decays
        filtered = exponential_filter(spikes[..., self.units] @ self.weight, current).values
        return exponential_filter((1 - membrane) * filtered, membrane).values


def _projection(
    edges: SignedEdges, n_pre: int, n_post: int, gain: float, *, delay: int
) -> Projection:
    sign = np.ones(n_pre, dtype=np.int8)
    sign[edges.pre] = np.sign(edges.weight)
    return Projection(
        n_pre=n_pre,
        n_post=n_post,
        edges=(edges.pre, edges.post),
        weights=torch.from_numpy(gain * edges.weight).float(),
        signs=torch.from_numpy(sign),
        trainable="synapses",
        delay_steps=delay,
    )


def _dense(projection: Projection) -> torch.Tensor:
    """Return weights as a matrix [pre, post], differentiable."""
    (synapses,) = projection.synapses(None)
    edges = synapses.edges
    if edges is None:
        return synapses.weights
    matrix = synapses.weights.new_zeros(projection.n_pre, projection.n_post)
    return matrix.index_put((edges.pre, edges.post), synapses.weights)
