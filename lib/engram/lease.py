"""Who is alive: one lock on the run folder, held for the life of the runner."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from engram.errors import StoreError
from engram.paths import RunPaths

Standing = Literal["alive", "dead", "elsewhere"]

NEWBORN_S = 5.0
"""A folder without identity and without lease is given this long to get them."""


def process_identity() -> dict[str, Any]:
    """Say who this process is: a pid alone means nothing elsewhere or after a reboot.

    Returns:
        host, machine (id of the installation), boot_id, pid_namespace, pid, start_time (clock ticks
        after boot), slurm_job, slurm_restart (how often that job had been started anew),
        slurm_cluster, user; None for what this system does not tell.
    """
    return {
        "host": os.uname().nodename,
        "machine": _first_line("/etc/machine-id"),
        "boot_id": _first_line("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "start_time": start_time(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart": os.environ.get("SLURM_RESTART_COUNT"),
        "slurm_cluster": os.environ.get("SLURM_CLUSTER_NAME"),
        "user": _user(),
    }


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None when there is none.

    One that has ended counts as none, though nobody has collected it: it may never be, where the
    first process of a container is no init.
    """
    line = _first_line(f"/proc/{pid}/stat")
    fields = line[line.rindex(")") + 2 :].split() if line else ["X"]
    return None if fields[0] in "ZX" else int(fields[19])


class Lease:
    """An exclusive lock on one file; the kernel drops it when its holder ends, however it ends."""

    def __init__(self, path: Path, fd: int) -> None:
        """Wrap a descriptor that holds the lock; use `acquire`."""
        self.path = path
        self._fd: int | None = fd

    @classmethod
    def acquire(cls, path: Path, *, patience_s: float = 1.0) -> Lease:
        """Take the lock.

        Args:
            path: the lease file; it is created, its folder exists.
            patience_s: how long to wait for those who only look whether it is free, in seconds.

        Raises:
            StoreError: somebody else holds it, or the file cannot be made.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            msg = f"cannot make the lease {str(path)!r}: {error.strerror}"
            raise StoreError(msg) from error
        if not _lock(fd, fcntl.LOCK_EX, patience_s):
            os.close(fd)
            msg = f"the lease {str(path)!r} is held by another process: its run is alive"
            raise StoreError(msg)
        return cls(path, fd)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Lease:
        """Hold the lock for a with-block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self.release()


def standing(path: Path, identity: dict[str, Any] | None) -> Standing:
    """Judge whether the runner of a run is alive.

    Args:
        path: the run's lease file.
        identity: what `process_identity` said in the runner; None when its record was never born.

    Returns:
        "alive"; "dead", said only of this host and this pid namespace (or of an earlier boot of
        this host), and of a job that Slurm says is over; "elsewhere" when it cannot be judged.
    """
    if not identity:
        return "alive" if _held(path) or _newborn(path) else "dead"
    here = process_identity()
    if any(_differs(identity, here, key) for key in ("host", "machine")):
        return _in_its_job(path, identity)
    if _differs(identity, here, "boot_id"):
        if None in (identity.get("machine"), here["machine"]):
            # a restart of this host, or another host of the same name
            return _in_its_job(path, identity)
        return "alive" if _held(path) else "dead"
    if _differs(identity, here, "pid_namespace"):
        return _in_its_job(path, identity)
    started = start_time(int(identity["pid"]))
    if started is not None and started == identity.get("start_time"):
        return "alive"
    return "alive" if _held(path) else "dead"


def _in_its_job(path: Path, identity: dict[str, Any]) -> Standing:
    """Judge a runner that this process cannot see: its Slurm job may tell."""
    if not identity.get("slurm_job"):
        return "elsewhere"
    from engram import slurm_jobs

    judged = slurm_jobs.standing(identity)
    return "alive" if judged == "dead" and _held(path) else judged


def last_sign_of_life(folder: Path) -> float:
    """Return when a run last wrote a log, metric, record or output, in epoch seconds."""
    run = RunPaths(folder)
    watched = (
        run.folder,
        run.metadata,
        run.metrics,
        run.log_out,
        run.log_err,
        run.outputs,
        run.audit,
    )
    return max((stamp for path in watched if (stamp := _modified(path)) is not None), default=0.0)


def _lock(fd: int, kind: int, patience_s: float) -> bool:
    """Try to lock until the patience is over."""
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)
        else:
            return True


def _held(path: Path) -> bool:
    """Tell whether somebody holds the lease; shared, so that two who look do not collide."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to judge: never declare dead what cannot be looked at
    try:
        return not _lock(fd, fcntl.LOCK_SH, 0.0)
    except OSError:
        return False  # a file system without locks: the pid alone decides
    finally:
        os.close(fd)


def _newborn(path: Path) -> bool:
    """Tell whether a folder is so young that its runner may still be about to lock it."""
    stamp = _modified(path) or _modified(path.parent) or _modified(path.parent.parent)
    return stamp is not None and abs(time.time() - stamp) < NEWBORN_S and not path.exists()


def _differs(there: dict[str, Any], here: dict[str, Any], key: str) -> bool:
    """Compare one field; a field that either side does not know says nothing."""
    return None not in (there.get(key), here.get(key)) and there[key] != here[key]


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _first_line(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 4096).decode("utf-8", "replace").split("\n", 1)[0] or None
    finally:
        os.close(fd)


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - Path.readlink costs more
    except OSError:
        return None


def _user() -> str:
    """Return the login name of the effective user, else its number."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
