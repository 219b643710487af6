"""The process that speaks to Ray, as the dispatcher sees it.

dispatcher --fork--> driver - - Ray - -> worker on a node --exec--> runner

Ray's client library prints as it likes, starts threads, and ends its process when the cluster is
lost: none of that is to happen to the dispatcher.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, NoReturn

from engram import guardian
from engram.grid.ray_driver import Driver, Ends
from engram.grid.ray_settings import address_of
from engram.grid.slot import settle

if TYPE_CHECKING:
    from pathlib import Path

    from engram.settings import EngineConfig

__all__ = ["Link"]

CLOSE_S = 60.0  # until a driver is killed that does not end
SHORT = 40  # characters of a folder that Ray may put its sockets into


class Link:
    """The dispatcher's side of a driver."""

    def __init__(self, config: EngineConfig, folder: Path, log: Path) -> None:
        """Start a driver.

        Args:
            config: the table [engine].
            folder: that all nodes must see.
            log: what Ray has to say.
        """
        self.log = log
        self.buffer = bytearray()
        self.connected = False
        self.ended = False
        self.ends = fork(config, folder, log)

    def tell(self, **order: Any) -> None:  # noqa: ANN401 - plain values
        """Send an order; a driver that is gone is noticed by the end of its news."""
        data = memoryview(guardian.frame(order))
        while data and not self.ended:
            # It may be about to say something itself, and wait for us to read.
            news = select.select([self.ends.news], [self.ends.orders], [])[0]
            if news:
                self._read()
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                data = data[os.write(self.ends.orders, data) :]

    def hear(self, timeout_s: float, *wake: int) -> list[dict[str, Any]]:
        """Return what the driver had to say.

        Args:
            timeout_s: how long to wait for it.
            wake: descriptors that end the wait when they can be read.
        """
        poll = select.poll()
        for descriptor in wake:
            poll.register(descriptor, select.POLLIN)
        if not self.ended:
            poll.register(self.ends.news, select.POLLIN)
        ready = poll.poll(0 if self.buffer else max(0.0, timeout_s) * 1000)
        if not self.ended and any(descriptor == self.ends.news for descriptor, _ in ready):
            self._read()
        found = guardian.unframe(self.buffer)
        self.connected = self.connected or any("ready" in message for message in found)
        return found

    def _read(self) -> None:
        data = os.read(self.ends.news, 1 << 16)
        self.ended = not data
        self.buffer += data

    def close(self) -> None:
        """Let go of Ray; what runs yet is ended."""
        os.close(self.ends.orders)
        end = time.monotonic() + (CLOSE_S if self.connected else 0.0)
        while not self.ended and time.monotonic() < end:
            self.hear(end - time.monotonic())
        for end_it in (os.kill, os.killpg):  # it may be so young that it has no group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end_it(self.ends.pid, signal.SIGKILL)
        os.close(self.ends.news)
        os.waitpid(self.ends.pid, 0)
        if self.ends.scratch is not None:
            shutil.rmtree(self.ends.scratch, ignore_errors=True)

    def last_words(self) -> str:
        """What the log says last."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if lines:
                return lines[-1][:300]
        return "without a word"


def fork(config: EngineConfig, folder: Path, log: Path) -> Ends:
    """Start a driver's process."""
    scratch = new_scratch() if address_of(config) is None else None
    orders, news = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        serve(config, folder, log, Ends(0, orders[0], news[1], scratch))
    os.close(orders[0])
    os.close(news[1])
    os.set_blocking(orders[1], False)
    return Ends(pid, orders[1], news[0], scratch)


def new_scratch() -> str:
    """A folder for Ray's sockets, whose paths may not be long."""
    place = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="engram-ray-", dir=place if len(place) <= SHORT else "/tmp")


def serve(config: EngineConfig, folder: Path, log: Path, ends: Ends) -> NoReturn:
    """Be a driver, to its end."""
    code = 1
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        settle(log, keep={ends.orders, ends.news})
        Driver(config, folder, ends).work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if ends.scratch is not None:
            shutil.rmtree(ends.scratch, ignore_errors=True)
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
