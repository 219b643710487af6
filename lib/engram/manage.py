"""What people add to a run: tags, notes, and a pin that keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram import record as records
from engram.errors import ConfigError
from engram.store import Store
from engram.table import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["note_command", "pin_command", "tag_command"]


def tag_command(
    start: Path, reference: str, tags: Sequence[str] = (), remove: Sequence[str] = ()
) -> str:
    """Add tags to a run and take others away.

    Args:
        start: where the person stands.
        reference: of the run, see Store.find.
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
    paths = Store.for_root(start).find(reference)
    borne = records.load(paths).get("tags") or []
    missing = [tag for tag in remove if tag not in borne]
    if missing:
        there = f"its tags are {', '.join(borne)}" if borne else "it has no tags"
        msg = f"run {paths.run_id!r} has no tag {missing[0]!r}: {there}"
        raise ConfigError(msg)
    record = records.annotate(paths, tags=tags, untag=remove)
    return printable(f"{record['run_id']}  tags: {', '.join(record['tags']) or 'none'}")


def note_command(start: Path, reference: str, text: str) -> str:
    """Add a sentence to a run.

    Args:
        start: where the person stands.
        reference: of the run, see Store.find.
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
    record = records.annotate(Store.for_root(start).find(reference), note=text.strip())
    count = len(record["notes"])
    return f"{record['run_id']}  {count} {'note' if count == 1 else 'notes'}"


def pin_command(start: Path, reference: str, *, remove: bool = False) -> str:
    """Keep a run from rm and gc, or no longer.

    Args:
        start: where the person stands.
        reference: of the run, see Store.find.
        remove: whether to take the pin away.

    Returns:
        A line for the person.

    Raises:
        RunNotFoundError: no run answers, or several do.
        StoreError: the record cannot be read or written.
    """
    record = records.annotate(Store.for_root(start).find(reference), pinned=not remove)
    said = "pinned: rm and gc leave it alone" if record["pinned"] else "not pinned"
    return f"{record['run_id']}  {said}"


def _require_word(tag: str) -> None:
    """Refuse a tag that a filter could not name, or that looks like a mistyped option.

    Raises:
        ConfigError: it is empty, begins with a hyphen, or holds a space or a control character.
    """
    if not tag or tag.startswith("-") or " " in tag or not tag.isprintable():
        msg = f"{tag!r} is no tag: write one word, without spaces and without a leading hyphen"
        raise ConfigError(msg)
