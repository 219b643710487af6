"""What people add to a run or a grid: tags, notes, and a pin that keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram import record as records
from engram.errors import ConfigError
from engram.grid import record as grids
from engram.grid.find import find_either
from engram.paths import GridPaths
from engram.table import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engram.paths import RunPaths

__all__ = ["note_command", "pin_command", "tag_command"]


def tag_command(
    start: Path, reference: str, tags: Sequence[str] = (), remove: Sequence[str] = ()
) -> str:
    """Add tags to a run or a grid and take others away.

    Args:
        start: where the person stands.
        reference: of the run or grid, see engram.grid.find.find_either.
        tags: to add; one that it bears already changes nothing.
        remove: to take away; each must be there.

    Returns:
        A line for the person.

    Raises:
        ConfigError: nothing is asked for, a tag is no word, or one to remove is not there.
        RunNotFoundError: no run answers, or several do.
        StoreError: the record cannot be read or written.
    """
    if not (tags or remove):
        msg = "name tags to add, or to take away with --remove TAG"
        raise ConfigError(msg)
    for tag in tags:
        _require_word(tag)
    paths = find_either(start, reference)
    one = grids.load(paths) if isinstance(paths, GridPaths) else records.load(paths)
    borne = one.get("tags") or []
    missing = [tag for tag in remove if tag not in borne]
    if missing:
        there = f"its tags are {', '.join(borne)}" if borne else "it has no tags"
        msg = f"{_name(one)!r} has no tag {missing[0]!r}: {there}"
        raise ConfigError(msg)
    record = _annotate(paths, tags=tags, untag=remove)
    return printable(f"{_name(record)}  tags: {', '.join(record['tags']) or 'none'}")


def note_command(start: Path, reference: str, text: str) -> str:
    """Add a sentence to a run or a grid.

    Args:
        start: where the person stands.
        reference: of the run or grid, see engram.grid.find.find_either.
        text: the sentence.

    Returns:
        A line for the person.

    Raises:
        ConfigError: the text is empty.
        RunNotFoundError: no run answers, or several do.
        StoreError: the record cannot be read or written.
    """
    if not text.strip():
        msg = "the note is empty: write the text after the run, in quotes"
        raise ConfigError(msg)
    record = _annotate(find_either(start, reference), note=text.strip())
    count = len(record["notes"])
    return f"{_name(record)}  {count} {'note' if count == 1 else 'notes'}"


def pin_command(start: Path, reference: str, *, remove: bool = False) -> str:
    """Keep a run, or a grid and its runs, from rm and gc, or no longer.

    Args:
        start: where the person stands.
        reference: of the run or grid, see engram.grid.find.find_either.
        remove: whether to take the pin away.

    Returns:
        A line for the person.

    Raises:
        RunNotFoundError: no run answers, or several do.
        StoreError: the record cannot be read or written.
    """
    record = _annotate(find_either(start, reference), pinned=not remove)
    said = "pinned: rm and gc leave it alone" if record["pinned"] else "not pinned"
    return f"{_name(record)}  {said}"


def _annotate(
    paths: RunPaths | GridPaths,
    **changes: Any,  # noqa: ANN401 - see engram.record.annotate
) -> dict[str, Any]:
    """Add to the record of a run or of a grid."""
    if isinstance(paths, GridPaths):
        return grids.annotate(paths, **changes)
    return records.annotate(paths, **changes)


def _name(record: dict[str, Any]) -> str:
    """The id in a record."""
    return str(record.get("run_id") or record["grid_id"])


def _require_word(tag: str) -> None:
    """Refuse a tag that a filter could not name, or that looks like a mistyped option.

    Raises:
        ConfigError: it is empty, begins with a hyphen, or holds a space or a control character.
    """
    if not tag or tag.startswith("-") or " " in tag or not tag.isprintable():
        msg = f"{tag!r} is no tag: write one word, without spaces and without a leading hyphen"
        raise ConfigError(msg)
