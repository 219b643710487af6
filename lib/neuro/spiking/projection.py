"""Weights from one source onto a population: dense or sparse, signed, trained as a whole or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neuro.spiking import signs as dale
from neuro.spiking.fixed import FixedModule
from neuro.spiking.scaling import Labels, ScalingFactors, make_labels
from neuro.spiking.synapses import Synapses
from neuro.spiking.wiring import make_wiring

# The labels of units that make up the groups of each scope with factors.
_NEEDED = {
    "type_pairs": ("pre_type", "post_type"),
    "pre_types": ("pre_type",),
    "post_types": ("post_type",),
    "transmitters": ("transmitter_of_pre",),
}
SCOPES = ("frozen", "synapses", *_NEEDED)


class Projection(FixedModule):
    """Weights [pre, post] from P units onto N, each of which may tell C channels of input apart.

    What is trained is said by `trainable`:

        "frozen":       nothing
        "synapses":     every weight; with signs through w = sign exp(raw) or sign log(1 + exp(raw))
        "type_pairs":   a factor for each (presynaptic type, postsynaptic type)
        "pre_types":    a factor for each type of presynaptic unit
        "post_types":   a factor for each type of postsynaptic unit
        "transmitters": a factor for each transmitter of presynaptic units

    Factors f = exp(log_factors) multiply fixed weights, w = f w0: neither way can a weight change
    its sign. The parameters are `weight` or `raw_weight` ("synapses") and `scaling.log_factors`.
    Sparse values are one parameter on fixed edges and nothing of size P x N is made. Edges, types,
    channels and signs are part of the state; a state with other ones is refused on loading.

    Attributes:
        n_pre, n_post, n_channels: P, N and C.
        trainable: the scope.
        scaling: the factors, None without.
    """

    sign_of_pre: torch.Tensor | None
    weight: torch.Tensor
    raw_weight: torch.Tensor
    _sign: torch.Tensor
    scaling: ScalingFactors | None

    def __init__(
        self,
        *,
        n_pre: int,
        n_post: int,
        weights: torch.Tensor | Any,  # noqa: ANN401
        edges: tuple[Any, Any] | None = None,
        n_channels: int = 1,
        channel_of_pre: int | torch.Tensor = 0,
        delay_steps: int | torch.Tensor = 1,
        trainable: str = "frozen",
        pre_type: Labels | torch.Tensor | None = None,
        post_type: Labels | torch.Tensor | None = None,
        transmitter_of_pre: Labels | torch.Tensor | None = None,
        factors: float | torch.Tensor = 1.0,
        signs: torch.Tensor | int | None = None,
        parametrization: str = "log",
    ) -> None:
        """Take over weights.

        Args:
            n_pre: P.
            n_post: N.
            weights: floating point, shape (P, N), or with edges (E,); their type and device are
                those of the module.
            edges: pre- and postsynaptic unit of each synapse, integers, shape (E,) each, in any
                order; None for dense.
            n_channels: C of the neurons that are reached.
            channel_of_pre: that a unit's spikes arrive on; one for all, or (P,).
            delay_steps: of all synapses, or of each edge, (E,); at least 1 within a population, at
                least 0 from outside.
            trainable: what is trained, see the class.
            pre_type: of each presynaptic unit, for "type_pairs" and "pre_types".
            post_type: of each postsynaptic unit, for "type_pairs" and "post_types".
            transmitter_of_pre: of each presynaptic unit, for "transmitters".
            factors: at first, > 0; one value, or one for each group.
            signs: +1 or -1 of presynaptic units, one for all or (P,); None lets every weight have
                its own sign, which training may change.
            parametrization: "log" or "softplus", of weights with signs that are trained.

        Raises:
            ValueError: shapes do not fit, a choice is unknown, something is out of range, or a
                weight contradicts its sign.
        """
        super().__init__()
        if trainable not in SCOPES:
            msg = f"trainable = {trainable!r} is none of {', '.join(map(repr, SCOPES))}"
            raise ValueError(msg)
        self.n_pre, self.n_post, self.n_channels = n_pre, n_post, n_channels
        self.trainable, self.parametrization = trainable, parametrization
        self.wiring = make_wiring(
            n_pre=n_pre,
            n_post=n_post,
            edges=edges,
            n_channels=n_channels,
            channel_of_pre=channel_of_pre,
            delay_steps=delay_steps,
        )
        values = self._checked(weights)
        self._set_weights(values, signs)
        labels = {
            "pre_type": pre_type,
            "post_type": post_type,
            "transmitter_of_pre": transmitter_of_pre,
        }
        initial = torch.as_tensor(factors, dtype=values.dtype, device="cpu")
        self.scaling = self._make_scaling(labels, initial)
        self.to(torch.as_tensor(weights).device)

    @property
    def delays(self) -> tuple[int, ...]:
        """Delays that occur, in steps, ascending."""
        return self.wiring.delays

    @property
    def scaling_factors(self) -> torch.Tensor:
        """Factors, differentiable, shape [pre type, post type] or (kinds,).

        Raises:
            ValueError: this projection has none.
        """
        if self.scaling is None:
            msg = f"a projection with trainable = {self.trainable!r} has no scaling factors"
            raise ValueError(msg)
        return self.scaling.factors

    def effective_weights(self) -> torch.Tensor:
        """Return weights as they act, differentiable: (P, N), or (E,) in the order of `edges`."""
        return self.wiring.given(self._values())

    def synapses(self, source: torch.Tensor | None) -> list[Synapses]:
        """Return what `simulate` takes, one set for each delay.

        Called by: `Network.forward`, once for a whole sequence.

        Args:
            source: spikes of the presynaptic units, shape (T, B, P); None for the population
                itself.
        """
        return self.wiring.synapses(self._values(), source)

    @torch.no_grad()
    def silence(self, chosen: torch.Tensor) -> None:
        """Set weights to 0, also trained ones, whose parametrization can say so as a limit.

        Args:
            chosen: which, bool, shape (P, N), or with edges (E,) in the order of `edges`.
        """
        chosen = self.wiring.stored(chosen)
        if "raw_weight" in self._parameters:
            self.raw_weight.masked_fill_(chosen, -torch.inf)
        else:
            self.weight.masked_fill_(chosen, 0.0)

    def extra_repr(self) -> str:
        """Say sizes and scope."""
        sizes = f"n_pre={self.n_pre}, n_post={self.n_post}, n_channels={self.n_channels}"
        return f"{sizes}, trainable={self.trainable!r}, delays={self.delays}"

    def _values(self) -> torch.Tensor:
        """Return effective weights in the order in which they are kept."""
        if "raw_weight" in self._parameters:
            return self._sign * dale.magnitude(self.raw_weight, self.parametrization)
        return self.weight if self.scaling is None else self.weight * self.scaling()

    def _checked(self, weights: torch.Tensor | Any) -> torch.Tensor:  # noqa: ANN401
        values = torch.as_tensor(weights, device="cpu").detach()
        pairs = self.wiring.pairs
        shape = (self.n_pre, self.n_post) if pairs is None else tuple(pairs[0].shape)
        if tuple(values.shape) != shape or not values.is_floating_point():
            what = "pre- by postsynaptic units" if pairs is None else "one for each edge"
            msg = (
                f"weights has shape {tuple(values.shape)} and type {values.dtype}; it must be "
                f"floating point of shape {shape}, {what}"
            )
            raise ValueError(msg)
        if not bool(values.isfinite().all()):
            msg = "weights holds a value that is not finite"
            raise ValueError(msg)
        return values

    def _set_weights(self, values: torch.Tensor, signs: torch.Tensor | int | None) -> None:
        """Keep weights as a parameter, with their signs apart, or as fixed values."""
        wiring = self.wiring
        sign_of_pre = None if signs is None else dale.check_signs(signs, self.n_pre)
        self.register_buffer("sign_of_pre", sign_of_pre)
        if sign_of_pre is not None:
            dale.check_agreement(values, wiring.given(wiring.of_pre(sign_of_pre)))
        if self.trainable != "synapses":
            self.register_buffer("weight", wiring.stored(values).clone())
        elif sign_of_pre is None:
            self.weight = nn.Parameter(wiring.stored(values).clone())
        else:
            raw = dale.raw_magnitude(values.abs(), self.parametrization)
            self.raw_weight = nn.Parameter(wiring.stored(raw))
            sign = wiring.of_pre(sign_of_pre).to(values.dtype)
            self.register_buffer("_sign", sign, persistent=False)

    def _make_scaling(
        self, labels: dict[str, Labels | torch.Tensor | None], initial: torch.Tensor
    ) -> ScalingFactors | None:
        """Return the factors of this scope."""
        needed = _NEEDED.get(self.trainable, ())
        for name in needed:
            if labels[name] is None:
                msg = f"trainable = {self.trainable!r} needs {name}, which is missing"
                raise ValueError(msg)
        if not needed:
            if bool((initial != 1).any()):
                msg = f"trainable = {self.trainable!r} has no factors; multiply them into weights"
                raise ValueError(msg)
            return None
        sizes = {"pre_type": self.n_pre, "transmitter_of_pre": self.n_pre, "post_type": self.n_post}
        made = {name: make_labels(labels[name], sizes[name], name) for name in needed}
        return ScalingFactors(
            made.get("pre_type") or made.get("transmitter_of_pre"),
            made.get("post_type"),
            size=(self.n_pre, self.n_post),
            edges=self.wiring.pairs,
            initial=initial,
        )
