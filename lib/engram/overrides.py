"""KEY=VALUE from the command line: a dotted path, and a value read as TOML, else a string."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping, Sequence

__all__ = ["Override", "apply", "parse", "suggestion"]

PART = r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s.="']+))\s*"""


class Override(NamedTuple):
    """One value to set.

    Attributes:
        path: the keys from the outermost table inwards; array items are named by their index.
        value: the new value.
        create: whether the key may be new (written as +KEY=VALUE).
        is_text: whether VALUE was no TOML and so was taken as a string.
        text: as it was written.
    """

    path: tuple[str, ...]
    value: Any
    create: bool
    is_text: bool
    text: str

    @property
    def key(self) -> str:
        """The dotted path, for messages."""
        return ".".join(self.path)


def parse(text: str, *, option: str = "--set") -> Override:
    """Read one KEY=VALUE.

    Args:
        text: `a.b=1`, `layers.0.size=3`, `"a key with.dots".x=[1, 2]` or `+new=true`.
        option: the command-line option, for messages.

    Raises:
        ConfigError: there is no key or no equals sign, or the text is not valid Unicode.
    """
    create = text.startswith("+")
    path, end = _path(text, int(create))
    if not path or text[end : end + 1] != "=":
        msg = f"{option} {text!r} is not KEY=VALUE: write for example {option} training.epochs=3"
        raise ConfigError(msg)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        msg = f"{option} {text!r} is not valid UTF-8"
        raise ConfigError(msg)
    raw = text[end + 1 :]
    try:
        value, is_text = _toml_value(raw), False
    except ValueError:
        value, is_text = raw, True
    return Override(path, value, create, is_text, text)


def _path(text: str, start: int) -> tuple[tuple[str, ...], int]:
    """The dotted path at `start`, and where it ends; an empty path where there is none."""
    parts: list[str] = []
    part = re.compile(PART)
    while match := part.match(text, start):
        basic, literal, bare = match.groups()
        parts.append(_unquoted(basic) if basic is not None else literal if bare is None else bare)
        start = match.end()
        if text[start : start + 1] != ".":
            return tuple(parts), start
        start += 1
    return (), start


def _unquoted(text: str) -> str:
    """The meaning of a basic TOML string; text that is none stands for itself."""
    try:
        return str(_toml_value(f'"{text}"'))
    except ValueError:
        return text


def _toml_value(text: str) -> Any:  # noqa: ANN401
    """The one value that `text` is in TOML.

    Raises:
        ValueError: it is none, or more than one.
    """
    try:
        values = tomllib.loads(f"value = {text}")
    except RecursionError as error:
        raise ValueError from error
    if len(values) != 1:
        raise ValueError
    return values["value"]


def apply(
    values: MutableMapping[str, Any],
    changes: Sequence[Override],
    *,
    where: str,
    create: bool = False,
) -> None:
    """Set values in nested tables, in place.

    Args:
        values: the outermost table; dicts and lists, or what tomlkit makes of them.
        changes: what to set, in order.
        where: the file's name, for messages.
        create: whether every key may be new, as with +KEY=VALUE; what a key may hold is then
            somebody else's to say.

    Raises:
        ConfigError: a key is not there (with what may have been meant), an index is out of range,
            a path leads through a value that is no table, or text would replace a boolean or a
            number.
    """
    for change in changes:
        _set(values, change, where=where, create=create)


def _set(values: MutableMapping[str, Any], change: Override, *, where: str, create: bool) -> None:
    kinds = (bool,) if create else (bool, int, float)
    create = create or change.create
    place: Any = values
    for depth, key in enumerate(change.path[:-1]):
        _require_container(place, change, depth, where)
        if _is_new(place, key):
            _require_known(values, change, depth, where, create=create)
            place[key] = {}
        place = place[_item(place, key, change, where)]
    last, depth = change.path[-1], len(change.path) - 1
    _require_container(place, change, depth, where)
    if _is_new(place, last):
        _require_known(values, change, depth, where, create=create)
        place[last] = change.value
    elif isinstance(place, list) and create and last == str(len(place)):
        place.append(change.value)
    else:
        item = _item(place, last, change, where)
        _require_kind(place[item], change, where, kinds)
        place[item] = change.value


def _is_new(place: Any, key: str) -> bool:  # noqa: ANN401
    return not isinstance(place, list) and key not in place


def _item(place: Any, key: str, change: Override, where: str) -> str | int:  # noqa: ANN401
    """The key of a table, or the index into an array."""
    if not isinstance(place, list):
        return key
    if key.isascii() and key.isdigit() and int(key) < len(place):
        return int(key)
    msg = f"{change.text!r}: {key!r} is no index into an array of {len(place)} in {where}"
    raise ConfigError(f"{msg}: write 0 to {len(place) - 1}" if place else f"{msg}: it is empty")


def _require_container(place: object, change: Override, depth: int, where: str) -> None:
    if isinstance(place, dict | list):
        return
    outer = ".".join(change.path[:depth])
    msg = f"{change.text!r}: {outer!r} in {where} is {place!r}: no key {change.path[depth]!r} in it"
    raise ConfigError(msg)


def _require_known(
    values: MutableMapping[str, Any], change: Override, depth: int, where: str, *, create: bool
) -> None:
    if create:
        return
    known = sorted(_paths(values))
    key = ".".join(change.path[: depth + 1])
    msg = f"{change.text!r}: there is no key {key!r} in {where}"
    msg += suggestion(change.key, known) or suggestion(change.path[-1], known)
    raise ConfigError(f"{msg}; to add a new key write {'+' + change.text!r}")


def _require_kind(old: object, change: Override, where: str, kinds: tuple[type, ...]) -> None:
    """Refuse text in place of a boolean, since "False" counts as true in Python, or of a number."""
    if not change.is_text or not isinstance(old, kinds):
        return
    said, remedy = "a boolean", "true or false"
    if not isinstance(old, bool):
        said, remedy = f"the number {old!r}", f"a number, or {_quoted(change)} for text"
    msg = f"{change.text!r}: {change.key!r} is {said} in {where}: write {remedy}"
    raise ConfigError(msg)


def _quoted(change: Override) -> str:
    """How to write the text of a change so that it is meant to be one."""
    key, _, value = change.text.partition("=")
    return f"""'{key}="{value}"'"""


def _paths(values: Any, prefix: str = "") -> Iterator[str]:  # noqa: ANN401
    """The dotted path of every value."""
    items = enumerate(values) if isinstance(values, list) else values.items()
    for key, value in items:
        yield f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _paths(value, f"{prefix}{key}.")


def suggestion(key: str, known: Sequence[str]) -> str:
    """What may have been meant: a name near to `key` or ending like it; "" where there is none."""
    import difflib

    same_end = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_end or difflib.get_close_matches(key, known, n=1)
    if not near:
        ends = {name.rpartition(".")[2]: name for name in known}
        near = [ends[end] for end in difflib.get_close_matches(key.rpartition(".")[2], ends, n=1)]
    return f"; did you mean {near[0]!r}?" if near else ""
