"""One run under the runner's eyes, from the departure of the spec to the verdict."""

from __future__ import annotations

import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engram import guardian
from engram.findings import Finding
from engram.outcome import Outcome, RankEnd, judge_ranks, last_words
from engram.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from engram.sampling import GpuSampler, Sampler

FIRST_SAMPLE_S = 0.1
GPU_FIRST_S = 1.0
DRAIN_S = 2.0
"""How long output is awaited once every process of the run is gone."""
DOUBLE_PRESS_S = 0.25
"""Two SIGINT closer than this are one Ctrl-C that arrived by two ways."""
GROUP_PATIENCE_S = 0.5
"""How long the other ranks have to notice themselves, and to say so, that one has failed."""
GROUP_GRACE_S = 5.0


class Line(Protocol):
    """What `Watch` needs of the supervisor: its line to the guardian and to the signals."""

    @property
    def foreground(self) -> bool:
        """Whether the terminal belongs to the child."""

    @property
    def guardian(self) -> int:
        """The pid of the guardian, above all processes of the run."""

    @property
    def watched(self) -> list[int]:
        """Descriptors to poll: signals first, then the guardian while it lives."""

    def command(self, byte: int) -> None:
        """Have the guardian send a signal, or KILL_ALL."""

    def take_signals(self) -> list[int]:
        """Return the signals that came since the last call."""

    def take_status(self) -> dict[str, Any]:
        """Return everything the guardian has said."""

    def rescue(self) -> None:
        """Kill the run without its guardian."""


class Watch:
    """Serves the streams, signals and clocks of one run."""

    def __init__(
        self,
        supervisor: Line,
        streams: list[Stream],
        audit: Path,
        *,
        timeout_s: float | None,
        grace_s: float,
    ) -> None:
        """Start the clocks; see `Supervisor.run` for the arguments."""
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
        self.group_asked: float | None = None  # when ranks were asked to end since one failed
        self.facts: dict[str, Any] = {}
        self.sampler: Sampler | None = None
        self.next_sample = self.began + FIRST_SAMPLE_S
        self.gpu: GpuSampler | None = None
        self.next_gpu: float | None = self.began + GPU_FIRST_S
        self.meanwhile: Callable[[], bool] | None = None  # work for idle moments, until True

    @property
    def over(self) -> bool:
        """Whether all ranks are gone, or the guardian that could have told."""
        return "strays" in self.facts or "lost" in self.facts

    def follow(self) -> None:
        """Serve streams, signals and clocks until the run is over and its output is saved."""
        self._use_time()
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
            if self.last_press > self._ended():
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
            self._end_group()
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
            first = self.received is None and self.group_asked is None
            self.timed_out = self.timed_out or first
            self._ask(signal.SIGTERM)
        while self.escalation and now >= self.escalation[0][0]:
            self.supervisor.command(self.escalation.pop(0)[1])
        if now >= self.next_sample and not self.over:
            self._sample(now)

    def _use_time(self) -> None:
        if self.meanwhile is not None and self.meanwhile():
            self.meanwhile = None

    def _sample(self, now: float) -> None:
        self._use_time()
        from engram import sampling  # a short run needs none of what this imports

        known = "children" in self.facts
        if known:
            self.sampler = self.sampler or sampling.Sampler(self.supervisor.guardian, self.audit)
            self.sampler.sample()
        self.next_sample = now + (self.sampler.interval_s if self.sampler else FIRST_SAMPLE_S)
        if known and self.next_gpu is not None and now >= self.next_gpu:
            self.next_gpu = None
            root = self.supervisor.guardian
            self.gpu = sampling.GpuSampler(root) if sampling.has_gpu() else None

    def _signal(self, signum: int) -> None:
        """Ask the child to end; a second Ctrl-C ends everything at once."""
        pressed = signum == signal.SIGINT
        if self.over:
            self.last_press = time.monotonic() if pressed else self.last_press
        elif pressed and self.supervisor.foreground:
            return  # the child got it from the terminal too, and its debugger wants it
        elif not self.escalation:
            self.received = None if self.timed_out else signum
            self.last_press = time.monotonic()
            self._ask(signum)
        elif pressed and time.monotonic() - self.last_press > DOUBLE_PRESS_S:
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

    def _end_group(self) -> None:
        """When a rank has failed, have the others end too: they might wait for it forever."""
        if self.over or self.escalation or self.group_asked is not None:
            return
        if not any(end.failed for end in self._ends()):
            return
        self.group_asked = time.monotonic() + GROUP_PATIENCE_S
        last = self.group_asked + min(self.grace_s, GROUP_GRACE_S)
        self.escalation = [
            (self.group_asked, int(signal.SIGTERM)),
            (last, guardian.KILL_ALL),
        ]

    def _ends(self) -> list[RankEnd]:
        """The ranks that have ended, and how; all of them when the run is over."""
        ends, found = self.facts.get("ends", {}), []
        for rank, pid in enumerate(self.facts.get("children", [0])):
            if rank in ends or self.over:
                status, when, oom = ends.get(rank, (None, time.monotonic(), False))
                found.append(RankEnd(rank, status, when, last_words(self.audit, pid), oom))
        return found

    def _ended(self) -> float:
        """When the last rank ended; the run's beginning while none has."""
        return max((when for _, when, _ in self.facts.get("ends", {}).values()), default=self.began)

    def outcome(self) -> Outcome:
        """Put together what is known."""
        ends, received = self._ends(), self.received
        state, ended = judge_ranks(
            ends, received=received, timed_out=self.timed_out, asked=self.group_asked
        )
        said = ends[0].ending or {}
        problems = [stream.problem for stream in self.streams if stream.problem]
        problems += [
            f"{stream.path.name} was changed by the script"
            for stream in self.streams
            if not stream.problem and not stream.is_ours()
        ]
        return Outcome(
            state=state,
            exit=ended,
            signal_received=received,
            summary=said.get("summary"),
            usage=self._usage([end.ending or {} for end in ends]),
            strays=list(self.facts.get("strays", [])),
            findings=[Finding("log_incomplete", problem) for problem in problems],
            returned=said["at"] if said.get("how") == "returned" else None,
        )

    def _usage(self, endings: list[dict[str, Any]]) -> dict[str, Any]:
        """What the run took: the times of all processes together, the memory of the largest."""
        facts = self.facts
        peak_kib = facts.get("max_rss_kib")
        if peak_kib is not None and peak_kib <= facts.get("floor_kib", 0) * 1.1:
            said = [kib for ending in endings if (kib := ending.get("peak_rss_kib"))]
            peak_kib = max(said, default=peak_kib)  # the fork of the runner hides it
        told = [n for ending in endings if (n := ending.get("gpu_memory_bytes")) is not None]
        gpu = [self.gpu.stop() if self.gpu else None, sum(told) if told else None]
        return {
            "wall_s": (self._ended() if self.facts.get("ends") else time.monotonic()) - self.began,
            "cpu_user_s": facts.get("cpu_user_s"),
            "cpu_system_s": facts.get("cpu_system_s"),
            "max_rss_bytes": None if peak_kib is None else peak_kib * 1024,
            "gpu_memory_bytes": max((n for n in gpu if n is not None), default=None),
        }
