"""Walk the steps of a run, and leave a true record whatever interrupts the walk."""

from __future__ import annotations

import contextlib
import errno
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import errors, folder, record
from engram.request import Request, Run
from engram.supervise import Supervisor
from engram.workflow import STEPS, make_folder, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from engram.spawn import Spawned
    from engram.workflow import Step

__all__ = ["execute", "walk"]

# What the file system may say of a store that cannot be written; anything else is a bug.
STORE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
}
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def execute(
    request: Request, announce: Callable[[Run], None], *, ahead: Spawned | None = None
) -> Run:
    """Take a request through STEPS.

    Args:
        request: what to run.
        announce: called once, when the run has its folder and its record.
        ahead: a guardian and interpreter that were started before the request was known.

    Returns:
        The run, ended; its record is final.

    Raises:
        RunnerError: it was refused, or the store cannot be written; a record that was born says so.
        KeyboardInterrupt: it was interrupted before the script started or after it ended.
    """
    if names_engine(request):
        from engram.grid import single

        engine = single.engine(request)
        if engine is not None:
            if ahead is not None:
                Supervisor(ahead).abandon()
            return engine(request, announce)
    run = Run(request, ahead)
    walk(run, STEPS, announce)
    return run


def names_engine(request: Request) -> bool:
    """Whether somebody has written of an engine at all; most have not, and starting is measured."""
    if any(text.startswith("engine") for text in request.set_config):
        return True
    with contextlib.suppress(OSError):
        return b"engine" in request.experiment.read_bytes()
    return False


def walk(run: Run, steps: Iterable[Step], announce: Callable[[Run], None]) -> None:
    """Take a run through some steps, and leave a true record whatever interrupts them.

    Args:
        run: a run that has not taken these steps yet.
        steps: of STEPS, in order.
        announce: called once, when the run has its folder and its record.

    Raises:
        RunnerError, KeyboardInterrupt: as `execute`.
    """
    with one_interrupt():
        try:
            for step in steps:
                step(run)
                if step is make_folder:
                    announce(run)
        except BaseException as error:
            cause = in_our_words(run, error)
            end_unfinished(run, cause)
            if cause is error:
                raise
            raise cause from error
        finally:
            let_go(run)


@contextlib.contextmanager
def one_interrupt() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP outside the script's time interrupt, and no other.

    More of them while the record is being ended would leave it unended.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else errors.Terminated(number)

    before: dict[signal.Signals, Any] = {}
    try:
        for number in INTERRUPTS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_our_words(run: Run, error: BaseException) -> BaseException:
    """The error to show: what the file system says of the store becomes one message."""
    if isinstance(error, OSError) and error.errno in STORE_ERRORS:
        error = record.store_error(Path(error.filename or run.root.folder), error)
    if isinstance(error, errors.StoreError) and run.born:
        error.exit_code = errors.INCOMPLETE  # it was not refused: it had begun
    return error


def end_unfinished(run: Run, error: BaseException) -> None:
    """End a record that the runner could not bring to its end; a folder without one goes again."""
    if not run.born:
        folder.unmake(run)
        return
    if run.record["state"] in record.ENDED:
        return
    interrupted = isinstance(error, KeyboardInterrupt)
    cause = "the runner was interrupted" if interrupted else f"the runner failed: {error!r}"
    known = what_is_known(run)
    exit_ = {**known.pop("exit"), "cause": cause}
    state = "interrupted" if interrupted else "failed"
    folder.release_reserve(run.paths)
    # A store that cannot be written is the likely reason; the next command will find the run dead.
    with contextlib.suppress(errors.StoreError, OSError):
        try:
            run.record = record.change(run.paths, state=state, exit=exit_, **known)
        except ValueError:  # interrupted when its last record was written: that one holds
            run.record = record.load(run.paths)
        publish(run)


def what_is_known(run: Run) -> dict[str, Any]:
    """What the script left, when it had ended before the runner was stopped."""
    findings = [item.as_dict() for item in run.findings]
    if not run.judged:
        nothing = {"code": None, "signal": None, "exception": None}
        return {"exit": nothing, "findings": findings}
    outcome = run.outcome
    return {
        "exit": outcome.exit,
        "summary": outcome.summary,
        "usage": outcome.usage,
        "run_s": outcome.usage["wall_s"],
        "findings": findings,
    }


def let_go(run: Run) -> None:
    """End every process that waits for this run, and give back what it held."""
    folder.remove_tmp(run.tmp)
    if run.supervisor is not None:
        run.supervisor.abandon()
    if run.packing is not None:
        run.packing.abandon()
    if run.device_lease is not None:
        run.device_lease.release()
    if run.lease is not None:
        run.lease.release()
