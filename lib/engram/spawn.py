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

START = os.path.dirname(os.path.realpath(__file__)) + "/hook/start.py"  # noqa: PTH120

__all__ = ["Spawned", "spawn"]


class Spawned(NamedTuple):
    """A guardian and, below it, an interpreter that waits for its spec."""

    guardian: int  # its process id
    token: str  # what every process of the run carries in its environment
    pipes: dict[str, int]  # our ends: control, status, spec, out, err
    hash_seed: int | str
    foreground: bool


def spawn(
    *, hash_seed: int | str = 0, python: str = sys.executable, foreground: bool = False
) -> Spawned:
    """Fork the guardian, which starts the child's interpreter; both end when our pipe ends do.

    Args:
        hash_seed: PYTHONHASHSEED of the child, a number or "random".
        python: the interpreter.
        foreground: leave the child in the terminal's foreground, with its streams.

    Raises:
        EnvironmentMissingError: no more descriptors.
        OSError: no more processes.
    """
    token = os.urandom(8).hex()
    try:
        claim_standard_descriptors()
        ends = {name: os.pipe() for name in ("control", "status", "spec", "out", "err")}
    except OSError as error:
        msg = f"cannot start a process: {error.strerror}: see `ulimit -a`"
        raise EnvironmentMissingError(msg) from error
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
    pipes = {name: ends[name][side] for name, side in mine.items()}
    return Spawned(pid, token, pipes, hash_seed, foreground)


def claim_standard_descriptors() -> None:
    """Open what daemons leave closed, so that no pipe of ours becomes descriptor 0, 1 or 2."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004
        pass
    os.close(descriptor)


def _argv(python: str, spec: int) -> list[str]:
    options = ["-s"] if sys.flags.no_user_site else []
    return [python, *options, START, str(spec)]


def _environ(hash_seed: int | str, token: str) -> dict[str, str]:
    """Return the environment at exec: the shell's, without what would change the interpreter."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**environ, "PYTHONHASHSEED": str(hash_seed), processes.MARK: token}
