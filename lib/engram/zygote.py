"""Inside a warm interpreter: import PRELOAD once, then fork guardian and child for each run.

warm.py starts it, through hook/start.py. A child leaves by `serve` and goes on in child.py exactly
as one that was started by exec. So nothing of this file may be seen from there: what it imports is
taken out of sys.modules again before PRELOAD, and what PRELOAD does before there is a run (reading,
printing, setting variables) is held back and done in every run.
"""

# Text paths are what the import system and the audit compare.
# ruff: noqa: PTH101, PTH102, PTH103, PTH106, PTH109, PTH112, PTH115, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

    from engram import audit, child, fork_safety, leaving, renewal
    from engram.processes import Process

MOST_DESCRIPTORS = 253
"""What one message can carry, says the kernel."""
MOST_SETUP = 1 << 20
STRAYS_S = 2.0
WORDS = 8
"""Lines of a traceback that are shown."""


def serve(fd: int, inside: ModuleType) -> tuple[int, Zygote]:
    """Be a zygote: returns in the children it forks.

    Args:
        fd: the socket on which the runner asks.
        inside: the module child.py.

    Returns:
        The descriptor of the child's spec, and what it was forked from.
    """
    zygote = Zygote(fd, inside)
    try:
        zygote.work()
    except zygote.own.guardian.Entered as entered:
        return int(entered.args[0]), zygote


class _Own:
    """The modules that the zygote needs itself, hidden from whatever PRELOAD and scripts import."""

    def __init__(self) -> None:
        """Import them from beside this file, as the package engram that no script will see."""
        before = set(sys.modules)
        package = type(sys)("engram")
        package.__path__ = [os.path.dirname(__file__)]
        sys.modules["engram"] = package
        import _socket
        import atexit
        import gc
        import resource  # noqa: F401 - a guardian imports it later
        import select
        import signal

        from engram import fork_safety, guardian, huge_pages, leaving, processes, renewal

        self.socket, self.atexit, self.gc = _socket, atexit, gc
        self.select, self.signal = select, signal
        self.guardian, self.processes, self.renewal = guardian, processes, renewal
        self.fork_safety, self.huge_pages, self.leaving = fork_safety, huge_pages, leaving
        self.modules = {name: sys.modules.pop(name) for name in set(sys.modules) - before}

    def show(self) -> None:
        """Let the imports inside functions find them, for as long as nothing else runs."""
        self.hidden = {name: sys.modules.get(name) for name in self.modules}
        sys.modules.update(self.modules)

    def hide(self) -> None:
        """Take them away again."""
        for name, module in self.hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Zygote:
    """One interpreter that has imported, and what has to be done over in its children."""

    def __init__(self, fd: int, inside: ModuleType) -> None:
        """Take the place of the child: its first imports, and nothing of a run."""
        self.child: Any = inside
        self.environment = inside.audit.environment_roots()
        inside.load_while_waiting()
        self.own = _Own()
        sys.modules.pop(__name__, None)
        self.channel = self.own.socket.socket(fileno=fd)
        self.guardians: dict[int, int] = {}  # pid -> pidfd
        self.name = self.own.processes.read_bytes("/proc/self/comm").rstrip(b"\n")
        self.own.show()
        self.own.guardian.name_process(b"engram-warm")
        self.own.guardian.prctl(self.own.guardian.PR_SET_CHILD_SUBREAPER, 1)
        self.own.hide()
        self.mark = self.own.renewal.address_of_mark(self.own.processes.MARK)

    def work(self) -> NoReturn:
        """Import, say what came of it, and fork until nobody is left who could ask."""
        self.setup = marshal.loads(self.channel.recv(MOST_SETUP))
        os.dup2(self.setup["out"], 1)
        os.dup2(self.setup["err"], 2)
        self._import()
        reason = self._settle()
        if reason is not None:
            self._give_up(why_not=reason)
        self._say(ready=True)
        self._serve()

    def _say(self, **message: Any) -> None:  # noqa: ANN401
        self.channel.send(marshal.dumps(message, 2))

    def _import(self) -> None:
        """Import PRELOAD, as a script would, and note what that does."""
        self.before = dict(os.environ)
        self.folder: renewal.Folder = self.own.renewal.Folder(self.setup["tmp"])
        setup, inside = self.setup, self.child
        self.ground: child.Ground = inside.Ground(setup, self.environment)
        bytecode = setup["bytecode"] or ""
        config = inside.audit.Config("", setup["snapshot"], bytecode, self.ground.roots, [])
        self.watch: fork_safety.Watch = self.own.fork_safety.Watch(self.ground)
        self.auditor: audit.Auditor = inside.audit.install(config, "main", self.environment)
        self.borrowed: leaving.Borrowed = self.own.leaving.Borrowed(self.auditor, self.own.atexit)
        for name in setup["preload"]:
            self._say(importing=name)
            try:
                __import__(name)
            except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too
                self._fail(name, error)
        self.auditor.listening = False
        self._say(importing=None)

    def _fail(self, name: str, error: BaseException) -> NoReturn:
        """Tell the runner with which words an import ended."""
        self.auditor.listening = False
        import traceback

        error.__traceback__ = self.child.own_frames(error.__traceback__)
        lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
        self.folder.leave()
        self._give_up(failed=name, text="\n".join(lines[-WORDS:]))

    def _give_up(self, **message: Any) -> NoReturn:  # noqa: ANN401
        """End with these words, after everything that PRELOAD has started."""
        processes = self.own.processes
        processes.end_all(lambda: processes.descendants(os.getpid()), deadline_s=STRAYS_S)
        self._say(**message)
        os._exit(0)

    def _settle(self) -> str | None:
        """Make ready to fork, or say why that would not be as good as a start."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        left = self.folder.leave()
        reason = self.watch.reason(self.auditor, left, self.setup)
        if reason is not None:
            return reason
        whole = self.own.renewal.whole
        self.printed = [(1, whole(self.setup["out"])), (2, whole(self.setup["err"]))]
        self.changed = {
            name: os.environ.get(name)
            for name in (*self.before, *(n for n in os.environ if n not in self.before))
            if os.environ.get(name) != self.before.get(name)
        }
        signal = self.own.signal
        self.handlers = {n: signal.getsignal(n) for n in self.own.fork_safety.TOUCHED}
        self.fresh_tmp = self.own.renewal.default_tmp()
        self.borrowed.keep({"sys", "builtins"})
        self.own.gc.collect()
        self.own.gc.freeze()
        return None

    def _serve(self) -> NoReturn:
        """Fork whenever somebody asks, and collect the guardians that ended."""
        self.poll = self.own.select.poll()
        self.poll.register(self.channel.fileno(), self.own.select.POLLIN)
        pages = self.own.huge_pages.candidates()
        while True:
            ready = [fd for fd, _ in self.poll.poll(0 if pages else None)]
            if not ready:
                self.own.huge_pages.collapse(pages.pop())
            if any(fd in ready for fd in self.guardians.values()):
                self._reap()
            if self.channel.fileno() in ready:
                self._answer()

    def _answer(self) -> None:
        """Fork a guardian for the descriptors that arrived; the end of all senders is ours too."""
        socket = self.own.socket
        space = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)
        data, ancillary, _, _ = self.channel.recvmsg(1 << 12, space, socket.MSG_CMSG_CLOEXEC)
        received = [n for *_, packed in ancillary for n in memoryview(packed).cast("i")]
        if not data:
            os._exit(0)
        try:
            if len(received) > 2:
                self._fork(data.decode(), received)
        except OSError as error:  # no more processes: the sender sees its pipes end
            os.write(2, f"cannot fork: {error.strerror}\n".encode())
        for fd in received:
            os.close(fd)

    def _fork(self, token: str, received: list[int]) -> None:
        control, status, *rest = received
        ends = self.own.guardian.Ends
        ranks = tuple(ends(*rest[at : at + 3]) for at in range(0, len(rest), 3))
        pid = os.fork()
        if pid == 0:
            self.own.show()
            enter = self._entrance(token)
            self.own.guardian.serve(
                self.own.guardian.Job([], {}, control, status, ranks, foreground=False, enter=enter)
            )
        self.guardians[pid] = os.pidfd_open(pid)
        self.poll.register(self.guardians[pid], self.own.select.POLLIN)

    def _reap(self) -> None:
        """Collect what ended; a guardian that was killed leaves its run to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            watched = self.guardians.pop(pid, None)
            if watched is None:
                continue
            self.poll.unregister(watched)
            os.close(watched)
            if status != 0:
                self.own.processes.end_all(self._strays, deadline_s=STRAYS_S)

    def _strays(self) -> list[Process]:
        """Everything below this process that has no guardian."""
        me, lost, found = os.getpid(), set(), []
        for entry in self.own.processes.descendants(me):  # parents come before children
            orphan = entry.ppid == me and entry.pid not in self.guardians
            if orphan or entry.ppid in lost:
                lost.add(entry.pid)
                found.append(entry)
        return found

    def _entrance(self, token: str) -> Any:  # noqa: ANN401
        """Return what a forked child does first; whatever is open has been closed by then."""

        def enter(spec: int) -> NoReturn:
            self.token = token
            self.channel.detach()  # else its end would close somebody's descriptor
            for number, handler in self.handlers.items():
                self.own.signal.signal(number, handler)
            self.own.guardian.name_process(self.name)
            self.own.hide()
            self.own.renewal.write_mark(self.mark, token)
            sys.orig_argv[-2:] = [str(spec)]
            raise self.own.guardian.Entered(spec)

        return enter

    def prepare(self, spec: dict[str, Any]) -> tuple[audit.Auditor, child.Ground]:
        """In the child: make the process what the spec says, as child.py does after an exec."""
        self._refuse_another(spec)
        config = self.ground.config(spec)
        self._set_environ(spec, config)
        os.chdir(spec["output_dir"])
        self.own.renewal.forget_folders(self.folder.path, fresh_tmp=self.fresh_tmp)
        self.auditor.begin(config)
        self.ground.note(self.auditor)
        for descriptor, text in self.printed:
            self.own.renewal.write_all(descriptor, text)
        if spec.get("seed") is None:
            self.child.seeding.start_anew()
        return self.auditor, self.ground

    def _refuse_another(self, spec: dict[str, Any]) -> None:
        """Fail where what was imported is not what this run would have imported."""
        told = [(name, self.setup[name], spec.get(name)) for name in self.child.GROUND]
        given = spec.get("environ", {})
        told += [(k, v, given.get(k)) for k, v in self.setup["environ"].items() if v is not None]
        for name, ours, theirs in told:
            if (ours or None) != (theirs or None):
                msg = f"the warm interpreter has {name} = {ours!r}, the run {theirs!r}"
                raise RuntimeError(msg)

    def _set_environ(self, spec: dict[str, Any], config: audit.Config) -> None:
        """Set the variables in the order in which an exec, the run and then PRELOAD would."""
        started = {**self.before, **self.setup["replaced"], self.own.processes.MARK: self.token}
        os.environ.clear()
        os.environ.update({name: value for name, value in started.items() if value is not None})
        self.child.set_environ(spec, config)
        for name, value in self.changed.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
