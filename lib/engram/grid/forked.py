"""Inside a process that the dispatcher forked for a work of its own: leave all else behind."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal

from engram import guardian

__all__ = ["how_ended", "settle"]


def settle(parent: int, *keep: int) -> None:
    """Take the parent's signal handlers and open files away, and follow it into its end.

    Args:
        parent: the process that forked this one.
        keep: descriptors that stay open, beside the standard ones.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    guardian.prctl(guardian.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    guardian.close_all_but(*keep)
    with contextlib.suppress(Exception):
        faulthandler.enable()  # a crash in a library says where it was called


def how_ended(status: int) -> str:
    """Say how a process ended, by its wait status."""
    code = os.waitstatus_to_exitcode(status)
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"
