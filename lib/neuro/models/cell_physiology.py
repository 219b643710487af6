"""Constants of cells and synapses by type, one class for each table of a physiology."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class CellType:
    """A leaky integrate-and-fire cell; its capacitance is tau_mem_ms * g_leak_ns, in pF.

    Attributes:
        tau_mem_ms: membrane time constant, > 0.
        g_leak_ns: leak conductance, > 0.
        threshold_mv: the cell spikes above it.
        v_reset_mv: potential after a spike, and at the start, below threshold.
        e_leak_mv: potential at rest.
        refractory_ms: least time between two spikes, >= 0.
    """

    tau_mem_ms: float
    g_leak_ns: float
    threshold_mv: float
    v_reset_mv: float
    e_leak_mv: float
    refractory_ms: float

    @property
    def threshold(self) -> float:
        """The threshold, in the unit of potentials."""
        return self.threshold_mv

    def __post_init__(self) -> None:
        """Refuse what is no cell.

        Raises:
            ValueError: so it is.
        """
        _require_finite(self)
        if min(self.tau_mem_ms, self.g_leak_ns) <= 0 or self.refractory_ms < 0:
            msg = f"{self!r}: tau_mem_ms and g_leak_ns must be > 0, refractory_ms >= 0"
            raise ValueError(msg)
        if self.v_reset_mv >= self.threshold_mv:
            msg = f"v_reset_mv = {self.v_reset_mv!r} is not below threshold {self.threshold_mv!r}"
            raise ValueError(msg)


@dataclass(frozen=True)
class SynapseKind:
    """How the conductance of a synapse of weight 1 answers a spike; see spiking.neurons.Synapse.

    Attributes:
        g_ns: its peak, > 0.
        e_rev_mv: reversal potential.
        tau_rise_ms, tau_decay_ms: time constants, 0 < tau_rise_ms < tau_decay_ms.
    """

    g_ns: float
    e_rev_mv: float
    tau_rise_ms: float
    tau_decay_ms: float

    def __post_init__(self) -> None:
        """Refuse what is no synapse.

        Raises:
            ValueError: so it is.
        """
        _require_finite(self)
        if self.g_ns <= 0 or not 0 < self.tau_rise_ms < self.tau_decay_ms:
            msg = f"{self!r}: g_ns must be > 0, and 0 < tau_rise_ms < tau_decay_ms"
            raise ValueError(msg)

    def excites(self, threshold: float) -> bool:
        """Return whether it pulls potentials above a threshold."""
        return self.e_rev_mv > threshold


@dataclass(frozen=True)
class CurrentCell:
    """A cell in natural units; see spiking.neurons.currents.CurrentLIF.

    Attributes:
        tau_mem_ms: membrane time constant, > 0.
        refractory_ms: least time between two spikes, >= 0.
    """

    tau_mem_ms: float
    refractory_ms: float

    @property
    def threshold(self) -> float:
        """The threshold, in the unit of potentials."""
        return 1.0

    def __post_init__(self) -> None:
        """Refuse what is no cell.

        Raises:
            ValueError: so it is.
        """
        _require_finite(self)
        if self.tau_mem_ms <= 0 or self.refractory_ms < 0:
            msg = f"{self!r}: tau_mem_ms must be > 0, refractory_ms >= 0"
            raise ValueError(msg)


@dataclass(frozen=True)
class CurrentKind:
    """A kind of synapse in natural units; see spiking.neurons.currents.CurrentSynapse.

    Attributes:
        tau_syn_ms: time constant of the current, > 0.
        sign: +1 excites, -1 inhibits.
    """

    tau_syn_ms: float
    sign: int

    def __post_init__(self) -> None:
        """Refuse what is no synapse.

        Raises:
            ValueError: so it is.
        """
        _require_finite(self)
        if self.tau_syn_ms <= 0 or self.sign not in (1, -1):
            msg = f"{self!r}: tau_syn_ms must be > 0, sign +1 or -1"
            raise ValueError(msg)

    def excites(self, threshold: float) -> bool:
        """Return whether it pulls potentials above a threshold."""
        del threshold
        return self.sign > 0


def _require_finite(row: CellType | SynapseKind | CurrentCell | CurrentKind) -> None:
    for name, value in asdict(row).items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            msg = f"{name} = {value!r} is no finite number"
            raise ValueError(msg)
