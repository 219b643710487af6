"""Show the logs of a run that writes them on another machine."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from engram.paths import RunPaths

__all__ = ["Follower"]

BLOCK = 1 << 20


class Follower:
    """Passes on what is new in log.out and log.err, as raw bytes."""

    def __init__(self, run: RunPaths) -> None:
        """Begin at the beginning."""
        self.logs = {1: run.log_out, 2: run.log_err}
        self.shown = {1: 0, 2: 0}

    def show(self, *, last: bool = False) -> bool:
        """Write what is new to our own output.

        Args:
            last: whether to go on to the end of the logs, however much that is.

        Returns:
            Whether there was anything.
        """
        news = False
        for number, path in self.logs.items():
            while data := self._new(number, path):
                news = True
                self.shown[number] += len(data)
                write(number, data)
                if not last:
                    break
        return news

    def _new(self, number: int, path: Path) -> bytes:
        try:
            with path.open("rb") as stream:
                stream.seek(self.shown[number])
                return stream.read(BLOCK)
        except OSError:
            return b""


def write(number: int, data: bytes) -> None:
    """Write all of it; whoever read it may have gone, and the run goes on."""
    with contextlib.suppress(OSError, ValueError):
        (sys.stdout if number == 1 else sys.stderr).flush()
        view = memoryview(data)
        while view:
            view = view[os.write(number, view) :]
