"""What a Ray task does on its node: it is the parent of one runner.

Ray's worker --calls--> `on_node` --exec--> runner --> guardian --> child

Pickled by value, since the node's Python does not know engram: the standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["on_node"]

VARIABLE = "CUDA_VISIBLE_DEVICES"
# Ends with the worker, however that ends, hears the signals that Ray blocks, and then becomes the
# runner. 1 is PR_SET_PDEATHSIG.
BOUND = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
TAIL = 500  # bytes of what a runner said


def on_node(common: Mapping[str, Any], command: Sequence[str], attempt: str) -> dict[str, Any]:
    """Run one runner to its end.

    Ray's cancelation asks it to end its run; a second one, to do so at once.

    Args:
        common: `folder`, which every node must see; `environ` and `cwd` of whoever started all
            this; `gpus`, whether the task has any.
        command: the runner's.
        attempt: the file that it leaves its run's id in.

    Returns:
        The runner's exit code, the run's id and the runner's last words, in `code`, `run` and
        `said`; or what is wrong with this node, in `problem`.
    """
    for needed in (common["folder"], command[0]):
        if not Path(needed).exists():
            where = f"node {os.uname().nodename} does not see {needed!r}"
            return {"problem": f"{where}: it must lie in a file system that all nodes share"}
    runner: subprocess.Popen[bytes] | None = None
    heard: list[int] = []

    def ask() -> None:
        if runner is not None and runner.returncode is None:
            runner.send_signal(signal.SIGTERM if len(heard) == 1 else signal.SIGINT)

    def hear(*_: object) -> None:
        heard.append(1)
        ask()

    log = Path(attempt + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGINT, hear)
    try:
        with log.open("wb") as stream:
            runner = subprocess.Popen(
                [command[0], "-I", "-S", "-c", BOUND, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=common["cwd"] if Path(common["cwd"]).is_dir() else common["folder"],
                env=environ(common),
                start_new_session=True,  # what Ray sends to its worker's group is not for it
            )
        if heard:
            ask()
        code = wait(runner)
    finally:
        signal.signal(signal.SIGINT, before)
    said = log.read_bytes()[-TAIL:].decode("utf-8", "replace").strip()
    if not said:
        log.unlink(missing_ok=True)
    made = Path(attempt)
    run = made.read_text(encoding="utf-8").strip() if made.exists() else None
    return {"code": code, "run": run, "said": said}


def wait(runner: subprocess.Popen[bytes]) -> int:
    """Wait for the end; Ray's cancelation is no signal, and is only heard between system calls."""
    while True:
        try:
            return runner.wait(timeout=3600)  # which looks again and again
        except subprocess.TimeoutExpired:
            continue


def environ(common: Mapping[str, Any]) -> dict[str, str]:
    """The environment that the user has, with the devices that Ray chose."""
    found = dict(common["environ"])
    found[VARIABLE] = os.environ.get(VARIABLE, "") if common["gpus"] else ""
    return found
