"""The child's output: raw bytes to the log files, then to the terminal, in bounded memory."""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path

CHUNK = 1 << 16
TERMINAL_CHUNK = 4096
"""As much as a terminal or pipe that polls as writable takes without blocking (PIPE_BUF)."""


class Stream:
    """One of the two output streams of the child."""

    def __init__(self, source: int, log: Path, terminal: int | None) -> None:
        """Open the log.

        Args:
            source: read end of the child's pipe; owned from here on.
            log: the file that gets every byte.
            terminal: descriptor that shows them, or None; not owned.

        Raises:
            OSError: the log cannot be made.
        """
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.source: int | None = source
        self.path = log
        self.terminal = terminal if terminal is not None and _is_open(terminal) else None
        self.patient = self.terminal is not None and not _is_file(self.terminal)
        self.pending = memoryview(b"")
        self.saved = 0  # bytes
        self.problem: str | None = None

    @property
    def busy(self) -> bool:
        """Whether the terminal has not taken everything yet; until then nothing more is read."""
        return bool(self.pending)

    def watch(self, poll: select.poll, *, urgent: bool = False) -> None:
        """Register what is waited for; `urgent` reads on although the terminal is behind."""
        if self.busy and self.terminal is not None:
            poll.register(self.terminal, select.POLLOUT)
        if self.source is not None and (urgent or not self.busy):
            poll.register(self.source, select.POLLIN)

    def advance(self, ready: dict[int, int]) -> None:
        """Move bytes along, as far as `ready` (descriptor to poll events) allows."""
        if self.busy and self.terminal in ready:
            self.show()
        if self.source is not None and self.source in ready:
            self._read(self.source)

    def _read(self, source: int) -> None:
        data = os.read(source, CHUNK)
        if not data:
            self.hang_up()
            return
        self._save(data)
        if self.terminal is not None:
            self.pending = memoryview(bytes(self.pending) + data)
            if not self.patient:
                self.show()

    def _save(self, data: bytes) -> None:
        """Write to the log; a full disk must not end the run, but it must be told."""
        if self.problem is not None:
            return
        try:
            rest = memoryview(data)
            while rest:
                written = os.write(self.log, rest)
                self.saved += written
                rest = rest[written:]
        except OSError as error:
            self.problem = f"{self.path.name} ends early: {error.strerror}"

    def is_ours(self) -> bool:
        """Whether the log holds what was saved, and not what somebody else made of it."""
        try:
            return os.fstat(self.log).st_size == self.saved
        except OSError:
            return False

    def show(self) -> None:
        """Give the terminal its next piece; when it is gone the run goes on without it."""
        piece = self.pending[:TERMINAL_CHUNK] if self.patient else self.pending
        try:
            written = os.write(self.terminal if self.terminal is not None else -1, piece)
        except BlockingIOError:
            return
        except OSError:
            self.terminal, self.pending = None, memoryview(b"")
            return
        self.pending = self.pending[written:]

    def hang_up(self) -> None:
        """Stop reading: the child's end is closed, or nobody waits for it any longer."""
        if self.source is not None:
            os.close(self.source)
            self.source = None

    def close(self) -> None:
        """Close the log too."""
        self.hang_up()
        os.close(self.log)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)
