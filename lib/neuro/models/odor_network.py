"""What all networks that name odors from receptor spikes offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pandas as pd
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

UNIT_COLUMNS = ("root_id", "cell_class", "cell_type", "side")


class OdorResponse(NamedTuple):
    """What a network makes of B trials.

    Attributes:
        logits: of the odors, shape (B, C).
        outputs: of the readout over time, shape (T, B, C); None where it reads counts.
        counts: spikes of each unit in the trial, with their gradient, shape (B, N).
        spikes: of all units, shape (T, B, N); None unless asked for.
    """

    logits: torch.Tensor
    outputs: torch.Tensor | None
    counts: torch.Tensor
    spikes: torch.Tensor | None = None


class OdorNetwork(Protocol):
    """A network that names odors.

    What `prepare` returns has no gradient and depends on no learned value: a NamedTuple of tensors,
    time first, trials second, that may be kept, in half precision too.

    Attributes:
        units: root_id, cell_class, cell_type and side of the units, in the order of counts.
    """

    units: pd.DataFrame

    def prepare(self, receptor_spikes: torch.Tensor) -> Any:  # noqa: ANN401
        """Take receptor spikes, shape (T, B, receptor neurons), as far as fixed weights go."""

    def forward(self, prepared: Any, *, record_spikes: bool = False) -> OdorResponse:  # noqa: ANN401
        """Present trials to a network at rest."""

    def load_learned(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over learned values from a network on other wiring, as a control."""


def unit_table(neurons: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that `OdorNetwork.units` has, one row a neuron from 0 up."""
    return neurons[list(UNIT_COLUMNS)].reset_index(drop=True)


def id_buffer(neurons: pd.DataFrame) -> torch.Tensor:
    """Return the root ids of neurons, int64, to be kept with learned values."""
    return torch.from_numpy(neurons["root_id"].to_numpy(copy=True))


def wiring_buffer(fingerprint: bytes) -> torch.Tensor:
    """Return the fingerprint of a wiring, uint8, to be kept with learned values."""
    return torch.frombuffer(bytearray(fingerprint), dtype=torch.uint8)


def load_learned(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Take over the parameters of a network of the same shape, whatever its wiring.

    Raises:
        ValueError: a parameter is missing or has another shape.
    """
    for name, own in network.named_parameters():
        found = state.get(name)
        if found is None or found.shape != own.shape:
            has = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            msg = f"learned value {name!r} {has}; this network's has shape {tuple(own.shape)}"
            raise ValueError(msg)
        with torch.no_grad():
            own.copy_(found)
