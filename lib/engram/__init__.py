"""Run a research script from a clean commit and keep a record that can be verified and repeated."""

from __future__ import annotations

__version__ = "0.1.0"
