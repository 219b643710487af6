"""The runner's side of the child process: start it early, feed it, stream its logs, end it, judge it."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from engram import guardian, processes
from engram.findings import Finding
from engram.outcome import Facts, Outcome, judge, last_words
from engram.sampling import GPU_FIRST_S, GpuSampler, Sampler, has_gpu
from engram.streams import Stream

START = Path(__file__).resolve().parent / "hook" / "start.py"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DRAIN_S = 2.0
"""How long output is awaited once every process of the run is gone."""
DOUBLE_PRESS_S = 0.25
"""Two SIGINT closer than this are one Ctrl-C that arrived by two ways."""

__all__ = ["Outcome", "Supervisor"]


class Supervisor:
    """One child process and the guardian above it."""

    def __init__(self, pid: int, token: str, pipes: dict[str, int], *, foreground: bool) -> None:
        """Wrap what `start` made."""
        self._guardian = pid
        self._token = token
        self._foreground = foreground
        self._control = pipes["control"]
        self._status: int | None = pipes["status"]
        self._spec = pipes["spec"]
        self._out = pipes["out"]
        self._err = pipes["err"]
        self._buffer = bytearray()
        self._facts: dict[str, Any] = {}
        self._wake, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._signals: list[int] = []
        self._over = False

    @classmethod
    def start(
        cls, *, hash_seed: int | str = 0, python: str = sys.executable, foreground: bool = False
    ) -> Supervisor:
        """Fork the guardian and start the child interpreter, which waits for `run` or `abandon`.

        Args:
            hash_seed: PYTHONHASHSEED of the child, a number or "random".
            python: the interpreter.
            foreground: leave the child in the terminal's foreground, with the terminal as its streams.

        Raises:
            OSError: no more processes or descriptors.
        """
        sys.stdout.flush()
        token = os.urandom(8).hex()
        ends = {name: os.pipe() for name in ("control", "status", "spec", "out", "err")}
        job = guardian.Job(
            argv=_argv(python, ends["spec"][0]),
            environ=_environ(hash_seed, token),
            control=ends["control"][0],
            status=ends["status"][1],
            spec=ends["spec"][0],
            out=ends["out"][1],
            err=ends["err"][1],
            foreground=foreground,
        )
        pid = os.fork()
        if pid == 0:
            guardian.serve(job)
        mine = {"control": 1, "status": 0, "spec": 1, "out": 0, "err": 0}
        for name, side in mine.items():
            os.close(ends[name][1 - side])
        return cls(
            pid, token, {n: ends[n][side] for n, side in mine.items()}, foreground=foreground
        )

    def run(
        self,
        spec: dict[str, Any],
        *,
        log_out: Path,
        log_err: Path,
        audit: Path,
        show: bool = True,
        timeout_s: float | None = None,
        grace_s: float = 10.0,
    ) -> Outcome:
        """Run the experiment and wait for its end.

        Args:
            spec: what child.py reads; paths may be Path.
            log_out: gets the raw bytes of standard output.
            log_err: gets the raw bytes of standard error.
            audit: gets the audit lines.
            show: whether to copy both streams to the runner's own.
            timeout_s: seconds until the run is ended, None for never.
            grace_s: seconds between asking the child to end and killing it.

        Raises:
            OSError: a log cannot be made.
        """
        streams = [Stream(self._out, log_out, 1 if show else None)]
        streams.append(Stream(self._err, log_err, 2 if show else None))
        session = _Session(self, streams, Path(audit), timeout_s=timeout_s, grace_s=grace_s)
        try:
            with self._signals_caught():
                self._feed({**spec, "audit": str(audit)})
                session.follow()
                return session.outcome()
        finally:
            self._end(streams)

    def interrupt(self, signum: int) -> None:
        """Act as if the runner had received a signal; for runners whose main thread is busy elsewhere."""
        self._signals.append(signum)
        os.write(self._wake_end, b"\0")

    def abandon(self) -> None:
        """End guardian and child without having run anything; silent, and harmless after `run`."""
        if not self._over:
            self._end([])
            os.close(self._out)
            os.close(self._err)

    def command(self, byte: int) -> None:
        """Tell the guardian to send a signal, or KILL_ALL; a dead guardian is noticed elsewhere."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control, bytes([byte]))

    def _feed(self, spec: dict[str, Any]) -> None:
        """Send the spec; a child that is already dead is noticed elsewhere."""
        data = memoryview(marshal.dumps(_plain(with_terminal(spec)), 2))
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._spec, data) :]
        os.close(self._spec)
        self._spec = -1

    def _end(self, streams: list[Stream]) -> None:
        """Close everything; the guardian kills what is left when the control pipe closes."""
        self._over = True
        for fd in (self._control, self._spec, self._status):
            if fd is not None and fd >= 0:
                os.close(fd)
        for stream in streams:
            stream.close()
        os.waitpid(self._guardian, 0)
        os.close(self._wake)
        os.close(self._wake_end)

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        """Collect SIGINT, SIGTERM and SIGHUP; those ignored from outside (nohup) stay ignored."""
        before: dict[int, Any] = {}
        try:
            for signum in SIGNALS:
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
                if "status" not in self._facts:
                    self._facts["lost"] = True
        return self._facts

    def rescue(self) -> None:
        """Kill the run from here: the guardian was killed, so its tree is lost."""
        child = int(self._facts.get("child", 0)) or -1
        processes.end_all(lambda: processes.marked(self._token, child))

    @property
    def watched(self) -> list[int]:
        """Descriptors that wake the loop: signals, and the guardian while it lives."""
        return [self._wake, *([] if self._status is None else [self._status])]

    @property
    def foreground(self) -> bool:
        """Whether the terminal belongs to the child."""
        return self._foreground


class _Session:
    """From the spec's departure to the verdict."""

    def __init__(
        self,
        supervisor: Supervisor,
        streams: list[Stream],
        audit: Path,
        *,
        timeout_s: float | None,
        grace_s: float,
    ) -> None:
        self.supervisor = supervisor
        self.streams = streams
        self.audit = audit
        self.grace_s = grace_s
        self.began = time.monotonic()
        self.deadline = None if timeout_s is None else self.began + timeout_s
        self.escalation: list[tuple[float, int]] = []  # (when, command), soonest first
        self.received: int | None = None
        self.last_press = 0.0
        self.timed_out = False
        self.facts: dict[str, Any] = {}
        self.sampler: Sampler | None = None
        self.next_sample = self.began + 0.1
        self.gpu: GpuSampler | None = None
        self.next_gpu: float | None = self.began + GPU_FIRST_S

    @property
    def over(self) -> bool:
        return "status" in self.facts or "lost" in self.facts

    def follow(self) -> None:
        """Serve streams, signals and clocks until the run is over and its output is saved."""
        while not self.over:
            self._turn(self._patience_s())
            self._clocks()
        if "lost" in self.facts:
            self.supervisor.rescue()
        end = time.monotonic() + DRAIN_S
        while any(s.source is not None for s in self.streams) and time.monotonic() < end:
            self._turn(0.1, urgent=True)
        for stream in self.streams:
            stream.hang_up()
        while any(stream.busy for stream in self.streams):
            self._turn(1.0)
            if self.last_press > self.facts.get("ended", self.began):
                break  # Ctrl-C while a slow terminal still shows what is already in the log

    def _turn(self, timeout_s: float | None, *, urgent: bool = False) -> None:
        poll = select.poll()
        for fd in self.supervisor.watched:
            poll.register(fd, select.POLLIN)
        for stream in self.streams:
            stream.watch(poll, urgent=urgent)
        ready = dict(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))
        for stream in self.streams:
            stream.advance(ready)
        if any(fd in ready for fd in self.supervisor.watched[1:]):
            self.facts = self.supervisor.take_status()
        for signum in self.supervisor.take_signals():
            self._signal(signum)

    def _patience_s(self) -> float | None:
        times = [self.next_sample, *(when for when, _ in self.escalation)]
        times += [t for t in (self.deadline, self.next_gpu) if t is not None]
        return min(times) - time.monotonic()

    def _clocks(self) -> None:
        now = time.monotonic()
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self.timed_out = self.timed_out or self.received is None
            self._ask(signal.SIGTERM)
        while self.escalation and now >= self.escalation[0][0]:
            self.supervisor.command(self.escalation.pop(0)[1])
        if now >= self.next_sample and not self.over:
            self._sample(now)

    def _sample(self, now: float) -> None:
        child = self.facts.get("child")
        if child is not None:
            self.sampler = self.sampler or Sampler(child, self.audit)
            self.sampler.sample()
        self.next_sample = now + (self.sampler.interval_s if self.sampler else 0.1)
        if child is not None and self.next_gpu is not None and now >= self.next_gpu:
            self.next_gpu = None
            self.gpu = GpuSampler(child) if has_gpu() else None

    def _signal(self, signum: int) -> None:
        now = time.monotonic()
        again = signum == signal.SIGINT and now - self.last_press > DOUBLE_PRESS_S
        if signum == signal.SIGINT:
            self.last_press = now
        if self.over or (signum == signal.SIGINT and self.supervisor.foreground):
            return
        if self.received is None:
            self.received = None if self.timed_out else signum
            self._ask(signum)
        elif again:
            self.supervisor.command(guardian.KILL_ALL)

    def _ask(self, signum: int) -> None:
        """Ask the child to end, and see to it that it does."""
        self.supervisor.command(signal.SIGTERM if signum == signal.SIGHUP else signum)
        last = time.monotonic() + self.grace_s
        steps = []
        if signum == signal.SIGINT:
            steps.append((last, int(signal.SIGTERM)))
            last += min(self.grace_s, 3.0)
        self.escalation = [*steps, (last, guardian.KILL_ALL)]

    def outcome(self) -> Outcome:
        """Put together what is known."""
        facts = self.facts
        ending = last_words(self.audit, int(facts.get("child", 0)))
        received = self.received
        known = Facts(facts.get("status"), ending, received, self.timed_out, bool(facts.get("oom")))
        state, ended = judge(known)
        problems = [stream.problem for stream in self.streams if stream.problem]
        return Outcome(
            state=state,
            exit=ended,
            signal_received=received,
            summary=ending.get("summary") if ending else None,
            usage=self._usage(ending or {}),
            strays=list(facts.get("strays", [])),
            findings=[Finding("log_incomplete", problem) for problem in problems],
        )

    def _usage(self, ending: dict[str, Any]) -> dict[str, Any]:
        facts = self.facts
        peak_kib = facts.get("max_rss_kib")
        if peak_kib is not None and peak_kib <= facts.get("floor_kib", 0) * 1.1:
            peak_kib = ending.get("peak_rss_kib") or peak_kib  # the fork of the runner hides it
        gpu = [self.gpu.stop() if self.gpu else None, ending.get("gpu_memory_bytes")]
        return {
            "wall_s": facts.get("ended", time.monotonic()) - self.began,
            "cpu_user_s": facts.get("cpu_user_s"),
            "cpu_system_s": facts.get("cpu_system_s"),
            "max_rss_bytes": None if peak_kib is None else peak_kib * 1024,
            "gpu_memory_bytes": max((n for n in gpu if n is not None), default=None),
        }


def with_terminal(spec: dict[str, Any]) -> dict[str, Any]:
    """Tell the child how wide the runner's terminal is, when its stderr is one."""
    try:
        columns = os.get_terminal_size(2).columns
    except OSError:
        return spec
    return {**spec, "environ": {**spec.get("environ", {}), "ENGRAM_TERMINAL": str(columns)}}


def _argv(python: str, spec: int) -> list[str]:
    options = ["-s"] if sys.flags.no_user_site else []
    return [python, *options, str(START), str(spec)]


def _environ(hash_seed: int | str, token: str) -> dict[str, str]:
    """Return the environment at exec: the shell's, without what would change the interpreter."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**environ, "PYTHONHASHSEED": str(hash_seed), processes.MARK: token}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Reduce to what marshal carries: paths and dates become text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    plain = value is None or type(value) in (bool, int, float, str)
    return value if plain else str(value)
