"""The file in which the workers of an experiment find its W&B sweep.

It lies in the run root, which machines may share. The first worker makes the sweep under a lock;
where a file system knows no locks, the file itself decides: it comes into being whole and once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import record as runs
from engram.files import write_json
from engram.grid.sweep_identity import Identity
from engram.grid.wandb_server import SweepPath
from engram.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engram.paths import RootPaths

__all__ = ["Known", "SweepPlace"]


class Known(NamedTuple):
    """A sweep that a file names."""

    path: SweepPath
    identity: Identity
    made: str  # when, UTC

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        named = {"sweep": self.path.sweep, "project": self.path.project}
        whose = {"entity": self.path.entity, "made": self.made}
        return {**named, **whose, "configuration": self.identity.as_json()}


class SweepPlace:
    """Where the sweep of one experiment is written down."""

    def __init__(self, root: RootPaths, experiment: str, script: str) -> None:
        """Choose the file.

        Args:
            root: the run root.
            experiment: its name.
            script: its script; two experiments of one name are told apart by it.
        """
        mark = hashlib.sha256(f"{experiment}\0{script}".encode()).hexdigest()[:8]
        self.file: Path = root.sweeps / f"{runs.slug(experiment)}-{mark}.json"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other worker looks for the sweep, or makes it.

        Raises:
            StoreError: the run root cannot be written.
        """
        self._make_folder()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a file system without locks: `keep` decides
                stack.enter_context(locked(self.file.with_suffix(".lock"), create=True))
            yield

    def _make_folder(self) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise runs.store_error(self.file.parent, error) from error

    def read(self) -> Known | None:
        """The sweep; None where there is none, or the file is damaged."""
        try:
            told = json.loads(self.file.read_bytes())
            kept = told["configuration"]
            path = SweepPath(told["entity"], told["project"], told["sweep"])
            return Known(path, Identity(kept["parts"], kept["details"]), told["made"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, found: Known, *, instead: Known | None = None) -> bool:
        """Write a sweep down, where no other worker was faster.

        Args:
            found: the sweep.
            instead: the one in whose place it comes.

        Returns:
            Whether it stands there now.

        Raises:
            StoreError: the run root cannot be written.
        """
        self._make_folder()
        new = self.file.with_name(f".{self.file.name}.{os.uname().nodename}.{os.getpid()}")
        try:
            if instead is not None or (self.file.exists() and self.read() is None):
                write_json(self.file, found.as_json(), sync=True)
                return True
            write_json(new, found.as_json(), sync=True)
            return _become(new, self.file)
        except OSError as error:
            raise runs.store_error(self.file, error) from error
        finally:
            new.unlink(missing_ok=True)


def _become(new: Path, file: Path) -> bool:
    """Give a whole file its name, unless another one has it."""
    try:
        file.hardlink_to(new)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(new.read_bytes())
    return True
