"""What a recorded run gives to a new one: its code, its inputs, the places it knew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import errors, manifest
from engram.repository import Repository, find_root

if TYPE_CHECKING:
    from engram.paths import GridPaths, RunPaths, SubmissionPaths

__all__ = [
    "RecordedCode",
    "RecordedInputs",
    "recorded_code",
    "recorded_inputs",
    "recorded_root",
    "require_unaltered",
    "run_root",
]


class RecordedCode(NamedTuple):
    """The code of an earlier run: no look at the working tree is needed.

    Attributes:
        code: the `code` table of that run's record.
        script_blob: git's hash of the script.
        paths: the folder of that run, of a grid or of a submission; it holds the git pack for when
            the repository is gone.
    """

    code: dict[str, Any]
    script_blob: str | None
    paths: RunPaths | GridPaths | SubmissionPaths

    @property
    def pack(self) -> Path:
        """The commit as a git pack."""
        return self.paths.source

    def patch(self) -> bytes | None:
        """What a dirty run added to its commit."""
        return self.paths.patch.read_bytes() if self.paths.patch.exists() else None


class RecordedInputs(NamedTuple):
    """The inputs of an earlier run.

    Attributes:
        copies: where the run folder itself holds a copy, by input name.
        sha256: the recorded hash, by input name.
        allow_changed: whether other content is accepted (it is a finding then).
    """

    copies: dict[str, Path]
    sha256: dict[str, str]
    allow_changed: bool


def recorded_code(paths: RunPaths, record: dict[str, Any]) -> RecordedCode:
    """The code a run was started from.

    Raises:
        ResumeError: it ran from the live working tree, which nothing recorded.
    """
    if record["code"]["live"]:
        msg = f"run {paths.run_id!r} was a --live run: no commit holds its code to be repeated"
        raise errors.ResumeError(msg)
    return RecordedCode(record["code"], record["script"]["blob"], paths)


def recorded_inputs(
    paths: RunPaths, record: dict[str, Any], *, allow_changed: bool
) -> RecordedInputs:
    """The inputs a run was given."""
    items = record["inputs"]
    copies = {
        item["name"]: paths.inputs / item["name"] for item in items if item["strategy"] == "copy"
    }
    return RecordedInputs(copies, {item["name"]: item["sha256"] for item in items}, allow_changed)


def recorded_root(record: dict[str, Any]) -> Path:
    """The repository to work in: the recorded one, or the current one when it moved here.

    When it is neither, its recorded place, where nothing is.
    """
    root = Path(record["repository"]["root"])
    commit = record["code"]["snapshot_commit"]
    if (root / ".git").exists() or commit is None:
        return root
    try:
        here = find_root(Path.cwd())
    except errors.ConfigError:
        return root
    return here if Repository(here).has(commit) else root


def run_root(paths: RunPaths, record: dict[str, Any]) -> Path | None:
    """The run root of a new run; None for the configured one, which goes with the repository."""
    if (Path(record["repository"]["root"]) / ".git").exists():
        return None
    grandparent = paths.folder.parent.parent
    here = grandparent if (grandparent / ".engram").is_dir() else paths.folder.parent
    # An archive may be read-only.
    return here if os.access(here, os.W_OK) else Path.cwd() / "runs"


def require_unaltered(paths: RunPaths, record: dict[str, Any]) -> None:
    """Refuse to repeat a run whose parameters or experiment file are not the recorded ones.

    Raises:
        ResumeError: the file is missing or has another hash.
    """
    for key, path in (("parameters", paths.parameters), ("experiment", paths.experiment)):
        if not path.is_file() or manifest.hash_file(path) != record["hashes"][key]:
            msg = f"{str(path)!r} is not what {paths.run_id!r} recorded: restore it (see verify)"
            raise errors.ResumeError(msg)
