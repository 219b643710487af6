"""A neuron model here and the same neuron as a node of NIR.

NIR is continuous in time and a simulator is not, so both sides must agree on how a signal acts
within a step. Here, as in other simulators that read NIR, it is constant over a step, and a spike
is 1 for one step. The current is brought to the end of the step first, then drives the potential:

    I[t] = a I[t-1] + (1 - a) w_in x[t]              tau_syn dI/dt = w_in x - I
    V[t] = b V*[t-1] + (1 - b) (v_leak + r I[t])     tau_mem dV/dt = v_leak - V + r I

So r = k / (1 - b) and w_in = k_syn / (1 - a) with the gains k and k_syn of `LIF`: "normalized" is
r = w_in = 1, and "unit", where a spike of weight w moves the potential by w, is r = 1 / (1 - b) and
w_in = 1 / (1 - a). A bias is part of v_leak, as r times the bias.

Readers differ in how they get a and b from the time constants. "exponential" is b = exp(-dt / tau),
exact, as here; "euler" is b = 1 - dt / tau, as in snntorch. With "euler" a graph holds, or is read
as holding, the time constants that make such a reader take the same steps; r and w_in are the same.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neuro.spiking.neurons.lif import LIF, LIFConstants
from neuro.spiking.neurons.readout import LeakyReadout

DISCRETIZATIONS = ("exponential", "euler")
# How far an r or w_in may be from that of a named gain; graphs are often in single precision.
SAME = 1e-5


class NirMissing(ImportError):
    """The package nir is not installed."""


class NirError(ValueError):
    """A network that NIR cannot say, or a graph that cannot be read."""


class Steps(NamedTuple):
    """How a reader of NIR steps through time.

    Attributes:
        dt_ms: length of a step.
        discretization: "exponential" or "euler".
    """

    dt_ms: float
    discretization: str

    def tau_s(self, decay: NDArray) -> NDArray:
        """Return the time constant in s, as NIR has it, that leaves `decay` after a step."""
        dt_s = self.dt_ms / 1000
        return dt_s / (1 - decay) if self.discretization == "euler" else -dt_s / np.log(decay)

    def tau_ms(self, tau_s: NDArray, name: str) -> NDArray:
        """Return the time constant in ms, as neurons here have it.

        Raises:
            NirError: it is not positive, or so short that Euler's steps do not follow it.
        """
        tau_ms = np.asarray(tau_s, dtype=np.float64) * 1000
        least = self.dt_ms if self.discretization == "euler" else 0.0
        if not (tau_ms > least).all():
            shortest = tau_ms.min().item() / 1000
            msg = f"{name} holds {shortest!r} s; it must be above {least / 1000!r} s"
            raise NirError(msg)
        if self.discretization == "euler":
            return -self.dt_ms / np.log1p(-self.dt_ms / tau_ms)
        return tau_ms


def load_nir() -> Any:  # noqa: ANN401
    """Return the package nir.

    Raises:
        NirMissing: it is not installed.
    """
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        msg = "NIR graphs need the package nir: pip install 'nir>=1.0.8'"
        raise NirMissing(msg) from error


def check_steps(dt_ms: float, discretization: str) -> Steps:
    """Return how time is stepped through.

    Raises:
        ValueError: the step is not positive, or the discretization unknown.
    """
    if not dt_ms > 0:
        msg = f"dt_ms = {dt_ms!r} is not a positive number of milliseconds"
        raise ValueError(msg)
    if discretization not in DISCRETIZATIONS:
        known = ", ".join(map(repr, DISCRETIZATIONS))
        msg = f"discretization = {discretization!r} is none of {known}"
        raise ValueError(msg)
    return Steps(dt_ms, discretization)


def neuron_node(neuron: Any, *, n_units: int, steps: Steps, name: str) -> Any:  # noqa: ANN401
    """Return the node LIF, or CubaLIF for a synaptic current.

    The potential before the first step is v_rest here and not a part of NIR; where a bias makes it
    differ from v_leak it is in the node's metadata, as "v_start".

    Args:
        neuron: a model.
        n_units: N.
        steps: how the reader will step.
        name: of the population, for messages.

    Raises:
        NirError: NIR cannot say what the neuron does.
    """
    _check_sayable(neuron, name)
    nir, like = load_nir(), torch.zeros((), dtype=torch.float64)
    c = LIFConstants(*neuron.constants(dt_ms=steps.dt_ms, n_units=n_units, like=like))
    if c.refractory is not None:
        raise NirError(_cannot(name, "a refractory period; set refractory_ms = 0"))
    b = _array(c.membrane, n_units)
    r = _array(1.0 if c.gain is None else c.gain, n_units) / (1 - b)
    v_rest, bias = _array(neuron.v_rest, n_units), _array(neuron.bias, n_units)
    values = {
        "r": r,
        "v_leak": v_rest + r * bias,
        "v_threshold": _array(c.threshold, n_units),
        "v_reset": _array(c.reset, n_units),
        "metadata": {"v_start": v_rest} if bias.any() else {},
    }
    if c.synapse is None:
        return nir.LIF(tau=_exact_tau(neuron.tau_mem_ms, b, steps), **values)
    a = _array(c.synapse, n_units)
    return nir.CubaLIF(
        tau_mem=_exact_tau(neuron.tau_mem_ms, b, steps),
        tau_syn=_exact_tau(neuron.tau_syn_ms, a, steps),
        w_in=_array(1.0 if c.synapse_gain is None else c.synapse_gain, n_units) / (1 - a),
        **values,
    )


def neuron_of_node(node: Any, *, steps: Steps, name: str, **options: Any) -> LIF:  # noqa: ANN401
    """Return the neuron that a node LIF or CubaLIF describes.

    Where r and w_in are those of a gain with a name, potentials are those of the graph. Else the
    gain is "normalized" and potentials are in units of r w_in, which changes no spike.

    Args:
        node: nir.LIF or nir.CubaLIF.
        steps: how to step through its equations.
        name: of the node, for messages.
        options: further arguments of `LIF`: surrogate, detach_reset.

    Raises:
        NirError: a time constant, r or w_in is not positive.
    """
    with_current = hasattr(node, "tau_syn")
    n_units = node.v_threshold.size
    tau_mem = steps.tau_ms(node.tau_mem if with_current else node.tau, f"tau of {name!r}")
    tau_syn = steps.tau_ms(node.tau_syn, f"tau_syn of {name!r}") if with_current else None
    r = _positive(node.r, f"r of {name!r}")
    w_in = _positive(node.w_in, f"w_in of {name!r}") if with_current else np.ones(n_units)
    gain, r_of_gain = _gain(r, w_in, tau_mem, tau_syn, steps.dt_ms)
    # One where the gain has a name.
    unit = np.ones(n_units) if gain is not None else r * w_in
    start = np.asarray(node.metadata.get("v_start", node.v_leak))
    bias = (node.v_leak - start) / unit / r_of_gain
    values = {
        "threshold": node.v_threshold / unit,
        "v_reset": node.v_reset / unit,
        "v_rest": start / unit,
        "bias": bias,
        "tau_mem_ms": tau_mem,
        "tau_syn_ms": tau_syn,
    }
    tensors: dict[str, Any] = {
        key: torch.from_numpy(np.array(value, dtype=np.float64).reshape(-1))
        for key, value in values.items()
        if value is not None
    }
    return LIF(**tensors, reset="zero", gain=gain or "normalized", **options)


def readout_node(readout: LeakyReadout, *, steps: Steps) -> Any:  # noqa: ANN401
    """Return the node LI of a readout, whose gain is "unit"."""
    kappa = readout.decay.detach().double().numpy()
    r = 1 / (1 - kappa)
    bias = np.zeros_like(r) if readout.bias is None else readout.bias.detach().double().numpy()
    return load_nir().LI(tau=steps.tau_s(kappa), r=r, v_leak=r * bias)


def readout_of_node(
    node: Any,  # noqa: ANN401
    *,
    constant: NDArray | float,
    steps: Steps,
    name: str,
) -> tuple[LeakyReadout, NDArray]:
    """Return the readout that a node LI describes, and the factor (K,) of the weights onto it.

    Args:
        node: nir.LI.
        constant: what arrives in every step.
        steps: how to step through its equation.
        name: of the node, for messages.
    """
    tau_ms = torch.from_numpy(steps.tau_ms(node.tau, f"tau of {name!r}").reshape(-1))
    readout = LeakyReadout(n_outputs=len(tau_ms), dt_ms=steps.dt_ms, tau_ms=tau_ms).double()
    readout.log_tau.copy_(tau_ms.log())
    gain = 1 - readout.decay.numpy()
    factor = np.asarray(node.r, dtype=np.float64) * gain
    factor = np.where(np.isclose(factor, 1, rtol=SAME), 1.0, factor)
    bias = gain * np.asarray(node.v_leak, dtype=np.float64) + factor * constant
    readout.bias = torch.nn.Parameter(torch.from_numpy(bias))
    return readout, factor


def _check_sayable(neuron: Any, name: str) -> None:  # noqa: ANN401
    if not isinstance(neuron, LIF):
        what = f"the neuron {type(neuron).__name__}; only LIF has nodes, LIF and CubaLIF"
        raise NirError(_cannot(name, what))
    if neuron.reset != "zero":
        what = (
            f"reset = {neuron.reset!r}: its neurons go to v_reset at a spike and keep what arrives "
            "after; use reset = 'zero'"
        )
        raise NirError(_cannot(name, what))
    if neuron.silence_current:
        raise NirError(_cannot(name, "that a spike ends the synaptic current (silence_current)"))


def _cannot(name: str, what: str) -> str:
    return f"population {name!r}: NIR cannot say {what}"


def _gain(
    r: NDArray, w_in: NDArray, tau_mem: NDArray, tau_syn: NDArray | None, dt_ms: float
) -> tuple[str | None, NDArray]:
    """Return the name of the gain with this r and w_in, None for none, and its r."""
    kinds = ["normalized", "unit"] + ([] if tau_syn is None else ["exact"])
    like = torch.zeros((), dtype=torch.float64)
    for gain in kinds:
        taus: dict[str, Any] = {"tau_mem_ms": torch.from_numpy(tau_mem.reshape(-1))}
        if tau_syn is not None:
            taus["tau_syn_ms"] = torch.from_numpy(tau_syn.reshape(-1))
        c = LIF(**taus, gain=gain).constants(dt_ms=dt_ms, n_units=r.size, like=like)
        wanted = _array(1.0 if c.gain is None else c.gain, r.size) / (1 - c.membrane.numpy())
        wanted_in = np.ones(r.size)
        if c.synapse is not None:
            k_syn = _array(1.0 if c.synapse_gain is None else c.synapse_gain, r.size)
            wanted_in = k_syn / (1 - c.synapse.numpy())
        if np.allclose(r, wanted, rtol=SAME, atol=0) and np.allclose(
            w_in, wanted_in, rtol=SAME, atol=0
        ):
            return gain, wanted
    return None, np.ones(r.size)


def _exact_tau(tau_ms: Any, decay: NDArray, steps: Steps) -> NDArray:  # noqa: ANN401
    """Return a time constant in s without the rounding of an exponential and its logarithm."""
    if steps.discretization == "euler":
        return steps.tau_s(decay)
    return _array(tau_ms, decay.size) / 1000


def _array(value: Any, n_units: int) -> NDArray:  # noqa: ANN401
    tensor = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    return tensor.reshape(-1).expand(n_units).numpy().copy()


def _positive(values: NDArray, name: str) -> NDArray:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if not (array > 0).all():
        msg = f"{name} holds {array.min().item()!r}; it must be positive"
        raise NirError(msg)
    return array
