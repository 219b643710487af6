"""The description of a data set that is not part of the repository: experiments/NAME/sources.toml.

target = "data/NAME"          folder that is made, relative to the repository
builder = "build_tables.py"   script beside the description, called as: builder RAW TABLES
notice = "..."                what everybody who uses the data must know

[[file]]                      one public file, got from raw.githubusercontent.com
repository, commit, path, sha256, license

[[table]]                     one table that the builder makes, and the hash of its content
name, sha256
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from engram import toml
from engram.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DataSet", "Source", "load_description", "providing"]


@dataclass(frozen=True)
class Source:
    """One public file."""

    repository: str
    commit: str
    path: str
    sha256: str
    license: str

    @property
    def place(self) -> str:
        """Where it lies below the raw folder and below a mirror: REPOSITORY_NAME/PATH."""
        return f"{self.repository.rpartition('/')[2]}/{self.path}"

    @property
    def url(self) -> str:
        """Where the public finds it."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"


@dataclass(frozen=True)
class DataSet:
    """A description, read and checked."""

    name: str
    target: Path
    builder: Path
    notice: str
    files: tuple[Source, ...]
    tables: Mapping[str, str]

    def licenses(self) -> str:
        """Say under which licenses the files come, and what their users must know."""
        by_license: dict[str, list[str]] = {}
        for source in self.files:
            names = by_license.setdefault(source.license, [])
            label = f"{source.repository} at {source.commit[:7]}"
            names += [] if label in names else [label]
        lines = [f"# Licenses of the data set {self.name}", ""]
        for license_name, repositories in by_license.items():
            lines += [f"- {license_name}", *(f"  - {repository}" for repository in repositories)]
        return "\n".join([*lines, "", self.notice.strip(), ""])


def load_description(name: str, *, root: Path) -> DataSet:
    """Read and check the description of a data set.

    Args:
        name: folder of the experiment below experiments/, or the path of a description.
        root: the repository.

    Raises:
        ConfigError: there is none, or it is wrong; the message names file and key.
    """
    path = _find(name, root)
    _, values = toml.read(path)
    known = {"target": str, "builder": str, "notice": str, "file": list, "table": list}
    _check_keys(values, known, str(path))
    files = tuple(_source(entry, f"{path}, file {i + 1}") for i, entry in enumerate(values["file"]))
    tables = {}
    for i, entry in enumerate(values["table"]):
        _check_keys(entry, {"name": str, "sha256": str}, f"{path}, table {i + 1}")
        tables[entry["name"]] = entry["sha256"]
    return DataSet(
        name=path.parent.name,
        target=root / _relative(values["target"], f"{path}: target"),
        builder=path.parent / _relative(values["builder"], f"{path}: builder"),
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


def _described(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("experiments/*/sources.toml"))


def _find(name: str, root: Path) -> Path:
    candidates = [root / "experiments" / name / "sources.toml"] if "/" not in name else []
    for path in (*candidates, Path(name)):
        if path.is_file():
            return path.absolute()
    msg = (
        f"no data set {name!r}: {str(root / 'experiments')!r} describes "
        f"{', '.join(map(repr, _described(root))) or 'none'}; "
        "name one of them or the path of a sources.toml"
    )
    raise ConfigError(msg)


def _check_keys(values: Any, known: Mapping[str, type], where: str) -> None:  # noqa: ANN401
    if not isinstance(values, dict) or values.keys() != known.keys():
        keys = sorted(values) if isinstance(values, dict) else values
        msg = f"{where}: the keys are {keys!r}; they must be {sorted(known)!r}"
        raise ConfigError(msg)
    for key, kind in known.items():
        if not isinstance(values[key], kind):
            msg = f"{where}: {key} = {values[key]!r} is no {kind.__name__}"
            raise ConfigError(msg)


def _source(entry: Any, where: str) -> Source:  # noqa: ANN401
    keys = ("repository", "commit", "path", "sha256", "license")
    _check_keys(entry, dict.fromkeys(keys, str), where)
    source = Source(**entry)
    _relative(source.place, f"{where}: path")
    return source


def _relative(text: str, where: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        msg = f"{where} = {text!r} must be a relative path without '..'"
        raise ConfigError(msg)
    return path
