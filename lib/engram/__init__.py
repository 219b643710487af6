"""Run a research script from a clean commit and keep a record that can be verified and repeated.

A notebook uses `engram.runs(...)` and `engram.run(...)`, see engram.api.
"""

from __future__ import annotations

__all__ = ["__version__", "run", "runs"]

__version__ = "0.1.0"

# Not from typing: every start of a run passes here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from engram.api import run, runs


def __getattr__(name: str) -> object:
    """Import what notebooks use when it is asked for, and not at every start of a run."""
    if name in ("run", "runs"):
        from engram import api

        return getattr(api, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """What a notebook completes."""
    return sorted({*globals(), *__all__})
