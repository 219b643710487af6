"""A bench that runs one script twice in the same folder: in a new interpreter and in a warm one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1] / "runner"))

from supervision import DEADLINE_S, Bench, until  # noqa: F401

from engram.paths import RunPaths, of_rank
from engram.spawn import Spawned, spawn
from engram.supervise import Supervisor
from engram.warm import Warm


class Result(NamedTuple):
    """Everything a run leaves that is not time, process ids or addresses."""

    state: str
    exit: dict[str, object]
    signal_received: int | None
    summary: dict[str, object] | None
    strays: list[str]
    out: list[str]  # by rank
    err: list[str]
    files: dict[str, str]  # name below outputs/ -> sha256
    imports: dict[str, object]
    opened: dict[str, object]
    findings: list[object]


class Both(Bench):
    """A bench whose run folder is used by one run after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.warm: Warm | None = None
        self.variables: dict[str, str | None] = {"OMP_NUM_THREADS": "1"}
        os.environ["BENCH"] = str(self.run.folder)  # by which `living` finds the processes
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # what a shell left open is nobody's concern
                os.set_inheritable(int(entry.name), int(entry.name) <= 2)

    def helper(self, text: str, name: str = "helper.py") -> Path:
        """Write a module of the snapshot."""
        path = self.snapshot / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def start(self, *preload: str, **changes: object) -> Warm:
        """Start the warm interpreter for work.py."""
        spec = self.spec(self.snapshot / "work.py")
        told = {key: spec[key] for key in ("script", "snapshot", "roots", "bytecode", "fallback")}
        self.warm = Warm.start(preload, **{**told, "environ": self.variables, **changes})  # type: ignore[arg-type]
        return self.warm

    def fresh(self) -> None:
        """Make the run folder as it was at first."""
        if self.run.folder.exists():
            self.run.folder.rename(self.folder / f"run-{os.urandom(4).hex()}")
        for path in (self.run.outputs, self.run.inputs, self.run.provenance):
            path.mkdir(parents=True)
        self.run.parameters.write_text("value = 1\n")

    def go(
        self,
        spawned: Spawned,
        *,
        timeout_s: float = DEADLINE_S,
        environs: tuple[dict[str, str], ...] = ({},),
        **changes: object,
    ) -> Result:
        """Run work.py to its end."""
        self.fresh()
        environ = {**self.variables, **changes.pop("environ", {})}  # type: ignore[dict-item]
        spec = self.spec(self.snapshot / "work.py", environ=environ, **changes)
        supervisor = Supervisor(spawned)
        outcome = supervisor.run(
            spec,
            log_out=self.run.log_out,
            log_err=self.run.log_err,
            audit=self.run.audit,
            environs=environs,
            show=False,
            timeout_s=timeout_s,
            grace_s=1.0,
        )
        found = self.digest(ignored=[str(self.run.folder / "bytecode"), *spec["ignored"]])
        tmp = environ.get("TMPDIR") or "/dev/null"  # names in it are random
        opened = [entry for entry in found.files["files"] if not entry["path"].startswith(tmp)]
        logs = [
            [plain(of_rank(log, rank).read_text(errors="replace")) for rank in range(len(environs))]
            for log in (self.run.log_out, self.run.log_err)
        ]
        return Result(
            outcome.state,
            {key: plain(repr(value)) for key, value in outcome.exit.items()},
            outcome.signal_received,
            outcome.summary,
            [plain(stray) for stray in outcome.strays],
            *logs,
            hashes(self.run),
            found.imports,
            {**found.files, "files": opened},
            [plain(repr(item)) for item in (*outcome.findings, *found.findings)],
        )

    def both(self, *, ranks: int = 1, **changes: object) -> tuple[Result, Result]:
        """Run work.py cold and warm."""
        assert self.warm is not None and self.warm.why_not is None, self.warm
        if ranks > 1:
            changes["environs"] = tuple({"RANK": str(rank)} for rank in range(ranks))
        cold = self.go(spawn(processes=ranks), **changes)  # type: ignore[arg-type]
        warm = self.go(self.warm.spawn(processes=ranks), **changes)  # type: ignore[arg-type]
        return cold, warm

    def close(self) -> None:
        super().close()
        if self.warm is not None:
            self.warm.close()
        os.environ.pop("BENCH", None)


def plain(text: str) -> str:
    """Blank out process ids, addresses and the random part of temporary names."""
    text = re.sub(r"pid \d+", "pid N", text)
    return re.sub(r"0x[0-9a-f]+", "0xN", text)


def hashes(run: RunPaths) -> dict[str, str]:
    files = (path for path in sorted(run.outputs.rglob("*")) if path.is_file())
    return {
        path.relative_to(run.outputs).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
