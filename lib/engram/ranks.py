"""The processes of one run, its ranks: which one this is, and what each is told, as torchrun does.

Rank 0 owns what there is once: record, metrics, checkpoints, the terminal.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["environs", "inherited", "rank", "size"]

RANK, SIZE = "ENGRAM_RANK", "ENGRAM_WORLD_SIZE"
ADDRESS = "127.0.0.1"


def rank() -> int:
    """Which process of its run this one is, from 0.

    Outside a run torchrun's own variables tell. Inside one they do not: a run of a single process
    may have been started from a shell that has them.
    """
    return _told(RANK, "RANK", 0)


def size() -> int:
    """How many processes the run of this one has."""
    return _told(SIZE, "WORLD_SIZE", 1)


def _told(ours: str, theirs: str, alone: int) -> int:
    text = os.environ.get(ours) or ("" if "ENGRAM_RUN" in os.environ else os.environ.get(theirs))
    return int(text) if text and text.isdecimal() else alone


@contextlib.contextmanager
def environs(count: int, run_id: str) -> Iterator[list[dict[str, str | None]]]:
    """Say what each rank's environment holds beyond the run's; a run of one process has no ranks.

    Args:
        count: how many processes the run has.
        run_id: the run's.

    Yields:
        Variables by rank; None takes one away. Their port is claimed until the context ends.
    """
    if count == 1:
        yield [{}]
        return
    from engram.ports import claimed

    with claimed() as port:
        yield [_environ(number, count, port, run_id) for number in range(count)]


def _environ(number: int, count: int, port: int, run_id: str) -> dict[str, str | None]:
    """What torchrun on a single machine, without restarts, tells the process."""
    one, all_ = str(number), str(count)
    return {
        **dict.fromkeys((RANK, "RANK", "LOCAL_RANK", "ROLE_RANK"), one),
        **dict.fromkeys((SIZE, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), all_),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "MASTER_ADDR": ADDRESS,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        **({} if number == 0 else {"ENGRAM_TERMINAL": None}),  # which shows rank 0 alone
    }


def inherited(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Take away what a rank of another run passed on to a run that it started."""
    return dict.fromkeys(_environ(0, 1, 0, "")) if RANK in environ else {}
