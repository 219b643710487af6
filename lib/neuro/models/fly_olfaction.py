"""The fly's olfactory pathway as a spiking network that names odors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from snntorch import surrogate
from torch import nn

from neuro.models import fly_neurons
from neuro.spiking.neurons import decay_per_step

if TYPE_CHECKING:
    from neuro.connectome.olfactory_pathway import Pathway

Surrogate = Callable[[torch.Tensor], torch.Tensor]
_IDS = ("orn_id", "pn_id", "kc_id", "ln_id")


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

    @property
    def per_step(self) -> float:
        """Spikes a 10 ms in one spike a step: keeps gains meaningful when dt changes."""
        return 10.0 / self.dt_ms


class Drive(NamedTuple):
    """Receptor input of PNs and of LNs: spikes weighted by their share, shape (T, B, units)."""

    pn: torch.Tensor
    ln: torch.Tensor


class FlyResponse(NamedTuple):
    """Logits, shape (B, C), and the spikes of each PN and KC in the trial, shape (B, units)."""

    logits: torch.Tensor
    pn_count: torch.Tensor
    kc_count: torch.Tensor


class FlyOlfaction(nn.Module):
    """ORN -> PN -> KC -> C odors, in units of the threshold.

    All neurons are leaky integrate-and-fire (`fly_neurons.step`). With x[t] the receptor
    spikes of a step, normalized weights W, learned gains g and r = 10 ms / dt:

        LN:  drive = 5 r g_ln x W_orn_ln
        PN:  drive = 5 r g_pn[type] x W_orn_pn - 0.5 r g_inh s_ln W_ln_pn
        KC:  drive = 5 r (g_kc[type] s_pn W_pn_kc - g_apl A)
        APL: A' = c A + (1 - c) mean(s_kc)          c = exp(-dt / tau_apl)
        logits = 0.5 n_kc W + b, with the KC spike counts n_kc of the whole trial

    W_orn_pn, W_orn_ln, W_pn_kc are data and fixed; W_ln_pn is inferred and A, one value for all
    KCs, stands for APL: both are models. Learned are gains, membrane time constants and biases by
    cell type, the three inhibitory gains, W and b. 5, 0.5 and r are in `Settings`.
    """

    kc_id: torch.Tensor
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
        self.inhibition = inhibition
        cells = pathway.cells
        for name, kind in zip(_IDS, (cells.orn, cells.pn, cells.kc, cells.ln), strict=True):
            self.register_buffer(name, torch.from_numpy(kind["root_id"].to_numpy(copy=True)))
        wiring = torch.frombuffer(bytearray(pathway.fingerprint), dtype=torch.uint8)
        self.register_buffer("wiring", wiring)
        for name in ("orn_to_pn", "orn_to_ln", "pn_to_kc", "ln_to_pn"):
            weight = torch.from_numpy(getattr(pathway, name)).float()
            self.register_buffer(name, weight, persistent=False)
        tau_ms = settings.tau_mem_ms
        self.pn = _TypedPopulation(cells.pn["cell_type"], settings.orn_to_pn_gain, tau_ms)
        self.kc = _TypedPopulation(cells.kc["cell_type"], settings.pn_to_kc_gain, tau_ms)
        gains = (settings.orn_to_ln_gain, settings.ln_to_pn_gain, settings.apl_to_kc_gain)
        self.log_inhibition = nn.Parameter(torch.tensor(gains).log())
        self.readout = nn.Linear(len(cells.kc), n_classes)
        self.spike = surrogate.fast_sigmoid(slope=settings.surrogate_slope)

    def project(self, receptor_counts: torch.Tensor) -> Drive:
        """Spread receptor spikes, shape (..., ORN), onto PNs and LNs by the fixed weights."""
        return Drive(receptor_counts @ self.orn_to_pn, receptor_counts @ self.orn_to_ln)

    def forward(self, drive: Drive) -> FlyResponse:
        """Present odors to a network at rest.

        Args:
            drive: from `project`.

        Returns:
            Logits and spike counts.
        """
        pn_spikes = self._antennal_lobe(drive)
        kc_count = self._mushroom_body(pn_spikes)
        logits = self.readout(self.settings.count_scale * kc_count)
        return FlyResponse(logits, pn_spikes.sum(dim=0), kc_count)

    def _antennal_lobe(self, drive: Drive) -> torch.Tensor:
        """Return the spikes of the PNs, shape (T, B, PN)."""
        scale = self.settings.input_scale * self.settings.per_step
        excitation = scale * self.pn.gain * drive.pn
        if self.inhibition:
            excitation = excitation - self._local_inhibition(scale, drive.ln)
        return _run(excitation, self.pn.decay(self.settings), self.pn.bias, self.spike)

    def _local_inhibition(self, scale: float, ln_drive: torch.Tensor) -> torch.Tensor:
        """Return what the LNs take from the PNs' drive, shape (T, B, PN)."""
        gain_in, gain_out, _ = self.log_inhibition.exp()
        settings = self.settings
        decay = fly_neurons.LIFDecay(
            decay_per_step(dt_ms=settings.dt_ms, tau_ms=settings.tau_syn_ms),
            decay_per_step(dt_ms=settings.dt_ms, tau_ms=settings.tau_ln_ms),
        )
        spikes = _run(scale * gain_in * ln_drive, decay, 0.0, self.spike)
        return settings.inhibition_scale * settings.per_step * gain_out * (spikes @ self.ln_to_pn)

    def _mushroom_body(self, pn_spikes: torch.Tensor) -> torch.Tensor:
        """Return the KCs' spike counts, shape (B, KC)."""
        settings = self.settings
        scale = settings.input_scale * settings.per_step
        gain, decay = scale * self.kc.gain, self.kc.decay(settings)
        apl_gain = scale * self.log_inhibition[2].exp()
        apl_decay = decay_per_step(dt_ms=settings.dt_ms, tau_ms=settings.tau_apl_ms)
        n_trials = pn_spikes.shape[1]
        state = fly_neurons.rest(n_trials, len(self.kc_id), like=pn_spikes)
        apl = pn_spikes.new_zeros(n_trials, 1)
        count = torch.zeros_like(state.potential)
        for now in pn_spikes.unbind(dim=0):
            drive = gain * (now @ self.pn_to_kc)
            if self.inhibition:
                drive = drive - apl_gain * apl
            fired, state = fly_neurons.step(
                state, drive, decay=decay, bias=self.kc.bias, spike=self.spike
            )
            apl = apl_decay * apl + (1 - apl_decay) * fired.mean(dim=1, keepdim=True)
            count = count + fired
        return count

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:  # noqa: ANN401
        """Load learned values, if they belong to the same neurons, wired the same.

        Raises:
            ValueError: they belong to other neurons or other wiring.
        """
        for name in (*_IDS, "wiring"):
            saved, own = state_dict.get(name), getattr(self, name)
            if saved is None or not torch.equal(saved.cpu(), own.cpu()):
                what = "wiring (weights)" if name == "wiring" else f"root ids ({name})"
                msg = (
                    f"the saved state is of another pathway: its {what} differ from this model's. "
                    "Build the model with the tables and the pn_to_kc it was trained with"
                )
                raise ValueError(msg)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class _TypedPopulation(nn.Module):
    """Values that all neurons of a cell type share: gain, membrane time constant, bias."""

    type_of_unit: torch.Tensor

    def __init__(self, cell_type: pd.Series, gain: float, tau_mem_ms: float) -> None:
        super().__init__()
        codes, names = pd.factorize(cell_type, sort=True)
        self.type_names = tuple(names)
        self.register_buffer("type_of_unit", torch.from_numpy(codes.astype(np.int64)))
        self.log_gain = nn.Parameter(torch.full((len(names),), math.log(gain)))
        self.log_tau_mem_ms = nn.Parameter(torch.full((len(names),), math.log(tau_mem_ms)))
        self.bias_by_type = nn.Parameter(torch.zeros(len(names)))

    @property
    def gain(self) -> torch.Tensor:
        return self.log_gain.exp()[self.type_of_unit]

    @property
    def bias(self) -> torch.Tensor:
        return self.bias_by_type[self.type_of_unit]

    def decay(self, settings: Settings) -> fly_neurons.LIFDecay:
        tau_ms = self.log_tau_mem_ms.exp()[self.type_of_unit]
        synapse = decay_per_step(dt_ms=settings.dt_ms, tau_ms=settings.tau_syn_ms)
        return fly_neurons.LIFDecay(synapse, torch.exp(-settings.dt_ms / tau_ms))


def _run(
    drive: torch.Tensor, decay: fly_neurons.LIFDecay, bias: torch.Tensor | float, spike: Surrogate
) -> torch.Tensor:
    """Step a population from rest over its drive, shape (T, B, N), and return its spikes."""
    state = fly_neurons.rest(drive.shape[1], drive.shape[2], like=drive)
    spikes = []
    for now in drive.unbind(dim=0):
        fired, state = fly_neurons.step(state, now, decay=decay, bias=bias, spike=spike)
        spikes.append(fired)
    return torch.stack(spikes)
