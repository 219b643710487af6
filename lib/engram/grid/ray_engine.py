"""Points as Ray tasks, on a cluster that runs or on one of our own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import errors
from engram.grid import elsewhere
from engram.grid.backoff import Backoff
from engram.grid.engine import Ended, Left, Note, Started, Task, without_run
from engram.grid.ray_link import Link
from engram.grid.ray_settings import needs
from engram.reconcile import standing
from engram.record import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engram.grid.engine import Event
    from engram.grid.prepare import Shared
    from engram.paths import RunPaths
    from engram.settings import EngineConfig

__all__ = ["RayEngine", "given_up"]

LOOK_S = (0.2, 3.0)  # at the files that runs leave: at first, and when nothing happens for long
AHEAD = 500  # points that Ray may hold at a time
SILENT_S = 60.0  # until a record on a node that is gone is given up
LOST = 3  # attempts that a point gets at most because its worker or node was lost


class Over(NamedTuple):
    """A task that Ray says is over; its run's record may not say so yet."""

    since: float
    news: dict[str, Any]


class RayEngine:
    """Runs the points of a grid as tasks of Ray."""

    STOPS = "ending what runs (again: at once)"

    def __init__(self, shared: Shared, config: EngineConfig, link: Link) -> None:
        """Take over a link to Ray; see `for_grid`."""
        self.shared = shared
        self.config = config
        self.link = link
        self.room: int | None = None  # runs at a time, once that is known
        self.stopping = False
        self.withdrawn: set[str] = set()
        self.parted = False  # from the driver
        self.tasks: dict[str, Task] = {}  # by the name of the attempt
        self.begun: set[str] = set()
        self.over: dict[str, Over] = {}
        self.lost: dict[int, int] = {}  # by the number of the point
        self.news: list[Event] = []
        self.looked = Backoff(*LOOK_S)

    @classmethod
    def for_grid(cls, shared: Shared, config: EngineConfig, tasks: Sequence[Task]) -> RayEngine:
        """Make the engine of a grid.

        Args:
            shared: what the points are made of.
            config: the table [engine].
            tasks: what is to be done; it is given to `start` all the same.
        """
        del tasks
        return cls(shared, config, Link(config, shared.paths.folder, shared.paths.ray_log))

    def free(self) -> int:
        """How many more tasks it takes now; as many as run at a time where a search chooses."""
        if self.room is None or self.link.ended:
            return 0
        return max(0, (max(1, self.room) if self.shared.grows else AHEAD) - len(self.tasks))

    def start(self, task: Task) -> None:
        """Take a task."""
        name = str(self.shared.paths.attempt(task.number, task.attempt))
        head, tail = elsewhere.arguments(self.shared, task)
        earlier = ["--earlier", task.earlier] if task.earlier else []
        self.tasks[name] = task
        self.link.tell(run=[([*head, str(task.attempt), *earlier, *tail], name)])
        self.looked.hurry()

    def wait(self, timeout_s: float, wake: Sequence[int]) -> list[Event]:
        """Return what happened; see Engine.

        Raises:
            DeviceError: there is no Ray, or no longer.
        """
        for message in self.link.hear(min(timeout_s, LOOK_S[0]), *wake):
            self._take(message)
        if self.link.ended:
            self._count_as_over()
        self._look()
        news, self.news = self.news, []
        if self.link.ended and not self.tasks and not news:
            error = errors.DeviceError("the connection to Ray is lost, and nothing more can start")
            error.exit_code = errors.INCOMPLETE
            raise error
        return news

    def _take(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            msg = f"cannot use Ray: {message['failed']}: see {str(self.link.log)!r}"
            raise errors.DeviceError(msg)
        if "note" in message:
            self.news.append(Note(message["note"]))
        elif "ready" in message:
            self.room = message["ready"]
            self.news += notes(self.config, message)
        else:
            self.over[message["over"]] = Over(time.monotonic(), message)
            self.looked.hurry()

    def _count_as_over(self) -> None:
        """Without a driver there are no tasks: Ray ends them."""
        if not self.parted:
            self.parted = True
            words, log = self.link.last_words(), str(self.link.log)
            self.news.append(Note(f"the connection to Ray is lost ({words}): see {log!r}"))
        for name in self.tasks:
            self.over.setdefault(name, Over(time.monotonic(), {"canceled": True}))

    def _look(self) -> None:
        """See which runs began, and which records say how they ended."""
        if not self.tasks or not self.looked.due():
            return
        made = elsewhere.runs_made(self.shared.paths.attempts)
        for name in [name for name in self.tasks if name not in self.begun]:
            task = self.tasks[name]
            path = made.get(task.number, {}).get(task.attempt)
            if path is not None:
                self._begin(name, path.read_text(encoding="utf-8").strip())
        for name in list(self.over):
            self._end(name)

    def _begin(self, name: str, run_id: str) -> None:
        self.begun.add(name)
        device = elsewhere.device_of(self.shared.paths.run(run_id))
        self.news.append(Started(self.tasks[name], run_id, device))
        self.looked.hurry()

    def _end(self, name: str) -> None:
        """Tell how an attempt ended, as its record says, where it has one."""
        since, news = self.over[name]
        task, run_id = self.tasks[name], self._run_of(name)
        event: Event | None
        if run_id is not None:
            paths = self.shared.paths.run(run_id)
            event = elsewhere.ended(task, paths, given_up=given_up(paths, since))
            if event is None:
                return
            if name not in self.begun:
                self._begin(name, run_id)
        elif news.get("canceled") or self.stopping or name in self.withdrawn:
            event = Left(task)
        else:
            event = Ended(task, None, "", without_run("failed", why_no_run(news)))
        del self.tasks[name], self.over[name]
        self.begun.discard(name)
        if "lost" not in news or not self._again(task, event, news["lost"]):
            self.news.append(event)
        self.looked.hurry()

    def _run_of(self, name: str) -> str | None:
        """The run of an attempt, once there is one."""
        said: str | None = self.over[name].news.get("run")
        if said is None:
            task = self.tasks[name]
            path = self.shared.paths.attempt(task.number, task.attempt)
            said = path.read_text(encoding="utf-8").strip() if path.exists() else None
        return said

    def _again(self, task: Task, event: Event, why: str) -> bool:
        """Make another attempt when Ray has lost a worker, which no script is to blame for."""
        if self.stopping or self.link.ended or not isinstance(event, Ended):
            return False
        lost = self.lost[task.number] = self.lost.get(task.number, 0) + 1
        if event.record["state"] == "completed" or lost >= LOST:
            return False
        self.news.append(Note(f"{task.name}: Ray lost its worker, so it runs again ({why})"))
        go_on = event.checkpoint and task.original is None
        earlier = event.run_id if go_on else task.earlier
        self.start(task._replace(attempt=task.attempt + 1, earlier=earlier))
        return True

    def prune(self, task: Task, why: str) -> None:
        """Leave the order where the runner on the node looks for it; see Engine."""
        for item in self.tasks.values():
            if item.number == task.number:
                elsewhere.prune(self.shared.paths.attempts, item, why)

    def withdraw(self) -> None:
        """Take back what has not begun."""
        made = elsewhere.runs_made(self.shared.paths.attempts)
        for name, task in self.tasks.items():
            if task.attempt not in made.get(task.number, {}):
                self.withdrawn.add(name)
        self.link.tell(cancel=list(self.withdrawn))

    def stop(self, *, now: bool) -> None:
        """Cancel every task: the runners get a SIGTERM; another cancel kills at once."""
        del now
        self.stopping = True
        self.link.tell(cancel=list(self.tasks))

    def close(self) -> None:
        """Let go of Ray, and of a cluster of our own."""
        self.link.close()


def given_up(paths: RunPaths, since: float) -> bool:
    """Whether to wait no longer for the last words of a run whose task is over.

    Args:
        paths: its folder.
        since: when Ray said so, by the monotonic clock.
    """
    if time.monotonic() - since < SILENT_S:
        return False
    return standing(paths, load(paths)) == "elsewhere"


def notes(config: EngineConfig, ready: dict[str, Any]) -> list[Event]:
    """What people should know of the cluster."""
    room, nodes = ready["ready"], ready["nodes"]
    if room:
        return [Note(f"Ray: {room} points at a time, on {nodes} node{'s'[: nodes != 1]}")]
    return [Note(f"no node of the Ray cluster has {needs(config)}: the points wait for one")]


def why_no_run(news: dict[str, Any]) -> str:
    """Why a task ended that never made a run."""
    if "problem" in news:
        return str(news["problem"])
    if "lost" in news:
        return f"Ray lost the worker before the run began: {news['lost']}"
    said = news["said"].strip().rpartition("\n")[2] or "no word"
    return f"the runner ended with {news['code']} before the run began: {said}"
