"""A TCP port of this machine that nobody uses, and that no other run is given meanwhile.

The ranks of a run bind it only when they have imported torch, seconds after it was chosen. So it
comes from outside the range from which the kernel serves connections and servers that name no
port, at random, and a socket with its number in its name keeps other runs on this machine off it.
The kernel frees that name when the runner ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from typing import TYPE_CHECKING

from engram.errors import EnvironmentMissingError
from engram.processes import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

LOWEST, HIGHEST = 20_000, 29_999
TRIES = 1000
ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # a machine without IPv6

__all__ = ["claimed"]


@contextlib.contextmanager
def claimed() -> Iterator[int]:
    """Choose a port and keep other runs off it while the context lasts.

    Raises:
        EnvironmentMissingError: none is free.
    """
    for port in candidates():
        with _name(port) as name:
            if name is not None and is_free(port):
                yield port
                return
    msg = f"no free TCP port found between {LOWEST} and {HIGHEST}: see `ss -ltn`"
    raise EnvironmentMissingError(msg)


def candidates() -> list[int]:
    """Ports to try, in random order: those that the kernel gives to nobody by itself, if any."""
    ports = range(LOWEST, HIGHEST + 1)
    given = read_bytes("/proc/sys/net/ipv4/ip_local_port_range").split()
    first, last = map(int, given) if len(given) == 2 else (1, 0)  # noqa: PLR2004
    quiet = [port for port in ports if not first <= port <= last]
    # Not the global generator: two runs at once must not be led to the same ports by one seed.
    return random.SystemRandom().sample(quiet or ports, min(TRIES, len(quiet or ports)))


@contextlib.contextmanager
def _name(port: int) -> Iterator[socket.socket | None]:
    """Hold the name that stands for a port, or nothing when another run holds it."""
    with socket.socket(socket.AF_UNIX) as holder:
        try:
            holder.bind(f"\0engram-port-{port}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            yield None
        else:
            yield holder


def is_free(port: int) -> bool:
    """Whether a server could listen there, on every address."""
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
        try:
            with socket.socket(family) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((anywhere, port))
        except OSError as error:
            if error.errno not in ABSENT:
                return False
    return True
