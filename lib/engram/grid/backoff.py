"""When to look again: soon after news, ever later without."""

from __future__ import annotations

import math
import time

__all__ = ["Backoff"]


class Backoff:
    """When to look again: soon after news, ever later without."""

    def __init__(self, least_s: float, most_s: float) -> None:
        """Begin at the least."""
        self.least_s, self.most_s = least_s, most_s
        self.every_s, self.last = least_s, -math.inf

    def due(self) -> bool:
        """Tell whether it is time; one that says so counts from now on, and takes more time."""
        now = time.monotonic()
        if now - self.last < self.every_s:
            return False
        self.last = now
        self.every_s = min(self.most_s, self.every_s * 1.3)
        return True

    def hurry(self) -> None:
        """Look soon again."""
        self.every_s = self.least_s
