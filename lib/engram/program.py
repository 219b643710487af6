"""How the user calls us."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["program"]


def program() -> str:
    """The command as the user types it, for messages that name one to copy."""
    return "engram" if Path(sys.argv[0]).name in ("engram", "__main__.py") else "./run"
