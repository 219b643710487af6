"""A population of spiking neurons with what projects onto it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import nn

from neuro.spiking.neurons.neuron import Neuron
from neuro.spiking.problem import Carry
from neuro.spiking.projection import Projection
from neuro.spiking.simulate import Simulation, simulate


class Network(nn.Module):
    """N neurons of one model, driven by named projections.

    Projections named in `recurrent` come from the population itself; every other one takes the
    spikes that `forward` is given under its name. A feed-forward network is a chain of networks
    without recurrent projections, each fed with the spikes of the one before.

    Attributes:
        neuron: the model, or a module that returns one.
        projections: by name.
        recurrent: names of the projections within the population.
        n_units: N.
        dt_ms: length of a step in ms.
        backend, segment_steps: see `simulate`; may be changed at any time.
    """

    neuron: Neuron | nn.Module

    def __init__(
        self,
        neuron: Neuron | nn.Module,
        projections: Mapping[str, Projection],
        *,
        n_units: int,
        dt_ms: float,
        recurrent: Collection[str] = (),
        backend: str = "auto",
        segment_steps: int | None = None,
    ) -> None:
        """Put a network together.

        Args:
            neuron: model of all units; or a module whose call without arguments returns one, so
                that its time constants or biases are parameters.
            projections: by name; a name has no dots.
            n_units: N.
            dt_ms: length of a step in ms, > 0.
            recurrent: names of the projections that start in the population.
            backend: see `simulate`.
            segment_steps: see `simulate`.

        Raises:
            TypeError: `projections` is no mapping.
            ValueError: a projection does not fit the population, or a name is unknown.
        """
        super().__init__()
        if not isinstance(projections, Mapping):
            msg = f"projections is a {type(projections).__name__}; give a dictionary, by name"
            raise TypeError(msg)
        self.neuron = neuron
        self.n_units, self.dt_ms = n_units, dt_ms
        self.recurrent = (recurrent,) if isinstance(recurrent, str) else tuple(recurrent)
        self.backend, self.segment_steps = backend, segment_steps
        unknown = sorted(set(self.recurrent) - set(projections))
        if unknown:
            msg = f"recurrent names {unknown!r}; the projections are {sorted(projections)!r}"
            raise ValueError(msg)
        for name, projection in projections.items():
            self._check_projection(name, projection)
        self.projections = nn.ModuleDict(projections)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the projections that `forward` needs spikes for."""
        return tuple(name for name in self.projections if name not in self.recurrent)

    def model(self) -> Neuron:
        """Return the neuron's model, with gradients to its parameters where it has some."""
        return self.neuron() if isinstance(self.neuron, nn.Module) else self.neuron

    def forward(
        self,
        inputs: Mapping[str, torch.Tensor],
        *,
        carry: Carry | None = None,
        drive: torch.Tensor | None = None,
        size: tuple[int, int] | None = None,
        record_potential: bool = False,
    ) -> Simulation:
        """Run a sequence, or the next chunk of one.

        Args:
            inputs: spikes for each of `input_names`, shape (T, B, P).
            carry: of the chunk before; None starts at rest.
            drive: further input, shape (T, B, C * N).
            size: (T, B), where there is neither an input nor a drive.
            record_potential: whether to return potentials.

        Raises:
            TypeError: `inputs` is no mapping.
            ValueError: names of inputs are missing or unknown, or shapes do not fit.
        """
        self._check_inputs(inputs)
        synapses = [
            one
            for name, projection in self._named().items()
            for one in projection.synapses(None if name in self.recurrent else inputs[name])
        ]
        return simulate(
            self.model(),
            synapses,
            n_units=self.n_units,
            dt_ms=self.dt_ms,
            drive=drive,
            carry=carry,
            size=size,
            backend=self.backend,
            segment_steps=self.segment_steps,
            record_potential=record_potential,
        )

    def _named(self) -> Mapping[str, Projection]:
        return cast("Mapping[str, Projection]", self.projections)

    def _check_projection(self, name: str, projection: Projection) -> None:
        if not name or "." in name or hasattr(nn.ModuleDict, name):
            msg = f"a projection cannot be named {name!r}: a state could not hold it"
            raise ValueError(msg)
        n_channels = self.model().n_channels
        if (projection.n_post, projection.n_channels) != (self.n_units, n_channels):
            msg = (
                f"projection {name!r} leads to {projection.n_post} units with "
                f"{projection.n_channels} channels; the population has {self.n_units} with "
                f"{n_channels}"
            )
            raise ValueError(msg)
        if name not in self.recurrent:
            return
        if projection.n_pre != self.n_units:
            msg = (
                f"recurrent projection {name!r} comes from {projection.n_pre} units; the "
                f"population has {self.n_units}"
            )
            raise ValueError(msg)
        if projection.delays[0] < 1:
            msg = (
                f"recurrent projection {name!r} has a delay of 0 steps; within a population a "
                "spike arrives a step later at the earliest"
            )
            raise ValueError(msg)

    def _check_inputs(self, inputs: Mapping[str, torch.Tensor]) -> None:
        if not isinstance(inputs, Mapping):
            msg = (
                f"inputs is a {type(inputs).__name__}; give a dictionary with {self.input_names!r}"
            )
            raise TypeError(msg)
        missing = sorted(set(self.input_names) - set(inputs))
        unknown = sorted(set(inputs) - set(self.input_names))
        if missing or unknown:
            what = f"lack {missing!r}" if missing else f"hold {unknown!r}, which nothing reads"
            msg = f"inputs {what}; this network reads {sorted(self.input_names)!r}"
            raise ValueError(msg)
        for name, spikes in inputs.items():
            n_pre = self._named()[name].n_pre
            if spikes.dim() != 3 or spikes.shape[2] != n_pre:
                msg = (
                    f"input {name!r} has shape {tuple(spikes.shape)}; it must be (T, B, {n_pre}), "
                    "steps first"
                )
                raise ValueError(msg)
