"""Memory that a training loop asks for again and again."""

from __future__ import annotations

import ctypes
import functools

# Of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST, _PAD_BYTES = 2**31 - 1, 1 << 28


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for what comes next, instead of giving it back.

    Every batch asks for the same large blocks. By default each comes fresh from the operating
    system, which hands it over page by page: up to half of the time of a training step where that
    is slow, as in virtual machines. The memory held at most stays the same; bits do not change.

    Returns:
        Whether that could be said; only glibc knows of it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    wishes = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, _PAD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in wishes)
