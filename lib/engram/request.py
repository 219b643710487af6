"""What is asked for, and one run on its way: the two values that workflow.py's steps pass on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engram.paths import CachePaths, RootPaths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engram.config import ExperimentConfig, Parameters
    from engram.findings import Finding
    from engram.inputs import ResolvedInput
    from engram.lease import Lease
    from engram.manifest import Entry
    from engram.paths import RunPaths
    from engram.recorded import RecordedCode, RecordedInputs
    from engram.repository import GitState, Repository
    from engram.snapshot import Snapshot
    from engram.supervise import Outcome, Supervisor

__all__ = ["Request", "Run"]


@dataclass(frozen=True)
class Request:
    """What the command line asked for; nothing in it has been checked yet."""

    experiment: Path
    root: Path
    argv: Sequence[str] = ()
    set_parameters: Sequence[str] = ()
    set_config: Sequence[str] = ()
    seed: int | None = None
    timeout: str | None = None
    allow_dirty: bool = False
    live: bool = False
    pdb: bool = False
    run_root: Path | None = None
    recorded_code: RecordedCode | None = None
    recorded_inputs: RecordedInputs | None = None
    parents: dict[str, Any] = field(default_factory=dict)
    resume_from: Path | None = None
    metrics_from: tuple[RunPaths, int] | None = None
    original: RunPaths | None = None
    notes: Sequence[Finding] = ()


@dataclass
class Run:
    """One run on its way through STEPS."""

    request: Request
    began: float = field(default_factory=time.monotonic)
    findings: list[Finding] = field(default_factory=list)
    config: ExperimentConfig = field(init=False)
    parameters: Parameters = field(init=False)
    supervisor: Supervisor = field(init=False)
    repository: Repository | None = None
    git_state: GitState | None = None
    code: dict[str, Any] = field(init=False)
    script_blob: str | None = None
    patch: bytes | None = None
    snapshot: Snapshot | None = None
    inputs: list[ResolvedInput] = field(default_factory=list)
    paths: RunPaths = field(init=False)
    environment: dict[str, Any] = field(init=False)
    lease: Lease | None = None
    record: dict[str, Any] = field(init=False)
    output_entries: list[Entry] = field(default_factory=list)
    outcome: Outcome = field(init=False)
    comparison: dict[str, Any] | None = None

    @property
    def cache(self) -> CachePaths:
        """engram's own folder: in the repository, or beside the runs when the repository is gone."""
        return self.repository.cache if self.repository else CachePaths(self.root.store / "cache")

    @property
    def root(self) -> RootPaths:
        """The run root this run lies in."""
        return RootPaths(self.request.run_root or self.config.output_dir)

    @property
    def code_folder(self) -> Path:
        """Where the code that runs lies: the snapshot, or the working tree of a live run."""
        return self.snapshot.path if self.snapshot else self.config.root
