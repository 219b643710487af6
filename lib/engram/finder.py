"""Inside the child: import from the snapshot first, and keep its bytecode elsewhere.

Loaded by path into the experiment's process and its Python children; audit.py says what that means.
"""

# Pathlib is not loaded in every Python child.
# ruff: noqa: PTH116

from __future__ import annotations

import _frozen_importlib_external as external
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class SnapshotFinder:
    """Finds modules below the import roots of the snapshot.

    It stands first on sys.meta_path: an editable install may put a finder of its own in front of
    sys.path, and then the order of sys.path alone would not make the snapshot win.
    """

    def __init__(self, snapshot: str, roots: list[str]) -> None:
        """Remember the folder of the snapshot and the folders imports start from, in order."""
        self.inside = snapshot.rstrip("/") + "/"
        self.roots = roots
        self.finders: dict[str, Any] = {}

    def find_spec(self, name: str, path: Iterable[str] | None = None, target: object = None) -> Any:  # noqa: ANN401
        """Return the spec of a module of the snapshot, else None; called by the import system."""
        entries = (
            self.roots if path is None else [p for p in path if (p + "/").startswith(self.inside)]
        )
        for entry in entries:
            spec = self._finder(entry).find_spec(name, target)
            if spec is not None and spec.loader is not None:
                return spec
        return None

    def invalidate_caches(self) -> None:
        """Forget folder listings; called by importlib.invalidate_caches."""
        self.finders.clear()

    def _finder(self, entry: str) -> Any:  # noqa: ANN401
        if entry not in self.finders:
            details = external._get_supported_file_loaders()  # type: ignore[attr-defined]
            self.finders[entry] = external.FileFinder(entry, *details)
        return self.finders[entry]


def redirect_bytecode(snapshot: str, bytecode: str) -> None:
    """Keep the compiled modules of the snapshot below `bytecode`; all others stay where they are.

    sys.pycache_prefix would move the bytecode of every installed package too, and compile it again
    for every snapshot. The change time of the source is part of the name: a script that writes into
    the snapshot must not leave bytecode behind that fits the repaired file.
    """
    inside = snapshot.rstrip("/") + "/"
    plain = external.cache_from_source

    def cache_from_source(path: Any, *args: Any, **options: Any) -> str:  # noqa: ANN401
        place: str = plain(path, *args, **options)
        if not place.startswith(inside):
            return place
        try:
            changed = os.stat(path).st_ctime_ns
        except OSError:
            return place
        return f"{bytecode}{place.removesuffix('.pyc')}.{changed:x}.pyc"

    external.cache_from_source = cache_from_source


def forget_live_modules(
    finder: SnapshotFinder, environment: tuple[str, ...]
) -> list[tuple[str, str]]:
    """Drop modules of the snapshot that site already imported from elsewhere.

    A .pth file may import from the live tree before anything here runs.

    Returns:
        (name, path) of each module that came from outside the environment, dropped or not.
    """
    found = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or path.startswith(environment) or name == "__main__":
            continue
        found.append((name, path))
        if finder.find_spec(name.split(".", 1)[0]) is not None:
            del sys.modules[name]
    return found


def install(snapshot: str, roots: list[str], bytecode: str) -> SnapshotFinder:
    """Make this process import from the snapshot first."""
    finder = SnapshotFinder(snapshot, roots)
    sys.meta_path.insert(0, finder)
    if bytecode:
        redirect_bytecode(snapshot, bytecode)
    return finder
