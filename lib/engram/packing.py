"""Write a commit's source pack in a process of its own, while the snapshot is laid out.

Both read the same objects; on the first run of a commit they would cost twice the time in turn.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from engram.repository import Repository

__all__ = ["Packing"]

HIGHEST_DESCRIPTOR = 4096


class Packing:
    """A pack that is being written into the repository's cache."""

    def __init__(self, repository: Repository, commit: str) -> None:
        """Begin.

        Args:
            repository: it holds the commit.
            commit: full id.
        """
        self.repository = repository
        self.commit = commit
        # Several first starts of one commit write a pack each, and none takes another's away.
        self.path = repository.cache.packs / f"{commit}.{os.getpid()}.pack"
        self._failed = False
        self._pid: int | None = os.fork()
        if self._pid == 0:
            write_and_leave(repository, commit, self.path)

    def done(self) -> bool:
        """Whether `finish` would not have to wait."""
        if self._pid is not None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid, self._failed = None, status != 0
        return self._pid is None

    def finish(self) -> Path:
        """Wait for the pack; what the process could not write is tried again here, to say why.

        Returns:
            The finished pack, which belongs to the caller.

        Raises:
            ConfigError: git failed.
            StoreError: the cache cannot be written.
        """
        if self._pid is not None:
            _, status = os.waitpid(self._pid, 0)
            self._pid, self._failed = None, status != 0
        if self._failed:
            self.repository.archive(self.commit, self.path)
        return self.path

    def abandon(self) -> None:
        """End the process, when the run will not come to need the pack, and remove what it made."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = None
        for left in self.path.parent.glob(f"*{self.path.name}*"):  # unfinished ones have a dot
            left.unlink(missing_ok=True)


def write_and_leave(repository: Repository, commit: str, path: Path) -> None:
    """Be the process that writes the pack; never returns."""
    code = 1
    try:
        from engram.guardian import PR_SET_PDEATHSIG, prctl

        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The guardian tells the runner's end by the end of a pipe, so nobody else may hold it.
        os.closerange(3, HIGHEST_DESCRIPTOR)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        repository.archive(commit, path)
        code = 0
    finally:
        os._exit(code)
