"""What chooses points while others run lives in a process of its own, behind one door.

dispatcher --fork--> proposer

What it imports, starts and breaks ends with that process: the dispatcher, which forks, stays small
and free of threads. It asks one thing at a time, so that neither ever waits for the other's pipe.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from engram import guardian
from engram.errors import RunnerError
from engram.grid import forked
from engram.record import NON_FINITE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Answer", "Door", "Over", "Proposer", "Prune", "finite_or_not"]

MOST_TRACEBACK = 20_000  # characters
PATIENCE_S = 2.0
"""How long a process may take to end by itself."""


def finite_or_not(summary: dict[str, Any] | None) -> dict[str, Any]:
    """A summary with the floats behind the names that a record gives to NaN and infinities."""
    return {
        key: NON_FINITE.get(value, value) if isinstance(value, str) else value
        for key, value in (summary or {}).items()
    }


class Over(NamedTuple):
    """A point that is over for good."""

    number: int  # of the point, from 0
    run_id: str | None
    state: str
    pruned: bool
    summary: dict[str, Any] | None
    seed: int | None
    run_s: float | None


class Prune(NamedTuple):
    """A point that is to be ended early."""

    number: int
    why: str


class Answer(NamedTuple):
    """What came of a question."""

    point: int | None = None  # the number of a new point, in the file
    waits: bool = False  # there is none before another point is over
    ended: bool = False  # there will be none anymore
    prune: Sequence[Prune] = ()
    notes: Sequence[str] = ()
    problem: str | None = None  # why nothing can be asked anymore


class Proposer(Protocol):
    """Chooses points; it appends them to the file of points itself."""

    def take(self, over: Sequence[Over]) -> list[str]:
        """Learn what came of points; what people should know about that."""

    def look(self, running: dict[int, str]) -> list[Prune]:
        """Look at the metrics of points that run, by number and run id; which ones to end."""

    def propose(self) -> Answer:
        """Choose a point.

        Raises:
            RunnerError: there is none, for a reason that ends the search.
        """


class Door:
    """The way to the process of a proposer."""

    def __init__(self, make: Callable[[], Proposer]) -> None:
        """Fork it.

        Args:
            make: called there; what it raises is the answer to the first question.

        Raises:
            OSError: no more processes or descriptors.
        """
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a terminal that is gone
            sys.stdout.flush()
            sys.stderr.flush()
        questions, answers = os.pipe(), os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _serve(make, questions[0], answers[1], parent)
        os.close(questions[0])
        os.close(answers[1])
        self._questions, self.descriptor = questions[1], answers[0]
        self._buffer = bytearray()
        self.busy = False  # an answer is awaited

    def ask(
        self, *, point: bool, over: Sequence[Over] = (), running: dict[int, str] | None = None
    ) -> None:
        """Put a question; only when the last one is answered.

        Args:
            point: whether a new one is wanted.
            over: what came of others since the last question.
            running: those to look at, by number and run id.
        """
        self.busy = True
        data = memoryview(
            guardian.frame(
                {"point": point, "over": [tuple(item) for item in over], "running": running or {}}
            )
        )
        with contextlib.suppress(BrokenPipeError):  # the end of its answers says so
            while data:
                data = data[os.write(self._questions, data) :]

    def hear(self) -> Answer | None:
        """Read what there is to read; None while the answer is not whole."""
        data = os.read(self.descriptor, 1 << 16)
        if not data:
            self.busy = False
            return Answer(problem=self._epitaph())
        self._buffer += data
        for message in guardian.unframe(self._buffer):
            self.busy = False
            prune = [Prune(*item) for item in message.pop("prune", ())]
            return Answer(**message, prune=prune)
        return None

    def close(self) -> None:
        """End the process: at once where it is busy."""
        for descriptor in (self._questions, self.descriptor):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if self.pid:
            self._wait(0.0 if self.busy else PATIENCE_S)

    def _wait(self, patience_s: float) -> int:
        """Wait for the end of the process; its wait status."""
        pid, self.pid = self.pid, 0
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]

    def _epitaph(self) -> str:
        how = forked.how_ended(self._wait(PATIENCE_S))
        return f"the process that chooses points ended {how}; what it printed last may say why"


def _serve(make: Callable[[], Proposer], questions: int, answers: int, parent: int) -> NoReturn:
    """Be the process of a proposer, to its end."""
    me, code = os.getpid(), 1
    try:
        os.setsid()  # a Ctrl-C in the terminal is for the dispatcher
        forked.settle(parent, questions, answers)
        _answer_all(make, questions, answers)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if os.getpid() == me:  # a process that somebody's code forked may fall through to here
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
        os._exit(code)


def _answer_all(make: Callable[[], Proposer], questions: int, answers: int) -> None:
    """Answer until nobody asks anymore."""
    proposer: Proposer | None = None
    buffer = bytearray()
    while data := os.read(questions, 1 << 16):
        buffer += data
        for message in guardian.unframe(buffer):
            try:
                proposer = proposer or make()
                answer = _answer(proposer, message)
            except RunnerError as error:
                answer = Answer(problem=str(error))
            except BaseException:
                import traceback

                text = traceback.format_exc()[-MOST_TRACEBACK:]
                answer = Answer(problem=f"the search broke:\n{text}")
            told = {**answer._asdict(), "prune": [tuple(item) for item in answer.prune]}
            view = memoryview(guardian.frame({**told, "notes": list(answer.notes)}))
            while view:
                view = view[os.write(answers, view) :]


def _answer(proposer: Proposer, message: dict[str, Any]) -> Answer:
    """Pass a question on."""
    notes = proposer.take([Over(*item) for item in message["over"]])
    prune = proposer.look(message["running"]) if message["running"] else []
    try:
        answer = proposer.propose() if message["point"] else Answer()
    except RunnerError as error:
        answer = Answer(problem=str(error))
    return answer._replace(prune=[*prune, *answer.prune], notes=[*notes, *answer.notes])
