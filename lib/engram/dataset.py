"""The description of a data set that is not part of the repository.

It lies at experiments/NAME/sources.toml; what else an experiment may need, but does not by itself,
has a description and a name of its own: experiments/ANY/NAME.sources.toml.

target = "data/NAME"          folder that is made, relative to the repository
notice = "..."                what everybody who uses the data must know
builder = "build_tables.py"   script beside the description, called as: builder RAW TABLES; without
                              one, and without tables, the files are the data

[[file]]                      one public file
repository, commit, path      where it lies: on raw.githubusercontent.com
url, path                     or at any address; path is then its place below the raw folder
sha256, git_blob              what it is: one of them, or both; git_blob as `git hash-object` says
license

[[table]]                     one table that the builder makes, and the hash of its content
name, sha256
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engram import toml
from engram.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["DataSet", "Source", "load_description", "providing"]

DESCRIPTION = "sources.toml"
HASH_DIGITS = {"sha256": 64, "git_blob": 40}


@dataclass(frozen=True)
class Source:
    """One public file: in a repository, or at an address of its own."""

    path: str
    license: str
    hashes: Mapping[str, str]  # by kind: sha256, git_blob
    repository: str = ""
    commit: str = ""
    address: str = ""

    @property
    def place(self) -> str:
        """Where it lies below the raw folder and below a mirror: REPOSITORY_NAME/PATH, or PATH."""
        folder = self.repository.rpartition("/")[2]
        return f"{folder}/{self.path}" if folder else self.path

    @property
    def url(self) -> str:
        """Where the public finds it."""
        if self.address:
            return self.address
        place = f"{self.repository}/{self.commit}/{quote(self.path)}"
        return f"https://raw.githubusercontent.com/{place}"

    @property
    def origin(self) -> str:
        """Where it comes from, for messages and licenses."""
        return self.address or f"{self.repository} at {self.commit[:7]}"


@dataclass(frozen=True)
class DataSet:
    """A description, read and checked."""

    name: str
    target: Path
    builder: Path | None
    notice: str
    files: tuple[Source, ...]
    tables: Mapping[str, str]

    def licenses(self) -> str:
        """Say under which licenses the files come, and what their users must know."""
        by_license: dict[str, list[str]] = {}
        for source in self.files:
            names = by_license.setdefault(source.license, [])
            names += [] if source.origin in names else [source.origin]
        lines = [f"# Licenses of the data set {self.name}", ""]
        for license_name, repositories in by_license.items():
            lines += [f"- {license_name}", *(f"  - {repository}" for repository in repositories)]
        return "\n".join([*lines, "", self.notice.strip(), ""])


def load_description(name: str, *, root: Path) -> DataSet:
    """Read and check the description of a data set.

    Args:
        name: as `engram fetch` lists it, or the path of a description.
        root: the repository.

    Raises:
        ConfigError: there is none, or it is wrong; the message names file and key.
    """
    path = _find(name, root)
    _, values = toml.read(path)
    needed = {"target": str, "notice": str, "file": list}
    built = {"builder": str, "table": list}
    _check_keys(values, needed, str(path), also=built)
    _check_together(values, built, str(path))
    files = tuple(_source(entry, f"{path}, file {i + 1}") for i, entry in enumerate(values["file"]))
    _check_apart(files, str(path))
    tables = {}
    for i, entry in enumerate(values.get("table", ())):
        _check_keys(entry, {"name": str, "sha256": str}, f"{path}, table {i + 1}")
        tables[entry["name"]] = entry["sha256"]
    builder = values.get("builder")
    return DataSet(
        name=_name(path),
        target=root / _relative(values["target"], f"{path}: target"),
        builder=builder and path.parent / _relative(builder, f"{path}: builder"),
        notice=values["notice"],
        files=files,
        tables=tables,
    )


def providing(path: Path, *, root: Path) -> str | None:
    """Return the name of the data set that would bring a missing file, for a message that says so.

    Args:
        path: an input that is not there.
        root: the repository.

    Returns:
        What `engram fetch` is to be given, or None when no valid description has this target.
    """
    wanted = path.absolute()
    for name in _described(root):
        try:
            target = load_description(name, root=root).target.absolute()
        except ConfigError:
            continue
        if wanted == target or target in wanted.parents:
            return name
    return None


def _described(root: Path) -> dict[str, Path]:
    """The descriptions of a repository, by name."""
    patterns = (f"experiments/*/{name}{DESCRIPTION}" for name in ("", "?*."))
    return {_name(path): path for pattern in patterns for path in sorted(root.glob(pattern))}


def _name(path: Path) -> str:
    """The name of the data set that a file describes."""
    return path.name.removesuffix(DESCRIPTION).removesuffix(".") or path.parent.name


def _find(name: str, root: Path) -> Path:
    for path in (_described(root).get(name), Path(name)):
        if path is not None and path.is_file():
            return path.absolute()
    msg = (
        f"no data set {name!r}: {str(root / 'experiments')!r} describes "
        f"{', '.join(map(repr, _described(root))) or 'none'}; "
        "name one of them or the path of a description"
    )
    raise ConfigError(msg)


def _check_keys(
    values: Any,  # noqa: ANN401
    needed: Mapping[str, type],
    where: str,
    also: Mapping[str, type] | None = None,
) -> None:
    """Refuse a table that lacks keys, has others, or values of another kind."""
    known = {**needed, **(also or {})}
    if not isinstance(values, dict) or not needed.keys() <= values.keys() <= known.keys():
        keys = sorted(values) if isinstance(values, dict) else values
        more = f", and may be {sorted(also)!r}" if also else ""
        msg = f"{where}: the keys are {keys!r}; they must be {sorted(needed)!r}{more}"
        raise ConfigError(msg)
    for key, value in values.items():
        if not isinstance(value, known[key]):
            msg = f"{where}: {key} = {value!r} is no {known[key].__name__}"
            raise ConfigError(msg)


def _check_together(values: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    """Refuse some of the keys without the others."""
    there = [key in values for key in keys]
    if any(there) and not all(there):
        msg = f"{where}: {' and '.join(keys)} go together: write all of them or none"
        raise ConfigError(msg)


def _check_apart(files: Iterable[Source], where: str) -> None:
    """Refuse two files of one place, and a file where another one needs a folder."""
    places: set[PurePosixPath] = set()
    for source in files:
        place = PurePosixPath(source.place)
        for other in places:
            if place == other or place in other.parents or other in place.parents:
                msg = f"{where}: {str(other)!r} and {source.place!r} would lie in one place: "
                raise ConfigError(f"{msg}give one of them another path")
        places.add(place)


def _source(entry: Any, where: str) -> Source:  # noqa: ANN401
    places = ("repository", "commit", "url")
    also = dict.fromkeys((*places, *HASH_DIGITS), str)
    _check_keys(entry, {"path": str, "license": str}, where, also=also)
    _check_together(entry, ("repository", "commit"), where)
    if ("url" in entry) == ("repository" in entry):
        msg = f"{where}: write either repository and commit, or url, to say where it lies"
        raise ConfigError(msg)
    address = entry.get("url", "")
    if address and not address.startswith(("https://", "http://")):
        msg = f"{where}: url = {address!r} must begin with https:// or http://"
        raise ConfigError(msg)
    source = Source(
        path=entry["path"],
        license=entry["license"],
        hashes=_hashes(entry, where),
        repository=entry.get("repository", ""),
        commit=entry.get("commit", ""),
        address=address,
    )
    _relative(source.place, f"{where}: path")
    return source


def _hashes(entry: Mapping[str, Any], where: str) -> dict[str, str]:
    """What says whether a file is the right one: without that, nothing is fetched."""
    hashes = {kind: entry[kind] for kind in HASH_DIGITS if kind in entry}
    if not hashes:
        msg = f"{where}: write sha256 or git_blob, by which the file is known to be the right one"
        raise ConfigError(msg)
    for kind, value in hashes.items():
        if not re.fullmatch(rf"[0-9a-f]{{{HASH_DIGITS[kind]}}}", value):
            msg = f"{where}: {kind} = {value!r} is not {HASH_DIGITS[kind]} digits of 0-9a-f"
            raise ConfigError(msg)
    return hashes


def _relative(text: str, where: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        msg = f"{where} = {text!r} must be a relative path without '..'"
        raise ConfigError(msg)
    return path
