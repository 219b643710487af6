"""Inside a warm interpreter: would a fork of it be as good as a new interpreter?

Looked at once, when PRELOAD is imported. What would be missing in a forked child (threads), broken
(a CUDA context), shared with other runs (open files, memory, processes) or not done again (files
written, random numbers drawn) is a reason to start every run from nothing.
"""

# Text paths are what the audit compares.
# ruff: noqa: PTH101, PTH112, PTH113, PTH115, PTH116, PTH123, PTH208

from __future__ import annotations

import _ctypes
import _thread
import os
import random
import signal
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType
    from typing import Any

    from engram import audit, child

FORKS_WELL = ("jemalloc_bg_thd",)
"""Threads whose library starts them again in a forked child; pyarrow brings this one."""
PATIENCE_S = 0.1
"""How long threads that are ending may take."""
CLOCK_S = 0.05
"""Change times may lag behind the clock by a kernel tick."""
NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED
TOUCHED = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP),
    *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ),
)
"""Signals that a guardian sets and its child sets back."""


class Watch:
    """Remembers how things were before PRELOAD."""

    def __init__(self, ground: child.Ground) -> None:
        """Look at generators of random numbers now, or as soon as they are imported."""
        self.began = time.time()
        self.modules = set(sys.modules)
        self.random = random.getstate()
        self.numpy: tuple[Any, ...] | None = None
        self.torch: Any = None
        self.calls = {"numpy": self._saw_numpy, "torch": self._saw_torch}
        for name, call in self.calls.items():
            if name in sys.modules:  # a .pth file may import anything
                call(sys.modules[name])
        ground.after_import.calls |= self.calls

    def _saw_numpy(self, numpy: ModuleType) -> None:
        if hasattr(numpy, "random"):
            self.numpy = _plain(numpy.random.get_state())

    def _saw_torch(self, torch: ModuleType) -> None:
        if hasattr(torch, "get_rng_state"):
            self.torch = torch.get_rng_state()

    def reason(self, auditor: audit.Auditor, left: list[str], setup: dict[str, Any]) -> str | None:
        """Say why every run needs an interpreter of its own, or None.

        Args:
            auditor: has heard what PRELOAD did.
            left: names of files it left in its working folder.
            setup: what the runner told; its own files are no concern.
        """
        caches = [path for path in (*setup["environ"].values(), setup["bytecode"]) if path]
        known = {0, 1, 2, setup["out"], setup["err"], setup["channel"]}
        return (
            _cuda()
            or _python_threads()
            or _processes()
            or _open_files(known)
            or _shared_memory()
            or _signal_handlers()
            or self._script(setup["script"])
            or self._draws()
            or _writes(auditor, left, self.began, caches)
            or _native_threads()
        )

    def _script(self, script: str) -> str | None:
        name = os.path.basename(script).rpartition(".")[0]  # noqa: PTH119
        if name in sys.modules and name not in self.modules:
            return f"PRELOAD imports {name!r}, the name of the script itself"
        return None

    def _draws(self) -> str | None:
        """A run draws from its own seed, also while it imports."""
        names = [] if random.getstate() == self.random else ["random"]
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if self.numpy is not None and numpy is not None:
            names += [] if _plain(numpy.random.get_state()) == self.numpy else ["numpy.random"]
        if self.torch is not None and torch is not None:
            names += [] if torch.equal(torch.get_rng_state(), self.torch) else ["torch"]
        if not names:
            return None
        return f"PRELOAD draws random numbers while it is imported, from {' and '.join(names)}"


def _plain(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make a state of numpy's generator comparable."""
    return (state[0], state[1].tobytes(), *state[2:])


def _cuda() -> str | None:
    """A forked child cannot use CUDA once it was initialized; no driver can undo that."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return "PRELOAD initializes CUDA (torch.cuda.is_initialized())"
    devices = sorted({path for _, path in _descriptors() if path.startswith("/dev/nvidia")})
    if devices:
        return f"PRELOAD opens a GPU ({', '.join(devices)})"
    if _driver_is_up():
        return "PRELOAD initializes CUDA (cuInit was called)"
    return None


def _driver_is_up() -> bool:
    """Ask the driver's library, when it is loaded, a question it answers only after cuInit."""
    try:
        library = _ctypes.dlopen("libcuda.so.1", os.RTLD_LAZY | os.RTLD_NOLOAD)
        count = bytes(8)  # written to
        address = _ctypes.dlsym(library, "cuDeviceGetCount")
        return int(_ctypes.call_function(address, (count,))) != NOT_INITIALIZED
    except OSError:
        return False


def _python_threads() -> str | None:
    count = _thread._count()
    if count == 0:
        return None
    threading = sys.modules.get("threading")
    names = [t.name for t in threading.enumerate()[1:]] if threading is not None else []
    return f"PRELOAD starts {count} Python thread(s){_named(names)}"


def _native_threads() -> str | None:
    """Look at the threads that are left after a fork.

    A BLAS pool ends in its fork handler, and comes back when it is used again. What survives a fork
    here would be missing in every child, where libraries would wait for it in vain.
    """
    end = time.monotonic() + PATIENCE_S
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    while (names := list(_thread_names())) and time.monotonic() < end:
        time.sleep(0.002)
    if not names:
        return None
    if any(_mapped(("libgomp", "libiomp", "libomp"))):
        return f"PRELOAD runs an OpenMP region, or a library starts threads{_named(names)}"
    return f"PRELOAD starts {len(names)} thread(s) of a library{_named(names)}"


def _thread_names() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        if int(task) == os.getpid():
            continue
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as stream:
                name = stream.read().strip()
        except OSError:  # it has ended meanwhile
            continue
        if name not in FORKS_WELL:
            yield name


def _processes() -> str | None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return "PRELOAD starts a process and does not wait for its end"


def _open_files(known: set[int]) -> str | None:
    """An open file has one position, whoever reads; a socket has one partner."""
    kept = [path for number, path in _descriptors() if number not in known]
    return f"PRELOAD keeps open{_named(kept)}" if kept else None


def _descriptors() -> Iterator[tuple[int, str]]:
    for entry in os.listdir("/proc/self/fd"):
        try:
            yield int(entry), os.readlink(f"/proc/self/fd/{entry}")
        except OSError:  # the descriptor of this very listing
            continue


def _shared_memory() -> str | None:
    kept = [path for access, path in _mappings() if access[1] == "w" and access[3] == "s"]
    return f"PRELOAD makes memory that processes share{_named(kept)}" if kept else None


def _mappings() -> Iterator[tuple[str, str]]:
    """Yield (access, path) of each mapping of this process."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            fields = line.rstrip("\n").split(None, 5)
            yield fields[1], fields[5] if len(fields) > 5 else ""


def _mapped(prefixes: tuple[str, ...]) -> Iterator[bool]:
    for _, path in _mappings():
        yield path.rpartition("/")[2].startswith(prefixes)


def _signal_handlers() -> str | None:
    names = [number.name for number in TOUCHED if signal.getsignal(number) is None]
    return f"PRELOAD handles signals outside Python{_named(names)}" if names else None


def _writes(auditor: audit.Auditor, left: list[str], began: float, caches: list[str]) -> str | None:
    """What a run writes while it imports is its own; a warm one would not write it."""
    if left:
        return f"PRELOAD writes into the working folder{_named(left)}"
    inside = tuple(path.rstrip("/") + "/" for path in caches if path.startswith("/"))
    modes: dict[str, set[str]] = {}
    for kind, text, mode in auditor.held:
        if kind == "open":
            modes.setdefault(text, set()).add(mode)
        elif kind == "spawn" and text.rpartition("/")[2].startswith(("python", "pypy")):
            return f"PRELOAD starts Python processes ({text})"
    changed = [
        path
        for path, how in modes.items()
        if how & {"w", "d", "l", "u"} and not path.startswith(inside) and _changed(path, how, began)
    ]
    return f"PRELOAD writes or removes files{_named(changed)}" if changed else None


def _changed(path: str, how: set[str], began: float) -> bool:
    try:
        info = os.lstat(path)
    except OSError:
        return how == {"d"}
    return not stat.S_ISDIR(info.st_mode) and info.st_ctime >= began - CLOCK_S


def _named(names: Iterable[str]) -> str:
    """Name the first few, after a colon."""
    names = sorted(set(names))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f": {', '.join(names[:3])}{more}" if names else ""
