"""Surrogate gradients: what stands in for the derivative of a spike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class FastSigmoid:
    """1 / (1 + k |u|)^2, the derivative of u / (1 + k |u|).

    Zenke & Ganguli 2018, SuperSpike, doi:10.1162/neco_a_01086.

    Attributes:
        slope: k, per unit of u, > 0.
    """

    slope: float = 25.0

    def __post_init__(self) -> None:
        """Refuse a slope that is not positive.

        Raises:
            ValueError: it is not.
        """
        _check_positive(self.slope, "slope")

    def derivative(self, u: torch.Tensor) -> torch.Tensor:
        """Return what replaces ds/du, the shape of `u`."""
        return (1 + self.slope * u.abs()).reciprocal().square()

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Return the function that has this derivative, the shape of `u`."""
        return u / (1 + self.slope * u.abs())


@dataclass(frozen=True)
class ATan:
    """(a / 2) / (1 + (pi a u / 2)^2), the derivative of atan(pi a u / 2) / pi + 1 / 2.

    Fang et al. 2021, doi:10.1109/ICCV48922.2021.00266.

    Attributes:
        alpha: a, per unit of u, > 0.
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a alpha that is not positive.

        Raises:
            ValueError: it is not.
        """
        _check_positive(self.alpha, "alpha")

    def derivative(self, u: torch.Tensor) -> torch.Tensor:
        """Return what replaces ds/du, the shape of `u`."""
        return (self.alpha / 2) / (1 + (math.pi / 2 * self.alpha * u).square())

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Return the function that has this derivative, the shape of `u`."""
        return torch.atan(math.pi / 2 * self.alpha * u) / math.pi + 0.5


@dataclass(frozen=True)
class Triangle:
    """max(0, 1 - |u| / w) / w: zero beyond w, so most neurons need no work in the backward pass.

    Esser et al. 2016, doi:10.1073/pnas.1604850113; Bellec et al. 2018, arXiv:1803.09574.

    Attributes:
        width: w, in units of u, > 0.
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a width that is not positive.

        Raises:
            ValueError: it is not.
        """
        _check_positive(self.width, "width")

    def derivative(self, u: torch.Tensor) -> torch.Tensor:
        """Return what replaces ds/du, the shape of `u`."""
        return (1 - u.abs() / self.width).clamp_min(0) / self.width

    def primitive(self, u: torch.Tensor) -> torch.Tensor:
        """Return the function that has this derivative, the shape of `u`."""
        z = (u / self.width).clamp(-1, 1)
        return 0.5 + z - z * z.abs() / 2


def _check_positive(value: float, name: str) -> None:
    if not 0 < value < math.inf:
        msg = f"{name} = {value!r} of a surrogate gradient must be positive"
        raise ValueError(msg)


Surrogate = FastSigmoid | ATan | Triangle
SURROGATES: dict[str, type[Surrogate]] = {
    "fast_sigmoid": FastSigmoid,
    "atan": ATan,
    "triangle": Triangle,
}


def named_surrogate(name: str, parameter: float) -> Surrogate:
    """Return a surrogate by its name in a parameter file.

    Args:
        name: "fast_sigmoid", "atan" or "triangle".
        parameter: its slope, alpha or width, > 0.

    Raises:
        ValueError: there is no such surrogate, or the parameter is not positive.
    """
    if name not in SURROGATES:
        msg = f"surrogate = {name!r} is none of {', '.join(map(repr, SURROGATES))}"
        raise ValueError(msg)
    return SURROGATES[name](parameter)


def spike(u: torch.Tensor, surrogate: Surrogate, *, smooth: bool = False) -> torch.Tensor:
    """Return 1 where u > 0, else 0, with the surrogate's derivative in the backward pass.

    Args:
        u: potential minus threshold, any shape.
        surrogate: the derivative.
        smooth: return the surrogate's primitive instead, whose derivative is exact; for gradient
            checks.
    """
    return surrogate.primitive(u) if smooth else _Spike.apply(u, surrogate)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:  # noqa: ANN401
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        (u,) = ctx.saved_tensors
        return grad[0] * ctx.surrogate.derivative(u), None
