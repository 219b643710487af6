"""Which devices runs may use: a configured list > CUDA_VISIBLE_DEVICES > NVML > nvidia-smi > none.

A configured list is believed, not checked against hardware. What is only found is handed on by
UUID, since CUDA counts GPUs in an order of its own; an index that a person wrote means what
nvidia-smi shows by it, so CUDA is told to count likewise, unless the shell says otherwise.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from engram.errors import DeviceError
from engram.grid.device_query import NVML, TOOL, Seen, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engram.grid.device_query import Gpu, Memory

__all__ = ["Choice", "Device", "choose"]

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BUS_ORDER = "PCI_BUS_ID"
NAME = re.compile(r"(GPU-[0-9a-fA-F][0-9a-fA-F-]*|MIG-[0-9a-zA-Z/-]+)")
SHORT = re.compile(r"((?:GPU-|MIG-)+[0-9a-fA-F]{1,8})[0-9a-fA-F-]*(/[0-9]+/[0-9]+)?")
EXPECTED = "an index such as 0, or a name that `nvidia-smi -L` shows (GPU-..., MIG-...)"


class Device(NamedTuple):
    """One GPU, or one part of a divided GPU."""

    visible: str  # its entry in CUDA_VISIBLE_DEVICES
    label: str  # "gpu 0", "GPU-8932f937"
    key: str  # what its lease is called: the UUID where it can be learned
    memory_mib: int | None = None  # in all, where it can be learned


class Choice(NamedTuple):
    """The devices to use, and how they came to be."""

    devices: tuple[Device, ...]
    source: str  # the configured list's name, CUDA_VISIBLE_DEVICES, NVML, nvidia-smi, or ""
    hidden: bool = False  # there are none because somebody said so: runs must see none either
    order: str | None = None  # CUDA_DEVICE_ORDER that the child needs and the shell does not set
    problem: str | None = None  # why it was not possible to look


def choose(
    configured: Sequence[int | str] | str | None,
    environ: Mapping[str, str],
    *,
    where: str = "DEVICES",
    tool: str = TOOL,
    library: str = NVML,
) -> Choice:
    """Say which devices runs may use.

    Args:
        configured: DEVICES of a grid file, or `devices` of [engine]: indices, which are positions
            inside an already restricted CUDA_VISIBLE_DEVICES, and names. None: not configured;
            [], "", "-1" and [-1]: none.
        environ: the shell's environment.
        where: what messages call the configured list.
        tool: nvidia-smi, as a path or as a name on PATH.
        library: the NVML library.

    Raises:
        DeviceError: the list has a wrong type, a device twice, or a position that
            CUDA_VISIBLE_DEVICES does not have.
    """
    shown = environ.get(VARIABLE)
    allowed = None if shown is None else restricted(shown)
    if configured is not None:
        names = _positions(configured, where, allowed, shown)
        return _named(names, where, environ, lambda: look(tool, library))
    if allowed is not None:
        return _named(allowed, VARIABLE, environ, lambda: look(tool, library))
    seen = look(tool, library)
    return Choice(tuple(_found(seen.gpus)), seen.source, problem=seen.problem)


def restricted(text: str) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES that CUDA takes.

    All are of the kind of the first; the list ends at the first that is not. CUDA reads the leading
    digits of a number.
    """
    entries = [entry.strip() for entry in text.split(",")]
    kind = entries[0][:4]
    if kind not in ("GPU-", "MIG-"):
        kind = ""
    found = []
    for entry in entries:
        match = NAME.fullmatch(entry) if kind else re.match(r"\+?0*([0-9]+)", entry)
        if not match or not match[1].startswith(kind):
            break
        found.append(match[1])
    return found


def _positions(
    configured: Sequence[int | str] | str, where: str, allowed: list[str] | None, shown: str | None
) -> list[str]:
    """The configured list as entries of CUDA_VISIBLE_DEVICES."""
    if isinstance(configured, str):
        configured = configured.split(",") if configured.strip() else []
    if not isinstance(configured, list | tuple):
        msg = f"{where} is {configured!r}: expected a list, each item {EXPECTED}"
        raise DeviceError(msg)
    entries = [_entry(item, where) for item in configured]
    if entries == ["-1"]:
        return []
    found = []
    for entry in entries:
        if entry == "-1":
            msg = f"{where} names -1 among others: it means none, and only where it stands alone"
            raise DeviceError(msg)
        if allowed is None or not entry.isdigit():
            found.append(entry)
        elif int(entry) < len(allowed):
            found.append(allowed[int(entry)])
        else:
            msg = f"{where} names {entry}, but CUDA_VISIBLE_DEVICES={shown!r} shows {len(allowed)}"
            msg += ": a number is a position in that list, counted from 0"
            raise DeviceError(msg)
    return found


def _entry(item: object, where: str) -> str:
    """One item of a configured list as text."""
    text = str(item).strip()
    if not isinstance(item, int | str) or isinstance(item, bool):
        text = ""
    if re.fullmatch(r"[0-9]{1,9}", text):
        return str(int(text))
    if text == "-1" or NAME.fullmatch(text):
        return text
    msg = f"{where} names {item!r}: expected {EXPECTED}"
    raise DeviceError(msg)


def _named(
    names: list[str], where: str, environ: Mapping[str, str], find: Callable[[], Seen]
) -> Choice:
    """Devices that somebody named, with what can be learned about them."""
    if not names:
        return Choice((), where, hidden=True)
    _refuse_twice(names, names, where)
    counted = any(name.isdigit() for name in names)
    seen = find()
    gpus = list(seen.gpus)
    if counted and environ.get(ORDER, BUS_ORDER) != BUS_ORDER and len({g.name for g in gpus}) > 1:
        known: list[Gpu] = []  # which of them CUDA counts first cannot be known from here
    else:
        known = gpus
    devices = [_believed(name, known if name.isdigit() else gpus) for name in names]
    _refuse_twice([device.key for device in devices], names, where)
    order = BUS_ORDER if counted and ORDER not in environ else None
    return Choice(tuple(_with_labels(devices)), where, order=order)


def _refuse_twice(keys: list[str], names: list[str], where: str) -> None:
    """Refuse a list in which two entries are one device."""
    first: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in first:
            both = " and ".join(dict.fromkeys((first[key], name)))
            msg = f"{where} names a device twice: {both}; use slots_per_device to share one"
            raise DeviceError(msg)
        first[key] = name


def _believed(name: str, gpus: Iterable[Gpu]) -> Device:
    """A device as named; its UUID and its memory where the machine knows it."""
    for gpu in gpus:
        if name == str(gpu.number) or (name.startswith("GPU-") and _same(name, gpu.uuid)):
            if gpu.parts:  # CUDA takes the first part for the whole
                return _device(name, gpu.parts[0].uuid, gpu.parts[0].memory)
            return _device(name, gpu.uuid, gpu.memory)
        for part in gpu.parts:
            if _same(name, part.uuid) or (part.older and _same(name, part.older)):
                return _device(name, part.uuid, part.memory)
    key = f"HOSTINDEX-{name}" if name.isdigit() else name[:4] + name[4:].lower()
    return _device(name, key, None)


def _same(name: str, uuid: str) -> bool:
    """Whether a name, which may be cut short, means a UUID."""
    return len(name) > len("GPU-") and uuid.lower().startswith(name.lower())


def _device(name: str, key: str, memory: Memory | None) -> Device:
    label = f"gpu {name}" if name.isdigit() else SHORT.sub(r"\1\2", name)
    return Device(name, label, key, memory.total_mib if memory else None)


def _with_labels(devices: list[Device]) -> list[Device]:
    """The same, with whole names where short ones would be alike."""
    labels = [device.label for device in devices]
    return [
        device._replace(label=device.visible) if labels.count(device.label) > 1 else device
        for device in devices
    ]


def _found(gpus: Iterable[Gpu]) -> Iterable[Device]:
    """Every GPU that nobody named, and the parts of those that are divided, by UUID."""
    for gpu in gpus:
        label = f"gpu {gpu.number}"
        if not gpu.divided and gpu.uuid:
            yield _device(gpu.uuid, gpu.uuid, gpu.memory)._replace(label=label)
        for place, part in enumerate(gpu.parts):
            yield _device(part.uuid, part.uuid, part.memory)._replace(label=f"{label} mig {place}")
