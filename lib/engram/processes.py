"""Processes as /proc shows them: who descends from whom, what they use, and ending all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

PROC = "/proc"
MARK = "ENGRAM_GUARD"
"""Environment variable that every process of a run carries from its birth."""


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    ppid: int
    group: int
    sid: int
    state: str
    name: str

    @property
    def gone(self) -> bool:
        """Whether only its exit status is left."""
        return self.state in "ZX"


class Usage:
    """CPU time and memory of every process that was waited for."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.user_s = 0.0
        self.system_s = 0.0
        self.max_rss_kib = 0

    def add(self, used: Any) -> None:  # noqa: ANN401 - resource.struct_rusage, without importing resource
        """Add the usage of one process and of the children it waited for."""
        self.user_s += used.ru_utime
        self.system_s += used.ru_stime
        self.max_rss_kib = max(self.max_rss_kib, used.ru_maxrss)


def read_bytes(path: str, limit: int = 1 << 16) -> bytes:
    """Read a small file of /proc; empty when it is gone or forbidden."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""
    finally:
        os.close(fd)


def process(pid: int) -> Process | None:
    """Look up one process; None when there is none."""
    text = read_bytes(f"{PROC}/{pid}/stat").decode("utf-8", "replace")
    opening, closing = text.find("("), text.rfind(")")
    if closing < 0:
        return None
    state, ppid, group, sid = text[closing + 2 :].split(" ", 4)[:4]
    name = text[opening + 1 : closing]
    return Process(pid, int(ppid), int(group), int(sid), state, name)


def all_processes() -> dict[int, Process]:
    """Read the whole process table."""
    pids = (int(entry) for entry in os.listdir(PROC) if entry.isdigit())  # noqa: PTH208
    return {pid: found for pid in pids if (found := process(pid)) is not None}


def descendants(root: int) -> list[Process]:
    """List every living process below `root`, parents before children."""
    table = all_processes()
    children: dict[int, list[int]] = {}
    for entry in table.values():
        children.setdefault(entry.ppid, []).append(entry.pid)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        below = [pid for parent in waiting for pid in children.get(parent, [])]
        found.extend(table[pid] for pid in below)
        waiting = below
    return [entry for entry in found if not entry.gone]


def family(root: int) -> list[Process]:
    """List every living process below `root`; where possible without reading the whole table."""
    try:
        waiting = _children(root)
    except FileNotFoundError:  # the process is gone, or this kernel does not list children
        return descendants(root)
    found: list[Process] = []
    while waiting:
        entry = process(waiting.pop(0))
        if entry is not None and not entry.gone:
            found.append(entry)
            with contextlib.suppress(FileNotFoundError):
                waiting.extend(_children(entry.pid))
    return found


def _children(pid: int) -> list[int]:
    """Read the children of all threads of a process."""
    threads = f"{PROC}/{pid}/task"
    found: list[int] = []
    for thread in os.listdir(threads):  # noqa: PTH208
        fd = os.open(f"{threads}/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found.extend(map(int, os.read(fd, 1 << 16).split()))
        finally:
            os.close(fd)
    return found


def marked(token: str, *leaders: int) -> list[Process]:
    """List the living processes that carry `token`, or belong to a group that one of these leads.

    Needed only where the tree is lost, because the guardian above it was killed.
    """
    needle = f"{MARK}={token}".encode()
    return [
        entry
        for entry in all_processes().values()
        if not entry.gone
        and entry.pid != os.getpid()
        and (
            not {entry.pid, entry.group, entry.sid}.isdisjoint(leaders)
            or needle in read_bytes(f"{PROC}/{entry.pid}/environ").split(b"\0")
        )
    ]


def send(pids: Iterable[int], signum: int) -> None:
    """Signal each process that still exists and may be signalled."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def end_all(find: Callable[[], list[Process]], *, deadline_s: float = 10.0) -> list[Process]:
    """Kill what `find` lists until it lists nothing.

    Args:
        find: lists the processes that must not live on; called again, since they may fork.
        deadline_s: when to give up, in seconds; a process waiting for a dead disk cannot be killed.

    Returns:
        What would not die.
    """
    end = time.monotonic() + deadline_s
    rounds = 0
    left = find()
    while left and time.monotonic() < end:
        if rounds > 2:  # they fork faster than they die: stop them all first
            send((entry.pid for entry in left), signal.SIGSTOP)
            left = find()
        send((entry.pid for entry in left), signal.SIGKILL)
        time.sleep(min(0.001 * 2**rounds, 0.05))
        rounds += 1
        left = find()
    return left


def open_files(pid: int) -> list[tuple[str, str]]:
    """List the regular files a process holds open.

    Returns:
        (path, "r" or "w") of each; "w" where the descriptor allows writing.
    """
    folder = f"{PROC}/{pid}/fd"
    found = []
    try:
        numbers = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
    for number in numbers:
        try:
            path = os.readlink(f"{folder}/{number}")  # noqa: PTH115
        except OSError:
            continue
        if path.startswith("/") and not path.startswith(("/dev/", "/proc/", "/sys/")):
            found.append((path, _access(pid, number)))
    return found


def _access(pid: int, number: str) -> str:
    for line in read_bytes(f"{PROC}/{pid}/fdinfo/{number}").splitlines():
        if line.startswith(b"flags:"):
            return "w" if int(line.split()[1], 8) & os.O_ACCMODE else "r"
    return "r"


def oom_kills() -> int:
    """Count what the kernel has killed for memory: in this cgroup, else on this machine."""
    own = read_bytes(f"{PROC}/self/cgroup").decode("utf-8", "replace")
    folder = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "")
    events = read_bytes(f"/sys/fs/cgroup{folder}/memory.events")
    for text in (events, read_bytes(f"{PROC}/vmstat")):
        for line in text.splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def resident_kib() -> int:
    """Return this process's resident memory: below it no forked child's peak can be seen."""
    fields = read_bytes(f"{PROC}/self/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") // 1024 if len(fields) > 1 else 0
