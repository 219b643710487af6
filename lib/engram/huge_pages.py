"""Inside a warm interpreter: put its memory into huge pages, so that forking it costs a quarter.

A fork copies the table of all pages that were written. Behind `import torch` these are forty
thousand of 4 KiB; of 2 MiB they are seventy. Nothing else changes.
"""

# ruff: noqa: PTH123

from __future__ import annotations

from engram import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 1 << 21
MADV_COLLAPSE = 25
"""Since Linux 6.1; earlier kernels refuse it, and then all stays as it is."""
SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"


def candidates() -> list[int]:
    """List the addresses of what fits into whole huge pages; empty where they are not wanted."""
    try:
        with open(SETTING, encoding="utf-8") as stream:
            return [] if "[never]" in stream.read() else list(_whole_pages())
    except OSError:  # a kernel without them
        return []


def _whole_pages() -> Iterator[int]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            limits, access, _, _, _, *path = line.split(None, 5)
            if access == "rw-p" and (not path or path[0].startswith("[heap]")):
                begin, end = (int(limit, 16) for limit in limits.split("-"))
                yield from range(-(-begin // SIZE) * SIZE, end // SIZE * SIZE, SIZE)


def collapse(address: int) -> bool:
    """Put 2 MiB into one page; say whether that was possible."""
    try:
        return libc.call("madvise", address, SIZE, MADV_COLLAPSE) == 0
    except OSError:
        return False
