"""Gains of the fly's whole pathway at which its populations are as active as asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from neuro.models.fly_pathway import FlyPathway, Settings
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from neuro.connectome.circuit import Circuit

LEAST_GAIN, MOST_GAIN = 1e-2, 1e4
# Of APL->KC while APL is to do nothing: weights keep a sign, so they are not 0.
NO_GAIN = 1e-9


@dataclass(frozen=True)
class Targets:
    """How active populations are to be, on average over trials and all their neurons.

    Attributes:
        trials: to calibrate with.
        halvings: of the range of a gain, on a logarithmic scale.
        ln_rate_hz: local neurons, by ORN->ALLN.
        pn_rate_hz: projection neurons, inhibited as they are, by ORN->ALPN.
        kc_active: share of Kenyon cells active in a trial, by ALPN->KC.
        apl_rate_hz: APL when it inhibits nobody and Kenyon cells are as active as that, by KC->APL
            and ALPN->APL, which share a gain.
    """

    trials: int
    halvings: int
    ln_rate_hz: float
    pn_rate_hz: float
    kc_active: float
    apl_rate_hz: float

    def __post_init__(self) -> None:
        """Refuse what no gain can bring about.

        Raises:
            ValueError: trials or halvings are below 1, or a target is out of range.
        """
        if min(self.trials, self.halvings) < 1:
            msg = f"trials = {self.trials!r} and halvings = {self.halvings!r} must be at least 1"
            raise ValueError(msg)
        rates = (self.ln_rate_hz, self.pn_rate_hz, self.apl_rate_hz)
        if not (min(rates) > 0 and 0 < self.kc_active < 1):
            msg = (
                f"rates {rates!r} Hz must be above 0, kc_active = {self.kc_active!r} within 0 .. 1"
            )
            raise ValueError(msg)


class Activity(NamedTuple):
    """What a pathway did, averaged over trials and neurons."""

    ln_rate_hz: float
    pn_rate_hz: float
    apl_rate_hz: float
    kc_active: float


class _Step(NamedTuple):
    """Gains to find together, what they raise, how far, and whether APL acts meanwhile."""

    classes: tuple[str, ...]
    value: Callable[[Activity], float]
    target: float
    apl_acts: bool = False


def calibrate(
    circuit: Circuit, settings: Settings, targets: Targets, receptor_spikes: torch.Tensor
) -> tuple[dict[str, float], Activity]:
    """Find gains one after the other, each by bisection, with all that was found before in place.

    Args:
        circuit: the wiring.
        settings: of the network; its gains stand where nothing is sought.
        targets: what is asked for.
        receptor_spikes: of training trials, shape (T, B, receptor neurons).

    Returns:
        Gains by edge class, and the activity with them.
    """
    classes = {*circuit.forward.edge_classes, *circuit.recurrent.edge_classes}
    gains = dict(settings.gains)
    for step in _steps(targets, has_apl="APL->KC" in classes):
        sought = [name for name in step.classes if name in classes]
        held = {} if step.apl_acts else {"APL->KC": NO_GAIN}
        low, high = math.log(LEAST_GAIN), math.log(MOST_GAIN)
        for _ in range(targets.halvings):
            middle = (low + high) / 2
            gains |= dict.fromkeys(sought, math.exp(middle))
            found = step.value(_activity(circuit, settings, gains | held, receptor_spikes))
            low, high = (middle, high) if found < step.target else (low, middle)
    return gains, _activity(circuit, settings, gains, receptor_spikes)


def _steps(targets: Targets, *, has_apl: bool) -> list[_Step]:
    steps = [
        _Step(("ORN->ALLN",), lambda found: found.ln_rate_hz, targets.ln_rate_hz),
        _Step(("ORN->ALPN",), lambda found: found.pn_rate_hz, targets.pn_rate_hz),
        _Step(("ALPN->KC",), lambda found: found.kc_active, targets.kc_active),
    ]
    if has_apl:
        steps += [
            _Step(("KC->APL", "ALPN->APL"), lambda found: found.apl_rate_hz, targets.apl_rate_hz),
            steps[-1]._replace(apl_acts=True),
        ]
    return steps


@torch.no_grad()
def _activity(
    circuit: Circuit, settings: Settings, gains: dict[str, float], receptor_spikes: torch.Tensor
) -> Activity:
    tried = replace(settings, gains=gains, trainable="frozen")
    # The readout is not used, and must not move the random stream that the real one is drawn from.
    with torch.random.fork_rng(devices=[]):
        pathway = FlyPathway(circuit, n_classes=1, settings=tried)
    counts = pathway(pathway.prepare(receptor_spikes)).counts
    trial_s = len(receptor_spikes) * settings.dt_ms / MS_PER_S
    of_class = {
        name: counts[:, torch.from_numpy((pathway.units["cell_class"] == name).to_numpy())]
        for name in ("ALLN", "ALPN", "APL", "KC")
    }
    rate_hz = {
        name: one.mean().item() / trial_s if one.numel() else 0.0 for name, one in of_class.items()
    }
    active = (of_class["KC"] > 0).float().mean().item()
    return Activity(rate_hz["ALLN"], rate_hz["ALPN"], rate_hz["APL"], active)
