"""Start the guardian and the child's interpreter, as early as can be.

They come up while the rest is imported. This is the first thing that the command line does for a
run, so it imports as little as possible.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from engram import guardian, processes
from engram.errors import EnvironmentMissingError
from engram.guardian import Ends

START = os.path.dirname(os.path.realpath(__file__)) + "/hook/start.py"  # noqa: PTH120

__all__ = [
    "Pipes",
    "Spawned",
    "bare_environ",
    "claim_standard_descriptors",
    "close_theirs",
    "interpreter",
    "pipes",
    "spawn",
]


class Spawned(NamedTuple):
    """A guardian and, below it, interpreters that wait for their specs: one a rank."""

    guardian: int | None  # its process id; None when it is no child of ours and tells it later
    token: str  # what every process of the run carries in its environment
    control: int  # our ends of the pipes
    status: int
    ranks: tuple[Ends, ...]
    hash_seed: int | str
    foreground: bool


class Pipes(NamedTuple):
    """The pipes between the runner and a guardian with its children, both sides."""

    token: str
    mine: tuple[int, int, tuple[Ends, ...]]  # control, status, ranks
    theirs: tuple[int, int, tuple[Ends, ...]]


def pipes(processes: int = 1) -> Pipes:
    """Make the pipes of a run of so many processes.

    Raises:
        EnvironmentMissingError: no more descriptors.
    """
    try:
        claim_standard_descriptors()
        control, status = os.pipe(), os.pipe()
        each = [(os.pipe(), os.pipe(), os.pipe()) for _ in range(processes)]
    except OSError as error:
        msg = f"cannot start a process: {error.strerror}: see `ulimit -a`"
        raise EnvironmentMissingError(msg) from error
    mine = tuple(Ends(spec[1], out[0], err[0]) for spec, out, err in each)
    theirs = tuple(Ends(spec[0], out[1], err[1]) for spec, out, err in each)
    token = os.urandom(8).hex()
    return Pipes(token, (control[1], status[0], mine), (control[0], status[1], theirs))


def spawn(
    *,
    hash_seed: int | str = 0,
    python: str = sys.executable,
    foreground: bool = False,
    processes: int = 1,
) -> Spawned:
    """Fork the guardian, which starts the children's interpreters; all end when our pipe ends do.

    Args:
        hash_seed: PYTHONHASHSEED of the child, a number or "random".
        python: the interpreter.
        foreground: leave the child in the terminal's foreground, with its streams.
        processes: how many ranks the run has.

    Raises:
        EnvironmentMissingError: no more descriptors.
        OSError: no more processes.
    """
    made = pipes(processes)
    control, status, ranks = made.theirs
    job = guardian.Job(
        argv=interpreter(python),
        environ=bare_environ(hash_seed, made.token),
        control=control,
        status=status,
        ranks=ranks,
        foreground=foreground,
    )
    pid = os.fork()
    if pid == 0:
        guardian.serve(job)
    close_theirs(made)
    return Spawned(pid, made.token, *made.mine, hash_seed, foreground)


def close_theirs(made: Pipes) -> None:
    """Close the guardian's ends here: only then does an end of a pipe mean that it is gone."""
    control, status, ranks = made.theirs
    for descriptor in (control, status, *(end for rank in ranks for end in rank)):
        os.close(descriptor)


def claim_standard_descriptors() -> None:
    """Open what daemons leave closed, so that no pipe of ours becomes descriptor 0, 1 or 2."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004
        pass
    os.close(descriptor)


def interpreter(python: str) -> list[str]:
    """Return the command of an interpreter that waits for a spec; its descriptor is added to it."""
    options = ["-s"] if sys.flags.no_user_site else []
    return [python, *options, START]


def bare_environ(hash_seed: int | str, token: str) -> dict[str, str]:
    """Return the environment at exec: the shell's, without what would change the interpreter."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**environ, "PYTHONHASHSEED": str(hash_seed), processes.MARK: token}
