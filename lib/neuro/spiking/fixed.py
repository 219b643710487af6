"""What a module is built on and a checkpoint must agree with, such as the edges of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class FixedModule(nn.Module):
    """A module whose integer buffers are facts, as are those of its parts.

    A state with other ones is refused by name, and its values are left alone.
    """

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name, own in self.named_buffers():
            found = state_dict.get(prefix + name)
            if found is None or own.is_floating_point():
                continue
            difference = _difference(own, found)
            if difference and "." not in name:
                error_msgs.append(
                    f"{prefix}{name} differs: {difference}; this state belongs to a network with "
                    "another wiring, so build that one before loading it"
                )
            if difference:
                # Values would be put on synapses that they do not belong to. A part of this module
                # that differs says so itself.
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _difference(own: torch.Tensor, found: torch.Tensor) -> str:
    """Return in words how two tensors differ, "" where they do not."""
    if own.shape != found.shape:
        return f"here it has shape {tuple(own.shape)}, in the state {tuple(found.shape)}"
    elsewhere = found.to(own.device)
    where = (own != elsewhere).flatten().nonzero()
    if not len(where):
        return ""
    first = int(where[0])
    here, there = own.flatten()[first].item(), elsewhere.flatten()[first].item()
    return f"entry {first} is {here} here and {there} in the state ({len(where)} differ)"
