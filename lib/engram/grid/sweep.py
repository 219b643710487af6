"""Which W&B sweep a grid's points come from: the first worker makes it, the others join it.

Without W&B the points run here alone, and the record says so.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import record as runs
from engram import wandb_log
from engram.errors import ConfigError, RunnerError
from engram.grid.draw import Drawn, draw
from engram.grid.sweep_identity import Identity, identify
from engram.grid.sweep_place import Known, SweepPlace
from engram.grid.sweep_space import as_yaml, configuration
from engram.grid.sweep_table import ID_FORM, SweepConfig, is_id, local_table
from engram.grid.wandb_server import GoneError, Server, SweepPath, UnreachableError
from engram.launch import say
from engram.paths import RootPaths

if TYPE_CHECKING:
    from engram.grid.wandb_server import SweepFacts
    from engram.request import Run
    from engram.settings import GridConfig

__all__ = ["NEW", "Joined", "settle"]

NEW = "new"
"""In place of an id: a sweep of its own."""


class Joined(NamedTuple):
    """The sweep of a grid."""

    path: SweepPath
    url: str
    made: bool  # by this grid
    sha256: str  # of the configuration

    def as_json(self) -> dict[str, Any]:
        """What grid.json says about it."""
        named = {"id": str(self.path), **self.path._asdict()}
        return {**named, "url": self.url, "made": self.made, "configuration_sha256": self.sha256}


def settle(run: Run, drawn: Drawn, asked: str | None) -> Drawn:
    """Make or join the sweep that a [grid] table asks for; without W&B, draw its points here.

    Args:
        run: the grid's own, up to its snapshot.
        drawn: what the table says; a table without a sweep comes back as it is.
        asked: the id of a sweep, or NEW, from the command line.

    Raises:
        ConfigError: the sweep belongs to another configuration, is over, or W&B refuses.
        StoreError: the run root cannot be written.
    """
    found = drawn.search
    if not isinstance(found, SweepConfig):
        if asked is not None:
            msg = f'--sweep {asked} needs a [grid] table with search = "wandb": {drawn.source.path}'
            raise ConfigError(f"{msg} has none")
        return drawn
    if asked is not None and not is_id(asked):  # as of a variable of the shell that is not set
        msg = f"--sweep {asked!r} is no id of a sweep: write {ID_FORM}, or {NEW!r}"
        raise ConfigError(msg)
    wanted = asked or found.sweep_id
    why = offline(run)
    if why is None:
        try:
            joined = Desk(run, found, Server.configured()).joined(wanted)
        except UnreachableError as error:
            why = str(error)
        else:
            how = "made" if joined.made else "joined"
            say(f"{how} the W&B sweep {joined.path}: {joined.url}")
            return drawn._replace(sweep=joined)
    if wanted not in (None, NEW):
        msg = f"the W&B sweep {wanted!r} cannot be joined: {why}"
        raise ConfigError(f"{msg}; without --sweep and 'sweep_id' the points run here alone")
    return alone(run, drawn, found, why)


def offline(run: Run) -> str | None:
    """Why there is no W&B; None where it may be had. Takes wandb_log.CONNECT_S at most."""
    if not run.config.wandb.enabled:
        return "[wandb] enabled is false"
    if wandb_log.mode() != "online":
        asked = os.environ.get("WANDB_MODE")
        return f"WANDB_MODE is {asked}" if asked else "there is no API key"
    if wandb_log.api_key() is None:
        return "there is no API key, and a sweep takes no identity token"
    why = wandb_log.unreachable()
    return why and why.removesuffix(", logging offline")


def alone(run: Run, drawn: Drawn, found: SweepConfig, why: str) -> Drawn:
    """The same points without W&B, or those of what stands in for its method."""
    config = run.config._replace(grid=_local(found, str(run.config.source)))
    local = draw(None, config, run.parameters.values, drawn.points.path)
    how = {
        "grid": "the same {} points run here alone, as a local grid",
        "random": "{} points are drawn here from the same space",
        "bayes": "optuna's TPE stands in for W&B's bayes, for {} points here",
    }[found.method].format(found.trials)
    remark = f"no W&B sweep, {why}: {how}"
    say(remark)
    return local._replace(source=drawn.source, remark=remark)


def _local(found: SweepConfig, where: str) -> GridConfig | None:
    from engram import grid_table
    from engram.config import MAX_SEED
    from engram.tables import Table

    return grid_table.read(Table({"grid": local_table(found)}, where), MAX_SEED)


class Desk:
    """Where the workers of one configuration ask for their sweep."""

    def __init__(self, run: Run, found: SweepConfig, server: Server) -> None:
        """Know what is about to run.

        Args:
            run: the grid's own, up to its snapshot.
            found: what its [grid] table says.
            server: W&B's.
        """
        self.config = run.config
        self.found = found
        self.server = server
        self.identity = identify(run, found)
        root = RootPaths(run.root.folder)
        self.place = SweepPlace(root, run.config.name, run.config.script)

    @property
    def project(self) -> str:
        """Where a sweep of this experiment is made."""
        return self.config.wandb.project or self.config.name

    def joined(self, wanted: str | None) -> Joined:
        """The sweep to take points from.

        Args:
            wanted: an id, NEW, or None for the one that this place knows, made where it knows none.
        """
        if wanted not in (None, NEW):
            return self.by_id(str(wanted))
        with self.place.alone():
            known = self.place.read()
            if known is None or wanted == NEW:
                return self.make(instead=known)
            return self.known(known)

    def known(self, known: Known) -> Joined:
        """Join the sweep that the place knows; one that is over gives way to another one's."""
        facts = self._facts(known)
        unlike = self.identity.differences(known.identity)
        if not unlike:
            return self.enter(facts, known.path)
        if facts is None or facts.over:
            say(f"the W&B sweep {known.path} is over, and another configuration's")
            return self.make(instead=known)
        raise self.stale(known.path, unlike, known.identity)

    def _facts(self, known: Known) -> SweepFacts | None:
        path = known.path
        with contextlib.suppress(GoneError):
            return self.server.find(path.sweep, entity=path.entity, project=path.project)
        return None

    def by_id(self, wanted: str) -> Joined:
        """Join the sweep of an id, if it is of this configuration.

        Raises:
            ConfigError: it is another's, or does not say whose it is.
            GoneError: there is no such sweep.
        """
        *before, sweep = wanted.split("/")
        project = before[-1] if before else self.project
        entity = before[0] if len(before) > 1 else self.config.wandb.entity
        facts = self.server.find(sweep, entity=entity, project=project)
        theirs = Identity.marked(facts.text)
        if theirs is None:
            msg = f"the W&B sweep {facts.path} does not say what it belongs to: it was not made by"
            raise ConfigError(f"{msg} a grid of engram, or its configuration was changed there")
        known = self.place.read()
        if known is not None and known.path == facts.path:
            theirs = theirs._replace(details=known.identity.details)
        if unlike := self.identity.differences(theirs):
            raise self.stale(facts.path, unlike, theirs)
        joined = self.enter(facts, facts.path)
        if known is None:
            self.place.keep(Known(facts.path, self.identity, runs.now_utc()))
        return joined

    def enter(self, facts: SweepFacts | None, path: SweepPath) -> Joined:
        """Join a sweep of this configuration, unless it is over.

        Raises:
            ConfigError: it is.
        """
        if facts is None or facts.over:
            how = "was deleted" if facts is None else f"is over ({facts.state.lower()})"
            msg = f"the W&B sweep {path} of this configuration {how}: no point is left in it;"
            raise ConfigError(f"{msg} `--sweep new` makes another")
        return Joined(facts.path, self.server.page(facts.path), False, self.identity.sha256)

    def stale(self, path: SweepPath, unlike: list[str], theirs: Identity) -> RunnerError:
        """The error for a sweep of another configuration."""
        msg = f"the W&B sweep {path} belongs to another configuration: {', '.join(unlike)}"
        commit = theirs.parts.get("commit", "")
        there = f"run it as it was there (git checkout {commit[:12]})" if commit else "run its own"
        return ConfigError(f"{msg}; {there}, or make another sweep with `--sweep new`")

    def make(self, *, instead: Known | None) -> Joined:
        """Make the sweep of this configuration, and write it down for the others."""
        described = "\n".join(filter(None, (self.config.description, self.identity.mark)))
        made = configuration(
            self.found,
            name=self.config.name,
            script=self.config.script,
            description=described,
        )
        path, doubts = self.server.make(
            as_yaml(made),
            description=described,
            entity=self.config.wandb.entity,
            project=self.project,
        )
        for doubt in doubts:
            say(f"warning: W&B says of the sweep: {doubt}")
        mine = Known(path, self.identity, runs.now_utc())
        if self.place.keep(mine, instead=instead):
            return Joined(path, self.server.page(path), True, self.identity.sha256)
        faster = self.place.read()  # on a file system without locks
        with contextlib.suppress(RunnerError):
            if (facts := self._facts(mine)) is not None:
                self.server.cancel(facts)
        if faster is None:
            msg = f"{str(self.place.file)!r} cannot be read: is its file system in order?"
            raise ConfigError(msg)
        return self.known(faster)
