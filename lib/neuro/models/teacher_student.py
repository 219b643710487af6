"""Students of a network: they know its wiring, and not all of its values.

A student is a copy of its teacher in which the values of some parts are forgotten. Those are what
it learns, from what the teacher does.

    mode         forgotten and learned                                 known
    intrinsic    biases, membrane time constants, readout              weights
    recurrent    weights among the units                               weights of inputs, the rest
    weights      weights of inputs and among the units, readout        biases, time constants
    both         everything                                            edges, and signs

The four are those called oi, ov, ow and wi in psyentistJJ/Nengo2025-ccSNN.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from neuro.models.wired_network import PARTS

if TYPE_CHECKING:
    from neuro.models.wired_network import WiredNetwork

MODES = {
    "intrinsic": ("intrinsic", "readout"),
    "recurrent": ("recurrent",),
    "weights": ("feedforward", "recurrent", "readout"),
    "both": PARTS,
}
# Random stream of a seed.
STUDENT = 3


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        ValueError: so it is.
    """
    if mode not in MODES:
        msg = f"mode = {mode!r} is none of {', '.join(map(repr, MODES))}"
        raise ValueError(msg)


def train_only(network: WiredNetwork, mode: str) -> list[str]:
    """Let only the parts of a mode require gradients; return their names."""
    check_mode(mode)
    for name, parameters in network.parts().items():
        for parameter in parameters:
            parameter.requires_grad_(name in MODES[mode])
    return list(MODES[mode])


def make_student(teacher: WiredNetwork, mode: str, *, seed: int) -> WiredNetwork:
    """Copy a teacher and forget the parts of a mode.

    What takes their place is drawn anew, so that a student knows what values are like and not whose
    they are: weights of the teacher are permuted among the edges between two cell groups (of one
    sign, as a group may have both), biases and time constants are those of the settings' ranges in
    another order, and the readout is drawn with the teacher's standard deviation.

    Args:
        teacher: left as it is.
        mode: see the module.
        seed: of what is drawn.

    Raises:
        ValueError: the mode is unknown.
    """
    check_mode(mode)
    student = copy.deepcopy(teacher)
    # Not the stream that a teacher of the same seed was drawn from: a student would know it all.
    own_seed = int(np.random.default_rng([seed, STUDENT]).integers(2**62))
    generator = torch.Generator().manual_seed(own_seed)
    settings = student.settings
    if "intrinsic" in MODES[mode]:
        student.intrinsic.draw(settings.bias, settings.tau_mem_ms, generator)
    for name in {"feedforward", "recurrent"} & set(MODES[mode]):
        stream = np.random.default_rng([seed, STUDENT, PARTS.index(name)])
        _permute(student, name, stream)
    if "readout" in MODES[mode]:
        weight = student.readout.weight
        with torch.no_grad():
            weight.copy_(weight.std() * torch.randn(weight.shape, generator=generator))
    train_only(student, mode)
    return student


@torch.no_grad()
def _permute(network: WiredNetwork, name: str, generator: np.random.Generator) -> None:
    """Permute the weights of a projection among the edges that are alike."""
    projection = network.feedforward if name == "feedforward" else network.recurrent
    pairs = projection.wiring.pairs
    if pairs is None or projection.sign_of_pre is None:
        msg = f"the projection {name!r} has no list of signed edges"
        raise ValueError(msg)
    pre, post = pairs
    groups = network.group
    of_pre = groups[pre] if name == "recurrent" else torch.zeros_like(pre)
    kind = (of_pre * (int(groups.max()) + 1) + groups[post]) * 2 + (projection.sign_of_pre[pre] > 0)
    raw = projection.raw_weight.numpy().copy()
    mixed = raw.copy()
    for one in np.unique(kind.numpy()):
        own = np.flatnonzero(kind.numpy() == one)
        mixed[own] = raw[generator.permutation(own)]
    projection.raw_weight.copy_(torch.from_numpy(mixed))


def derangement(n: int, generator: np.random.Generator) -> np.ndarray:
    """Return a permutation of n >= 2 numbers that leaves none in its place, one single cycle."""
    if n < 2:
        msg = f"n = {n!r}: one sample cannot be given the target of another"
        raise ValueError(msg)
    order = generator.permutation(n)
    found = np.empty(n, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found
