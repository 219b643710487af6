r"""The sockets behind the leases of devices.

    \0engram-device/GPU-8932f937-.../4/2     holds slot 2 of 4: a quarter of the device
    \0engram-holder/GPU-8932f937-.../4/2     its holder, for those who wait to connect to
    \0engram-device-gate/GPU-8932f937-...    may take shares of the device at this moment

Runners may share a device differently, so what counts is the sum of the shares, which never exceeds
one device. It is found by trying every name there can be: a connection to a name that nobody has is
refused, and unlike a list of all sockets (/proc/net/unix, which may skip one while others come and
go) that is exact. Looking and taking are one step, since only who holds the gate may do it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import random
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from engram.grid.device_slots import MOST_SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Busy", "Share", "Watch", "holder", "take", "taken"]

UNITS = math.lcm(*range(1, MOST_SLOTS + 1))
"""Of a device: every share 1/n is a whole number of them."""
GATE_S = 0.002
LONGEST_KEY = 60  # bytes; a name has room for 107
CREDENTIALS = struct.Struct("3i")  # pid, user, group


class Share(NamedTuple):
    """One of the equal shares of a device."""

    of: int  # how many there are
    number: int  # from 0


SHARES = tuple(Share(of, number) for of in range(1, MOST_SLOTS + 1) for number in range(of))


class Busy(Exception):  # noqa: N818 - not an error: it is waited for
    """Too much of a device is taken."""

    def __init__(self, key: str, shares: Iterable[Share]) -> None:
        """Say which shares of which device are taken."""
        super().__init__(key)
        self.names = [address("holder", key, share) for share in shares]


def address(kind: str, key: str, share: Share | None = None) -> bytes:
    """The socket's name; the leading zero byte makes it an abstract one."""
    text = os.fsencode(key)
    if len(text) > LONGEST_KEY:
        text = hashlib.sha256(text).hexdigest()[:LONGEST_KEY].encode()
    tail = b"" if share is None else b"/%d/%d" % share
    return b"\0engram-" + kind.encode() + b"/" + text + tail


def taken(key: str) -> list[Share]:
    """The shares of a device that somebody holds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return [
            share
            for share in SHARES
            if probe.connect_ex(address("device", key, share)) != errno.ECONNREFUSED
        ]


def take(key: str, preferred: Share) -> list[socket.socket]:
    """Take a share of one device.

    Returns:
        The socket that is the lease, and one that whoever waits can connect to.

    Raises:
        Busy: too much of it is taken.
    """
    with _gate(key):
        used = taken(key)
        if sum(UNITS // share.of for share in used) + UNITS // preferred.of > UNITS:
            raise Busy(key, used)
        numbers = (preferred.number, *range(preferred.of))
        share = next(own for n in numbers if (own := Share(preferred.of, n)) not in used)
        try:
            lease = _bound(address("device", key, share), socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # by a program that does not ask at the gate
                raise Busy(key, [*used, share]) from error
            raise
        try:
            door = _bound(address("holder", key, share), socket.SOCK_STREAM)
        except OSError:  # of a holder who is just ending; the lease is what counts
            return [lease]
        door.listen(socket.SOMAXCONN)
        return [lease, door]


@contextlib.contextmanager
def _gate(key: str) -> Iterator[None]:
    """Be the only one who takes shares of a device; it lasts about a millisecond."""
    while True:
        try:
            gate = _bound(address("device-gate", key), socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            time.sleep(random.uniform(0, GATE_S))
        else:
            break
    with gate:
        yield


def _bound(name: bytes, kind: int) -> socket.socket:
    """A socket with a name.

    Raises:
        OSError: another one has it.
    """
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.bind(name)
    except OSError:
        made.close()
        raise
    return made


def holder(key: str, share: Share) -> tuple[int | None, int | None]:
    """The process and the user that hold a share; None where that cannot be learned."""
    line = _connected(address("holder", key, share))
    if line is None:
        return None, None
    with line:
        option = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, user, _ = CREDENTIALS.unpack(option)
    return pid or None, user  # the pid is 0 for one in a pid namespace that is not seen from here


def _connected(name: bytes) -> socket.socket | None:
    """A connection to who holds a share; None where it is gone or has too many already."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.setblocking(False)
    if line.connect_ex(name):
        line.close()
        return None
    return line


class Watch:
    """Connections to the holders of what is waited for: the kernel ends them when these let go."""

    def __init__(self) -> None:
        """Watch nobody yet."""
        self._lines: dict[bytes, socket.socket] = {}

    def names(self, names: Iterable[bytes]) -> None:
        """Watch these and no others."""
        wanted = set(names)
        for name in self._lines.keys() - wanted:
            self._lines.pop(name).close()
        for name in wanted - self._lines.keys():
            line = _connected(name)
            if line is not None:
                self._lines[name] = line

    def wait(self, seconds: float) -> None:
        """Return when one of them lets go, or the time is over."""
        poll = select.poll()
        for line in self._lines.values():
            poll.register(line, 0)
        ended = {descriptor for descriptor, _ in poll.poll(max(seconds, 0) * 1000)}
        for name, line in list(self._lines.items()):
            if line.fileno() in ended:
                self._lines.pop(name).close()

    def __enter__(self) -> Watch:
        """Watch for a with-block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections."""
        self.names(())
