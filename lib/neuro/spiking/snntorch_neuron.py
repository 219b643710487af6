"""Neurons of snntorch in the networks of this package."""

from __future__ import annotations

from typing import NamedTuple

import snntorch
import torch
from torch import nn

from neuro.spiking.neurons.neuron import Values

# What a module takes after its input, and returns after its spikes, in that order.
VARIABLES: dict[type[nn.Module], tuple[str, ...]] = {
    snntorch.Leaky: ("mem",),
    snntorch.Lapicque: ("mem",),
    snntorch.Synaptic: ("syn", "mem"),
    snntorch.Alpha: ("syn_exc", "syn_inh", "mem"),
    snntorch.RLeaky: ("spk", "mem"),
    snntorch.RSynaptic: ("spk", "syn", "mem"),
}


class SnntorchState(NamedTuple):
    """Variables of a module by their names there, shape (B, N); None where it has no such one.

    Attributes:
        mem: potential, as the module returns it.
        syn: synaptic current.
        syn_exc: excitatory current of an Alpha.
        syn_inh: inhibitory current of an Alpha.
        spk: spikes of the step before, of modules with recurrent weights of their own.
    """

    mem: torch.Tensor
    syn: torch.Tensor | None = None
    syn_exc: torch.Tensor | None = None
    syn_inh: torch.Tensor | None = None
    spk: torch.Tensor | None = None


class SnntorchConstants(NamedTuple):
    """Nothing but the type and device that states have: decays are parameters of the module."""

    like: torch.Tensor


class SnntorchNeuron(nn.Module):
    """A neuron of snntorch as the neuron of `simulate` or `Network`, on backend "loop".

    The module takes every step itself, so it spikes and has gradients as it does alone; its
    parameters are trained where they are. Its decays are those of one step, whatever `dt_ms` is.
    The input of a step is the sum over synapses; of an RLeaky or RSynaptic, its own recurrent
    weights come on top.

    Attributes:
        module: the neuron.
    """

    n_channels = 1

    def __init__(self, module: nn.Module) -> None:
        """Take a neuron.

        Args:
            module: a Leaky, Lapicque, Synaptic, Alpha, RLeaky or RSynaptic, made without
                `init_hidden`: the simulator keeps its state.

        Raises:
            ValueError: it is none of these, or keeps its state itself.
        """
        super().__init__()
        if type(module) not in VARIABLES:
            known = ", ".join(kind.__name__ for kind in VARIABLES)
            msg = f"{type(module).__name__} is none of snntorch's {known}"
            raise ValueError(msg)
        if module.init_hidden:
            msg = (
                f"the {type(module).__name__} was made with init_hidden=True and would keep its "
                "state itself; make it without"
            )
            raise ValueError(msg)
        self.module = module

    def forward(self) -> SnntorchNeuron:
        """Return the model, itself; called by `Network`."""
        return self

    def constants(self, *, dt_ms: float, n_units: int, like: torch.Tensor) -> SnntorchConstants:
        """Return the type and device of `like`."""
        del dt_ms, n_units
        return SnntorchConstants(like.detach().new_zeros(()))

    def rest(self, n_trials: int, n_units: int, constants: Values) -> SnntorchState:
        """Return zeros, as snntorch starts from."""
        zeros = SnntorchConstants(*constants).like.new_zeros(n_trials, n_units)
        return SnntorchState(**dict.fromkeys(VARIABLES[type(self.module)], zeros))

    def step(self, state: Values, x: torch.Tensor) -> tuple[torch.Tensor, SnntorchState]:
        """Take one step.

        Args:
            state: before it.
            x: what arrives, shape (B, N).

        Returns:
            The spikes, shape (B, N), and the state after the step.
        """
        names = VARIABLES[type(self.module)]
        before = SnntorchState(*state)
        fired, *after = self.module(x, *(getattr(before, name) for name in names))
        # snntorch's surrogates answer in single precision whatever they are asked in.
        fired = fired.to(x.dtype)
        variables = dict(zip([name for name in names if name != "spk"], after, strict=True))
        if "spk" in names:
            variables["spk"] = fired
        # The module would hold on to the graph of this step.
        for name in names:
            setattr(self.module, name, x.new_zeros(0))
        return fired, SnntorchState(**variables)
