"""The doctor's look at the code: git and its settings, remotes, large files, installed packages."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

from engram import environment
from engram.doctor import BROKEN, OK, WARN, Check, Place
from engram.git import Git

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CHECKS"]

OLDEST_GIT = (2, 26)
POINTER = "^version https://git-lfs.github.com/spec/v1$"
ADVICE = {
    "core.autocrlf": "files differ from their commits: git config core.autocrlf false",
    "core.eol": "files differ from their commits: git config --unset core.eol",
    "core.fsmonitor": "runs do not believe it; `git status` does, and may miss a change",
    "core.untrackedcache": "runs do not believe it; `git status` does, and may miss a file",
    "core.filemode": "a change of the executable bit goes unseen: git config core.fileMode true",
    "core.symlinks": "links were checked out as files: git config core.symlinks true",
}
HARMLESS = {
    "core.autocrlf": ("false", "input"),
    "core.eol": ("lf", "native"),
    "core.fsmonitor": ("false",),
    "core.untrackedcache": ("false", "keep"),
    "core.filemode": ("true",),
    "core.symlinks": ("true",),
}


def git(place: Place) -> Iterator[Check]:
    """Whether git is there, new enough, and set to leave files alone."""
    found = shutil.which("git")
    if found is None:
        yield Check("git", BROKEN, "not on PATH", "install git: nothing runs without it")
        return
    where = Git(place.repository.root if place.repository else place.cache.folder)
    version = where.run("version").decode().strip()
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    old = numbers < OLDEST_GIT
    advice = f"use git {'.'.join(map(str, OLDEST_GIT))} or newer" if old else ""
    yield Check("git", WARN if old else OK, f"{version}, {found}", advice)
    if place.repository is None:
        advice = "git init, and commit the script: only committed code can be recorded"
        yield Check("repository", BROKEN, "none here", advice)
        return
    yield Check("repository", OK, str(place.repository.root))
    yield from settings(where)


def settings(where: Git) -> Iterator[Check]:
    """Settings that make working files differ from their commits, or hide that they do."""
    names = "|".join(re.escape(name) for name in ADVICE)
    # The runner's own -c settings come last in the answer: what the user set stands before them.
    listed = where.start("config", "--show-scope", "-z", "--get-regexp", f"^({names})$").finish()[1]
    cells = os.fsdecode(listed).split("\0")
    values = {}
    for scope, text in zip(cells[::2], cells[1::2], strict=False):
        name, _, value = text.partition("\n")
        if scope != "command":
            values[name] = value
    odd = {name: text for name, text in values.items() if text.lower() not in HARMLESS[name]}
    for name, text in odd.items():
        yield Check("git setting", WARN, f"{name} = {text}", ADVICE[name])
    if not odd:
        yield Check("git setting", OK, "nothing that changes or hides file contents")


def remote(place: Place) -> Iterator[Check]:
    """Whether others can get the commit."""
    if place.repository is None:
        return
    where = Git(place.repository.root)
    if not where.succeeds("rev-parse", "--verify", "-q", "HEAD"):
        yield Check("commit", BROKEN, "no commit yet", "commit the script")
        return
    names = where.run("remote").decode().split()
    if not names:
        advice = "git remote add, and push: until then only the run folders hold the code"
        yield Check("remote", WARN, "none", advice)
        return
    ahead = where.run("rev-list", "--count", "HEAD", "--not", "--remotes").decode().strip()
    if ahead == "0":
        yield Check("remote", OK, f"{', '.join(names)}; HEAD is on it")
    else:
        yield Check("remote", WARN, f"{ahead} commits of HEAD are on no remote", "push them")


def large_files(place: Place) -> Iterator[Check]:
    """Whether Git LFS pointers can be replaced by what they stand for."""
    if place.repository is None:
        return
    where = Git(place.repository.root)
    code, out, _ = where.start("grep", "-l", "-z", "-I", "-e", POINTER, "HEAD").finish()
    if code:
        return  # no pointer, or no commit
    names = [name.partition(":")[2] for name in os.fsdecode(out).split("\0") if name]
    said = f"{len(names)} Git LFS pointers, such as {names[0]}"
    if shutil.which("git-lfs") is None:
        advice = "install git-lfs, then `git lfs pull`: runs of this commit are refused until then"
        yield Check("git lfs", BROKEN, f"{said}, but no git-lfs", advice)
    else:
        yield Check("git lfs", OK, said)


def packages(place: Place) -> Iterator[Check]:
    """Whether what is installed is what the lock file says."""
    if place.repository is None:
        return
    facts, findings = environment.collect(place.cache, place.repository.root)
    if facts["lock"] is None:
        advice = "uv lock, and commit it: a record then says how to get the same packages"
        yield Check("packages", WARN, f"{len(facts['packages'])} installed, no uv.lock", advice)
    for finding in findings:
        advice = "uv sync, or ./run in a checkout of this project"
        yield Check("packages", WARN, finding.message, advice)
    if facts["lock"] is not None and not findings:
        yield Check("packages", OK, f"{len(facts['packages'])} installed, as uv.lock says")
    editable = [name for name, url in facts["installed_from"].items() if "(editable)" in url]
    if editable:
        advice = "their code is in no commit of this repository: a run that imports it says so"
        yield Check("editable", WARN, f"installed in place: {', '.join(editable)}", advice)


CHECKS = (git, remote, large_files, packages)
