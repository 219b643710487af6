"""What lies in a project's store and caches, as the file system and git themselves tell it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from conftest import Project
from made_runs import make_run

from engram import record
from engram.index import Index
from engram.paths import RootPaths, RunPaths

DAY_S = 86400.0


def ran(project: Project, *arguments: str) -> RunPaths:
    """Make one run and return its folder."""
    project.run(*(arguments or ("experiment.toml",)))
    return project.latest()


def cache(project: Project) -> Path:
    """The cache of the project's repository."""
    return project.root / ".git" / "engram"


def let_rest(project: Project) -> None:
    """Take back the times of what was touched a moment ago, which gc leaves alone."""
    past = time.time() - 3600
    places = [cache(project), project.root / ".git/refs", project.root / "runs/.engram"]
    for place in places:
        for path in place.rglob("*"):
            if "snapshots" not in path.parts or path.suffix == ".lock":
                os.utime(path, (past, past), follow_symlinks=False)


def snapshots(project: Project) -> set[str]:
    """The commits that are laid out."""
    return {path.name for path in (cache(project) / "snapshots").iterdir() if path.is_dir()}


def hidden_refs(project: Project) -> set[str]:
    """The commits behind hidden refs, asked of git."""
    listed = project.git("for-each-ref", "--format=%(objectname)", "refs/engram/")
    return set(listed.split())


def packs(project: Project) -> set[str]:
    """The commits that have a source pack."""
    return {path.stem for path in (project.root / "runs/.engram/sources").glob("*.pack")}


def gc(project: Project, *arguments: str) -> str:
    """Collect garbage; return what was said."""
    done = project.run("gc", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ids(project: Project) -> set[str]:
    """The ids that `list` shows, which must be those of the folders."""
    listed = {row["run_id"] for row in json.loads(project.run("list", "--json").stdout)}
    assert listed == {paths.run_id for paths in project.runs()}
    return listed


def aged(project: Project, days: float, **changes: object) -> RunPaths:
    """A run that was made and ended some days ago."""
    when = record.iso_utc(time.time() - days * DAY_S)
    paths = make_run(project.root / "runs", name="project", created=when, **changes)
    text = paths.metadata.read_text()
    found = json.loads(text)
    found["times"]["ended"] = when
    paths.metadata.write_text(json.dumps(found))
    Index(RootPaths(project.root / "runs")).note(paths.folder)
    return paths
