"""The runner's side of a run's processes: start, feed, end and judge them, stream their logs."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from engram import guardian, processes
from engram.outcome import Outcome
from engram.paths import of_rank
from engram.spawn import Spawned, spawn
from engram.streams import Stream
from engram.watch import Watch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

__all__ = ["Outcome", "Supervisor"]


class Supervisor:
    """The child processes of a run, one a rank, and the guardian above them."""

    def __init__(self, spawned: Spawned) -> None:
        """Take over what `spawn` started."""
        self._guardian = spawned.guardian
        self._token = spawned.token
        self._foreground = spawned.foreground
        self._control = spawned.control
        self._status: int | None = spawned.status
        self._ranks = spawned.ranks
        self._unfed = [ends.spec for ends in spawned.ranks]
        self._buffer = bytearray()
        self._facts: dict[str, Any] = {}
        self._wake, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._signals: list[int] = []
        self._over = False

    @classmethod
    def start(
        cls,
        *,
        hash_seed: int | str = 0,
        python: str = sys.executable,
        foreground: bool = False,
        processes: int = 1,
    ) -> Supervisor:
        """Start guardian and children now, see `engram.spawn.spawn`.

        Raises:
            OSError: no more processes or descriptors.
        """
        return cls(
            spawn(hash_seed=hash_seed, python=python, foreground=foreground, processes=processes)
        )

    def run(
        self,
        spec: dict[str, Any],
        *,
        log_out: Path,
        log_err: Path,
        audit: Path,
        environs: Sequence[Mapping[str, str | None]] = ({},),
        show: bool = True,
        timeout_s: float | None = None,
        grace_s: float = 10.0,
        meanwhile: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Run the experiment and wait for its end.

        Args:
            spec: what child.py reads; paths may be Path.
            log_out: gets the raw bytes of rank 0's standard output; see `paths.of_rank` for others.
            log_err: gets the raw bytes of its standard error.
            audit: gets the audit lines.
            environs: what each rank's environment holds beyond the spec's.
            show: whether to copy both streams of rank 0 to the runner's own.
            timeout_s: seconds until the run is ended, None for never.
            grace_s: seconds between asking the children to end and killing them.
            meanwhile: called while they run, until it returns True; it must be quick.

        Raises:
            OSError: a log cannot be made.
        """
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a terminal that is gone
            sys.stdout.flush()
        streams = []
        for rank, ends in enumerate(self._ranks):
            shown = show and rank == 0
            streams.append(Stream(ends.out, of_rank(log_out, rank), 1 if shown else None))
            streams.append(Stream(ends.err, of_rank(log_err, rank), 2 if shown else None))
        watch = Watch(self, streams, Path(audit), timeout_s=timeout_s, grace_s=grace_s)
        watch.meanwhile = meanwhile
        try:
            with self._signals_caught():
                self._feed(with_terminal({**spec, "audit": str(audit)}), environs)
                # Should the guardian be killed, its orphans come to us instead of to init.
                guardian.prctl(guardian.PR_SET_CHILD_SUBREAPER, 1)
                watch.follow()
                return watch.outcome()
        finally:
            self._end(streams)

    def interrupt(self, signum: int) -> None:
        """Act as if the runner had received a signal; for other threads, and signal handlers."""
        if not self._over:
            self._signals.append(signum)
            os.write(self._wake_end, b"\0")

    def abandon(self) -> None:
        """End guardian and children without having run anything; silent, harmless after `run`."""
        if not self._over:
            self._end([])
            for ends in self._ranks:
                os.close(ends.out)
                os.close(ends.err)

    def command(self, byte: int) -> None:
        """Tell the guardian to send a signal, or KILL_ALL; a dead guardian is noticed elsewhere."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control, bytes([byte]))

    def _feed(self, spec: dict[str, Any], environs: Sequence[Mapping[str, str | None]]) -> None:
        """Send each rank its spec; a child that is already dead is noticed elsewhere."""
        for ends, environ in zip(self._ranks, environs, strict=True):
            told = {**spec, "environ": {**spec.get("environ", {}), **environ}}
            data = memoryview(marshal.dumps(_plain(told), 2))
            with contextlib.suppress(BrokenPipeError):
                while data:
                    data = data[os.write(ends.spec, data) :]
            self._unfed.remove(ends.spec)
            os.close(ends.spec)

    def _end(self, streams: list[Stream]) -> None:
        """Close everything; the guardian kills what is left when the control pipe closes."""
        self._over = True
        for fd in (self._control, *self._unfed):
            os.close(fd)
        for stream in streams:
            stream.close()
        if self._guardian is not None:
            os.waitpid(self._guardian, 0)
        elif self._status is not None and "strays" not in self._facts:
            while os.read(self._status, 1 << 16):  # until it has ended what it still has
                pass
        if self._status is not None:
            os.close(self._status)
        os.close(self._wake)
        os.close(self._wake_end)

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        """Collect SIGINT, SIGTERM and SIGHUP; those ignored from outside (nohup) stay ignored."""
        before: dict[int, Any] = {}
        try:
            for signum in map(int, SIGNALS):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    before[signum] = signal.signal(signum, self._caught)
            wakeup = signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        except ValueError:  # not in the main thread: whoever runs there calls `interrupt`
            yield
            return
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _caught(self, signum: int, frame: FrameType | None) -> None:
        self._signals.append(signum)

    def take_signals(self) -> list[int]:
        """Return the signals that came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        taken, self._signals = self._signals, []
        return taken

    def take_status(self) -> dict[str, Any]:
        """Read what the guardian said; everything it ever said is returned.

        The key `lost` tells that it was killed.
        """
        if self._status is not None:
            data = os.read(self._status, 1 << 16)
            self._buffer += data
            for message in guardian.unframe(self._buffer):
                self._facts.update(message)
            if not data:
                os.close(self._status)
                self._status = None
                if "strays" not in self._facts:
                    self._facts["lost"] = True
        return self._facts

    def rescue(self) -> None:
        """Kill the run from here: the guardian was killed, so its tree is lost."""
        children = self._facts.get("children", [])
        processes.end_all(
            lambda: processes.marked(self._token, *children) + processes.descendants(os.getpid())
        )

    @property
    def token(self) -> str:
        """What every process of the run carries in its environment."""
        return self._token

    @property
    def watched(self) -> list[int]:
        """Descriptors that wake the loop: signals, and the guardian while it lives."""
        return [self._wake, *([] if self._status is None else [self._status])]

    @property
    def guardian(self) -> int:
        """The pid of the guardian, above all processes of the run."""
        return int(self._guardian or self._facts["guardian"])

    @property
    def foreground(self) -> bool:
        """Whether the terminal belongs to the child."""
        return self._foreground


def with_terminal(spec: dict[str, Any]) -> dict[str, Any]:
    """Tell the child how wide the runner's terminal is, when its stderr is one."""
    try:
        columns = os.get_terminal_size(2).columns
    except OSError:
        return spec
    return {**spec, "environ": {**spec.get("environ", {}), "ENGRAM_TERMINAL": str(columns)}}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Reduce to what marshal carries: paths and dates become text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    plain = value is None or type(value) in (bool, int, float, str)
    return value if plain else str(value)
