"""Weights that keep their sign whatever an optimizer does: Dale's law by reparametrization."""

from __future__ import annotations

import torch

PARAMETRIZATIONS = ("log", "softplus")


def check_signs(signs: torch.Tensor | int, n_pre: int) -> torch.Tensor:
    """Return the sign of what each presynaptic unit does, +1 or -1, int8, shape (P,).

    Args:
        signs: +1 (excitatory) or -1 (inhibitory) for all units, or one for each, shape (P,).
        n_pre: presynaptic units P.

    Raises:
        ValueError: the shape does not fit, or a sign is neither.
    """
    tensor = torch.as_tensor(signs, device="cpu")
    if tensor.dim() and tensor.shape != (n_pre,):
        msg = f"signs has shape {tuple(tensor.shape)}; give one sign, or one for each of {n_pre}"
        raise ValueError(msg)
    neither = tensor[tensor.abs() != 1]
    if neither.numel():
        msg = f"signs holds {neither.flatten()[0].item()!r}; a sign is +1 or -1"
        raise ValueError(msg)
    return tensor.to(torch.int8).expand(n_pre).clone()


def check_agreement(weights: torch.Tensor, signs: torch.Tensor) -> None:
    """Refuse weights that contradict the signs of their presynaptic units.

    Args:
        weights: any shape.
        signs: +1 or -1, of a shape that broadcasts to that of `weights`.

    Raises:
        ValueError: a weight has the other sign.
    """
    wrong = (weights * signs < 0).nonzero()
    if len(wrong):
        where = tuple(wrong[0].tolist())
        weight = weights[where].item()
        msg = (
            f"the weight at {where} is {weight!r}, but the sign of its presynaptic unit is "
            f"{-1 if weight > 0 else 1} ({len(wrong)} contradict); by Dale's law all synapses of "
            "a unit share its sign"
        )
        raise ValueError(msg)


def raw_magnitude(magnitude: torch.Tensor, parametrization: str) -> torch.Tensor:
    """Return the parameter that `magnitude` turns into these values.

    Args:
        magnitude: > 0, any shape.
        parametrization: "log" or "softplus".

    Raises:
        ValueError: the parametrization is unknown, or a magnitude is zero.
    """
    if parametrization not in PARAMETRIZATIONS:
        choices = ", ".join(map(repr, PARAMETRIZATIONS))
        msg = f"parametrization = {parametrization!r} is none of {choices}"
        raise ValueError(msg)
    zero = (magnitude == 0).nonzero()
    if len(zero):
        msg = (
            f"the weight at {tuple(zero[0].tolist())} is 0 ({len(zero)} are); a trained weight "
            "with a fixed sign cannot be: leave such synapses out of the edges"
        )
        raise ValueError(msg)
    if parametrization == "log":
        return magnitude.log()
    return magnitude + torch.log(-torch.expm1(-magnitude))


def magnitude(raw: torch.Tensor, parametrization: str) -> torch.Tensor:
    """Return exp(raw) for "log" and log(1 + exp(raw)) for "softplus", both >= 0."""
    if parametrization == "log":
        return raw.exp()
    # torch's softplus leaves out what is below 2e-9 of large values; this one does not.
    return torch.logaddexp(raw, torch.zeros_like(raw))
