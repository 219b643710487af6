"""What two runs are compared by: the two sides, and one part of what differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import reconcile, toml
from engram.compare_values import Tolerance, differences
from engram.errors import ConfigError
from engram.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from engram.paths import RunPaths

__all__ = ["CAUSE", "RESULT", "Change", "Section", "Side", "flat", "some", "unlike"]

CAUSE, RESULT = "cause", "result"


class Change(NamedTuple):
    """One thing that is not the same in both runs.

    Attributes:
        key: what.
        a: its value in the first run, as text; "absent" when it has none; "" when `note` says all.
        b: its value in the second.
        note: what else is known.
        matters: whether it can change a result, or is one.
        lines: of a difference that is short enough to be shown.
    """

    key: str
    a: str
    b: str
    note: str = ""
    matters: bool = True
    lines: tuple[str, ...] = ()


@dataclass
class Section:
    """One aspect in which two runs are compared.

    Attributes:
        name: such as "parameters".
        kind: CAUSE or RESULT.
        changes: what differs, the most telling first.
        remarks: what could not be compared, and how it was done instead.
    """

    name: str
    kind: str
    changes: list[Change] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether anything that matters does."""
        return any(change.matters for change in self.changes)


class Side(NamedTuple):
    """One of the two runs, as its folder tells it.

    Attributes:
        paths: the folder.
        record: metadata.json.
        parameters: as the script read them; None when they cannot be read.
        experiment: experiment.toml as resolved; likewise.
        environment: environment.json; likewise.
        imports: imports.json; likewise, as of a run that was killed.
    """

    paths: RunPaths
    record: dict[str, Any]
    parameters: dict[str, Any] | None
    experiment: dict[str, Any] | None
    environment: dict[str, Any] | None
    imports: dict[str, Any] | None

    @classmethod
    def of(cls, paths: RunPaths) -> Side:
        """Read a run.

        Raises:
            RunNotFoundError: it has no record.
            StoreError: the record cannot be read.
        """
        return cls(
            paths,
            reconcile.reconcile(paths),
            read_toml(paths.parameters),
            read_toml(paths.experiment),
            read_table(paths.environment),
            read_table(paths.imports),
        )

    def setting(self, *keys: str) -> Any:  # noqa: ANN401
        """A value of experiment.toml; None where it has none."""
        found: Any = self.experiment
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found


def read_toml(path: Path) -> dict[str, Any] | None:
    """The values of a TOML file; None when it is missing or damaged."""
    try:
        return toml.read(path)[1]
    except ConfigError:
        return None


def read_table(path: Path) -> dict[str, Any] | None:
    """A JSON object in a file; None when it is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted key; lists stay values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            found.update(flat(value, name))
        else:
            found[name] = value
    return found


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    """The values that differ, in the order of their keys."""
    for found in differences(dict(sorted(a.items())), dict(sorted(b.items())), Tolerance()):
        yield Change(found.key, found.a, found.b, found.note)


def some(names: list[str], what: str) -> str:
    """How many, and the first three."""
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}: {', '.join(names[:3])}{more}"
