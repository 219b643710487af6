"""What a notebook uses: find runs, and read what they left.

    import engram

    engram.runs(name="mouse7", state="completed", filters=["param.lr>0.01"]).to_frame()
    engram.run("latest").load("rates.npz")["excitatory"]

Nothing here writes into a run, but one whose runner died without a word is ended as `killed`, as
every command does. pandas, numpy and torch are imported only by what returns theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from engram import brief as briefs
from engram import reconcile
from engram.errors import ConfigError, EnvironmentMissingError, RunNotFoundError
from engram.filters import Filter, parse
from engram.paths import RunPaths, of_rank
from engram.record import NON_FINITE, RUN_ID
from engram.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from engram.index import Row

__all__ = ["Run", "Runs", "run", "runs"]

SHOWN = 20
STREAMS = ("out", "err")
TITLES = ("run", "state", "tags", "summary")
FIXED = ("run_id", "experiment", "state", "created", "run_s", "commit")


def run(reference: str | os.PathLike[str] = "latest", *, root: str | Path | None = None) -> Run:
    """Find one run.

    Args:
        reference: an id, the beginning or the end of one, a folder, `latest`, `latest:NAME` or
            `best:NAME:KEY`.
        root: a repository or a run root; default: where the notebook runs.

    Raises:
        RunNotFoundError: no run answers, or several do.
        ConfigError: `root` is no folder.
    """
    return Run(_store(root).find(os.fspath(reference)))


def runs(
    name: str | None = None,
    state: str | Sequence[str] | None = None,
    filters: str | Sequence[str] = (),
    *,
    sort: str | None = None,
    limit: int | None = None,
    root: str | Path | None = None,
) -> Runs:
    """Find runs, the newest first.

    Args:
        name: of the experiment.
        state: one state, or several of which one must hold.
        filters: as `list` takes them, such as "param.lr>0.01"; all must hold.
        sort: a column, param.KEY or summary.KEY; -KEY descends.
        limit: at most so many.
        root: a repository or a run root; default: where the notebook runs.

    Raises:
        ConfigError: a filter, state or sort key is wrong, or `root` is no folder.
    """
    asked = [parse(text) for text in ([filters] if isinstance(filters, str) else filters)]
    if name is not None:
        asked.append(Filter("experiment", "=", name))
    states = {state} if isinstance(state, str) else set(state or ())
    conditions = [parse(f"state={word}") for word in sorted(states)]
    if len(conditions) == 1:
        asked += conditions
    several = states if len(states) > 1 else None
    rows = _store(root).list_runs(asked, sort=sort, limit=None if several else limit)
    if several:
        rows = [row for row in rows if row.brief["state"] in several][:limit]
    return Runs(rows)


def _store(root: str | Path | None) -> Store:
    """The runs as seen from a place; a run root counts also where its index is gone."""
    start = Path.cwd() if root is None else Path(root).expanduser()
    if not start.is_dir():
        msg = f"root={str(root)!r} is no folder: give a repository or a run root"
        raise ConfigError(msg)
    found = start.glob(f"*/*/{RunPaths(start).metadata.name}")
    is_root = any(RUN_ID.fullmatch(path.parent.name) for path in found)
    return Store.for_root(start, [start] if is_root else ())


class Run:
    """One run, read from its folder when it is asked.

    Attributes:
        path: its folder.
    """

    def __init__(self, paths: RunPaths) -> None:
        """Name the folder; nothing is read yet."""
        self.path = paths.folder
        self._paths = paths

    @property
    def run_id(self) -> str:
        """As recorded; a copied folder may bear another name."""
        return str(self._brief["run_id"])

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return str(self._brief["experiment"])

    @property
    def state(self) -> str:
        """The state now."""
        return str(self._brief["state"])

    @property
    def record(self) -> dict[str, Any]:
        """The whole record, metadata.json.

        Raises:
            RunNotFoundError: there is none: the run was killed before it was born.
            StoreError: it cannot be read.
        """
        return reconcile.reconcile(self._paths)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that the script read, as nested dicts.

        Raises:
            ConfigError: the file is missing or was damaged.
        """
        from engram import toml

        return toml.read(self._paths.parameters)[1]

    @property
    def summary(self) -> dict[str, Any]:
        """What main returned; empty when it did not, or nothing."""
        return self.record["summary"] or {}

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What limits the record: code, severity, message and evidence of each."""
        return list(self.record["findings"])

    @property
    def tags(self) -> list[str]:
        """Words that people gave it."""
        return list(self.record["tags"])

    @property
    def inputs(self) -> Path:
        """The folder of its inputs."""
        return self._paths.inputs

    @property
    def outputs(self) -> Path:
        """The folder of its outputs."""
        return self._paths.outputs

    def load(self, name: str | os.PathLike[str]) -> Any:  # noqa: ANN401
        """Read an output, see docs/notebook.md for what comes back.

        Args:
            name: of a file, relative to outputs/.

        Returns:
            Arrays for .npy and .npz, tensors for .pt, data frames for tables, values for .json and
            .toml, text, else bytes.

        Raises:
            FileNotFoundError: there is no such output; the message says which there are.
            ValueError: the name leads out of outputs/.
            EnvironmentMissingError: the format needs a package that is not installed.
        """
        from engram.loading import load

        path = self.outputs / name
        if not path.absolute().is_relative_to(self.outputs.absolute()) or ".." in path.parts:
            msg = f"{os.fspath(name)!r} does not lie in the outputs of {self.run_id!r}"
            raise ValueError(msg)
        is_store = path.is_dir() and path.suffix.lower() == ".zarr"
        if not path.is_file() and not is_store:
            raise FileNotFoundError(self._no_output(path.relative_to(self.outputs).as_posix()))
        return load(path)

    def metrics(self) -> pd.DataFrame | list[dict[str, Any]]:
        """The logged metrics, one row or dict a step; empty when none were logged.

        Returns:
            A data frame, or a list of dicts where pandas is not installed.
        """
        from engram.metrics import read

        rows = list(read(self._paths.metrics)) if self._paths.metrics.exists() else []
        try:
            import pandas as pd
        except ImportError:
            return rows
        return pd.DataFrame(rows)

    def log(self, stream: str = "out", *, rank: int = 0) -> str:
        """What the script wrote to its standard output or error so far.

        Args:
            stream: "out" or "err".
            rank: which process, in a run of several.

        Returns:
            The text; bytes that are not UTF-8 are replaced.
        """
        if stream not in STREAMS:
            msg = f"stream is {stream!r}: expected 'out' or 'err'"
            raise ValueError(msg)
        log = self._paths.log_out if stream == "out" else self._paths.log_err
        path = of_rank(log, rank)
        return path.read_text("utf-8", "replace") if path.exists() else ""

    @property
    def _brief(self) -> dict[str, Any]:
        """What can be said about the folder, also when it has no record."""
        found = briefs.read(self._paths)
        if found is None:
            msg = f"there is no run in {str(self.path)!r} any more"
            raise RunNotFoundError(msg)
        return found

    def _no_output(self, name: str) -> str:
        """Say that there is no such output, and what there is."""
        import difflib

        if (self.outputs / name).is_dir():
            return f"{name!r} is a folder in the outputs of {self.run_id!r}: name a file in it"
        paths = (path for path in self.outputs.rglob("*") if path.is_file())
        known = sorted(path.relative_to(self.outputs).as_posix() for path in paths)
        near = difflib.get_close_matches(name, known, n=1)
        same = [path for path in known if Path(path).name == Path(name).name]
        advice = f": did you mean {(same or near)[0]!r}?" if same or near else _there_are(known)
        waits = f" ({self.state})" if self.state in ("created", "running") else ""
        return f"run {self.run_id!r}{waits} has no output {name!r}{advice}"

    def __repr__(self) -> str:
        """One line."""
        about = self._brief
        return f"<Run {about['run_id']} {about['state']} {_pairs(about['summary'])}".rstrip() + ">"

    def _repr_html_(self) -> str:
        """A card for a notebook."""
        from engram import html_card

        return html_card.card(self._paths, self._brief)


def _there_are(known: Sequence[str]) -> str:
    """Name the outputs there are, at most ten."""
    if not known:
        return ": it has none"
    more = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return f": there are {', '.join(map(repr, known[:10]))}{more}"


def _pairs(values: dict[str, Any]) -> str:
    """KEY=VALUE of a summary, in few characters."""
    from engram.table import short

    return " ".join(f"{key}={short(value)}" for key, value in values.items())


class Runs(Sequence[Run]):
    """Runs as they were found, in order."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Keep what the index said."""
        self._rows = list(rows)

    def __len__(self) -> int:
        """How many."""
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Run: ...
    @overload
    def __getitem__(self, at: slice) -> Runs: ...
    def __getitem__(self, at: int | slice) -> Run | Runs:
        """One run, or some of them."""
        if isinstance(at, slice):
            return Runs(self._rows[at])
        return Run(self._rows[at].paths)

    def __iter__(self) -> Iterator[Run]:
        """One run after the other."""
        return (Run(row.paths) for row in self._rows)

    def to_frame(self) -> pd.DataFrame:
        """The runs as a table, as they were when they were found.

        Returns:
            run_id, experiment, state, created (UTC), run_s, commit, one column for each parameter
            (`param.a.b` where tables are nested) and each number of a summary, tags, path. NaN
            where a run lacks a value.

        Raises:
            EnvironmentMissingError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            msg = "to_frame() needs pandas: install it, or use `list --json`"
            raise EnvironmentMissingError(msg) from error
        found = [_cells(row) for row in self._rows]
        # In the order of first appearance, fixed columns around them.
        keys = dict.fromkeys(key for cells in found for key in cells)
        names = [
            *FIXED,
            *(key for key in keys if key.startswith("param.")),
            *(key for key in keys if key.startswith("summary.")),
            *("tags", "path"),
        ]
        frame = pd.DataFrame(found, columns=names)
        frame["created"] = pd.to_datetime(frame["created"], utc=True, format="ISO8601")
        frame["run_s"] = frame["run_s"].astype("float64")
        return frame

    def __repr__(self) -> str:
        """A table of the first few."""
        return "\n".join([_count(len(self)), *([self._table()] if self._rows else [])])

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        from engram import html_card

        return html_card.table(_count(len(self)), TITLES, self._texts())

    def _table(self) -> str:
        """The first few as columns of text."""
        from engram.table import columns

        return columns(TITLES, self._texts())

    def _texts(self) -> list[list[str]]:
        """What is shown of the first few."""
        found = [row.brief for row in self._rows[:SHOWN]]
        texts = [
            [about["run_id"], about["state"], " ".join(about["tags"]), _pairs(about["summary"])]
            for about in found
        ]
        left = len(self) - len(texts)
        return [*texts, *([[f"and {left} more", "", "", ""]] if left > 0 else [])]


def _count(number: int) -> str:
    """How many runs, in words."""
    return f"{number} run{'' if number == 1 else 's'}"


def _cells(row: Row) -> dict[str, Any]:
    """One row of the table of runs, by column."""
    about = row.brief
    return {
        **{key: about[key] for key in FIXED},
        **dict(_flat("param", about["parameters"])),
        **dict(_flat("summary", about["summary"])),
        "tags": about["tags"],
        "path": str(row.paths.folder),
    }


def _flat(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values by dotted key; a list stays one value, and nan, which the index names, a number."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}.{key}", value)
        else:
            yield (
                f"{prefix}.{key}",
                NON_FINITE.get(value, value) if isinstance(value, str) else value,
            )
