"""Conversions between the units that names carry as suffixes (dt_ms, rate_hz)."""

from __future__ import annotations

MS_PER_S = 1000.0
