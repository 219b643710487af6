"""What a sweep asks of W&B's server; the only module that speaks to it.

It does so as W&B's own agents do, in GraphQL over HTTP: their protocol is the same in wandb 0.19
and 0.31, while the Python functions around it are private and have moved. Nothing of wandb is
imported: an answer is due within a time that is known here, and the process that asks stays small
and free of threads.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from engram import __version__, wandb_log
from engram.errors import ConfigError, RunnerError
from engram.grid import wandb_statements as statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Command", "GoneError", "Server", "SweepFacts", "SweepPath", "UnreachableError"]

ANSWER_S = 20.0
"""How long the server may take to answer; wandb_log.CONNECT_S to be reached at all."""
FORGE = "api.forge.coreweave.com"
OVER = ("FINISHED", "CANCELED", "CANCELLED", "STOPPED", "FAILED", "CRASHED")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: urllib would hand the API key to whatever address it names."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401
        """Go nowhere; the status becomes the error."""


OPENER = urllib.request.build_opener(_Stay)


class UnreachableError(RunnerError):
    """The server does not answer now; later it may."""


class GoneError(RunnerError):
    """There is no such sweep, or none any longer."""


class SweepPath(NamedTuple):
    """Which sweep."""

    entity: str
    project: str
    sweep: str

    def __str__(self) -> str:
        """Return it as W&B writes it."""
        return "/".join(self)


class SweepFacts(NamedTuple):
    """A sweep as the server knows it."""

    path: SweepPath
    key: str  # under which the server keeps it
    state: str  # in capitals
    text: str  # its configuration and its description, as they stand there

    @property
    def over(self) -> bool:
        """Whether it gives out no more points."""
        return self.state in OVER


class Command(NamedTuple):
    """What an agent is told to do."""

    kind: str  # "run", "resume", "stop" or "exit"
    run: str | None
    values: dict[str, Any]


class Server:
    """W&B's server, with an account."""

    def __init__(self, url: str, key: str) -> None:
        """Remember them; nothing is sent yet.

        Args:
            url: the server's address.
            key: the account's API key.
        """
        self.url = url.rstrip("/")
        self._key, self._account = key, base64.b64encode(f"api:{key}".encode()).decode()

    @classmethod
    def configured(cls) -> Server:
        """The server and the account that wandb would use.

        Raises:
            UnreachableError: there is no API key, or the address holds a password.
        """
        if "@" in wandb_log.base_url():  # it stands in records and messages
            msg = "the address in WANDB_BASE_URL holds an account: leave it out (`wandb login`)"
            raise UnreachableError(msg)
        key = wandb_log.api_key()
        if key is None:
            msg = "there is no API key (`wandb login` keeps one, WANDB_API_KEY gives one)"
            raise UnreachableError(msg)
        return cls(wandb_log.base_url(), key)

    def page(self, path: SweepPath, run: str | None = None) -> str:
        """The address of a sweep, or of a run, for people."""
        app = self.url.replace("://api.wandb.", "://wandb.")
        if self.url.endswith(f"//{FORGE}"):
            app = "https://forge.coreweave.com/wandb"
        entity, project, sweep = map(quote, path)
        return f"{app}/{entity}/{project}/" + (f"runs/{quote(run)}" if run else f"sweeps/{sweep}")

    def make(
        self, config: str, *, description: str, entity: str | None, project: str
    ) -> tuple[SweepPath, list[str]]:
        """Make a sweep.

        Args:
            config: its configuration, as YAML.
            description: for people, and what its identity is known by.
            entity: whose it shall be; None for the account's own.
            project: made where it does not exist.

        Returns:
            Which it is, and what the server finds doubtful in its configuration.
        """
        named = {"entityName": entity, "projectName": project}
        told = self._ask(statements.MAKE, {"config": config, "description": description, **named})
        made = told["upsertSweep"]["sweep"]
        place = made["project"]
        path = SweepPath(place["entity"]["name"], place["name"], made["name"])
        return path, list(told["upsertSweep"].get("configValidationWarnings") or ())

    def cancel(self, found: SweepFacts) -> None:
        """End a sweep that nobody needs."""
        path = found.path
        named = {"entityName": path.entity, "projectName": path.project}
        self._ask(statements.CANCEL, {"id": found.key, "state": "CANCELED", **named})

    def find(self, sweep: str, *, entity: str | None, project: str | None) -> SweepFacts:
        """Look a sweep up.

        Raises:
            GoneError: there is none.
        """
        asked = {"name": sweep, "entity": entity, "project": project}
        place = self._ask(statements.SWEEP, asked).get("project")
        if not place or not place.get("sweep"):
            where = "/".join(filter(None, (entity, project, sweep)))
            msg = f"W&B has no sweep {where!r}: it was deleted, or its name is another"
            raise GoneError(msg)
        found = place["sweep"]
        path = SweepPath(place["entityName"], place["name"], found["name"])
        text = f"{found.get('config') or ''}\n{found.get('description') or ''}"
        return SweepFacts(path, found["id"], str(found["state"]).upper(), text)

    def states(self, path: SweepPath) -> dict[str, str]:
        """The states of a sweep's runs, by their ids."""
        asked = {"entity": path.entity, "project": path.project, "sweep": path.sweep}
        place = self._ask(statements.RUNS, asked).get("project") or {}
        edges = ((place.get("sweep") or {}).get("runs") or {}).get("edges") or ()
        return {edge["node"]["name"]: edge["node"]["state"] for edge in edges}

    def register(self, path: SweepPath) -> str:
        """Make an agent, which takes one point at a time; its id."""
        named = {"entityName": path.entity, "projectName": path.project, "sweep": path.sweep}
        told = self._ask(statements.REGISTER, {"host": socket.gethostname(), **named})
        return str(told["createAgent"]["agent"]["id"])

    def heartbeat(self, agent: str, running: str | None) -> list[Command]:
        """Say what an agent does, and hear what it shall do.

        Args:
            agent: its id.
            running: the run it works on; with None it asks for one.
        """
        state = json.dumps({running: True} if running else {})
        told = self._ask(statements.HEARTBEAT, {"id": agent, "metrics": "{}", "runState": state})
        return list(_commands(told["agentHeartbeat"]["commands"]))

    def finish(
        self,
        path: SweepPath,
        run: str,
        *,
        summary: dict[str, Any],
        values: Mapping[str, Any],
        failed: bool,
    ) -> None:
        """Give a run its result, and end it where nobody else did.

        What the run's own script has sent stays.

        Args:
            path: the sweep it is of.
            run: its id.
            summary: what it returned.
            values: what the sweep chose for it.
            failed: whether it did not complete.
        """
        named = {"entity": path.entity, "project": path.project, "name": run}
        found = (self._ask(statements.RUN, named).get("project") or {}).get("run") or {}
        ended = str(found.get("state")) in ("finished", "failed", "crashed", "killed")
        before = json.loads(found.get("summaryMetrics") or "{}")
        told = {"sweep": path.sweep, "summaryMetrics": _json(before | summary), "config": None}
        if not ended:
            chosen = {key: {"value": value} for key, value in values.items()}
            told["config"] = json.dumps(json.loads(found.get("config") or "{}") | chosen)
        self._ask(statements.RESULT, {**named, **told})
        if not ended or (failed and found["state"] == "finished"):
            place = "/".join(map(quote, (path.entity, path.project, run)))
            body = {"complete": True, "exitcode": 1 if failed else 0}
            self._post(f"/files/{place}/file_stream", body)

    def _ask(self, statement: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        told = self._post("/graphql", {"query": statement, "variables": dict(variables)})
        if problems := told.get("errors"):
            text = self._clean("; ".join(map(_message, problems)))
            if re.search(r"not found|could not find", text, re.IGNORECASE):
                raise GoneError(f"W&B: {text}")
            raise ConfigError(f"W&B refuses: {text}")
        if not isinstance(told.get("data"), dict):
            raise UnreachableError(f"{self.url} does not answer as W&B does: is it W&B's server?")
        return dict(told["data"])

    def _post(self, place: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {
            "Authorization": f"Basic {self._account}",
            "Content-Type": "application/json",
            "User-Agent": f"engram/{__version__}",
        }
        data = json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + place, data, headers, method="POST")  # noqa: S310
            with OPENER.open(request, timeout=ANSWER_S) as answer:
                told = json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            late = f" within {ANSWER_S:g} s" if isinstance(reason, TimeoutError) else ""
            msg = f"{self.url} gives no answer{late} ({reason})"
            raise UnreachableError(msg) from None
        return told if isinstance(told, dict) else {}

    def _refusal(self, error: urllib.error.HTTPError) -> RunnerError:
        """The error behind a status of HTTP."""
        if error.code == 404:  # noqa: PLR2004
            return GoneError("W&B has no such sweep, or agent: the sweep was deleted")
        if error.code in (401, 403):
            advice = "`wandb login` keeps another; is the project another one's?"
            said = f"{self.url} does not accept the API key (status {error.code})"
            return ConfigError(f"{said}: {advice}")
        if error.code in (408, 429) or error.code >= 500:  # noqa: PLR2004
            return UnreachableError(f"{self.url} cannot answer now (status {error.code})")
        body = b""
        with contextlib.suppress(OSError, http.client.HTTPException):
            body = error.read(500)
        said = self._clean(repr(body))
        return ConfigError(f"{self.url} refuses (status {error.code}): {said}")

    def _clean(self, text: str) -> str:
        """What the server said, without the API key that it was given."""
        return text.replace(self._account, "***").replace(self._key, "***")


def _message(problem: Any) -> str:  # noqa: ANN401
    """What GraphQL says of an error."""
    return str(problem.get("message", problem) if isinstance(problem, dict) else problem)


def _commands(text: str) -> Iterator[Command]:
    for told in json.loads(text or "[]"):
        given = told.get("args") or {}
        values = {key: value.get("value") for key, value in given.items() if key != "_wandb"}
        yield Command(str(told.get("type")), told.get("run_id"), values)


def _json(summary: Mapping[str, Any]) -> str:
    """A summary as W&B reads it: what JSON has no number for is text there."""
    told = {}
    for key, value in summary.items():
        odd = isinstance(value, float) and (
            value != value or value in (float("inf"), -float("inf"))
        )
        told[key] = (
            {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[repr(value)] if odd else value
        )
    return json.dumps(told)
