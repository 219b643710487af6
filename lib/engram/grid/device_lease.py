"""Who uses a device: leases that every user's runner on this machine sees.

A lease is a socket with a name in the kernel's abstract namespace: no file, no permission, and gone
when its holder is, however it ends. device_socket.py says how the names are used.

Limits: network namespaces have names of their own, so containers see each other's leases only where
they share the network. Nothing stops a program that does not ask.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from engram.errors import DeviceError
from engram.grid import device_socket
from engram.grid.device_socket import Busy, Share, Watch

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from engram.grid.device_slots import Slot

__all__ = ["DeviceLease", "Holder", "hold", "holders", "take_first"]

LOOK_AGAIN_S = 0.25


class Holder(NamedTuple):
    """Who holds a share of a device, as far as can be learned."""

    pid: int | None
    user: int | None
    number: int
    per_device: int


class DeviceLease:
    """A share of one device or of several, until it is released or the process ends."""

    def __init__(self) -> None:
        """Hold nothing yet; use `acquire`."""
        self._sockets: list[socket.socket] = []

    @classmethod
    def acquire(
        cls,
        slot: Slot,
        *,
        patience_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
    ) -> DeviceLease | None:
        """Take a slot's share of all its devices, or of none.

        Which of the equal shares it is does not matter: another is taken where the slot's own is
        somebody else's. Waiting for one device, it holds none of the others.

        Args:
            slot: the slot; one on the processor needs no lease.
            patience_s: how long to wait, in seconds; None: for ever.
            stop: asked every LOOK_AGAIN_S at least; True ends the waiting.
            say: told once what is waited for, and who has it.

        Returns:
            The lease; None when the patience was over, or `stop` said so.

        Raises:
            DeviceError: the system gives no more sockets.
        """
        end = math.inf if patience_s is None else time.monotonic() + patience_s
        waited = False
        with Watch() as watch:
            while True:
                lease = cls()
                try:
                    lease._take(slot)
                except Busy as busy:
                    lease.release()
                    watch.names(busy.names)
                except BaseException:
                    lease.release()
                    raise
                else:
                    return lease
                if stop() or time.monotonic() >= end:
                    return None
                if not waited:
                    say(f"waiting for {slot.label}: {_who(slot)}")
                    waited = True
                watch.wait(min(LOOK_AGAIN_S, end - time.monotonic()))

    def _take(self, slot: Slot) -> None:
        """Take the shares one by one, in an order that is the same for everybody.

        Raises:
            Busy: one is not to be had.
        """
        _held.add(self)
        if not sys.platform.startswith("linux"):
            return
        preferred = Share(slot.per_device, slot.number)
        try:
            for key in sorted({device.key for device in slot.devices} - {""}):
                self._sockets += device_socket.take(key, preferred)
        except OSError as error:
            msg = f"cannot take the lease of {slot.label}: {error.strerror}: see `ulimit -n`"
            raise DeviceError(msg) from error

    def release(self) -> None:
        """Give the devices back; a second call does nothing."""
        _held.discard(self)
        while self._sockets:  # each lease before its door, whose end wakes those who wait
            self._sockets.pop(0).close()

    def __enter__(self) -> DeviceLease:
        """Hold the devices for a with-block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the devices back."""
        self.release()


def hold(slot: Slot, *, say: Callable[[str], None] = lambda text: None) -> DeviceLease:
    """Wait until a slot's devices are free, and take them; for a with-block.

    Args:
        slot: the slot.
        say: told once what is waited for, and who has it.
    """
    lease = None
    while lease is None:
        lease = DeviceLease.acquire(slot, say=say)
    return lease


def take_first(
    slots: Sequence[Slot], *, say: Callable[[str], None] = lambda text: None
) -> tuple[Slot, DeviceLease]:
    """Take whichever of some slots is free first.

    Args:
        slots: the slots, best first; at least one.
        say: told once what is waited for, and who has it.

    Raises:
        DeviceError: the system gives no more sockets.
    """
    waited = False
    while True:
        for slot in slots:
            lease = DeviceLease.acquire(slot, patience_s=0.0)
            if lease is not None:
                return slot, lease
        if not waited:
            labels = ", ".join(slot.label for slot in slots)
            say(f"waiting for one of {labels}: {'; '.join(map(_who, slots))}")
            waited = True
        time.sleep(LOOK_AGAIN_S)


_held: set[DeviceLease] = set()


def _forget() -> None:
    """Let go of what the parent holds: a lease is not kept by its holder's children."""
    for lease in list(_held):
        lease.release()


os.register_at_fork(after_in_child=_forget)


def holders(key: str) -> list[Holder]:
    """List who holds shares of a device.

    Args:
        key: the device's `Device.key`.
    """
    return [
        Holder(*device_socket.holder(key, share), share.number, share.of)
        for share in device_socket.taken(key)
    ]


def _who(slot: Slot) -> str:
    """Who holds what of a slot's devices, for a message."""
    said = []
    for device in slot.devices:
        names = dict.fromkeys(map(_describe, holders(device.key)))
        if names:
            said.append(f"{device.label} is held by {', '.join(names)}")
    return "; ".join(said) or "it has just been taken"


def _describe(holder: Holder) -> str:
    if holder.pid is None or holder.user is None:
        return "another process"
    import pwd

    try:
        user = pwd.getpwuid(holder.user).pw_name
    except KeyError:
        user = str(holder.user)
    return f"process {holder.pid} of {user}"
