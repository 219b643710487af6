"""Inside a warm child: end as an interpreter does, without taking apart what was only borrowed.

Taking apart the two thousand modules behind torch copies most of the memory that a fork shares: ten
times as long as everything else of a short run. The script's own modules, and those of its commit,
are taken apart as always, with every handler that was registered. Installed packages that PRELOAD
has imported are left as they are, and so are the handlers that their C libraries registered for the
end, where all of these are known to do nothing there but give back memory.
"""

# ruff: noqa: PTH115, PTH123, PTH208

from __future__ import annotations

import gc
import io
import os
import sys

from engram import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType
    from typing import Any

    from engram import audit

QUIET_PACKAGES = {
    *("PIL", "_yaml", "charset_normalizer", "contourpy", "functorch", "google", "kiwisolver"),
    *("markupsafe", "matplotlib", "msgpack", "numpy", "nvidia", "pandas", "pillow", "pyarrow"),
    *("pydantic_core", "rpds", "safetensors", "scikit_learn", "scipy", "sklearn", "snntorch"),
    *("torch", "triton", "xxhash", "yaml"),
}
"""Installed packages whose libraries have nothing to bring to an end: no file, no device."""
QUIET_LIBRARIES = (
    *("ld-linux", "libbz2.", "libc.", "libcrypt.", "libcrypto.", "libdl.", "libexpat."),
    *("libffi.", "libgcc_s.", "libgomp.", "liblzma.", "libm.", "libmvec.", "libncurses"),
    *("libnsl.", "libnss_", "libnuma.", "libpthread.", "libpython3", "libreadline."),
    *("libresolv.", "librt.", "libsqlite3.", "libssl.", "libstdc++.", "libtinfo.", "libutil."),
    *("libuuid.", "libz.", "libzstd."),
)
ONLY_FREES = (("torch.library", "_del_library"),)
"""Finalizers of packages that do nothing but unregister what goes with the process."""


class Borrowed:
    """What PRELOAD imported, seen from the end of a child."""

    def __init__(self, auditor: audit.Auditor, atexit: ModuleType) -> None:
        """Register for the very end: handlers are called in the reverse order."""
        self.auditor = auditor
        self.modules: dict[str, ModuleType] = {}
        self.commits: list[tuple[ModuleType, dict[str, Any]]] = []
        self.forever: list[Any] = []
        atexit.register(self.give_back)

    def keep(self, known: set[str]) -> None:
        """Choose what is left as it is.

        Args:
            known: names of the modules that every interpreter has taken apart.
        """
        environment = self.auditor.environment
        tops = {
            name
            for name, module in list(sys.modules.items())
            if "." not in name and str(getattr(module, "__file__", None)).startswith(environment)
        } | set(sys.builtin_module_names)
        self.modules = {
            name: module
            for name, module in sys.modules.items()
            if name not in known and name.partition(".")[0] in tops
        }
        self.commits = [
            (module, dict(vars(module)))
            for name, module in sys.modules.items()
            if name not in known and name not in self.modules
        ]
        # A circle that the collector no longer looks at is never taken apart.
        self.forever += [self.forever, self.modules]
        _forget_finalizers()
        if all(_is_quiet(path) for path in _libraries()):
            _end_here()

    def give_back(self) -> None:
        """Hide the borrowed modules from the interpreter, which is about to take all apart."""
        for module, before in self.commits:
            _restore(vars(module), before)
        if not self.modules:
            return
        if any(_written(self.auditor)):
            _flush()
        for name in self.modules:
            sys.modules.pop(name, None)


def _restore(names: dict[str, Any], before: dict[str, Any]) -> None:
    """Let go of what the script put into a module of its commit that was imported before.

    The collector does not look at such a module any more, so it would not find out that what hangs
    from it is garbage: the script's own objects, in the end.
    """
    for name in [n for n, value in names.items() if before.get(n, names) is not value]:
        if name in before:
            names[name] = before[name]
        else:
            del names[name]


def _forget_finalizers() -> None:
    weakref = sys.modules.get("weakref")
    if weakref is None:
        return
    for finalizer in list(weakref.finalize._registry):
        alive = finalizer.peek()
        if alive is None:
            continue
        function = alive[1]
        name = (getattr(function, "__module__", ""), getattr(function, "__name__", ""))
        if name in ONLY_FREES:
            finalizer.atexit = False


def _written(auditor: audit.Auditor) -> Iterator[str]:
    """Yield the files that are open: a borrowed module may hold one that the script opened."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:  # the descriptor of this very listing
            continue
        own = path == auditor.config.path or path.startswith(("/dev/", "/proc/"))
        if int(entry) > 2 and path.startswith("/") and not own:
            yield path


def _flush() -> None:
    """Write out what open files hold back, as their end would."""
    for kinds in ((io.TextIOWrapper,), (io.BufferedWriter, io.BufferedRandom)):
        for entry in gc.get_objects():
            if issubclass(type(entry), kinds):  # isinstance might run code of a proxy
                try:
                    entry.flush()
                except (AttributeError, OSError, ValueError):
                    continue


def _libraries() -> set[str]:
    """List the shared libraries of this process."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
        fields = (line.rstrip("\n").split(None, 5) for line in stream)
        return {line[5] for line in fields if len(line) > 5 and "x" in line[1] and "/" in line[5]}


def _is_quiet(path: str) -> bool:
    if path == os.path.realpath(sys.executable) or "/lib-dynload/" in path:
        return True
    installed = path.rpartition("-packages/")[2] if "-packages/" in path else ""
    if installed:
        return installed.partition("/")[0].removesuffix(".libs") in QUIET_PACKAGES
    return path.rpartition("/")[2].startswith(QUIET_LIBRARIES)


def _end_here() -> None:
    """Have exit() end the process once the handlers that are registered after this were called."""
    try:
        end, flush = libc.address("_exit"), libc.address("fflush")
        libc.call("on_exit", end, 0)
        libc.call("__cxa_atexit", flush, 0, 0)
    except OSError:  # another C library
        return
