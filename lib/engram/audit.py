"""Inside the child: note what is imported, opened and started, one JSON line each.

Loaded by path, into the experiment's own process and into its Python children, so it imports
nothing but what every interpreter has loaded, and nothing of engram. A line is one write to a file
opened for appending: lines of several processes never mix, and what was written survives a crash.
A warm interpreter has no run yet: its events are held back, and noted in every child of it.
"""

# Pathlib is not loaded in every Python child, and an event may not cost much.
# ruff: noqa: PTH100, PTH109, PTH110, PTH117, PTH120

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring_ascii as quoted
except ImportError:
    from json.encoder import py_encode_basestring_ascii as quoted

__all__ = ["Auditor", "Config", "environment_roots", "install", "quoted"]

VARIABLE = "ENGRAM_AUDIT"
FIELD, ITEM = "\x1f", "\x1e"
MOST_PATHS = 20_000
"""Distinct paths noted per process; a script that reads millions of files must not grow by them."""
NOWHERE = -1
"""The descriptor of an auditor that has no file yet."""
HIGH_FD = 700
"""Away from the low numbers, where scripts that close and reopen descriptors would hit it."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NEVER = ("/proc/", "/sys/", "/dev/")
SYSTEM = (
    *("/etc/", "/run/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/usr/bin/", "/usr/lib/"),
    *("/usr/lib64/", "/usr/share/", "/usr/include/", "/usr/local/lib/", "/usr/local/cuda"),
)


class Config:
    """Where the lines go and which paths need none; travels to Python children in one variable."""

    def __init__(
        self, path: str, snapshot: str, bytecode: str, roots: list[str], ignored: list[str]
    ) -> None:
        """Name the audit file, snapshot, bytecode folder, import roots, and folders to ignore."""
        self.path = path
        self.snapshot = snapshot
        self.bytecode = bytecode
        self.roots = roots
        self.ignored = ignored

    def encode(self) -> str:
        """Write as the value of an environment variable."""
        lists = ITEM.join(self.roots), ITEM.join(self.ignored)
        return FIELD.join((self.path, self.snapshot, self.bytecode, *lists))

    @classmethod
    def decode(cls, text: str) -> Config:
        """Read the value of the environment variable."""
        path, snapshot, bytecode, roots, ignored = text.split(FIELD)
        return cls(path, snapshot, bytecode, roots.split(ITEM), ignored.split(ITEM))


def environment_roots() -> tuple[str, ...]:
    """Return the folders of Python, its packages and this runner, each ending in a slash."""
    roots = [os.path.dirname(os.__file__), os.path.dirname(os.path.abspath(__file__))]
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        if prefix not in ("/", "/usr", "/usr/local"):
            roots.append(prefix)
    roots += [
        p for p in sys.path if p.endswith(("site-packages", "dist-packages", "lib-dynload", ".zip"))
    ]
    return tuple({root.rstrip("/") + "/" for root in [*roots, *map(os.path.realpath, roots)]})


class Auditor:
    """Collects the events of one process."""

    def __init__(self, config: Config, environment: tuple[str, ...]) -> None:
        """Open the audit file; where the configuration names none, events are held back."""
        self.environment = environment
        self.pending: list[str] = []
        self.popen = ""
        self.lost = 0
        self.listening = True
        self.held: list[tuple[str, str, str]] = []
        self._aim(config)

    def _aim(self, config: Config) -> None:
        self.config = config
        ignored = tuple(p.rstrip("/") + "/" for p in config.ignored if p)
        snapshot = config.snapshot.rstrip("/") + "/"
        self.quiet = (*NEVER, *SYSTEM, *self.environment, snapshot, *ignored)
        self.unwatched = (*NEVER, *ignored[:1])  # the first is outputs/
        self.seen: set[tuple[str, str]] = set()
        self.imported: set[str] = set()
        self.fd = self._open() if config.path else NOWHERE

    def begin(self, config: Config) -> None:
        """Audit a run from here on; what was held back happened in it too."""
        held, self.held = self.held, []
        self._aim(config)
        self.started("main")
        for kind, text, more in held:
            if kind == "open":
                self.note(text, more)
            elif kind == "import":
                self.module(text, more)
            else:
                self._spawn(text)
        self.listening = True

    def _hold(self, kind: str, text: str, more: str = "") -> bool:
        """Keep an event while there is no file; say whether it was kept."""
        if self.fd == NOWHERE:
            self.held.append((kind, text, more))
        return self.fd == NOWHERE

    def _open(self) -> int:
        fd = os.open(self.config.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if os.path.exists(f"/proc/self/fd/{HIGH_FD}"):  # inherited: somebody's own
            return fd
        try:
            high = os.dup2(fd, HIGH_FD, inheritable=False)
        except OSError:  # the limit of open files is lower
            return fd
        os.close(fd)
        return high

    def write(self, line: str) -> None:
        """Append one line; where a script has closed the descriptor, by a new one."""
        data = line.encode() + b"\n"
        try:
            os.write(self.fd, data)
        except OSError:
            try:
                self.fd = self._open()
                os.write(self.fd, data)
            except OSError:
                self.lost += 1

    def started(self, how: str) -> None:
        """Note that this process is audited from here on."""
        if self.fd == NOWHERE:
            return
        name = quoted((getattr(sys, "orig_argv", None) or [sys.executable])[0])
        pids = f'"pid":{os.getpid()},"ppid":{os.getppid()}'
        self.write(f'{{"e":"python",{pids},"how":"{how}","argv0":{name}}}')

    def hook(self) -> Any:  # noqa: ANN401
        """Build the function for sys.addaudithook."""
        handlers = {
            "open": self._opened,
            "import": self._importing,
            "os.rename": self._renamed,
            "os.remove": self._removed,
            "os.link": self._linked,
            "os.symlink": self._linked,
            "os.truncate": self._truncated,
            "sqlite3.connect": self._database,
            "subprocess.Popen": self._popen,
            "os.posix_spawn": self._spawned,
            "os.spawn": self._spawnv,
            "os.exec": self._spawned,
            "os.system": self._shell,
        }
        find = handlers.get

        def audit(event: str, args: tuple[Any, ...]) -> None:
            handler = find(event)
            if handler is not None and self.listening:
                try:
                    handler(args)
                except Exception:  # noqa: BLE001 - the audit must never change what the script does
                    self.lost += 1

        return audit

    def _opened(self, args: tuple[Any, ...]) -> None:
        path, _, flags = args
        if self.pending:
            self._settle()
        if path.__class__ is not int:
            self.note(path, "w" if flags and flags & WRITES else "r")

    def note(self, path: Any, mode: str) -> None:  # noqa: ANN401
        """Note a path: read (r), written (w), linked (l), removed (d), or used by sqlite (u)."""
        if path.__class__ is not str:
            path = os.fsdecode(path)
        if (path, mode) in self.seen:
            return
        if path[:1] != "/":
            path = f"{os.getcwd()}/{path}"
        if "/." in path or "//" in path:
            path = os.path.normpath(path)
        if (
            path.startswith(self.quiet if mode == "r" else self.unwatched)
            or (path, mode) in self.seen
        ):
            return
        if path == self.config.path or "/__pycache__/" in path:
            return
        if len(self.seen) >= MOST_PATHS:
            self.lost += 1
            return
        self.seen.add((path, mode))
        if not self._hold("open", path, mode):
            self.write(f'{{"e":"open","path":{quoted(path)},"mode":"{mode}","pid":{os.getpid()}}}')

    def _renamed(self, args: tuple[Any, ...]) -> None:
        self._unless_relative_to_fd(args[0], "d", args[2])
        self._unless_relative_to_fd(args[1], "w", args[3])

    def _removed(self, args: tuple[Any, ...]) -> None:
        self._unless_relative_to_fd(args[0], "d", args[1])

    def _linked(self, args: tuple[Any, ...]) -> None:
        self._unless_relative_to_fd(args[1], "l", args[-1])

    def _unless_relative_to_fd(self, path: Any, mode: str, fd: int) -> None:  # noqa: ANN401
        """Note a path, except where only the kernel knows the folder it starts from."""
        if fd == -1 or os.path.isabs(path):
            self.note(path, mode)

    def _truncated(self, args: tuple[Any, ...]) -> None:
        if args[0].__class__ is not int:
            self.note(args[0], "w")

    def _database(self, args: tuple[Any, ...]) -> None:
        path = os.fsdecode(args[0])
        if path.startswith("file:"):
            path = path[5:].split("?", 1)[0]
        if path and not path.startswith(":"):
            self.note(path, "u")

    def _popen(self, args: tuple[Any, ...]) -> None:
        words = args[1]
        first = words if isinstance(words, (str, bytes, os.PathLike)) else next(iter(words), "")
        self.popen = os.fsdecode(args[0] or first)
        self._spawn(self.popen)

    def _spawned(self, args: tuple[Any, ...]) -> None:
        path = os.fsdecode(args[0])
        known, self.popen = self.popen, ""
        if path != known:  # subprocess may go through posix_spawn: one process, two events
            self._spawn(path)

    def _spawnv(self, args: tuple[Any, ...]) -> None:
        self._spawn(os.fsdecode(args[1]))

    def _shell(self, args: tuple[Any, ...]) -> None:
        self._spawn("sh")

    def _spawn(self, name: str) -> None:
        if not self._hold("spawn", name):
            self.write(f'{{"e":"spawn","argv0":{quoted(name)},"pid":{os.getpid()}}}')

    def _importing(self, args: tuple[Any, ...]) -> None:
        """Remember the name: where it lies is known once the module exists."""
        name, filename = args[0], args[1]
        if filename:
            self.module(name, filename)
        self._settle()
        self.pending.append(name)

    def _settle(self) -> None:
        """Note the announced modules that exist by now; they do before their code is read."""
        waiting, self.pending = self.pending, []
        self.pending = [name for name in waiting if not self._loaded(name)][-30:]

    def _loaded(self, name: str) -> bool:
        module = sys.modules.get(name)
        if not isinstance(module, type(sys)):
            return module is not None
        # Past the module's own __getattribute__: asking a lazy module would load it.
        path = object.__getattribute__(module, "__dict__").get("__file__")
        if isinstance(path, str):
            self.module(name, path)
        return True

    def module(self, name: str, path: str) -> None:
        """Note where a module lies, unless the environment holds it."""
        if path.startswith(self.environment) or path in self.imported:
            return
        self.imported.add(path)
        full = os.path.normpath(path if path[:1] == "/" else f"{os.getcwd()}/{path}")
        place = f'"name":{quoted(name)},"path":{quoted(full)}'
        if not self._hold("import", name, full):
            self.write(f'{{"e":"import",{place},"pid":{os.getpid()}}}')

    def finish(self) -> None:
        """Look over all modules once, name the packages of the environment, say what was lost."""
        packages = set()
        for name in list(sys.modules):
            self._loaded(name)
            spec = object.__getattribute__(sys.modules.get(name, sys), "__dict__").get("__spec__")
            origin = getattr(spec, "origin", None)
            if isinstance(origin, str) and "-packages/" in origin:
                packages.add(name.split(".", 1)[0])
        names = ",".join(quoted(name) for name in sorted(packages))
        self.write(f'{{"e":"packages","names":[{names}],"pid":{os.getpid()},"lost":{self.lost}}}')


def install(config: Config, how: str, environment: tuple[str, ...] | None = None) -> Auditor:
    """Start auditing this process and the ones it forks."""
    auditor = Auditor(config, environment_roots() if environment is None else environment)
    auditor.started(how)
    os.register_at_fork(after_in_child=lambda: auditor.started("fork"))
    sys.addaudithook(auditor.hook())
    return auditor
