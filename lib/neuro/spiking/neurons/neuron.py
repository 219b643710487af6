"""What a neuron model offers to the simulators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    from neuro.spiking.surrogate import Surrogate

# A NamedTuple of tensors, each of a shape that its class states; None where a model has no such
# value.
Values = tuple[Any, ...]


MAX_REFRACTORY_MS = 1e6


class Adjoint(NamedTuple):
    """Gradients with respect to what `integrate` was given.

    Attributes:
        state: a state, of each variable; None for integers.
        x: of the input, shape (B, C * N).
        spikes: of the spikes before the step, shape (B, N); None when the reset is detached.
    """

    state: Values
    x: torch.Tensor
    spikes: torch.Tensor | None


class Neuron(Protocol):
    """One model of N neurons in B trials, in steps of dt.

    All models share one order of time. With x[t] the input that arrives in step t:

        state[t] = integrate(state[t-1], s[t-1], x[t])     the reset of the last spike included
        s[t]     = 1 if excess(state[t]) > 0 else 0

    The potential of a state is the one before reset: spikes are where it exceeds threshold.

    Attributes:
        n_channels: kinds of input C that a neuron tells apart; `x` holds C blocks of N.
        surrogate: stands in for ds / d excess.
        detach_reset: whether no gradient passes through the reset.
    """

    @property
    def n_channels(self) -> int: ...  # noqa: D102

    @property
    def surrogate(self) -> Surrogate: ...  # noqa: D102

    @property
    def detach_reset(self) -> bool: ...  # noqa: D102

    def constants(self, *, dt_ms: float, n_units: int, like: torch.Tensor) -> Values:
        """Return what a step multiplies with, in the type and on the device of `like`."""

    def rest(self, n_trials: int, n_units: int, constants: Values) -> Values:
        """Return a population that has been silent for long."""

    def integrate(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values
    ) -> Values:
        """Take one step, elementwise and differentiable by autograd.

        Args:
            state: before the step, each of shape (..., N).
            spikes: of the step before, shape (..., N).
            x: what arrives, shape (..., C * N).
            constants: from `constants`.
        """

    def integrate_vjp(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values, grad: Values
    ) -> Adjoint:
        """Multiply the gradient of the state after a step with the Jacobian of `integrate`.

        Args:
            state: before the step, as are `spikes`, `x` and `constants`, given to `integrate`.
            spikes: see there.
            x: see there.
            constants: see there.
            grad: of the loss with respect to each variable of the state after the step.
        """

    def excess(self, state: Values, constants: Values) -> torch.Tensor:
        """Return potential minus threshold, shape (B, N)."""

    def add_excess_grad(self, grad: Values, excess: torch.Tensor, constants: Values) -> Values:
        """Add to the gradient of a state what the gradient of its excess brings."""


def per_unit(
    value: float | torch.Tensor, n_units: int, like: torch.Tensor, name: str
) -> torch.Tensor:
    """Return a value for each unit, shape (N,), keeping its gradient.

    Raises:
        ValueError: a tensor has neither one value nor N.
    """
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if tensor.numel() not in (1, n_units):
        msg = (
            f"{name} has shape {tuple(tensor.shape)}; give one value, or one for each of the "
            f"{n_units} units"
        )
        raise ValueError(msg)
    return tensor.reshape(-1).expand(n_units)


def refractory_steps(
    refractory_ms: float | torch.Tensor, *, dt_ms: float, n_units: int, like: torch.Tensor
) -> torch.Tensor | None:
    """Return the least number of steps between two spikes, shape (N,); None where it is one."""
    steps = per_unit(refractory_ms, n_units, like, "refractory_ms").detach() / dt_ms
    steps = steps.round().to(torch.int32)
    return steps if bool((steps > 1).any()) else None


def count_down(
    refractory: torch.Tensor | None, spikes: torch.Tensor, steps: torch.Tensor | None
) -> torch.Tensor | None:
    """Return how many steps of refractoriness are left with this one, the spike's own included.

    A unit with `steps` = n that spikes in step t holds its potential while the count is above 1,
    in steps t + 1 to t + n - 1, and may spike again in step t + n.
    """
    if refractory is None or steps is None:
        return None
    return torch.where(spikes > 0, steps, (refractory - 1).clamp_min(0))


def check_positive(value: float | torch.Tensor, name: str) -> None:
    """Refuse a time or a conductance that is not positive.

    Raises:
        ValueError: it is not.
    """
    if not bool((torch.as_tensor(value) > 0).all()):
        msg = f"{name} = {value!r} holds a value that is not positive"
        raise ValueError(msg)


def check_refractory(refractory_ms: float | torch.Tensor) -> None:
    """Refuse a refractory period that is negative, or longer than steps of a microsecond can count.

    Raises:
        ValueError: it is.
    """
    time_ms = torch.as_tensor(refractory_ms)
    if not bool(((time_ms >= 0) & (time_ms < MAX_REFRACTORY_MS)).all()):
        msg = f"refractory_ms = {refractory_ms!r} must lie in 0 .. {MAX_REFRACTORY_MS:g}"
        raise ValueError(msg)
