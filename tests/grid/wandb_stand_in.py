"""A stand-in for W&B's server, on a port of this machine: no test reaches the real one.

It speaks just the calls that wandb's own client and engram's sweeps make, over real HTTP. It is no
proof of how W&B chooses: a grid goes through its product, random and bayes draw at random alike.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = "somebody"


@dataclass
class Sweep:
    """A sweep as the server keeps it."""

    project: str
    name: str
    text: str  # YAML, as it came
    description: str
    state: str = "RUNNING"
    given: int = 0  # points
    source: Any = None

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, as PyYAML reads it."""
        return yaml.safe_load(self.text)

    @property
    def left(self) -> bool:
        """Whether a grid has points yet."""
        space = self.config["parameters"].values()
        return self.given < math.prod(len(one["values"]) for one in space)

    def point(self) -> dict[str, Any] | None:
        """The next point; None where none is left."""
        if self.source is None:
            self.source = points(self.config)
        found = next(self.source, None) if self.given < self.config.get("run_cap", 10**9) else None
        self.given += found is not None
        return found


def points(config: dict[str, Any]) -> Any:
    """What a sweep gives out, in order."""
    space = config["parameters"]
    if config["method"] == "grid":
        for row in itertools.product(*(one["values"] for one in space.values())):
            yield dict(zip(space, row, strict=True))
        return
    source = random.Random(0)
    while True:
        yield {key: draw(one, source) for key, one in space.items()}


def draw(one: dict[str, Any], source: random.Random) -> Any:
    """A value of one parameter."""
    if "values" in one:
        return source.choice(one["values"])
    kinds = {"int_uniform": source.randint, "uniform": source.uniform}
    return kinds[one["distribution"]](one["min"], one["max"])


@dataclass
class Run:
    """A W&B run as the server keeps it."""

    sweep: str | None
    state: str = "running"
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class StandIn:
    """The server; `with StandIn() as server` while it is up."""

    def __init__(self) -> None:
        """Bind a port."""
        self.lock = threading.Lock()
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, str] = {}  # sweeps
        self.runs: dict[str, Run] = {}
        self.stopped: set[str] = set()  # runs that somebody stopped on the page
        self.down = False
        self.most_each: int | None = None  # points of an agent: others may start late
        self.taken: Counter[str] = Counter()  # by agents
        self.calls: list[tuple[str, dict[str, Any]]] = []
        handler = type("Bound", (Handler,), {"owner": self})
        self.http = Quiet(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.05}
        )

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a command that shall use it."""
        quiet = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        account = {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        return {"WANDB_BASE_URL": self.url, "no_proxy": "127.0.0.1", **account, **quiet}

    def __enter__(self) -> StandIn:
        """Serve."""
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Serve no longer."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def of_sweep(self, sweep: str) -> list[Run]:
        """The runs of a sweep."""
        return [run for run in self.runs.values() if run.sweep == sweep]

    def upsert_sweep(self, told: dict[str, Any]) -> dict[str, Any]:
        """Make a sweep, or change the state of one."""
        if told.get("id"):
            sweep = self.sweeps[told["id"].removeprefix("key-")]
            sweep.state = told["state"]
        else:
            name = f"sweep{len(self.sweeps) + 1}"
            described = told.get("description") or ""
            sweep = Sweep(told["projectName"], name, told["config"], described)
            self.sweeps[name] = sweep
        return {"upsertSweep": {"sweep": shown(sweep), "configValidationWarnings": []}}

    def create_agent(self, told: dict[str, Any]) -> dict[str, Any]:
        """Register an agent."""
        if told["sweep"] not in self.sweeps:
            raise Missing
        name = f"agent{len(self.agents) + 1}"
        self.agents[name] = told["sweep"]
        return {"createAgent": {"agent": {"id": name}}}

    def heartbeat(self, told: dict[str, Any]) -> dict[str, Any]:
        """Tell an agent what to do: one point at a time."""
        sweep = self.sweeps.get(self.agents.get(told["id"], ""))
        if sweep is None:
            raise Missing
        running = [run for run, yes in json.loads(told["runState"]).items() if yes]
        waits = not running and self.taken[told["id"]] == self.most_each and sweep.left
        commands = [] if waits else self.orders(sweep, running)
        self.taken[told["id"]] += any(command["type"] == "run" for command in commands)
        agent = {"agent": {"id": told["id"]}, "commands": json.dumps(commands)}
        return {"agentHeartbeat": agent}

    def orders(self, sweep: Sweep, running: list[str]) -> list[dict[str, Any]]:
        """What an agent with these runs is told."""
        if running:
            if sweep.state == "CANCELED":
                return [{"type": "exit"}]
            return [{"type": "stop", "run_id": run} for run in running if run in self.stopped]
        point = sweep.point() if sweep.state == "RUNNING" else None
        if point is None:
            sweep.state = "FINISHED" if sweep.state == "RUNNING" else sweep.state
            return [{"type": "exit"}]
        run = f"{sweep.name}r{sweep.given}"
        given = {key: {"value": value} for key, value in point.items()}
        self.runs[run] = Run(sweep.name, config=given)
        return [{"type": "run", "run_id": run, "args": given, "program": "x"}]

    def find(self, told: dict[str, Any], query: str) -> dict[str, Any]:
        """A sweep or a run of a project."""
        name = told.get("sweep") or told.get("name") or told.get("run")
        project: dict[str, Any] = {"name": told["project"], "entityName": ENTITY, "id": "p"}
        sweep = self.sweeps.get(name)
        if "sweep(" in query and sweep and sweep.project == told["project"]:
            edges = [{"node": node(*item)} for item in self.runs.items() if item[1].sweep == name]
            project["sweep"] = {**shown(sweep), "runs": {"edges": edges}}
        if "run(" in query:
            project["run"] = node(name, self.runs[name]) if name in self.runs else None
        return {"project": project}

    def upsert_run(self, told: dict[str, Any]) -> dict[str, Any]:
        """Make a run, or change it."""
        new = told["name"] not in self.runs
        run = self.runs.setdefault(told["name"], Run(told.get("sweep")))
        run.sweep = told.get("sweep") or run.sweep
        run.config.update(json.loads(told.get("config") or "{}"))
        run.summary = json.loads(told.get("summaryMetrics") or "null") or run.summary
        run.state = "running" if new else run.state
        whose = {"id": "e", "name": ENTITY}
        place = {"project": {"id": "p", "name": told["project"], "entity": whose}}
        bucket = {"historyLineCount": 0, "config": "{}", "displayName": told["name"], **place}
        told = {**node(told["name"], run), **bucket, "sweepName": run.sweep}
        return {"upsertBucket": {"bucket": told, "inserted": new}}

    def stream(self, place: str, body: dict[str, Any]) -> dict[str, Any]:
        """What a run's script logs, and its end."""
        run = self.runs[place.split("/")[-2]]
        files = body.get("files") or {}
        for line in (files.get("wandb-history.jsonl") or {}).get("content", ()):
            run.history.append(json.loads(line))
        for line in (files.get("wandb-summary.json") or {}).get("content", ()):
            run.summary.update(json.loads(line))
        if body.get("complete"):
            run.state = "failed" if body.get("exitcode") else "finished"
        return {"exitcode": None, "limits": {}}

    def files(self, told: dict[str, Any]) -> dict[str, Any]:
        """Where a run's files may be put."""
        there = [{"name": name, "uploadUrl": f"{self.url}/put/{name}"} for name in told["files"]]
        return {"runID": told["run"], "uploadHeaders": [], "files": there}

    def graphql(self, query: str, told: dict[str, Any]) -> dict[str, Any]:
        """Answer one statement."""
        answers = {
            "upsertSweep(": lambda: self.upsert_sweep(told),
            "createAgent(": lambda: self.create_agent(told),
            "agentHeartbeat(": lambda: self.heartbeat(told),
            "upsertBucket(": lambda: self.upsert_run(told),
            "sweep(sweepName": lambda: self.find(told, query),
            "run(name": lambda: self.find(told, query),
            "viewer {": lambda: {"viewer": viewer()},
            "createRunFiles(": lambda: {"createRunFiles": self.files(told)},
            "serverInfo": lambda: {"serverInfo": {"features": []}},
            "bucket(name": lambda: {"model": {"bucket": None}},
        }
        for mark, answer in answers.items():
            if mark in query:
                return answer()
        return {}


class Quiet(ThreadingHTTPServer):
    """Does not mind clients that are killed."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: what a test needs is in the answers."""


class Missing(Exception):
    """A status of 404."""


def viewer() -> dict[str, Any]:
    """Whose key it is."""
    named = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "s@example.org"}
    return {**named, "flags": "{}", "teams": {"edges": []}, "admin": False}


def shown(sweep: Sweep) -> dict[str, Any]:
    """A sweep as answers show it."""
    whose = {"id": "p", "name": sweep.project, "entity": {"id": "e", "name": ENTITY}}
    told = {"id": f"key-{sweep.name}", "name": sweep.name, "state": sweep.state, "project": whose}
    method = sweep.config.get("method")
    return {**told, "config": sweep.text, "description": sweep.description, "method": method}


def node(name: str, run: Run) -> dict[str, Any]:
    """A run as answers show it."""
    told = {"id": f"key-{name}", "name": name, "state": run.state}
    return {**told, "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config)}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    owner: StandIn
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server asks for
        """Answer a call."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        expected = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
        if self.owner.down:
            return self.tell(503, {"error": "down"})
        if self.headers.get("Authorization") != expected:
            return self.tell(401, {"error": "user is not logged in"})
        body = json.loads(data)
        with self.owner.lock:
            try:
                if self.path == "/graphql":
                    told = body.get("variables") or {}
                    named = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
                    self.owner.calls.append((named[1] if named else "", told))
                    return self.tell(200, {"data": self.owner.graphql(body["query"], told)})
                if self.path.endswith("/file_stream"):
                    return self.tell(200, self.owner.stream(self.path, body))
            except Missing:
                return self.tell(404, {"error": "not found"})
        return self.tell(200, {})

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for
        """Nothing is to be had this way."""
        self.tell(404, {})

    def do_PUT(self) -> None:  # noqa: N802 - the name that http.server asks for
        """Take a file, and forget it."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.tell(200, {})

    def tell(self, status: int, body: dict[str, Any]) -> None:
        """Write an answer."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""
