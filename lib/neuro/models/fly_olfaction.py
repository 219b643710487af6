"""The fly's feed-forward olfactory pathway as a spiking network that names odors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from torch import nn

from neuro.models import odor_network
from neuro.models.graded_feedback import Inhibited, run_with_feedback
from neuro.models.odor_network import OdorResponse, id_buffer, unit_table, wiring_buffer
from neuro.spiking.fixed import FixedModule
from neuro.spiking.neurons import LIF
from neuro.spiking.simulate import simulate
from neuro.spiking.surrogate import FastSigmoid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuro.connectome.olfactory_pathway import Pathway

_MATRICES = ("orn_to_pn", "orn_to_ln", "pn_to_kc", "ln_to_pn")


@dataclass(frozen=True)
class Settings:
    """Constants and initial values; times in ms, gains in thresholds.

    Attributes:
        dt_ms: length of a step.
        tau_syn_ms: synaptic time constant of all neurons.
        tau_mem_ms: membrane time constant of PNs and KCs at first; learned by cell type.
        tau_ln_ms: membrane time constant of local neurons.
        tau_apl_ms: time constant of APL.
        orn_to_pn_gain, pn_to_kc_gain: gain at first; learned by cell type of the target.
        orn_to_ln_gain, ln_to_pn_gain, apl_to_kc_gain: gain at first; learned.
        input_scale: what one spike in 10 ms from all sources is worth at gain 1; for APL too.
        inhibition_scale: the same, for LN -> PN.
        count_scale: factor on KC spike counts before the readout.
        surrogate_slope: slope k of the surrogate gradient.
        backend: see `neuro.spiking.simulate`, for PNs and local neurons.
    """

    dt_ms: float
    tau_syn_ms: float
    tau_mem_ms: float
    tau_ln_ms: float
    tau_apl_ms: float
    orn_to_pn_gain: float
    pn_to_kc_gain: float
    orn_to_ln_gain: float
    ln_to_pn_gain: float
    apl_to_kc_gain: float
    input_scale: float
    inhibition_scale: float
    count_scale: float
    surrogate_slope: float
    backend: str = "auto"

    @property
    def per_step(self) -> float:
        """Spikes a 10 ms in one spike a step: keeps gains meaningful when dt changes."""
        return 10.0 / self.dt_ms


class Drive(NamedTuple):
    """Receptor input of PNs and of LNs: spikes weighted by their share, shape (T, B, units)."""

    pn: torch.Tensor
    ln: torch.Tensor


class FlyOlfaction(FixedModule):
    """ORN -> PN -> KC -> C odors, in units of the threshold.

    All neurons are leaky integrate-and-fire with gain "normalized", reset to zero. With x[t] the
    receptor spikes of a step, normalized weights W, learned gains g and r = 10 ms / dt:

        LN:  drive = 5 r g_ln x W_orn_ln
        PN:  drive = 5 r g_pn[type] x W_orn_pn - 0.5 r g_inh s_ln W_ln_pn
        KC:  drive = 5 r (g_kc[type] s_pn W_pn_kc - g_apl A)
        APL: A' = c A + (1 - c) mean(s_kc)          c = exp(-dt / tau_apl)
        logits = 0.5 n_kc W + b, with the KC spike counts n_kc of the whole trial

    W_orn_pn, W_orn_ln, W_pn_kc are data and fixed; W_ln_pn is inferred and A, one value for all
    KCs, stands for APL: both are models. Learned are gains, membrane time constants and biases by
    cell type, the three inhibitory gains, W and b. 5, 0.5 and r are in `Settings`.

    Attributes:
        units: see `OdorNetwork`: local neurons (with inhibition), PNs, KCs, each by root id.
        inhibition: whether LN -> PN acts.
        feedback: whether APL acts.
    """

    input_id: torch.Tensor
    pn_id: torch.Tensor
    kc_id: torch.Tensor
    ln_id: torch.Tensor
    wiring_hash: torch.Tensor
    orn_to_pn: torch.Tensor
    orn_to_ln: torch.Tensor
    pn_to_kc: torch.Tensor
    ln_to_pn: torch.Tensor

    def __init__(
        self, pathway: Pathway, *, n_classes: int, settings: Settings, inhibition: bool
    ) -> None:
        """Draw the readout's weights from PyTorch's global random stream.

        Args:
            pathway: neurons and weights.
            n_classes: odors C.
            settings: constants and initial values.
            inhibition: whether LN -> PN and APL act.
        """
        super().__init__()
        self.settings = settings
        self.inhibition = self.feedback = inhibition
        cells = pathway.cells
        kinds = [cells.ln, cells.pn, cells.kc] if inhibition else [cells.pn, cells.kc]
        self.units = pd.concat([unit_table(kind) for kind in kinds], ignore_index=True)
        names = ("input_id", "pn_id", "kc_id", "ln_id")
        for name, kind in zip(names, (cells.orn, cells.pn, cells.kc, cells.ln), strict=True):
            self.register_buffer(name, id_buffer(kind))
        self.register_buffer("wiring_hash", wiring_buffer(pathway.fingerprint))
        for name in _MATRICES:
            weight = torch.from_numpy(getattr(pathway, name)).float()
            self.register_buffer(name, weight, persistent=False)
        self.pn = _TypedPopulation(cells.pn["cell_type"], settings.orn_to_pn_gain, settings)
        self.kc = _TypedPopulation(cells.kc["cell_type"], settings.pn_to_kc_gain, settings)
        gains = (settings.orn_to_ln_gain, settings.ln_to_pn_gain, settings.apl_to_kc_gain)
        self.log_inhibition = nn.Parameter(torch.tensor(gains).log())
        self.readout = nn.Linear(len(cells.kc), n_classes)
        self.backend = ""

    def prepare(self, receptor_spikes: torch.Tensor) -> Drive:
        """Spread receptor spikes, shape (T, B, ORN), onto PNs and LNs by the fixed weights."""
        return Drive(receptor_spikes @ self.orn_to_pn, receptor_spikes @ self.orn_to_ln)

    def forward(self, prepared: Drive, *, record_spikes: bool = False) -> OdorResponse:
        """Present trials to a network at rest.

        Args:
            prepared: from `prepare`.
            record_spikes: whether to return the spikes.
        """
        ln_spikes = self._local_neurons(prepared.ln) if self.inhibition else None
        pn_spikes = self._projection_neurons(prepared.pn, ln_spikes)
        kc = self._kenyon_cells(pn_spikes)
        logits = self.readout(self.settings.count_scale * kc.counts)
        spikes = [one for one in (ln_spikes, pn_spikes) if one is not None]
        counts = [*(one.sum(dim=0) for one in spikes), kc.counts]
        recorded = None
        if record_spikes:
            recorded = torch.cat([*spikes, (kc.potential > 1).to(pn_spikes.dtype)], dim=2)
        return OdorResponse(logits, None, torch.cat(counts, dim=1), recorded)

    def silence(self, edge_class: str) -> None:
        """Let "ALLN->ALPN" or "APL->KC" do nothing from now on.

        Raises:
            ValueError: another edge class.
        """
        if edge_class == "APL->KC":
            self.feedback = False
        elif edge_class == "ALLN->ALPN":
            self.ln_to_pn.zero_()
        else:
            msg = f"edge_class = {edge_class!r} is none of 'ALLN->ALPN', 'APL->KC'"
            raise ValueError(msg)

    def load_learned(self, state: Mapping[str, torch.Tensor]) -> None:
        """See `OdorNetwork`."""
        odor_network.load_learned(self, state)

    def _local_neurons(self, drive: torch.Tensor) -> torch.Tensor:
        settings = self.settings
        neuron = _neuron(settings, settings.tau_ln_ms, 0.0)
        scale = settings.input_scale * settings.per_step
        return self._run(neuron, scale * self.log_inhibition[0].exp() * drive)

    def _projection_neurons(
        self, drive: torch.Tensor, ln_spikes: torch.Tensor | None
    ) -> torch.Tensor:
        settings = self.settings
        total = settings.input_scale * settings.per_step * self.pn.gain * drive
        if ln_spikes is not None:
            gain = settings.inhibition_scale * settings.per_step * self.log_inhibition[1].exp()
            total = total - gain * (ln_spikes @ self.ln_to_pn)
        return self._run(self.pn.neuron(), total)

    def _kenyon_cells(self, pn_spikes: torch.Tensor) -> Inhibited:
        settings = self.settings
        scale = settings.input_scale * settings.per_step
        apl_gain = scale * self.log_inhibition[2].exp()
        return run_with_feedback(
            self.kc.neuron(),
            scale * self.kc.gain * (pn_spikes @ self.pn_to_kc),
            dt_ms=settings.dt_ms,
            gain=apl_gain if self.feedback else torch.zeros_like(apl_gain),
            tau_ms=settings.tau_apl_ms,
        )

    def _run(self, neuron: LIF, drive: torch.Tensor) -> torch.Tensor:
        simulation = simulate(
            neuron,
            (),
            n_units=drive.shape[2],
            dt_ms=self.settings.dt_ms,
            drive=drive,
            backend=self.settings.backend,
        )
        self.backend = simulation.backend
        return simulation.spikes


class _TypedPopulation(nn.Module):
    """Values that all neurons of a cell type share: gain, membrane time constant, bias."""

    type_of_unit: torch.Tensor

    def __init__(self, cell_type: pd.Series, gain: float, settings: Settings) -> None:
        super().__init__()
        codes, names = pd.factorize(cell_type, sort=True)
        self._settings, self.type_names = settings, tuple(names)
        self.register_buffer("type_of_unit", torch.from_numpy(codes.astype("int64")))
        self.log_gain = nn.Parameter(torch.full((len(names),), math.log(gain)))
        start = math.log(settings.tau_mem_ms)
        self.log_tau_mem_ms = nn.Parameter(torch.full((len(names),), start))
        self.bias_by_type = nn.Parameter(torch.zeros(len(names)))

    @property
    def gain(self) -> torch.Tensor:
        return self.log_gain.exp()[self.type_of_unit]

    def neuron(self) -> LIF:
        tau_ms = self.log_tau_mem_ms.exp()[self.type_of_unit]
        return _neuron(self._settings, tau_ms, self.bias_by_type[self.type_of_unit])


def _neuron(settings: Settings, tau_ms: float | torch.Tensor, bias: float | torch.Tensor) -> LIF:
    return LIF(
        tau_mem_ms=tau_ms,
        tau_syn_ms=settings.tau_syn_ms,
        bias=bias,
        reset="zero",
        gain="normalized",
        surrogate=FastSigmoid(settings.surrogate_slope),
    )
