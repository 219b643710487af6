"""One launch of a grid: its table, its search, its engine, and its end, whatever ends it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

from engram import errors, folder, open_runs
from engram import record as runs
from engram.grid import growth
from engram.grid import record as records
from engram.grid.dispatch import Dispatcher, Rules
from engram.grid.local import LocalEngine
from engram.grid.points_table import PointsTable
from engram.grid.prepare import Shared
from engram.grid.readme import Readme
from engram.grid.view import make_view
from engram.launch import say
from engram.paths import RootPaths
from engram.program import program

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.grid.birth import Grid
    from engram.grid.engine import Engine, Task
    from engram.grid.interrupts import Interrupts
    from engram.grid.ready import Ready
    from engram.grid.search import Search
    from engram.grid.view import View
    from engram.paths import GridPaths

__all__ = ["live"]


def live(
    grid: Grid,
    ready: Ready,
    tasks: Sequence[Task],
    options: argparse.Namespace,
    argv: Sequence[str],
    interrupts: Interrupts,
) -> int:
    """Run tasks to their end and bring the grid's folder up to date.

    Returns:
        The exit code.

    Raises:
        StoreError: the folder could not be brought up to date; all else is done.
    """
    session = Session(grid, ready)
    try:
        dispatcher = session.dispatcher(tasks, options, argv, interrupts)
        dispatcher.run()
        session.ending = verdict(dispatcher, len(grid.points))
    except BaseException as error:
        session.ending = ("failed", f"the runner failed: {error!r}")
        raise
    finally:
        problem = session.close()
    code = session.last_words(dispatcher)
    if problem is not None:
        problem.exit_code = errors.INCOMPLETE  # it was not refused: it had begun
        raise problem
    return code


class Session:
    """One launch of a grid, from its first look at the folder to the last record."""

    def __init__(self, grid: Grid, ready: Ready) -> None:
        """Take the grid's record over."""
        self.grid = grid
        self.ready = ready
        self.began = time.monotonic()
        try:
            self.record = records.change(grid.paths, state="running")
        except BaseException:
            ready.close()
            raise
        self.searched = self.record.get("search") or {}
        self.view = make_view(metric=self.searched.get("metric"))
        self.readme = Readme(grid.paths)
        self.table: PointsTable | None = None
        self.engine: Engine | None = None
        self.search: Search | None = None
        self.ending = ("failed", "the runner failed")
        self.unsaved: str | None = None  # why the record is not current
        self.counts: dict[str, int] = {}  # what it would say

    def dispatcher(
        self,
        tasks: Sequence[Task],
        options: argparse.Namespace,
        argv: Sequence[str],
        interrupts: Interrupts,
    ) -> Dispatcher:
        """Bring up the table, the search and the engine, and say what begins."""
        grid, ready, points = self.grid, self.ready, self.grid.points
        table = self.table = PointsTable.open(grid.paths, points)
        self.readme.keep(self.record, table.rows)
        search = growth.begin(self.record, ready.run, grid.paths, points, tasks)
        self.search = search
        packs = ready.settings.packs([slot.devices for slot in ready.slots if slot.devices])
        most = growth.most(points, search, tasks)
        shared = Shared(
            ready.run, grid.paths, points, argv, grid.seed, ready.warm, options, bool(self.searched)
        )
        engine = self.engine = make_engine(ready, shared, tasks, most=most, packs=packs)
        total = growth.total(points, search)
        begin(self.view, ready, grid, total, len(points) - len(tasks), most)
        return Dispatcher(
            engine,
            tasks,
            points=points,
            table=table,
            view=self.view,
            save=self.save,
            rules=Rules(ready.settings.retries, packs, ready.settings.fail_fast),
            counts=counts_but(table, {task.number for task in tasks}),
            interrupts=interrupts,
            search=search,
        )

    def save(self, counts: dict[str, int]) -> None:
        """Bring record and README up to date while points run; a disk that is full ends nothing."""
        facts = growth.facts(self.grid.points, self.search)
        try:
            record = records.change(self.grid.paths, counts=counts, **facts)
        except errors.StoreError as error:
            if self.unsaved is None:
                self.view.note(str(error))
            self.unsaved, self.counts = str(error), counts
            return
        self.unsaved = None
        self.readme.keep(record, self.table.rows if self.table else ())

    def close(self) -> errors.StoreError | None:
        """End what runs, write the last record, and give back what the grid held.

        Returns:
            What could not be written. A record that could not is ended by the next command.
        """
        paths = self.grid.paths
        try:
            with contextlib.ExitStack() as stack:  # each of them, whatever becomes of the others
                stack.callback(self.grid.lease.release)
                if self.table is not None:
                    stack.callback(self.table.finish)
                stack.callback(self._end)
                stack.callback(folder.release_reserve, paths)
                stack.callback(self.ready.close)
                if self.engine is not None:
                    stack.callback(self.engine.close)
        except errors.StoreError as error:
            return error
        return None

    def _end(self) -> None:
        """Write how the grid ended, and this session of it."""
        state, cause = self.ending
        sessions = self.record["sessions"]
        sessions[-1] = {**sessions[-1], "ended": runs.now_utc(), "cause": cause}
        spent = (self.record["times"]["run_s"] or 0.0) + time.monotonic() - self.began
        grown = growth.end(self.record, self.grid.paths, self.grid.points, self.search)
        if self.unsaved is not None:
            grown = {**grown, "counts": self.counts}
        final = records.change(
            self.grid.paths, state=state, cause=cause, sessions=sessions, run_s=spent, **grown
        )
        open_runs.grid_closed(RootPaths(self.grid.paths.folder.parent), self.grid.paths)
        self.readme.keep(final, self.table.rows if self.table else (), force=True)

    def last_words(self, dispatcher: Dispatcher) -> int:
        """Say what came of it and how to go on, and choose the exit code."""
        for text in self.search.last_words() if self.search else ():
            self.view.note(text)
        spent = time.monotonic() - self.began
        self.view.finish(dict(dispatcher.counts), spent, self.grid.paths.folder)
        return last_words(dispatcher, self.grid.paths, self.ending)


def make_engine(
    ready: Ready, shared: Shared, tasks: Sequence[Task], *, most: int, packs: bool
) -> Engine:
    """The engine that [engine] kind names; `most` points will run in this session."""
    config = ready.settings.engine
    if config.kind == "slurm":
        from engram.grid.slurm import SlurmEngine

        return SlurmEngine.for_grid(shared, config, tasks)
    if config.kind == "ray":
        from engram.grid.ray_engine import RayEngine

        return RayEngine.for_grid(shared, config, tasks)
    return LocalEngine(shared, ready.slots, most=most, packs=packs)


def begin(view: View, ready: Ready, grid: Grid, total: int, done: int, most: int) -> None:
    """Say what begins: so many points, how many of them were done before, on how many slots."""
    labels = [slot.label for slot in ready.slots[:most]]
    view.begin(total, done, labels, grid.paths.folder)
    if ready.settings.engine.processes > 1:
        view.note(f"each point has {ready.settings.engine.processes} processes")
    for remark in ready.remarks:
        view.note(remark)
    if ready.slots and ready.why_cold and not ready.settings.cold:
        view.note(f"cold, an interpreter for every point: {ready.why_cold}")


def counts_but(table: PointsTable, numbers: set[int]) -> dict[str, int]:
    """How the points of a table ended, but for those that run now."""
    return Counter(row["state"] for row in table.rows if row["index"] not in numbers)


def verdict(dispatcher: Dispatcher, number: int) -> tuple[str, str]:
    """The grid's state and its cause."""
    completed, search = dispatcher.counts["completed"], dispatcher.search
    if dispatcher.interrupted_by is not None:
        name = signal.Signals(dispatcher.interrupted_by).name
        return "interrupted", f"the runner received {name}"
    if search is not None and search.problem is not None:
        return "failed", search.problem
    if dispatcher.halted is not None:
        return "failed", dispatcher.halted
    if completed == number:
        return "completed", "every point completed"
    return "failed", f"{number - completed} of {number} points did not complete"


def last_words(dispatcher: Dispatcher, paths: GridPaths, ending: tuple[str, str]) -> int:
    """Say how to go on, and choose the exit code."""
    state, cause = ending
    name, verdicts = paths.folder.name, dispatcher.verdicts
    if state != "completed":
        say(f"{state}: {cause}")
        say(f"run what is left: {program()} --grid --resume {name}")
    if verdicts:
        said = ", ".join(f"{number} {text}" for text, number in sorted(verdicts.items()))
        say(f"compared with the original runs: {said}")
    say(f"list it: {program()} list --grid {name}")
    say(f"look at it: {program()} report {name}")
    if state == "interrupted":
        pressed = dispatcher.interrupted_by == signal.SIGINT
        return errors.INTERRUPTED if pressed else errors.TERMINATED
    if state == "completed" and verdicts["different"]:
        return errors.DIFFERENT
    return errors.COMPLETED if state == "completed" else errors.INCOMPLETE
