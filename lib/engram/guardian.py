"""The guardian: a small process between the runner and the experiment that outlives neither.

runner --fork--> guardian --fork+exec--> child; of a run of several processes, one child a rank

It notices the end of the runner by the end of a pipe, however the runner ends, and then kills every
descendant. As their subreaper it stays above daemons too. Called by supervise.py; it never returns.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from engram import processes

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

NAME = b"engram-guard"
"""What ps shows, of a child too until it becomes what it is to be."""

KILL_ALL = 255
"""The byte on the control pipe that ends everything at once; any other byte is a signal number."""

UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
"""What the guardian ignores: only the end of the runner and its commands move it."""

NATURAL_END_S = 0.3
"""How long processes left behind may take to end by themselves (multiprocessing's trackers do)."""
BUSY_END_S = 5.0
"""How much longer while one of them is at work: on a busy machine it waits for a processor."""
BUSY_LOOK_S = 0.02
TERM_GRACE_S = 1.0


End = tuple[int, float, bool]
"""How one child ended: its wait status, when (monotonic), and whether memory ran out."""


class Ends(NamedTuple):
    """One side of the three pipes of a child; a run of several processes has several children."""

    spec: int
    out: int
    err: int


class Job(NamedTuple):
    """What the guardian needs to start the children and to talk to the runner."""

    argv: list[str]  # of an interpreter; the descriptor of the child's spec is added to it
    environ: dict[str, str]
    control: int
    status: int
    ranks: tuple[Ends, ...]
    foreground: bool
    enter: Callable[[int], NoReturn] | None = None
    """Where fork is enough, what the child does instead of exec; receives the spec's descriptor.

    It raises Entered, which leaves `serve` in the child."""


class Entered(BaseException):  # noqa: N818 - no error: the way out of the frames of a guardian
    """Raised by `Job.enter`: a forked child leaves the guardian's frames, to where it is caught."""


def serve(job: Job) -> NoReturn:
    """Start the children, watch them, report their ends; runs in the forked process and ends it.

    Raises:
        Entered: in a child that needs no exec.
    """
    code: int | None = 1
    try:
        _Guardian(job).watch()
        code = 0
    except Entered:
        code = None
        raise
    except BaseException:
        processes.end_all(lambda: processes.descendants(os.getpid()))
        raise
    finally:
        if code is not None:
            os._exit(code)


class _Guardian:
    """The life of one guardian."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.usage = processes.Usage()
        self.children: list[int] = []  # pids by rank
        self.ends: dict[int, End] = {}  # by rank

    def watch(self) -> None:
        """Serve until the children and everything they left behind are gone."""
        self._settle()
        self.children = [_spawn(self.job, ends) for ends in self.job.ranks]
        self._detach()
        pids = {"guardian": os.getpid(), "children": self.children}
        self._report({**pids, "floor_kib": processes.resident_kib()})
        self.ooms = processes.oom_kills()
        import resource  # noqa: F401 - wait4 needs it; now is the time nobody waits

        told = 0
        while len(self.ends) < len(self.children):
            if told < len(self.ends):
                self._report({"ends": self.ends})
                told = len(self.ends)
            self._wait(None)
        left = self._clear_strays()
        used = self.usage
        self._report(
            {
                "ends": self.ends,
                "strays": left,
                "cpu_user_s": used.user_s,
                "cpu_system_s": used.system_s,
                "max_rss_kib": used.max_rss_kib,
            }
        )

    def _settle(self) -> None:
        """Get out of reach of the terminal and become the parent of every orphan below."""
        if not self.job.foreground:
            os.setsid()
        for signum in UNHEARD:
            signal.signal(signum, signal.SIG_IGN)
        self.wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.wake_end = wake_end
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        name_process(NAME)

    def _detach(self) -> None:
        """Let go of all that the runner has open, above all the locks and pipes of other runs."""
        close_all_but(self.job.control, self.job.status, self.wake, self.wake_end)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.close(null)
        os.chdir("/")

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until a child ends, the runner speaks or dies, or the time is over."""
        poll = select.poll()
        poll.register(self.job.control, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        ready = dict(poll.poll(None if timeout_s is None else timeout_s * 1000))
        if self.wake in ready:
            os.read(self.wake, 4096)
        self._reap()
        if self.job.control in ready:
            for command in os.read(self.job.control, 64) or bytes([KILL_ALL]):
                self._obey(command)

    def _obey(self, command: int) -> None:
        if command == KILL_ALL:
            self._end_all()
            return
        living = [pid for rank, pid in enumerate(self.children) if rank not in self.ends]
        if self.job.foreground:
            processes.send(living, command)
            return
        for leader in living:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, command)
                os.killpg(leader, signal.SIGCONT)  # a stopped process hears nothing else

    def _reap(self) -> bool:
        """Collect everything that ended; say whether any child is left."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.usage.add(used)
            if pid in self.children:
                oom = _killed_by_kernel(status) and processes.oom_kills() > self.ooms
                self.ends.setdefault(self.children.index(pid), (status, time.monotonic(), oom))

    def _living(self) -> list[processes.Process]:
        return processes.descendants(os.getpid()) if self._reap() else []

    def _end_all(self) -> None:
        processes.end_all(self._living)
        self._reap()

    def _clear_strays(self) -> list[str]:
        """End what the children left behind; name what did not end by itself."""
        if not self._wait_for_none(NATURAL_END_S) or not self._wait_while_busy(BUSY_END_S):
            return []
        left = self._living()
        processes.send((entry.pid for entry in left), signal.SIGTERM)
        processes.send((entry.pid for entry in left), signal.SIGCONT)
        if self._wait_for_none(TERM_GRACE_S):
            self._end_all()
        return [f"{entry.name} (pid {entry.pid})" for entry in left]

    def _wait_for_none(self, patience_s: float) -> bool:
        """Wait until no descendant is left; say whether some are."""
        end = time.monotonic() + patience_s
        while self._reap():
            left_s = end - time.monotonic()
            if left_s <= 0:
                return True
            self._wait(left_s)
        return False

    def _wait_while_busy(self, patience_s: float) -> bool:
        """Wait while a descendant runs, or would if it were let; say whether some are left."""
        end = time.monotonic() + patience_s
        while any(entry.state in "RD" for entry in self._living()) and time.monotonic() < end:
            self._wait(BUSY_LOOK_S)
        return self._reap()

    def _report(self, message: dict[str, Any]) -> None:
        """Tell the runner; when it is gone the control pipe says so too."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.job.status, frame(message))


def frame(message: dict[str, Any]) -> bytes:
    """Encode one message of the status pipe; length first, so that several can lie in it."""
    body = marshal.dumps(message, 2)
    return len(body).to_bytes(4, "little") + body


def unframe(data: bytearray) -> list[dict[str, Any]]:
    """Take the whole messages out of `data`."""
    found = []
    while len(data) >= 4 and len(data) >= (end := 4 + int.from_bytes(data[:4], "little")):
        found.append(marshal.loads(bytes(data[4:end])))
        del data[:end]
    return found


def close_all_but(*keep: int) -> None:
    """Close every descriptor of this process but the standard ones and these."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(entry) not in keep and int(entry) > 2:
            with contextlib.suppress(OSError):  # the descriptor of this very listing
                os.close(int(entry))


def prctl(option: int, value: int | bytes) -> bool:
    """Set a property of this process; False where the system has none.

    The C module is used without its Python front, which costs ten times as much to import.
    """
    try:
        import _ctypes

        address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        return bool(_ctypes.call_function(address, (option, value, 0, 0, 0)) == 0)
    except (ImportError, AttributeError, OSError):
        return False


def name_process(name: bytes) -> None:
    """Set the name that ps and top show."""
    prctl(PR_SET_NAME, name)


def _spawn(job: Job, ends: Ends) -> int:
    """Fork and become the child; return its pid in the guardian."""
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_child(job, ends, guardian)
    except Entered:
        raise
    except BaseException as error:  # noqa: BLE001 - nothing may go on as a second guardian
        if isinstance(error, OSError):
            os.write(2, f"cannot start {job.argv[0]!r}: {error.strerror}\n".encode())
        os._exit(127)


def _become_child(job: Job, ends: Ends, guardian: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for signum in (*UNHEARD, signal.SIGPIPE, signal.SIGXFSZ):  # what is ignored stays so over exec
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:  # it died before the line above took effect
        os._exit(127)
    if not job.foreground:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(ends.out, 1)
        os.dup2(ends.err, 2)
    if job.enter is not None:
        close_all_but(ends.spec)  # exec would: an end of a pipe that stays open hides its end
        job.enter(ends.spec)
    os.set_inheritable(ends.spec, True)
    os.execve(job.argv[0], [*job.argv, str(ends.spec)], job.environ)


def _killed_by_kernel(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _nothing(signum: int, stack: object) -> None:
    """Exist, so that SIGCHLD reaches the wakeup descriptor."""
