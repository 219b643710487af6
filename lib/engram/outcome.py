"""How a run ended: the exit truth table, and which of several ranks decides."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.findings import Finding

COMPLETED = "completed"
FAILED = "failed"
INTERRUPTED = "interrupted"
KILLED = "killed"
TIMED_OUT = "timed_out"
UNSEEN_S = 0.5
"""How much later than its partners' errors the end of a process may be noticed."""


class Outcome(NamedTuple):
    """What the supervisor knows about a run that is over."""

    state: str
    """completed, failed, interrupted, killed or timed_out."""
    exit: dict[str, Any]
    """code, signal, cause and exception, as the record holds them."""
    signal_received: int | None
    """The first signal the runner was sent, None for none."""
    summary: dict[str, Any] | None
    """The flat dict that main returned."""
    usage: dict[str, Any]
    """wall_s, cpu_user_s, cpu_system_s, max_rss_bytes, gpu_memory_bytes."""
    strays: list[str]
    """Processes that the child left behind and that had to be ended."""
    findings: Sequence[Finding] = ()
    """What supervising itself found; the audit's findings come from audit_digest."""
    returned: float | None = None
    """When main returned (monotonic); None when it did not."""


class RankEnd(NamedTuple):
    """How one rank ended; a run of a single process has one."""

    rank: int
    status: int | None  # as wait(2) gives it; None when the guardian was killed
    when: float  # monotonic, of the process's end
    ending: dict[str, Any] | None  # its last words
    out_of_memory: bool

    @property
    def failed(self) -> bool:
        """Whether anything but the completion of main ended it."""
        return _verdict(self.facts)[0] != COMPLETED

    @property
    def facts(self) -> Facts:
        """What is known of it, when nobody told the run to end."""
        return Facts(self.status, self.ending, None, False, self.out_of_memory)


class Facts(NamedTuple):
    """What is known when the child is gone."""

    status: int | None  # as wait(2) gives it; None when the guardian was killed
    ending: dict[str, Any] | None  # the last words of the child
    received: int | None  # signal sent to the runner
    timed_out: bool
    out_of_memory: bool


def judge(facts: Facts) -> tuple[str, dict[str, Any]]:
    """Name the state of a run and why.

    The order matters: what the runner was told comes first, since a script may turn a signal into
    any exit code; then how the process ended; then what main said.

    Returns:
        The state, and the record's `exit`.
    """
    state, cause = _verdict(facts)
    status = facts.status
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    return state, {
        "code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        "signal": signal_name(number) if number is not None else None,
        "cause": cause,
        "exception": _exception(facts.ending),
    }


def judge_ranks(
    ends: Sequence[RankEnd], *, received: int | None, timed_out: bool, asked: float | None
) -> tuple[str, dict[str, Any]]:
    """Name the state of a run of one or several ranks and why: the rank that failed first decides.

    Args:
        ends: of every rank, in order.
        received: signal sent to the runner.
        timed_out: whether the timeout ended the run.
        asked: when (monotonic) the other ranks were asked to end because one had failed.

    Returns:
        The state, and the record's `exit`; of several ranks it names the decisive one.
    """
    if timed_out or received is not None:
        return judge(ends[0].facts._replace(received=received, timed_out=timed_out))
    end = _decisive(ends, asked)
    facts = end.facts
    if end.ending is not None and asked is not None and end.when > asked:
        facts = facts._replace(status=end.ending["code"] << 8)  # it had failed before it was ended
    state, exit_ = judge(facts)
    if len(ends) == 1 or state == COMPLETED or end.status is None:
        return state, exit_
    return state, {**exit_, "cause": f"rank {end.rank}: {exit_['cause']}", "rank": end.rank}


def _decisive(ends: Sequence[RankEnd], asked: float | None) -> RankEnd:
    """The rank whose failure the others' follow from; rank 0 where none failed, or all alike."""
    failed = [end for end in ends if end.failed]
    first = min(failed, key=lambda end: _moment(end, asked), default=ends[0])
    said, rank_0_said = (_exception(end.ending) for end in (first, ends[0]))
    return ends[0] if said is not None and said == rank_0_said else first


def _moment(end: RankEnd, asked: float | None) -> tuple[bool, float]:
    """Whether a rank failed only since it was asked to end, and when.

    Where a rank dies without a word, its partners may have raised before the guardian sees it gone.
    """
    at = (end.ending or {}).get("at")
    when = end.when if at is None else at
    return asked is not None and when > asked, when - (UNSEEN_S if at is None else 0.0)


def _verdict(facts: Facts) -> tuple[str, str]:
    if facts.timed_out:
        return TIMED_OUT, "the timeout was reached"
    if facts.received is not None:
        return INTERRUPTED, f"the runner received {signal_name(facts.received)}"
    if facts.status is None:
        return KILLED, "the guardian of the run was killed, so the run was ended"
    if os.WIFSIGNALED(facts.status):
        return KILLED, _signal_cause(os.WTERMSIG(facts.status), facts.out_of_memory)
    return _exit_verdict(os.WEXITSTATUS(facts.status), facts.ending)


def _signal_cause(number: int, out_of_memory: bool) -> str:
    if out_of_memory:
        return "out of memory: the kernel killed the process (SIGKILL)"
    return f"the process was ended by {signal_name(number)}"


def _exit_verdict(code: int, ending: dict[str, Any] | None) -> tuple[str, str]:
    if ending is None:
        return FAILED, f"the process ended with exit code {code} before main returned (os._exit?)"
    if ending.get("interrupt"):
        return INTERRUPTED, "KeyboardInterrupt was not caught"
    if ending["how"] == "exception":
        message = f": {ending['message']}" if ending["message"] else ""
        return FAILED, f"{ending['type']}{message}"
    if ending["how"] == "exit":
        cause = f"sys.exit({ending['message']})"
        return (COMPLETED if code == ending["code"] == 0 else FAILED), cause
    if code == 0:
        return COMPLETED, "main returned"
    return FAILED, f"the process ended with exit code {code} after main had returned"


def _exception(ending: dict[str, Any] | None) -> dict[str, Any] | None:
    if ending is None or ending["how"] != "exception":
        return None
    return {key: ending[key] for key in ("type", "message", "traceback")}


def signal_name(number: int) -> str:
    """Return SIGKILL for 9; real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_words(audit: Path, pid: int) -> dict[str, Any] | None:
    """Find the line in which the child said how main ended.

    Args:
        audit: the raw audit file.
        pid: the child; forked processes that fell through to the end do not count.

    Returns:
        The parsed line, or None when the child ended without it.
    """
    try:
        data = audit.read_bytes()
    except FileNotFoundError:
        return None
    at = data.rfind(b'\n{"e":"end","pid":%d,' % pid)
    if at < 0:
        return None
    line = data[at + 1 : data.find(b"\n", at + 1)]
    try:
        words: dict[str, Any] = json.loads(line)
    except ValueError:  # a full disk cut it short
        return None
    return words
