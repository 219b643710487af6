"""The [grid] table of experiment.toml: blocks of overrides, whose combinations are the points."""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import overrides as overriding
from engram.errors import ConfigError
from engram.grid import distributions
from engram.grid.point_names import Namer
from engram.grid.values import dotted, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from engram.overrides import Override
    from engram.settings import GridConfig

__all__ = [
    "Block",
    "Key",
    "configurations",
    "is_distribution",
    "leaves",
    "overridden",
    "refuse_overlaps",
    "refuse_twins",
    "require_list",
    "value_at",
]

KeyPath = tuple[str, ...]


class Key(NamedTuple):
    """A parameter that the table names."""

    path: KeyPath
    create: bool  # written with a +: the parameters need not have it

    @property
    def text(self) -> str:
        """As the table writes it."""
        return ("+" if self.create else "") + dotted(self.path)


class Block(NamedTuple):
    """Rows of overrides that are alternatives to each other."""

    label: str  # as messages call it
    keys: dict[KeyPath, Key]
    rows: list[dict[KeyPath, Any]]
    drawn: bool = False  # by chance: equal rows are no mistake


def configurations(
    grid: GridConfig, base: dict[str, Any], *, most: int, where: str, parameters: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """Every point of the table; what it shares with `base` is not copied.

    Args:
        grid: the table.
        base: the parameters that the points start from; left as they are.
        most: how many points there may be.
        where: the file of the table, for messages.
        parameters: the file of the parameters, for messages.

    Yields:
        The parameters and the name of each point.

    Raises:
        ConfigError: the table contradicts itself, makes too many points, or names a key that the
            parameters lack.
    """
    found = _blocks(grid, where, most)
    rounded = [path for block in found if block.drawn for path in block.keys]
    namer = Namer(_varying(found, base), rounded)
    for rows in itertools.product(*(block.rows for block in found)):
        values = base
        for block, row in zip(found, rows, strict=True):
            values = overridden(values, block, row, where, parameters)
        yield values, namer.name({path: value_at(values, path) for path in namer.paths})


def _blocks(grid: GridConfig, where: str, most: int) -> list[Block]:
    """The blocks of the table, outermost first: the last one changes fastest."""
    found = [*_products(grid, where), *_zip(grid, where), *_points(grid, where)]
    found += _repeats(grid)
    samples = 1 if grid.samples is None else grid.samples
    sizes = [len(block.rows) for block in found if len(block.rows) > 1]
    if math.prod(sizes) * samples > most:
        said = " x ".join(map(str, [*sizes, *([samples] if grid.random else [])]))
        msg = (
            f"{where}: [grid] makes {said} = {math.prod(sizes) * samples} points, more than {most}"
        )
        raise ConfigError(f"{msg}: if that is meant, raise the key 'grid.most'")
    random = list(_random(grid, where))
    found[len(found) - bool(grid.seeds) : len(found) - bool(grid.seeds)] = random
    for block in found:
        refuse_twins(block, where)
    refuse_overlaps(found, where)
    return found


def _products(grid: GridConfig, where: str) -> Iterator[Block]:
    for key, values in leaves(grid.product):
        require_list(values, "product", key, where)
        rows = [{key.path: value} for value in values]
        yield Block(f"[grid.product] {key.text!r}", {key.path: key}, rows)


def _zip(grid: GridConfig, where: str) -> Iterator[Block]:
    columns = dict(leaves(grid.zip))
    for key, values in columns.items():
        require_list(values, "zip", key, where)
    if not columns:
        return
    if len({len(values) for values in columns.values()}) > 1:
        sizes = ", ".join(f"{key.text!r} has {len(values)}" for key, values in columns.items())
        msg = f"{where}: the lists of [grid.zip] are of different lengths: {sizes}"
        raise ConfigError(msg)
    paths = [key.path for key in columns]
    rows = [dict(zip(paths, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    yield Block("[grid.zip]", {key.path: key for key in columns}, rows)


def _points(grid: GridConfig, where: str) -> Iterator[Block]:
    if not grid.points:
        return
    found = [list(leaves(item, values=True)) for item in grid.points]
    keys = {key.path: key for row in found for key, _ in row}
    for index, row in enumerate(found):
        if len({key.path for key, _ in row}) < len(row):
            msg = f"{where}: [[grid.points]] number {index} names a key twice"
            raise ConfigError(msg)
    rows = [{key.path: value for key, value in row} for row in found]
    yield Block("[[grid.points]]", keys, rows)


def _random(grid: GridConfig, where: str) -> Iterator[Block]:
    found = {}
    for key, table in leaves(grid.random, stop=is_distribution):
        label = f"{where}: key 'grid.random' {key.text!r}"
        found[key] = distributions.distribution(table, label)
    if bool(found) != (grid.samples is not None):
        if found:
            what = "[grid.random] needs the key 'samples' of [grid]: how many points to draw"
        else:
            what = f"key 'grid.samples' is {grid.samples!r}, but there is no [grid.random] to draw"
        msg = f"{where}: {what}"
        raise ConfigError(msg)
    if not found:
        return
    streams = {key: distributions.stream(grid.seed, dotted(key.path)) for key in found}
    rows = [
        {key.path: one.draw(streams[key]) for key, one in found.items()}
        for _ in range(grid.samples or 0)
    ]
    yield Block("[grid.random]", {key.path: key for key in found}, rows, drawn=True)


def _repeats(grid: GridConfig) -> Iterator[Block]:
    if grid.seeds:
        key = Key(("seed",), create=True)
        rows: list[dict[KeyPath, Any]] = [{key.path: seed} for seed in grid.seeds]
        yield Block("[grid] repeats", {key.path: key}, rows)


def is_distribution(table: Mapping[str, Any]) -> bool:
    """Whether a table is meant to be a distribution, also one that is misspelled."""
    if table and all(isinstance(value, dict) for value in table.values()):
        return False
    return not table or any(distributions.is_kind(name) for name in table)


def _is_empty(table: Mapping[str, Any]) -> bool:
    return not table


def leaves(
    table: Mapping[str, Any],
    path: KeyPath = (),
    *,
    create: bool = False,
    stop: Any = _is_empty,  # noqa: ANN401 - a predicate
    values: bool = False,
) -> Iterator[tuple[Key, Any]]:
    """The keys of a table, dotted or nested, and what they hold."""
    for text, value in table.items():
        head, plus = _head(text)
        inner, new = (*path, *head), create or plus
        if isinstance(value, dict) and not stop(value):
            yield from leaves(value, inner, create=new, stop=stop, values=values)
        else:
            yield Key(inner, new), value


def _head(text: str) -> tuple[KeyPath, bool]:
    """The path that a key of the table stands for, and whether it begins with a plus sign."""
    try:
        found = overriding.parse(f"{text}=0")
    except ConfigError:  # no dotted path: a key with a space, for example
        return (text.removeprefix("+"),), text.startswith("+")
    return found.path, found.create


def require_list(values: object, block: str, key: Key, where: str) -> None:
    """Refuse what is no list of values."""
    if not isinstance(values, list) or not values:
        msg = f"{where}: [grid.{block}] {key.text!r} is {shown(values)}: expected a list of values"
        raise ConfigError(msg + (", not an empty one" if values == [] else ""))


def refuse_twins(block: Block, where: str) -> None:
    """Refuse a row that is there twice, which can only be a slip."""
    seen: dict[object, int] = {}
    for index, row in enumerate(() if block.drawn else block.rows):
        twin = seen.setdefault(frozenset((path, _text(row[path])) for path in row), index)
        if twin != index:
            what = " and ".join(f"{dotted(path)} = {shown(row[path])}" for path in row) or "nothing"
            msg = f"{where}: {block.label} lists {what} twice, as numbers {twin} and {index}"
            raise ConfigError(f"{msg} from 0: to repeat points write repeats = N in [grid]")


def _text(value: object) -> str:
    """Text that only equal values share."""
    return json.dumps(value, sort_keys=True, default=repr)


def refuse_overlaps(found: list[Block], where: str) -> None:
    """Refuse a key that two blocks set, or that lies in a table that another one replaces."""
    taken: list[tuple[KeyPath, Block]] = []
    for block in found:
        for path in block.keys:
            for other, owner in taken:
                shorter = min(len(path), len(other))
                if path[:shorter] == other[:shorter] and (owner is not block or path != other):
                    one, two = dotted(other), dotted(path)
                    said = f"both set {one!r}" if one == two else f"set {one!r} and {two!r}"
                    msg = f"{where}: {owner.label} and {block.label} {said}: a key has one source"
                    raise ConfigError(msg)
            taken.append((path, block))


def overridden(
    values: dict[str, Any], block: Block, row: Mapping[KeyPath, Any], where: str, parameters: str
) -> dict[str, Any]:
    """Parameters with a row's values set; tables on the way are copied, others shared."""
    changes: list[Override] = []
    for path, value in row.items():
        key = block.keys[path]
        values = _unshared(values, path)
        changes.append(overriding.Override(path, value, key.create, is_text=False, text=key.text))
    try:
        overriding.apply(values, changes, where=parameters)
    except ConfigError as error:
        msg = f"{where}: {block.label}: {error}"
        raise ConfigError(msg) from error
    return values


def _unshared(values: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    """A copy down to the table or list that holds the value at `path`."""
    copied = dict(values)
    place: Any = copied
    for part in path[:-1]:
        key: Any = int(part) if isinstance(place, list) and part.isdecimal() else part
        try:
            inside = place[key]
        except (KeyError, IndexError, TypeError):
            break
        if not isinstance(inside, dict | list):
            break
        place[key] = inside.copy()
        place = place[key]
    return copied


def value_at(values: Any, path: KeyPath) -> Any:  # noqa: ANN401
    """The value at `path`, None where there is none."""
    for part in path:
        try:
            values = values[int(part) if isinstance(values, list) else part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return values


def _varying(found: Iterable[Block], base: dict[str, Any]) -> list[KeyPath]:
    """The keys that take more than one value; all of them where there is one point only."""
    varying, known = [], []
    for block in found:
        for path in block.keys:
            known.append(path)
            own = {_text(row[path] if path in row else value_at(base, path)) for row in block.rows}
            varying += [path] if len(own) > 1 else []
    return varying or known
