"""Random number streams as plain JSON, and back: python, numpy and torch, global and named.

No import of numpy or torch: their generators are known by what they can do, and the global stream
of numpy is looked up only in a process that uses numpy.
"""

from __future__ import annotations

import base64
import random
import sys
import warnings
from typing import TYPE_CHECKING, Any

from engram.errors import ResumeError

if TYPE_CHECKING:
    from collections.abc import Mapping

# torch.Generator, numpy.random.Generator, numpy.random.RandomState or random.Random.
Generator = Any


def capture(
    named: Mapping[str, Generator], torch_streams: Mapping[str, Generator]
) -> dict[str, Any]:
    """Describe every stream.

    Args:
        named: the script's own generators by name.
        torch_streams: torch's default generators by device ("cpu", "cuda:0").

    Returns:
        Plain data that JSON keeps exactly.

    Raises:
        TypeError: a generator is of no known kind.
    """
    numpy = sys.modules.get("numpy")
    return {
        "python": encode(random._inst, "random"),  # noqa: SLF001
        "numpy": _plain(numpy.random.get_state(legacy=False)) if numpy else None,
        "torch": {device: encode(stream, device) for device, stream in torch_streams.items()},
        "generators": {name: encode(generator, name) for name, generator in named.items()},
    }


def check(saved: Mapping[str, Any], named: Mapping[str, Generator]) -> list[str]:
    """Say why the script's own generators cannot take the saved states, if they cannot."""
    found = saved["generators"]
    wrong = [
        f"generators[{name!r}] is not in the checkpoint" for name in named if name not in found
    ]
    wrong += [
        f"generators[{name!r}] of the checkpoint is not given"
        for name in found
        if name not in named
    ]
    for name in found.keys() & named.keys():
        old, new = found[name]["kind"], encode(named[name], name)["kind"]
        if old != new:
            wrong.append(f"generators[{name!r}]: {new} here, {old} in the checkpoint")
    return wrong


def restore(
    saved: Mapping[str, Any], named: Mapping[str, Generator], torch_streams: Mapping[str, Generator]
) -> None:
    """Put every stream back where `capture` found it; see there for the arguments.

    A device that this machine lacks is named in a warning: the run goes on, but not bit for bit.

    Raises:
        ResumeError: numpy was in use at the save and cannot be imported.
    """
    decode(random._inst, saved["python"])  # noqa: SLF001
    if saved["numpy"] is not None:
        _numpy().random.set_state(_rebuild(saved["numpy"]))
    for device, state in saved["torch"].items():
        if device in torch_streams:
            decode(torch_streams[device], state)
        else:
            warnings.warn(
                f"the checkpoint holds the random stream of {device}, which is not here",
                stacklevel=3,
            )
    for name, generator in named.items():
        decode(generator, saved["generators"][name])


def encode(generator: Generator, name: str) -> dict[str, Any]:
    """Describe one generator as {"kind", "state"}.

    Raises:
        TypeError: it is no generator of python, numpy or torch.
    """
    if isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        return {"kind": "python", "state": [version, list(words), gauss]}
    if hasattr(generator, "bit_generator"):
        state = _plain(generator.bit_generator.state)
        return {"kind": f"numpy {state['bit_generator']}", "state": state}
    if hasattr(generator, "get_state") and hasattr(generator, "device"):
        state = base64.b64encode(bytes(generator.get_state().tolist())).decode()
        return {"kind": f"torch {generator.device.type}", "state": state}
    if hasattr(generator, "get_state") and hasattr(generator, "set_state"):
        return {"kind": "numpy RandomState", "state": _plain(generator.get_state(legacy=False))}
    msg = (
        f"generators[{name!r}] is {generator!r} of type {type(generator).__name__}; it must be a "
        "torch.Generator, numpy.random.Generator, numpy.random.RandomState or random.Random"
    )
    raise TypeError(msg)


def decode(generator: Generator, saved: Mapping[str, Any]) -> None:
    """Put one generator back where `encode` found it."""
    state = saved["state"]
    if isinstance(generator, random.Random):
        version, words, gauss = state
        generator.setstate((version, tuple(words), gauss))
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = _rebuild(state)
    elif hasattr(generator, "device"):
        generator.set_state(generator.get_state().new_tensor(list(base64.b64decode(state))))
    else:
        generator.set_state(_rebuild(state))


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Turn the arrays and scalars in a state of numpy into lists and numbers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        plain = value.tolist()
        return {"dtype": str(value.dtype), "values": plain} if isinstance(plain, list) else plain
    return value


def _rebuild(value: Any) -> Any:  # noqa: ANN401
    """Undo `_plain`."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"dtype", "values"}:
        return _numpy().array(value["values"], dtype=value["dtype"])
    return {key: _rebuild(item) for key, item in value.items()}


def _numpy() -> Any:  # noqa: ANN401
    try:
        import numpy as np
    except ImportError as error:
        msg = f"the checkpoint holds random streams of numpy, which cannot be imported: {error}"
        raise ResumeError(msg) from error
    return np
