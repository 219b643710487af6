"""SIGINT, SIGTERM and SIGHUP while a grid exists: collected, so that nothing is left half done."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Interrupts"]


class Interrupts:
    """From `hold` to the end of the with-block, signals interrupt nothing: they are remembered."""

    def __init__(self) -> None:
        """Begin; nothing is caught yet."""
        self.pressed: list[int] = []
        self._pipe: tuple[int, int] | None = None
        self._before: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> Interrupts:
        """Leave signals as they are until `hold`."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Give the signals back."""
        if self._pipe is None:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for end in self._pipe:
            os.close(end)
        self._pipe = None

    def hold(self) -> None:
        """From here on, collect; those ignored from outside (nohup) stay ignored."""
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._caught)

    @property
    def wake(self) -> list[int]:
        """What can be read as soon as a signal has come."""
        return [] if self._pipe is None else [self._pipe[0]]

    def clear(self) -> None:
        """Take away what can be read; what was pressed stays."""
        for descriptor in self.wake:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.pressed.append(number)
