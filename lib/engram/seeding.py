"""Inside the child: the seeds of the generators that a script uses without owning them.

Python's is seeded before the script is loaded, those of numpy and torch when they are first
imported: importing them on behalf of a script that does not need them would cost seconds.
"""

from __future__ import annotations

import _frozen_importlib_external as external
import functools
import random
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["AfterImport", "seed_loaded", "start", "start_anew"]


def start(seed: int, after_import: AfterImport) -> None:
    """Seed Python's generator and what is loaded, and the others as soon as they are imported."""
    random.seed(seed)
    seed_loaded(seed)
    for name, function in SEEDERS.items():
        after_import.calls[name] = functools.partial(function, seed=seed)


def start_anew() -> None:
    """Without a seed each run draws other numbers; torch alone begins with the same ones always."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed()


def _seed_numpy(numpy: Any, seed: int) -> None:  # noqa: ANN401
    if hasattr(numpy, "random"):  # else it is still being imported
        numpy.random.seed(seed % 2**32)


def _seed_torch(torch: Any, seed: int) -> None:  # noqa: ANN401
    if hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)


SEEDERS = {"numpy": _seed_numpy, "torch": _seed_torch}


def seed_loaded(seed: int) -> None:
    """Seed the global generators of numpy and torch, where they are imported."""
    for name, function in SEEDERS.items():
        module = sys.modules.get(name)
        if module is not None:
            function(module, seed)


DRAWS_AN_ID = ("rich.style",)
"""Modules that draw from Python's generator when they are imported, but only to name things."""


def _nothing(module: ModuleType) -> None:
    """Do nothing with a module of which only the import is of interest."""


class AfterImport:
    """Calls functions with modules that the script imports, as soon as they are executed.

    Stands on sys.meta_path, but finds nothing itself: it lets the ordinary path answer.
    """

    def __init__(self) -> None:
        """Wait for those that must not disturb the script's random numbers."""
        self.calls: dict[str, Callable[[ModuleType], None]] = dict.fromkeys(DRAWS_AN_ID, _nothing)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ANN401
        """Return the spec of a module that is waited for, else None; called by the imports."""
        call = self.calls.pop(name, None)
        if call is None:
            return None
        spec = external.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                state = random.getstate() if name in DRAWS_AN_ID else None
                execute(module)
                if state is not None:
                    random.setstate(state)
                call(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
