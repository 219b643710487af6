"""Slots: the places where runs run, each a share of one device or of several."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from engram.errors import DeviceError
from engram.grid.devices import ORDER, VARIABLE, Device
from engram.request import Devices

if TYPE_CHECKING:
    from engram.grid.devices import Choice

__all__ = ["MOST_SLOTS", "Slot", "remarks", "slots", "usable_cpus"]

MOST_SLOTS = 64
"""On one device; a lease looks at every way in which so many can be shared out."""


class Slot(NamedTuple):
    """A place for one run at a time."""

    devices: tuple[Device, ...] = ()  # none: a slot on the processor
    number: int = 0  # among the slots of these devices
    per_device: int = 1  # how many slots share them: this one is 1/per_device of each
    hidden: bool = False  # its runs must see no GPU
    order: str | None = None  # CUDA_DEVICE_ORDER, where the indices need it

    @property
    def label(self) -> str:
        """What people call it."""
        name = "+".join(device.label for device in self.devices) or "cpu"
        return f"{name} slot {self.number}" if self.per_device > 1 else name

    def environ(self) -> dict[str, str]:
        """What a run in it gets in its environment; nothing where there simply are no GPUs."""
        if not self.devices and not self.hidden:
            return {}
        environ = {VARIABLE: ",".join(device.visible for device in self.devices)}
        return {**environ, ORDER: self.order} if self.order else environ

    def to_record(self) -> Devices | None:
        """What a run in it asks for and records; None where it may use what the shell shows."""
        environ = self.environ()
        if not environ:
            return None
        labels = tuple(device.label for device in self.devices)
        keys = tuple(device.key for device in self.devices)
        return Devices(environ[VARIABLE], labels, keys, environ)


def slots(
    choice: Choice,
    *,
    slots_per_device: int | None = None,
    devices_per_run: int | None = None,
    cpus: int | None = None,
    threads: int = 1,
) -> list[Slot]:
    """Share the devices out.

    Args:
        choice: what `choose` returned.
        slots_per_device: how many runs share a device; without devices, how many there are at a
            time. None: 1, and without devices as many as the processor has room for.
        devices_per_run: how many devices a run needs; neighbors in the list belong together.
        cpus: processors that may be used; None: `usable_cpus`.
        threads: of each run, where there are no devices.

    Returns:
        All slots, those on different devices before the second one on any.

    Raises:
        DeviceError: there are too few devices for one run, or a number is out of range.
    """
    each = devices_per_run or 1
    share = slots_per_device or 1
    for name, number in (("slots_per_device", share), ("devices_per_run", each)):
        if not 1 <= number <= MOST_SLOTS:
            msg = f"{name} is {number}: expected a number from 1 to {MOST_SLOTS}"
            raise DeviceError(msg)
    if each > 1 and len(choice.devices) < each:
        names = ", ".join(device.label for device in choice.devices) or "none"
        source = f" ({choice.source})" if choice.source else ""
        msg = f"a run needs {each} devices, but there are {len(choice.devices)}: {names}{source}"
        raise DeviceError(msg + "; lower devices_per_run or name more devices")
    if not choice.devices:
        room = (usable_cpus() if cpus is None else cpus) // max(threads, 1)
        count = slots_per_device or max(room, 1)
        return [Slot((), number, count, choice.hidden) for number in range(count)]
    groups = [
        choice.devices[start : start + each]
        for start in range(0, len(choice.devices) - each + 1, each)
    ]
    return [
        Slot(group, number, share, order=choice.order)
        for number in range(share)
        for group in groups
    ]


def remarks(choice: Choice, devices_per_run: int | None = None) -> list[str]:
    """What a person should know about the devices before anything starts on them."""
    each = devices_per_run or 1
    said = []
    if choice.problem:
        said.append(f"the GPUs cannot be listed, so none is used: {choice.problem}")
    if choice.devices and (left := len(choice.devices) % each):
        names = ", ".join(device.label for device in choice.devices[-left:])
        said.append(f"{names} stays unused: {len(choice.devices)} devices in groups of {each}")
    if each > 1 and any(device.key.startswith("MIG-") for device in choice.devices):
        said.append("CUDA shows a process only one MIG device, whatever CUDA_VISIBLE_DEVICES names")
    return said


def usable_cpus() -> int:
    """How many processors this process may keep busy: by its affinity, and by its cgroups."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([own, *_quotas()]))


def _quotas() -> list[int]:
    """The CPU quotas of the cgroups above this process, in whole processors."""
    found = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = "/sys/fs/cgroup" + (f"/{controllers}" if controllers else "")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            folder = "/".join([base, *parts[:depth]])
            limit = _read(f"{folder}/cpu.max").split()
            if not limit:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                limit = " ".join(_read(f"{folder}/{name}") for name in names).split()
            if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit():  # noqa: PLR2004
                found.append(int(limit[0]) // int(limit[1]))
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - no path objects needed
            return file.read()
    except OSError:
        return ""
