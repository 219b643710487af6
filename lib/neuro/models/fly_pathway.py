"""The fly's whole olfactory pathway as one spiking network that names odors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import pandas as pd
import torch

from neuro.losses import max_over_time
from neuro.models import odor_network
from neuro.models.odor_network import OdorResponse, id_buffer, unit_table, wiring_buffer
from neuro.models.typed_lif import NeuronSettings, TypedLIF
from neuro.spiking.fixed import FixedModule
from neuro.spiking.network import Network
from neuro.spiking.projection import Projection
from neuro.spiking.scaling import Labels
from neuro.spiking.spike_readout import SpikeReadout
from neuro.spiking.surrogate import FastSigmoid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuro.connectome.circuit import Circuit, CircuitEdges

TRAINABLE = ("frozen", "global", "transmitters", "type_pairs", "synapses")
# What a unit of gain is worth: all sources together at 100 Hz move a neuron by one threshold.
REFERENCE_STEP_MS = 10.0


@dataclass(frozen=True)
class Settings:
    """How the pathway is built; gains are in thresholds for 100 Hz of all sources.

    Attributes:
        dt_ms: length of a step.
        neurons: values of neurons at first.
        tau_out_ms: time constant of the readout.
        read_from_ms: time from which on its highest value counts.
        surrogate_slope: slope k of the surrogate gradient 1 / (1 + k |x|)^2.
        trainable: which factors on weights are trained, see `FlyPathway`.
        gains: by edge class; those not named are 1.
        backend: see `neuro.spiking.simulate`.
        segment_steps: see the same.
    """

    dt_ms: float
    neurons: NeuronSettings
    tau_out_ms: float
    read_from_ms: float
    surrogate_slope: float
    trainable: str
    gains: Mapping[str, float]
    backend: str = "auto"
    segment_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: `trainable` names no scope, the readout is read from before the trial, or a
                gain is not above 0, as gains change no sign.
        """
        if not self.read_from_ms >= 0:
            msg = f"read_from_ms = {self.read_from_ms!r} must be at least 0"
            raise ValueError(msg)
        if wrong := {name: one for name, one in self.gains.items() if not one > 0}:
            msg = f"gains {wrong!r} must be above 0; what does nothing is left out of the circuit"
            raise ValueError(msg)
        if self.trainable not in TRAINABLE:
            msg = f"trainable = {self.trainable!r} is none of {', '.join(map(repr, TRAINABLE))}"
            raise ValueError(msg)


class ReceptorSpikes(NamedTuple):
    """Spikes of the receptor neurons, shape (T, B, receptor neurons)."""

    receptors: torch.Tensor


class FlyPathway(FixedModule):
    """Receptor neurons -> all other neurons of the pathway, recurrent -> C odors.

    Every hidden neuron is a leaky integrate-and-fire unit with a synaptic current, in units of the
    threshold, reset to zero; time constant and bias belong to its cell type (`TypedLIF`):

        I[t] = a I[t-1] + (1 - a) x[t]                  a = exp(-dt / tau_syn)
        V[t] = b V*[t-1] + (1 - b) (I[t] + bias)        b = exp(-dt / tau_mem)
        x[t] = (10 ms / dt) (s_orn[t] W_f + s[t-1] W_r)

    W_f and W_r are the circuit's weights times the gain of their edge class, and times the factors
    that `trainable` names, 1 at first: "frozen" none; "global" one for W_f and one for W_r;
    "transmitters" one for each transmitter of presynaptic neurons; "type_pairs" one for each pair
    of cell types; "synapses" every weight by itself. None changes a sign. The readout reads Kenyon
    cells alone, `SpikeReadout`, and a logit is its highest value plus a bias:

        y[t] = kappa y[t-1] + s_kc[t] W_out    logit = max over t >= t_read of y[t] + b_out

    From the first step on, where y is 0, no highest value would ever be negative: nothing could
    speak against an odor, and an output below 0 throughout would get no gradient at all.

    Attributes:
        network: hidden neurons with projections "receptors" and "recurrent".
        readout: of the Kenyon cells.
        units: see `OdorNetwork`.
    """

    input_id: torch.Tensor
    unit_id: torch.Tensor
    wiring_hash: torch.Tensor

    def __init__(self, circuit: Circuit, *, n_classes: int, settings: Settings) -> None:
        """Draw the readout's weights from PyTorch's global random stream."""
        super().__init__()
        self.settings, self.units = settings, unit_table(circuit.hidden)
        self.register_buffer("input_id", id_buffer(circuit.inputs))
        self.register_buffer("unit_id", id_buffer(circuit.hidden))
        self.register_buffer("wiring_hash", wiring_buffer(circuit.fingerprint))
        self.network = Network(
            TypedLIF(
                _labels(circuit.hidden["cell_type"]),
                settings.neurons,
                FastSigmoid(settings.surrogate_slope),
            ),
            _projections(circuit, settings),
            n_units=len(circuit.hidden),
            dt_ms=settings.dt_ms,
            recurrent=("recurrent",) if len(circuit.recurrent.pre) else (),
            backend=settings.backend,
            segment_steps=settings.segment_steps,
        )
        self.readout = SpikeReadout(
            torch.from_numpy(circuit.readout),
            n_units=len(circuit.hidden),
            n_outputs=n_classes,
            dt_ms=settings.dt_ms,
            tau_ms=settings.tau_out_ms,
        )
        self.bias_out = torch.nn.Parameter(torch.zeros(n_classes))
        self._edges = {"receptors": circuit.forward, "recurrent": circuit.recurrent}
        self.backend = ""

    def prepare(self, receptor_spikes: torch.Tensor) -> ReceptorSpikes:
        """Return the spikes: no weight is fixed in all scopes."""
        return ReceptorSpikes(receptor_spikes)

    def forward(self, prepared: ReceptorSpikes, *, record_spikes: bool = False) -> OdorResponse:
        """Present trials to a network at rest; `outputs` are those without the bias."""
        simulation = self.network({"receptors": prepared.receptors})
        self.backend = simulation.backend
        outputs, counts = self.readout(simulation.spikes)
        first = round(self.settings.read_from_ms / self.settings.dt_ms)
        logits = max_over_time(outputs[first:]) + self.bias_out
        return OdorResponse(logits, outputs, counts, simulation.spikes if record_spikes else None)

    def clip(self) -> None:
        """Put time constants and biases that an update took out of their ranges back to the ends.

        Called by: whoever trains, after every update.
        """
        cast("TypedLIF", self.network.neuron).clip()

    @torch.no_grad()
    def silence(self, edge_class: str) -> None:
        """Let the synapses of an edge class, such as "APL->KC", do nothing from now on.

        Raises:
            ValueError: the circuit has no such edges.
        """
        # Receptor neurons that no odor drives are hidden ones: a class may be in both sets.
        holding = [name for name, one in self._edges.items() if edge_class in one.edge_classes]
        for name in holding:
            edges = self._edges[name]
            code = edges.edge_classes.index(edge_class)
            projection = cast("Projection", self.network.projections[name])
            projection.silence(torch.from_numpy(edges.edge_class == code))
        if holding:
            return
        known = sorted({name for edges in self._edges.values() for name in edges.edge_classes})
        msg = f"edge_class = {edge_class!r} is none of {', '.join(map(repr, known))}"
        raise ValueError(msg)

    def load_learned(self, state: Mapping[str, torch.Tensor]) -> None:
        """See `OdorNetwork`."""
        odor_network.load_learned(self, state)


def gain_of_edges(edges: CircuitEdges, gains: Mapping[str, float]) -> torch.Tensor:
    """Return the gain of each edge, shape (E,)."""
    of_class = torch.tensor([gains.get(name, 1.0) for name in edges.edge_classes])
    return of_class[torch.from_numpy(edges.edge_class)]


def _projections(circuit: Circuit, settings: Settings) -> dict[str, Projection]:
    made = {
        "receptors": _projection(circuit.forward, circuit.inputs, circuit, settings, delay_steps=0)
    }
    if len(circuit.recurrent.pre):
        made["recurrent"] = _projection(
            circuit.recurrent, circuit.hidden, circuit, settings, delay_steps=1
        )
    return made


def _projection(
    edges: CircuitEdges,
    pre: pd.DataFrame,
    circuit: Circuit,
    settings: Settings,
    *,
    delay_steps: int,
) -> Projection:
    gain = gain_of_edges(edges, settings.gains) * (REFERENCE_STEP_MS / settings.dt_ms)
    weights = torch.from_numpy(edges.weight).float() * gain
    own = settings.trainable
    # What trains one factor for all is a type that all share.
    one = Labels(torch.zeros(len(pre), dtype=torch.int64), ("all",))
    return Projection(
        n_pre=len(pre),
        n_post=len(circuit.hidden),
        edges=(torch.from_numpy(edges.pre), torch.from_numpy(edges.post)),
        weights=weights,
        delay_steps=delay_steps,
        trainable="pre_types" if own == "global" else own,
        pre_type=one if own == "global" else _labels(pre["cell_type"]),
        post_type=_labels(circuit.hidden["cell_type"]),
        transmitter_of_pre=_labels(pre["transmitter"].fillna("unknown")),
        signs=_signs(edges, len(pre)),
    )


def _signs(edges: CircuitEdges, n_pre: int) -> torch.Tensor:
    """Return the sign of each presynaptic neuron's weights; +1 for those without synapses.

    Raises:
        ValueError: a neuron has weights of both signs.
    """
    pre, weight = torch.from_numpy(edges.pre), torch.from_numpy(edges.weight)
    signs = torch.ones(n_pre, dtype=torch.int64)
    signs[pre[weight < 0]] = -1
    wrong = pre[(weight > 0) & (signs[pre] < 0)]
    if len(wrong):
        msg = f"presynaptic neuron {int(wrong[0])} has weights of both signs; Dale's law allows one"
        raise ValueError(msg)
    return signs


def _labels(kind: pd.Series) -> Labels:
    codes, names = pd.factorize(kind, sort=True)
    return Labels(torch.from_numpy(codes.astype("int64")), tuple(map(str, names)))
