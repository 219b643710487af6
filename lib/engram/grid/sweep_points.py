"""Points from a W&B sweep, as the process behind the door takes them; see proposer.py.

W&B gives an agent one point at a time, so there are as many agents as points at a time. A point's
result goes to its W&B run, whether its script has logged there or not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError, RunnerError
from engram.files import read_json, write_atomic, write_json
from engram.grid.point_names import Namer
from engram.grid.proposer import Answer, Prune, finite_or_not
from engram.grid.search_table import block_of
from engram.grid.sweep_space import as_yaml, label, outward
from engram.grid.table import overridden
from engram.grid.wandb_server import Command, GoneError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engram.grid.points import Points
    from engram.grid.proposer import Over
    from engram.grid.sweep_table import SweepConfig
    from engram.grid.wandb_server import Server, SweepPath
    from engram.paths import GridPaths

__all__ = ["SweepPoints"]

HEARTBEAT_S = 5.0
"""How often W&B hears of an agent at work, and is asked again where it had no point to give."""
PATIENCE_S = 600.0
"""How long W&B may be silent before the search of points ends."""
ASK_AGAIN_S = 1.0


class Held(NamedTuple):
    """A point that runs, or that somebody runs later."""

    agent: str | None  # at work on it; None since another session
    run: str  # W&B's id
    values: dict[str, Any]  # as the sweep gave them


class SweepPoints:
    """Points chosen by a W&B sweep; see engram.grid.proposer.Proposer."""

    def __init__(
        self,
        config: SweepConfig,
        server: Server,
        path: SweepPath,
        *,
        base: dict[str, Any],
        points: Points,
        paths: GridPaths,
        where: str,
        parameters: str,
    ) -> None:
        """Begin, or go on; nothing is sent yet.

        Args:
            config: what the [grid] table says.
            server: W&B's.
            path: of the sweep.
            base: the parameters of the experiment.
            points: those there are.
            paths: the grid's folder.
            where: the file of the table, for messages.
            parameters: the file of the parameters, for messages.
        """
        self.config, self.server, self.path = config, server, path
        self.base, self.points, self.paths = base, points, paths
        self.where, self.parameters = where, parameters
        rounded = [key.path for key, one in config.space.items() if one.kind != "choice"]
        self.namer = Namer([key.path for key in config.space], rounded, points.names)
        self.held: dict[int, Held] = {}  # by number of the point
        self.idle: list[str] = []  # agents
        self.given: list[Command] = []  # points that W&B gave without being asked
        self.unsent: dict[int, Over] = {}  # results
        self.ended = False
        self.asked_at = self.beat_at = -HEARTBEAT_S
        self.silent_since: float | None = None
        paths.sweep.mkdir(exist_ok=True)
        for number in range(len(points)):
            kept = read_json(paths.sweep_run(number))
            self.held[number] = Held(None, kept["run"], kept["values"])
        if paths.sweep_run(len(points)).exists():  # taken by a session that was killed just then
            kept = read_json(paths.sweep_run(len(points)))
            self.given.append(Command("run", kept["run"], kept["values"]))

    def take(self, over: Sequence[Over]) -> list[str]:
        """See Proposer."""
        for item in over:
            held = self.held.get(item.number)
            if held is None:
                continue
            if held.agent is not None:
                self.idle.append(held.agent)
                self.held[item.number] = held._replace(agent=None)
            kept = read_json(self.paths.sweep_run(item.number))
            if kept.get("told") != item.run_id:
                self.unsent[item.number] = item
        return self._send()

    def _send(self) -> list[str]:
        """Give W&B the results it has not yet."""
        notes: list[str] = []
        for number, item in list(self.unsent.items()):
            held = self.held[number]
            failed = item.state != "completed"
            summary = {**finite_or_not(item.summary), **({"pruned": True} if item.pruned else {})}
            try:
                self.server.finish(
                    self.path, held.run, summary=summary, values=held.values, failed=failed
                )
            except UnreachableError as error:
                return [*notes, *self._missed(error)]
            except RunnerError as error:
                del self.unsent[number]
                name = self.points.names[number]
                notes.append(f"the result of {name} did not reach W&B: {error}")
                continue
            self._heard()
            del self.unsent[number]
            self._keep(number, held, told=item.run_id)
        return notes

    def _heard(self) -> None:
        self.silent_since = None

    def _missed(self, error: UnreachableError) -> list[str]:
        """Say once that W&B is silent.

        Raises:
            UnreachableError: it has been for too long.
        """
        if self.silent_since is None:  # it may not have been asked for hours
            self.silent_since = time.monotonic()
            later = "what it misses is sent when it does, at the latest by `--grid --resume`"
            return [f"{error}; what runs goes on, and {later}"]
        if time.monotonic() - self.silent_since > PATIENCE_S:
            msg = f"{error}, for {PATIENCE_S:g} s now: `--grid --resume` goes on when it does"
            raise UnreachableError(msg)
        return []

    def look(self, running: dict[int, str]) -> list[Prune]:
        """See Proposer: tell W&B what runs, and end what it does not want any longer."""
        if time.monotonic() - self.beat_at < HEARTBEAT_S:
            return []
        self.beat_at = time.monotonic()
        found: list[Prune] = []
        for number in map(int, running):
            held = self.held.get(number)
            if held is None or held.agent is None:
                continue
            try:
                commands = self.server.heartbeat(held.agent, held.run)
            except RunnerError:  # `propose` says so
                break
            self._heard()
            found += self._orders(number, held, commands)
        return found

    def _orders(self, number: int, held: Held, commands: list[Command]) -> list[Prune]:
        found = []
        for command in commands:
            if command.kind == "run":
                self.given.append(command)
            elif command.kind == "exit" or command.run == held.run:
                what = "the sweep was canceled" if command.kind == "exit" else "it was stopped"
                self.ended = self.ended or command.kind == "exit"
                found.append(Prune(number, f"{what} on W&B"))
        return found

    def propose(self) -> Answer:
        """See Proposer."""
        if not self.given and not self.ended:
            if time.monotonic() - self.asked_at < HEARTBEAT_S:
                time.sleep(ASK_AGAIN_S)  # it had none a moment ago
                return Answer()
            try:
                self._ask()
            except UnreachableError as error:
                time.sleep(ASK_AGAIN_S)
                return Answer(notes=self._missed(error))
            except GoneError as error:
                msg = f"the W&B sweep {self.path} gives no more points: {error}"
                raise ConfigError(msg) from error
        if self.given:
            return Answer(point=self._add(self.given.pop(0)))
        return Answer(ended=True, notes=self._rest()) if self.ended else Answer()

    def _ask(self) -> None:
        """Have an agent that does nothing ask for a point."""
        if not self.idle:
            self.idle.append(self._agent())
            if self.ended:
                return
        commands = self.server.heartbeat(self.idle[-1], None)
        self._heard()
        self.given += [command for command in commands if command.kind in ("run", "resume")]
        self.ended = any(command.kind == "exit" for command in commands)
        if not self.given:
            self.asked_at = time.monotonic()

    def _agent(self) -> str:
        """A new agent; a sweep that is over may take none."""
        try:
            return self.server.register(self.path)
        except ConfigError:
            path = self.path
            facts = self.server.find(path.sweep, entity=path.entity, project=path.project)
            if not facts.over:
                raise
            self.ended = True
            return ""

    def _add(self, command: Command) -> int:
        """Make a point of what W&B gave."""
        if command.run is None:
            msg = f"W&B gave a point without a run: {command!r}"
            raise ConfigError(msg)
        row = {}
        for key, one in self.config.space.items():
            name = label(key.path)
            row[key.path] = outward(one, command.values.get(name), name)
        values = overridden(self.base, block_of(self.config), row, self.where, self.parameters)
        held = Held(self.idle.pop() if self.idle else None, command.run, command.values)
        number = len(self.points)
        self._keep(number, held)  # before the point is there: who starts it reads this
        written = {key: {"value": value} for key, value in command.values.items()}
        write_atomic(self.paths.sweep_values(number), as_yaml(written).encode())
        self.held[number] = held
        return self.points.append(values, self.namer.name(row))

    def _keep(self, number: int, held: Held, *, told: str | None = None) -> None:
        """Write down which W&B run a point is, and which run's result W&B has."""
        named = {"id": str(self.path), **self.path._asdict()}
        where = {"run": held.run, "url": self.server.page(self.path, held.run)}
        kept = {**named, **where, "values": held.values, "told": told}
        write_json(self.paths.sweep_run(number), kept)

    def _rest(self) -> list[str]:
        """What became of the points of other workers, where that is not plain."""
        from engram.grid.sweep_rest import rest

        try:
            states = self.server.states(self.path)
        except RunnerError as error:
            return [f"what became of the sweep's other points is not known: {error}"]
        own = {held.run for held in self.held.values()}
        return rest(self.paths, str(self.path), states, own)
