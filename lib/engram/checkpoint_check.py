"""Say why a script's objects do not fit a checkpoint, by name, with both shapes; no torch needed.

Called by engram.checkpoint before anything is changed. An object is described by a dict: its kind
("module", "optimizer" or "object"), its class, its state, and for an optimizer the shapes of its
parameters by group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.errors import ResumeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SHOWN = 20


def refuse(checkpoint: Path, wrong: list[str]) -> None:
    """Raise when there is a mismatch.

    Raises:
        ResumeError: `wrong` is not empty; the message lists it.
    """
    if wrong:
        shown = [f"  {line}" for line in wrong[:SHOWN]]
        if len(wrong) > SHOWN:
            shown.append(f"  and {len(wrong) - SHOWN} more")
        msg = f"{checkpoint} does not fit; nothing was changed:\n" + "\n".join(shown)
        raise ResumeError(msg)


def processes(now: int, then: int) -> str:
    """Say that another number of ranks saved a checkpoint than is here to continue it."""
    return f"processes: {now} here, {then} in the checkpoint; set [engine] processes = {then}"


def mismatches(live: Mapping[str, Any], saved: Mapping[str, Any], *, partial: bool) -> list[str]:
    """Compare objects with a checkpoint.

    Args:
        live: descriptions of the objects to be restored, by name.
        saved: descriptions in the checkpoint.
        partial: whether the checkpoint may hold more objects.

    Returns:
        One line a mismatch.
    """
    wrong = [f"{name} is not in the checkpoint" for name in live if name not in saved]
    if not partial:
        wrong += [f"{name} of the checkpoint is not given" for name in saved if name not in live]
    for name, now in live.items():
        if name in saved:
            wrong += _object(name, now, saved[name])
    return wrong


def _object(name: str, now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    if now["kind"] != then["kind"]:
        here, there = (f"{item['kind']} {item['class']}" for item in (now, then))
        return [f"{name}: {here} here, {there} in the checkpoint"]
    if now["kind"] == "module":
        return list(_module(name, now["state"], then["state"]))
    if now["class"] != then["class"]:
        return [f"{name}: {now['class']} here, {then['class']} in the checkpoint"]
    if now["kind"] == "optimizer":
        return list(_groups(name, now["parameters"], then["parameters"]))
    return list(_common(name, now["state"], then["state"]))


def _module(name: str, now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"{name}.{key} is not in the checkpoint{_shape(now[key])}" for key in now if key not in then
    )
    yield from (
        f"{name}.{key} is only in the checkpoint{_shape(then[key])}"
        for key in then
        if key not in now
    )
    for key in now:
        if key in then:
            yield from _tensor(f"{name}.{key}", now[key], then[key])


def _groups(name: str, now: list[Any], then: list[Any]) -> Iterator[str]:
    if len(now) != len(then):
        yield f"{name}: {len(now)} parameter groups here, {len(then)} in the checkpoint"
        return
    for i, (ours, theirs) in enumerate(zip(now, then, strict=True)):
        where = f"{name}.param_groups[{i}]"
        if len(ours) != len(theirs):
            yield f"{where}: {len(ours)} parameters here, {len(theirs)} in the checkpoint"
            continue
        for j, (old, new) in enumerate(zip(theirs, ours, strict=True)):
            if old != new:
                shapes = f"shape {tuple(new)} here, {tuple(old)} in the checkpoint"
                yield f"{where}.params[{j}]: {shapes}"


def _common(where: str, now: Any, then: Any) -> Iterator[str]:  # noqa: ANN401
    """Compare the tensors that both states hold; such states may grow as they run."""
    if isinstance(now, dict) and isinstance(then, dict):
        for key in now:
            if key in then:
                yield from _common(f"{where}[{key!r}]", now[key], then[key])
    else:
        yield from _tensor(where, now, then)


def _tensor(where: str, now: Any, then: Any) -> Iterator[str]:  # noqa: ANN401
    if not (hasattr(now, "dtype") and hasattr(then, "dtype")):
        return
    if tuple(now.shape) != tuple(then.shape):
        yield f"{where}: shape {tuple(now.shape)} here, {tuple(then.shape)} in the checkpoint"
    elif now.dtype != then.dtype:
        yield f"{where}: dtype {now.dtype} here, {then.dtype} in the checkpoint"


def _shape(value: Any) -> str:  # noqa: ANN401
    return f", shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
