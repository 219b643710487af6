"""How often a file that grows is written anew: so that it takes a small share of the time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pace"]

# The rest, beside what the work took.
REST = 20.0


class Pace:
    """Lets work be done again only after a rest that is long beside what the work took."""

    def __init__(self, least_s: float) -> None:
        """Begin with a rest.

        Args:
            least_s: the shortest rest, in seconds.
        """
        self.least_s = least_s
        self.due = time.monotonic() + least_s

    def may(self) -> bool:
        """Whether the rest is over."""
        return time.monotonic() >= self.due

    def do(self, work: Callable[[], None]) -> None:
        """Do the work, and rest afterwards, also when it fails."""
        began = time.monotonic()
        try:
            work()
        finally:
            self.rest(time.monotonic() - began)

    def rest(self, took_s: float) -> None:
        """Rest after work that took so long."""
        self.due = time.monotonic() + max(self.least_s, REST * took_s)
