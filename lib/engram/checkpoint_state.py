"""Models, optimizers and the like as plain data that weights_only=True loads, and back.

Called by engram.checkpoint. checkpoint_check compares such descriptions.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Stateful", "describe", "plain", "saved_state"]


class Stateful(Protocol):
    """What can be saved: modules, optimizers, schedulers, a script's own classes."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain data."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:  # noqa: ANN401
        """Take over such a state."""


def describe(name: str, value: Stateful) -> dict[str, Any]:
    """Describe one object: its state, and what tells whether another object fits it."""
    if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
        kind = type(value).__name__
        msg = f"{name} is a {kind}, which has no state_dict and load_state_dict; use extra"
        raise TypeError(msg)
    state = value.state_dict()
    described: dict[str, Any] = {
        "kind": "object",
        "class": type(value).__name__,
        "state": plain(dict(state), name),
    }
    if isinstance(value, torch.nn.Module):
        metadata = plain(dict(getattr(state, "_metadata", {})), f"{name} metadata")
        described.update(kind="module", metadata=metadata)
    elif isinstance(value, torch.optim.Optimizer):
        described.update(kind="optimizer", parameters=_group_shapes(value))
    return described


def _group_shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    """Return all parameters' shapes by group; a new optimizer has these, but no state yet."""
    return [
        [list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups
    ]


def saved_state(described: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return what load_state_dict takes, out of a description that was saved."""
    if described["kind"] != "module":
        return dict(described["state"])
    state: Any = OrderedDict(described["state"])
    # Modules find the version of their own layout here; see torch.nn.Module._load_from_state_dict.
    state._metadata = OrderedDict(described["metadata"])  # noqa: SLF001
    return state


def plain(value: Any, where: str) -> Any:  # noqa: ANN401
    """Rebuild a state from what weights_only=True loads; equal states become equal bytes.

    Equal strings become one object and containers become new ones, since pickle writes a second
    mention of an object as a reference: a resumed run would otherwise write other bytes than an
    uninterrupted one.
    """
    if isinstance(value, torch.Tensor):
        return _own_storage(value.detach())
    if isinstance(value, dict) and type(value) in (dict, OrderedDict, Counter):
        return type(value)(
            {plain(key, where): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        )
    if type(value) in (list, tuple):
        return type(value)(plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    return _plain_scalar(value, where)


def _plain_scalar(value: Any, where: str) -> Any:  # noqa: ANN401
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or isinstance(
        value, bool | bytes | complex | torch.Size | torch.dtype | torch.device
    ):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    msg = (
        f"{where} is a {type(value).__name__}, which weights_only=True would not load; "
        "save numbers, strings, lists, tuples, dicts and tensors"
    )
    raise TypeError(msg)


def _own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor, copied when all of a larger storage would be saved with it."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
