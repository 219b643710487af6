"""Several populations and readouts that were read from one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from neuro.spiking.network import Network
from neuro.spiking.neurons.readout import LeakyReadout
from neuro.spiking.simulate import Simulation


class WeightedReadout(nn.Module):
    """A readout with the weights of what it reads.

    Attributes:
        readout: with K outputs.
        weights: from each of its sources, by name, shape (P, K).
    """

    def __init__(self, readout: LeakyReadout, weights: Mapping[str, torch.Tensor]) -> None:
        """Put both together."""
        super().__init__()
        self.readout = readout
        self.weights = nn.ParameterDict(dict(weights))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what it reads."""
        return tuple(self.weights)

    def forward(self, signals: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the outputs, shape (T, B, K), of spikes of shape (T, B, P) by name."""
        parts = [signals[name] @ self.weights[name] for name in self.sources]
        values: torch.Tensor = self.readout(torch.stack(parts).sum(0)).values
        return values


class NirModel(nn.Module):
    """Networks in the order in which they feed each other, and readouts of their spikes.

    Attributes:
        networks: by the names of their nodes; a projection is named by where it comes from.
        readouts: by the names of their nodes.
        dt_ms: length of a step.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        *,
        dt_ms: float,
        constants: Mapping[str, torch.Tensor],
        readouts: Mapping[str, WeightedReadout],
    ) -> None:
        """Put together what was read.

        Args:
            networks: in the order in which they run.
            dt_ms: length of a step.
            constants: of each network what arrives in every step, shape (N,); may be missing.
            readouts: of the networks.
        """
        super().__init__()
        self.dt_ms = dt_ms
        self.networks = nn.ModuleDict(networks)
        self.readouts = nn.ModuleDict(readouts)
        for name, constant in constants.items():
            self.register_buffer(f"constant_{name}", constant)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs that `forward` needs spikes for."""
        used = [one for name in self.networks for one in self._network(name).input_names]
        used += [one for name in self.readouts for one in self._readout(name).sources]
        return tuple(dict.fromkeys(name for name in used if name not in self.networks))

    def forward(
        self, inputs: Mapping[str, torch.Tensor], *, record_potential: bool = False
    ) -> tuple[dict[str, Simulation], dict[str, torch.Tensor]]:
        """Run a sequence from rest.

        Args:
            inputs: spikes for each of `input_names`, shape (T, B, P).
            record_potential: whether simulations hold potentials.

        Returns:
            Simulations of the networks and values of the readouts, shape (T, B, K), by name.

        Raises:
            ValueError: an input is missing, or there is none.
        """
        missing = sorted(set(self.input_names) - set(inputs))
        if missing or not inputs:
            msg = f"inputs lack {missing!r}; this model reads {sorted(self.input_names)!r}"
            raise ValueError(msg)
        signals, runs = dict(inputs), {}
        n_steps, n_trials = next(iter(inputs.values())).shape[:2]
        for name in self.networks:
            network = self._network(name)
            constant = getattr(self, f"constant_{name}", None)
            runs[name] = network(
                {one: signals[one] for one in network.input_names},
                drive=None if constant is None else constant.expand(n_steps, n_trials, -1),
                size=(n_steps, n_trials),
                record_potential=record_potential,
            )
            signals[name] = runs[name].spikes
        return runs, {name: self._readout(name)(signals) for name in self.readouts}

    def _network(self, name: str) -> Network:
        return cast(Network, self.networks[name])

    def _readout(self, name: str) -> WeightedReadout:
        return cast(WeightedReadout, self.readouts[name])
