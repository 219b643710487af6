"""Finding and listing runs, over all run roots that a repository knows."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import best, roots
from engram.errors import ConfigError, RunnerError, RunNotFoundError
from engram.filters import Filter, parse, sort_key
from engram.index import Index, Row
from engram.paths import GridPaths, RootPaths, RunPaths
from engram.record import RUN_ID, load
from engram.table import age, columns, duration, epoch, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "Store",
    "as_json_line",
    "dig",
    "list_command",
    "list_lines",
    "run_whereabouts",
    "show_command",
    "terminal_width",
]

# As many as a screen shows; --limit 0 shows all.
SHOWN = 50
LATEST = "latest"


class Store:
    """The runs in all run roots that a repository knows."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Name the run roots.

        Args:
            folders: run roots.
        """
        self.indices = [Index(RootPaths(folder)) for folder in folders]

    @classmethod
    def for_root(cls, start: Path, extra: Iterable[Path] = ()) -> Store:
        """The store as seen from a place.

        Args:
            start: a repository, a run root, or a folder in one of them.
            extra: further run roots.
        """
        found = [*roots.known(start), *(Path(os.path.realpath(folder)) for folder in extra)]
        return cls(dict.fromkeys(found))

    def find(self, reference: str) -> RunPaths:
        """Find one run; when its runner is dead, its record says so from now on.

        Args:
            reference: an id, the beginning or the end of one, a folder anywhere, `latest`, or
                `latest:NAME` of an experiment, or `best:NAME:KEY`, see engram.best.

        Returns:
            Its paths.

        Raises:
            RunNotFoundError: no run answers, or several do.
        """
        paths = _folder(reference) or self._exact(reference) or self._indexed(reference)
        from engram.reconcile import reconcile

        with contextlib.suppress(RunnerError):
            reconcile(paths)
        return paths

    def answering(self, reference: str) -> list[RunPaths]:
        """Every run that answers to an id, or to the beginning or the end of one."""
        return [row.paths for row in self._rows(reference)]

    def list_runs(
        self,
        filters: Sequence[Filter] = (),
        *,
        sort: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Find runs.

        Args:
            filters: all must hold, see engram.filters.parse.
            sort: a key, descending when it starts with `-`; the newest first by default; missing
                values and nan last.
            limit: at most so many.

        Returns:
            The rows of all roots, in order.
        """
        rows = [
            row for index in self.indices for row in index.rows(filters, sort=sort, limit=limit)
        ]
        if len(self.indices) > 1:
            rows.sort(key=lambda row: (row.at, row.run_id), reverse=True)
            if sort is not None:
                descending = sort_key(sort)[1]
                rows.sort(key=lambda row: (row.number or 0, row.word or ""), reverse=descending)
                rows.sort(key=lambda row: row.rank)
        return rows[:limit]

    def each(
        self,
        filters: Sequence[Filter] = (),
        *,
        sort: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Find runs as `list_runs` does; those of one root are not all held in memory."""
        if len(self.indices) == 1:
            return self.indices[0].each(filters, sort=sort, limit=limit)
        return iter(self.list_runs(filters, sort=sort, limit=limit))

    def count(self, filters: Sequence[Filter] = ()) -> int:
        """Count runs, after they were listed."""
        return sum(index.count(filters) for index in self.indices)

    def keys(self) -> set[str]:
        """Every key that some run can be filtered by."""
        return set().union(*(index.keys() for index in self.indices))

    def nothing(self) -> str:
        """Say that there are no runs, and where was looked."""
        if not self.indices:
            return "there are no runs yet: no run root is known here"
        places = ", ".join(repr(str(index.root.folder)) for index in self.indices)
        return f"there are no runs yet in {places}"

    def near(self, name: str, key: str) -> str:
        """Suggest an existing value."""
        import difflib

        known = sorted({text for index in self.indices for text in index.values(key)})
        if near := difflib.get_close_matches(name, known, n=1):
            return f": did you mean {near[0]!r}?"
        return f"; there is {', '.join(map(repr, known[:10]))}" if known else ""

    def _exact(self, reference: str) -> RunPaths | None:
        """Find a run by its whole id without opening an index."""
        if RUN_ID.fullmatch(reference):
            for index in self.indices:
                for place in index.places():
                    paths = index.root.run(place, reference)
                    if paths.folder.is_dir():
                        return paths
        return None

    def _indexed(self, reference: str) -> RunPaths:
        """Find a run through the indices."""
        if reference == LATEST or reference.startswith(LATEST + ":"):
            return self._latest(reference.partition(":")[2])
        if reference.startswith(best.BEST + ":"):
            return best.find(self, reference)
        rows = self._rows(reference)
        if not rows:
            raise RunNotFoundError(self._no_match(reference))
        if len(rows) > 1:
            raise RunNotFoundError(_ambiguous(reference, rows))
        return rows[0].paths

    def _rows(self, reference: str) -> list[Row]:
        """The runs that answer to an id, or to a part of one."""
        return _distinct(row for index in self.indices for row in index.resolve(reference))

    def _latest(self, name: str) -> RunPaths:
        """The run with the greatest recorded start time, of one experiment or of all."""
        rows = self.list_runs([Filter("experiment", "=", name)] if name else [], limit=1)
        if rows:
            return rows[0].paths
        if not name:
            raise RunNotFoundError(self.nothing())
        msg = f"no run of an experiment {name!r}{self.near(name, 'experiment')}"
        raise RunNotFoundError(msg)

    def _no_match(self, reference: str) -> str:
        """Say that nothing answers, and what is near."""
        newest = [row.run_id for index in self.indices for row in index.rows(limit=200)]
        if not newest:
            return f"no run {reference!r}: {self.nothing()}"
        names = {name for index in self.indices for name in index.values("experiment")}
        if reference in names:
            return f"no run {reference!r}, but an experiment of that name: write latest:{reference}"
        if any(index.root.grid(reference).record.is_file() for index in self.indices):
            return f"{reference!r} is a grid, not a run: `list --grid {reference}` shows its runs"
        import difflib

        near = difflib.get_close_matches(reference, newest, n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else "`list` shows those there are"
        return f"no run {reference!r}: {advice}"


def _folder(reference: str) -> RunPaths | None:
    """The run in a folder that a person names; None when it is no folder of a run."""
    path = Path(reference).expanduser()
    if path.name == RunPaths(path.parent).metadata.name:
        path = path.parent
    paths, grid = RunPaths(Path(os.path.realpath(path))), GridPaths(Path(os.path.realpath(path)))
    if paths.metadata.is_file():
        return paths
    if grid.record.is_file() or grid.private.is_dir():
        msg = f"{reference!r} is a grid, not a run: `list --grid {reference}` shows its runs"
        raise RunNotFoundError(msg)
    if paths.folder.is_dir() and RUN_ID.fullmatch(paths.run_id):
        return paths
    if "/" in reference:
        msg = f"{reference!r} is not a run folder: it holds no {paths.metadata.name}"
        raise RunNotFoundError(msg if path.exists() else f"there is no folder {reference!r}")
    return None


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """One row for each id; of copies, the one whose folder still bears the id."""
    best: dict[str, Row] = {}
    for row in rows:
        held = best.get(row.run_id)
        if held is None or (held.paths.run_id != row.run_id == row.paths.run_id):
            best[row.run_id] = row
    return list(best.values())


def _ambiguous(reference: str, rows: Sequence[Row]) -> str:
    """Say which runs answer to a reference."""
    shown = [f"    {row.run_id}  {row.brief['state']}" for row in rows[:10]]
    more = [f"    and {len(rows) - 10} more"] if len(rows) > 10 else []
    return "\n".join([f"{reference!r} stands for {len(rows)} runs; name one of", *shown, *more])


def list_command(
    start: Path,
    filters: Sequence[str] = (),
    *,
    sort: str | None = None,
    limit: int | None = None,
    as_json: bool = False,
) -> str:
    """The text that `list` prints, see `list_lines`."""
    return "\n".join(list_lines(start, filters, sort=sort, limit=limit, as_json=as_json))


def list_lines(
    start: Path,
    filters: Sequence[str] = (),
    *,
    sort: str | None = None,
    limit: int | None = None,
    as_json: bool = False,
) -> Iterator[str]:
    """The lines that `list` prints; as JSON they are not all held in memory.

    Args:
        start: where the person stands.
        filters: as typed: state=failed, experiment=x, param.lr>0.01, summary.acc>=0.9, tag=x.
        sort: a key, descending when it starts with `-`.
        limit: how many at most; 0 for all; by default 50 for people, all as JSON.
        as_json: whether to write a JSON array.

    Returns:
        Lines without their ends.

    Raises:
        ConfigError: a filter, the sort key or the limit is wrong.
    """
    if limit is not None and limit < 0:
        msg = f"--limit {limit!r} is negative: write 0 for all runs"
        raise ConfigError(msg)
    asked = [parse(text) for text in filters]
    keys = [*([sort_key(sort)[0]] if sort else []), *(item.key for item in asked)]
    most = (None if as_json else SHOWN) if limit is None else limit or None
    store = Store.for_root(start)
    rows = store.each(asked, sort=sort, limit=most)
    if as_json:
        return _json_lines(rows)
    return _table_lines(store, rows, keys, asked, most)


def _json_lines(rows: Iterable[Row]) -> Iterator[str]:
    """A JSON array, one object a line."""
    before, empty = "[", True
    for row in rows:
        if not empty:
            yield before + ","
            before = " "
        empty = False
        before += as_json_line(row)
    yield before + "]"


def _table_lines(
    store: Store,
    rows: Iterable[Row],
    keys: Sequence[str],
    asked: Sequence[Filter],
    most: int | None,
) -> Iterator[str]:
    """A table, and what it leaves out."""
    header, cells = _table(rows, keys)
    if not cells:
        yield _empty(store, asked)
        return
    yield columns(header, cells, width=terminal_width())
    if len(cells) == most and (total := store.count(asked)) > most:
        yield f"{most} of {total} runs; --limit 0 shows all"


def as_json_line(row: Row) -> str:
    """One run as a JSON object: its folder, and all of its brief."""
    fields: dict[str, Any] = {"folder": str(row.paths.folder)}
    if row.open:
        fields["whereabouts"] = run_whereabouts(row.paths)
    return json.dumps(fields)[:-1] + ", " + row.text[1:]


def run_whereabouts(paths: RunPaths) -> str | None:
    """Where a run that has not ended is believed to run, when that cannot be told from here."""
    from engram.reconcile import whereabouts

    with contextlib.suppress(RunnerError):
        return whereabouts(paths, load(paths))
    return None


def _table(rows: Iterable[Row], extra: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the list; parameters are shown when they were asked for."""
    wanted = [key for key in dict.fromkeys(extra) if key.startswith("param.")]
    lines = []
    now = time.time()
    for row in rows:
        brief = row.brief
        state = (run_whereabouts(row.paths) if row.open else None) or brief["state"]
        chosen = {key[6:]: dig(brief["parameters"], key[6:]) for key in wanted}
        values = " ".join(
            f"{key}={short(value)}" for key, value in chosen.items() if value is not None
        )
        summary = " ".join(f"{key}={short(value)}" for key, value in brief["summary"].items())
        cells = [
            row.run_id,
            state,
            _age(brief, now),
            duration(brief["run_s"]),
            _flags(brief),
            values,
            summary,
        ]
        lines.append(cells)
    return ["RUN", "STATE", "WHEN", "TOOK", "TAGS", "PARAMETERS", "SUMMARY"], lines


def dig(values: dict[str, Any], dotted: str) -> Any:  # noqa: ANN401
    """The parameter under a dotted key; None when there is none."""
    found: Any = values
    for part in dotted.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _flags(brief: dict[str, Any]) -> str:
    """Tags, and what sets a run apart: pinned, dirty, live, verdict of a rerun, errors found."""
    words = [*brief["tags"], *(word for word in ("pinned", "dirty", "live") if brief[word])]
    words += [brief["verdict"]] if brief["verdict"] else []
    errors = sum(severity == "error" for severity, _ in brief["findings"])
    return " ".join(words + ([f"errors:{errors}"] if errors else []))


def _age(brief: dict[str, Any], now: float) -> str:
    """How long ago a run started."""
    started = epoch(brief["started"] or brief["created"])
    return "" if started is None else f"{age(now - started)} ago"


def terminal_width() -> int | None:
    """The width to fit into; None when nobody looks at a terminal."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _empty(store: Store, asked: Sequence[Filter]) -> str:
    """Say why nothing is listed."""
    if not asked or store.count() == 0:
        return store.nothing()
    keys = store.keys()
    import difflib

    for item in asked:
        if item.key not in keys and "." in item.key:
            near = difflib.get_close_matches(item.key, keys, n=1)
            advice = f": did you mean {near[0]!r}?" if near else ""
            return f"no run matches: none has {item.key!r}{advice}"
    return "no run matches"


def show_command(
    start: Path, reference: str, *, lineage: bool = False, as_json: bool = False
) -> str:
    """The text that `show` prints.

    Args:
        start: where the person stands.
        reference: of a run or a grid, see engram.grid.find.find_either.
        lineage: whether to show where it came from and what came of it, instead.
        as_json: whether to write the record as it stands.

    Raises:
        RunNotFoundError: nothing answers, or several do; or a grid, which has no lineage.
        StoreError: the record cannot be read.
    """
    from engram import show
    from engram.grid.find import find_either

    store = Store.for_root(start)
    paths = store.find(reference) if lineage else find_either(start, reference)
    if isinstance(paths, GridPaths):
        from engram.grid import screen

        return screen.as_json(paths) if as_json else screen.screen(paths)
    if lineage:
        return show.lineage(store, paths)
    return show.as_json(paths) if as_json else show.screen(paths)
