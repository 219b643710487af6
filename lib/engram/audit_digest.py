"""From the raw audit lines to imports.json, files.json and findings; in the runner, at the end."""

# The audit compares paths as text, as the child did.
# ruff: noqa: PTH100

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.audit import NEVER, SYSTEM, environment_roots
from engram.findings import Finding
from engram.paths import RunPaths

COVERAGE = (
    "exact for what Python opens, in every Python process listed as audited; "
    "files opened by C libraries are sampled from the open descriptors, "
    "so a short opening can be missed; "
    "other programs are only named"
)
CLOCK_S = 0.05
"""Change times may lag behind the clock by a kernel tick."""
MOST_EVIDENCE = 50


class Digest(NamedTuple):
    """What the audit comes to."""

    imports: dict[str, Any]
    """For imports.json: modules of the snapshot, modules from outside, installed packages."""
    files: dict[str, Any]
    """For files.json: the files the run opened, and the processes it started."""
    findings: list[Finding]


class Bounds:
    """Which paths need no mention."""

    def __init__(
        self,
        snapshot: Sequence[str],
        run: RunPaths,
        inputs: Sequence[Path],
        ignored: Sequence[str],
        environment: Sequence[str],
    ) -> None:
        """Prepare the prefixes, each as given and with its links resolved."""
        self.snapshot = _prefixes(snapshot)
        self.outputs = _prefixes([str(run.outputs), *ignored])
        self.run = _prefixes([str(run.folder)])
        self.writable = (*self.outputs, *NEVER)
        self.environment = _prefixes(environment or environment_roots())
        self.readable = (
            *self.snapshot,
            *self.run,
            *self.environment,
            *SYSTEM,
            *self.writable,
            *_prefixes([str(path) for path in inputs]),
        )

    def may_write(self, path: str) -> bool:
        """Whether a file may be written: where it really lies counts, not the link to it.

        The run's own folder is its own affair, except for what its inputs link to.
        """
        return os.path.realpath(path).startswith((*self.writable, *self.run))

    def may_read(self, path: str) -> bool:
        """Whether a file may be read: through the run's inputs/, or where an input lies itself."""
        return path.startswith(self.readable) or os.path.realpath(path).startswith(self.readable)


def digest(
    audit: Path,
    *,
    snapshot: Path,
    run: RunPaths,
    roots: Sequence[str] = (),
    inputs: Sequence[Path] = (),
    ignored: Sequence[str] = (),
    environment: Sequence[str] = (),
    started: float | None = None,
) -> Digest:
    """Read the audit of a run.

    Args:
        audit: the raw file.
        snapshot: the checkout the run imported from (the working tree for a live run).
        run: the run's folder.
        roots: import roots; modules below them count as the snapshot's.
        inputs: where the declared inputs lie, and a checkpoint that was resumed from.
        ignored: caches and the TMPDIR of the run: prefixes that may be read and written.
        environment: the folders of the child's environment, when its Python is not this one.
        started: when the run began, in epoch seconds; if None, when its parameters were written.

    Returns:
        The contents of imports.json and files.json, and what was found.
    """
    lines = list(_lines(audit))
    bounds = Bounds([str(snapshot), *roots], run, inputs, ignored, environment)
    begun = _first_change(run) if started is None else started
    modules = _modules(lines, bounds)
    imported = {entry["path"] for entry in modules["outside"]}
    files = [f for f in _files(lines, bounds, begun - CLOCK_S) if f["path"] not in imported]
    processes = _processes(lines)
    findings = [
        *_import_findings(modules),
        *_file_findings(files),
        *_process_findings(processes),
        *_other_findings(lines),
    ]
    packages = sorted({n for line in lines if line["e"] == "packages" for n in line["names"]})
    imports = {"schema_version": 1, **modules, "packages": packages}
    opened = {"schema_version": 1, "coverage": COVERAGE, "files": files, "processes": processes}
    return Digest(imports, opened, findings)


def _lines(audit: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines; one cut short by a full disk is left out."""
    if not audit.exists():
        return
    with audit.open("rb") as stream:
        for raw in stream:
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if isinstance(line, dict) and "e" in line:
                yield line


def _first_change(run: RunPaths) -> float:
    """Return when the parameters were written: before the child started, and never again."""
    try:
        return run.parameters.stat().st_mtime
    except OSError:
        return 0.0


def _prefixes(paths: Sequence[str]) -> tuple[str, ...]:
    """Give each path as a folder, as given and resolved."""
    both = {p for path in paths if path for p in (os.path.abspath(path), os.path.realpath(path))}
    return tuple(sorted(p.rstrip("/") + "/" for p in both))


def sha256(path: str) -> str | None:
    """Hash a file, or the archive that holds it; None when it cannot be read any more."""
    place = Path(path)
    while not place.is_file() and place != place.parent:
        place = place.parent
    try:
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _modules(lines: list[dict[str, Any]], bounds: Bounds) -> dict[str, Any]:
    """Split the imported modules into those of the snapshot and those from outside it."""
    inside: dict[str, dict[str, Any]] = {}
    outside: dict[str, dict[str, Any]] = {}
    for line in lines:
        path = line.get("path", "")
        if line["e"] != "import" or path in inside or path in outside:
            continue
        real = os.path.realpath(path)
        prefix = next((p for p in bounds.snapshot if path.startswith(p)), None)
        if prefix is not None and real.startswith(bounds.snapshot):
            relative = path[len(prefix) :]
            inside[path] = {"name": line["name"], "path": relative, "sha256": sha256(path)}
        elif not path.startswith(bounds.environment):
            outside[path] = {"name": line["name"], "path": path, "sha256": sha256(path)}
    ordered = sorted(inside.values(), key=lambda entry: str(entry["path"]))
    return {"modules": ordered, "outside": sorted(outside.values(), key=lambda e: str(e["path"]))}


def _files(lines: list[dict[str, Any]], bounds: Bounds, begun: float) -> list[dict[str, Any]]:
    """Say for every opened file what was done to it and whether that was within bounds."""
    noted: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line["e"] not in ("open", "fd"):
            continue
        entry = noted.setdefault(line["path"], {"modes": set(), "python": False})
        entry["modes"].add("u" if line["e"] == "fd" and line["mode"] == "w" else line["mode"])
        entry["python"] = entry["python"] or line["e"] == "open"
    found = []
    for path, entry in sorted(noted.items()):
        mode = _what_happened(path, entry["modes"], begun)
        if mode is None:
            continue
        allowed = bounds.may_read(path) if mode == "read" else bounds.may_write(path)
        seen = "python" if entry["python"] else "sampled"
        if not (seen == "sampled" and allowed):
            found.append({"path": path, "mode": mode, "seen": seen, "allowed": allowed})
    return found


def _what_happened(path: str, modes: set[str], begun: float) -> str | None:
    """Name what the run did to a path, as the disk confirms it.

    An opening is noted before it succeeds, and one for writing need not write: the change time,
    which a script cannot set, decides. What was made and removed again left nothing to mention.
    """
    try:
        info = Path(path).lstat() if modes & {"d", "l"} else Path(path).stat()
    except OSError:
        return "removed" if modes == {"d"} else None
    if stat.S_ISDIR(info.st_mode):
        return None
    if modes & {"w", "l", "u", "d"} and info.st_ctime >= begun:
        return "written"
    return "read" if modes & {"r", "u", "w"} and stat.S_ISREG(info.st_mode) else None


def _processes(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List what was started, and whether its files and imports were audited."""
    audited = {line["pid"] for line in lines if line["e"] == "python"}
    hooked = Counter(
        line["ppid"] for line in lines if line["e"] == "python" and line["how"] == "start"
    )
    started: Counter[tuple[str, bool]] = Counter()
    for line in lines:
        if line["e"] == "spawn":
            name = Path(line["argv0"]).name or line["argv0"]
            known = _is_python(name) and hooked[line["pid"]] > 0
            hooked[line["pid"]] -= known
            started[(name, known)] += 1
    spawned = {name for name, _ in started}
    for line in lines:
        unseen = line["e"] == "seen" and line["pid"] not in audited
        if unseen and not any(name.startswith(line["name"]) for name in spawned):
            started[(line["name"], False)] += 1
    return [
        {"name": name, "audited": known, "count": count}
        for (name, known), count in sorted(started.items())
    ]


def _is_python(name: str) -> bool:
    return name.startswith(("python", "pypy"))


def _import_findings(modules: dict[str, Any]) -> Iterator[Finding]:
    if modules["outside"]:
        names = ", ".join(f"{m['name']} from {m['path']}" for m in modules["outside"][:5])
        message = f"code was imported from outside the commit and the environment: {names}"
        yield Finding("imported_outside_snapshot", message, modules["outside"][:MOST_EVIDENCE])


def _file_findings(files: list[dict[str, Any]]) -> Iterator[Finding]:
    changed = [entry for entry in files if entry["mode"] != "read" and not entry["allowed"]]
    read = [entry["path"] for entry in files if entry["mode"] == "read" and not entry["allowed"]]
    if changed:
        message = f"{len(changed)} file(s) outside outputs/ were written or removed: "
        message += _some([entry["path"] for entry in changed])
        evidence = [{k: e[k] for k in ("path", "mode", "seen")} for e in changed[:MOST_EVIDENCE]]
        yield Finding("wrote_outside_outputs", message, evidence)
    if read:
        message = f"{len(read)} file(s) were read that are no declared inputs: {_some(read)}"
        yield Finding("read_outside_inputs", message, read[:MOST_EVIDENCE])


def _process_findings(processes: list[dict[str, Any]]) -> Iterator[Finding]:
    names = [entry["name"] for entry in processes if not entry["audited"]]
    if names:
        message = f"started, and not audited: {_some(names)}"
        yield Finding("unaudited_process", message, names[:MOST_EVIDENCE])


def _other_findings(lines: list[dict[str, Any]]) -> Iterator[Finding]:
    lost = sum(line.get("lost", 0) for line in lines if line["e"] == "packages")
    if lost:
        yield Finding("audit_incomplete", f"{lost} event(s) could not be noted by the audit", lost)
    # Every rank of a run says what its own main returned.
    ignored = [line["ignored"] for line in lines if line["e"] == "end" and line.get("ignored")]
    for text in dict.fromkeys(ignored):
        yield Finding("summary_ignored", f"summary ignored: {text}")


def _some(names: list[str]) -> str:
    """Name the first few."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
