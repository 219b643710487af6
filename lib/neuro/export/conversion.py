"""A LIF population as PyNN's standard cells IF_curr_exp and IF_curr_delta.

PyNN's cells are continuous in time, with currents in nA, cm in nF, potentials in mV:

    cm dV/dt = cm / tau_m (v_rest - V) + I + i_offset       tau_syn dI/dt = -I, I += w at a spike

With cm = tau_m the resistance is 1 MOhm. Over a step of dt without spikes the exact solution is

    V <- b V + P I + (1 - b) (v_rest + i_offset)        P = (b - a) tau_syn / (tau_mem - tau_syn)
    I <- a I                                            a = exp(-dt / tau_syn), b likewise

and that of `LIF` is V <- b V + k I' + k bias + (1 - b) v_rest with I' <- a I' + k_syn x. Both are
the same at the ends of steps, not only in the limit of small ones, where

    i_offset = k bias / (1 - b)          w = k_syn k / P * weight

So for gain "normalized" i_offset is the bias, which is added here as there, and w is
(1 - a) (1 - b) / P, or dt / tau_syn (1 + O(dt^2)), times the weight. In between the potentials
differ by O(dt), which no spike tells as long as the simulator steps by dt too. A simulator that
holds the current over its step, as SpiNNaker does after it multiplied a weight with
tau_syn / dt (1 - a), needs w = k_syn k / (1 - b) dt / (tau_syn (1 - a)) instead: dt / tau_syn for
"normalized". Without a synaptic current a spike moves V by w = k times the weight, IF_curr_delta.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neuro.export.backends import Backend, PynnError
from neuro.spiking.neurons.lif import LIF, LIFConstants


class PynnCells(NamedTuple):
    """A population in PyNN's terms.

    Attributes:
        model: "IF_curr_exp" or "IF_curr_delta".
        parameters: of the model, by PyNN's names, shape (N,) each.
        weight_factor: what weights onto each unit are multiplied with, shape (N,).
    """

    model: str
    parameters: dict[str, NDArray[np.float64]]
    weight_factor: NDArray[np.float64]

    def start_potential(self, start_ms: float) -> NDArray[np.float64]:
        """Return potentials, (N,), that come to v_rest at `start_ms`, before which nothing arrives.

        Where this would be above threshold, as for a large negative offset, it is right below.
        """
        parameters = self.parameters
        growth = np.expm1(start_ms / parameters["tau_m"])
        potential = parameters["v_rest"] - parameters["i_offset"] * growth
        lowest = np.minimum(parameters["v_rest"], parameters["v_reset"])
        gap = 1e-3 * np.abs(parameters["v_thresh"] - lowest)
        return np.minimum(potential, parameters["v_thresh"] - gap)


def convert_cells(
    neuron: Any,  # noqa: ANN401
    *,
    n_units: int,
    dt_ms: float,
    backend: Backend,
    name: str,
) -> PynnCells:
    """Return a population of LIF neurons in PyNN's terms.

    Args:
        neuron: with reset "zero".
        n_units: N.
        dt_ms: step of the network.
        backend: that will run it.
        name: of the population, for messages.

    Raises:
        PynnError: PyNN's cells cannot do what the neuron does.
    """
    _check_sayable(neuron, name)
    like = torch.zeros((), dtype=torch.float64)
    c = LIFConstants(*neuron.constants(dt_ms=dt_ms, n_units=n_units, like=like))

    def units(value: Any) -> NDArray[np.float64]:  # noqa: ANN401
        tensor = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
        return tensor.reshape(-1).expand(n_units).numpy().copy()

    b, k = units(c.membrane), units(1.0 if c.gain is None else c.gain)
    tau_mem_ms = units(neuron.tau_mem_ms)
    held_steps = 0.0 if c.refractory is None else (units(c.refractory) - 1).clip(min=0)
    parameters = {
        "cm": tau_mem_ms,
        "tau_m": tau_mem_ms,
        "tau_refrac": np.broadcast_to(held_steps * dt_ms, n_units).copy(),
        "v_rest": units(neuron.v_rest),
        "v_reset": units(c.reset),
        "v_thresh": units(c.threshold),
        "i_offset": k * units(neuron.bias) / (1 - b),
    }
    if c.synapse is None:
        return PynnCells("IF_curr_delta", parameters, k)
    a, tau_syn_ms = units(c.synapse), units(neuron.tau_syn_ms)
    parameters |= {"tau_syn_E": tau_syn_ms, "tau_syn_I": tau_syn_ms}
    per_spike = k * units(1.0 if c.synapse_gain is None else c.synapse_gain)
    if backend.holds_current:
        return PynnCells(
            "IF_curr_exp", parameters, per_spike / (1 - b) * dt_ms / (tau_syn_ms * (1 - a))
        )
    # P of the docstring is the gain of this name.
    exact = dataclasses.replace(neuron, gain="exact")
    response = exact.constants(dt_ms=dt_ms, n_units=n_units, like=like).gain
    return PynnCells("IF_curr_exp", parameters, per_spike / units(response))


def _check_sayable(neuron: Any, name: str) -> None:  # noqa: ANN401
    if not isinstance(neuron, LIF):
        what = f"the neuron {type(neuron).__name__}; only LIF is exported"
    elif neuron.reset != "zero":
        what = (
            f"reset = {neuron.reset!r}: their cells go to v_reset at a spike and keep what "
            "arrives after; use reset = 'zero'"
        )
    elif neuron.silence_current:
        what = "that a spike ends the synaptic current (silence_current)"
    else:
        return
    msg = f"population {name!r}: PyNN's standard cells cannot do {what}"
    raise PynnError(msg)
