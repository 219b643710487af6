"""Edges as compiled code takes them: checked, and with half the memory."""

from __future__ import annotations

import weakref

import torch

from neuro.spiking.edges import Edges

_COMPACT: weakref.WeakKeyDictionary[Edges, torch.Tensor | None] = weakref.WeakKeyDictionary()


def compact_post(edges: Edges) -> torch.Tensor | None:
    """Return what edges reach in int32: half as much to read in every step; made once.

    None where compiled code would read or write beside its memory, or sum wrongly: edges that are
    not sorted by pre, then post, a pair that occurs twice, or units out of range.
    """
    if edges not in _COMPACT:
        post = edges.post.to(torch.int32).contiguous()
        _COMPACT[edges] = post if _is_sound(edges) else None
    return _COMPACT[edges]


def _is_sound(edges: Edges) -> bool:
    pre, post, offsets = edges.pre, edges.post, edges.offsets
    if not offsets.is_contiguous() or offsets.dtype != torch.int64 or edges.n_post >= 2**31:
        return False
    counts = torch.bincount(pre, minlength=edges.n_pre) if len(pre) else offsets.diff()
    ascending = (pre[1:] > pre[:-1]) | ((pre[1:] == pre[:-1]) & (post[1:] > post[:-1]))
    within = (post >= 0) & (post < edges.n_post)
    return (
        int(offsets[0]) == 0
        and int(offsets[-1]) == len(post) == len(pre)
        and torch.equal(counts, offsets.diff())
        and bool(ascending.all())
        and bool(within.all())
    )
