"""An adaptive grid file: `configurations(base, finished)`, asked while its points run."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from engram import toml
from engram.errors import ConfigError
from engram.grid import grid_file, values
from engram.grid.proposer import Answer, finite_or_not

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engram.grid.points import Points
    from engram.grid.proposer import Over, Prune

__all__ = ["Adaptive"]


class Adaptive:
    """Points from the generator of a grid file; see engram.grid.proposer.Proposer."""

    def __init__(
        self,
        path: Path,
        data: bytes,
        *,
        roots: Sequence[Path],
        base: dict[str, Any],
        points: Points,
        most: int,
    ) -> None:
        """Execute the file and call its function, in this process.

        Args:
            path: of the grid file.
            data: its content.
            roots: import roots.
            base: the parameters of the experiment.
            points: those there are; they are not yielded as new ones.
            most: points there may be, where the file does not say it.

        Raises:
            ConfigError: the file or the function raises.
        """
        self.path = path
        self.points = points
        self.finished: list[dict[str, Any]] = []
        self._known = {name: number for number, name in enumerate(points.names)}
        loaded = grid_file.load(path, data, roots)
        self._most = loaded.constants.MAX_POINTS or most
        self._items = grid_file.adaptive_pairs(loaded, copy.deepcopy(base), self.finished)

    def take(self, over: Sequence[Over]) -> list[str]:
        """See Proposer."""
        for item in over:
            name = self.points.names[item.number]
            text = self.points.parameters(item.number)
            self.finished.append(
                {
                    "name": name,
                    "parameters": toml.loads(text, where=f"the parameters of point {name!r}"),
                    "state": item.state,
                    "summary": finite_or_not(item.summary),
                    "seed": item.seed,
                    "run_s": item.run_s,
                }
            )
        return []

    def look(self, running: dict[int, str]) -> list[Prune]:
        """See Proposer; nothing is ended early."""
        return []

    def propose(self) -> Answer:
        """See Proposer."""
        for item in self._items:
            if item is None:
                return Answer(waits=True)
            parameters, name = item
            if isinstance(name, str) and name in self._known:
                self._skip(name, parameters)
                continue
            if len(self.points) >= self._most:
                msg = f"{self.path}: more than {self._most} points: does it ever end? If that is"
                raise ConfigError(f"{msg} meant, set MAX_POINTS in the grid file")
            try:
                return Answer(point=self.points.append(parameters, name))
            except ConfigError as error:
                msg = f"{self.path}: {error}"
                raise ConfigError(msg) from error
        if not len(self.points):
            msg = f"{self.path}: there is no point: yield (parameters, name) for each"
            raise ConfigError(msg)
        return Answer(ended=True)

    def _skip(self, name: str, parameters: object) -> None:
        """Pass over a point that an earlier session had, once, if it is still the same one.

        Raises:
            ConfigError: its parameters are others now.
        """
        number = self._known.pop(name)
        before = dict(values.cells(toml.loads(self.points.parameters(number), where=name)))
        where = f"{self.path}: point {name!r}"
        if not isinstance(parameters, dict):
            msg = f"{where} has the parameters {values.shown(parameters)}: they are a dict"
            raise ConfigError(msg)
        try:
            now = dict(values.cells(values.plain(parameters)))
        except ConfigError as error:
            msg = f"{where}: {error}"
            raise ConfigError(msg) from error
        for key in [*now, *before]:
            if not values.same(now.get(key), before.get(key)):
                old, new = (cells[key][1] if key in cells else None for cells in (before, now))
                msg = f"{where} is in this grid already, with {key} = {values.shown(old)} and not"
                raise ConfigError(f"{msg} {values.shown(new)}: give another point another name")
