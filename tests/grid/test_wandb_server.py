"""What is made of odd answers of W&B's server, and that an API key goes nowhere else."""

from __future__ import annotations

import base64
import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from wandb_stand_in import KEY

from engram import wandb_log
from engram.errors import ConfigError, RunnerError
from engram.grid.wandb_server import Server, SweepPath, UnreachableError

PATH = SweepPath("somebody", "fly", "sweep1")
ACCOUNT = base64.b64encode(f"api:{KEY}".encode()).decode()


@contextlib.contextmanager
def answering(status: int, body: bytes = b"", **more: str) -> Iterator[tuple[str, list[str]]]:
    """A server with one answer; its address, and the accounts that it was shown."""
    shown: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            shown.append(self.headers.get("Authorization") or "")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", shown
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_takes_the_key_to_no_other_server(status: int) -> None:
    with answering(200, b"{}") as (other, shown):
        elsewhere = other.replace("127.0.0.1", "localhost")
        with (
            answering(status, Location=f"{elsewhere}/graphql") as (url, _),
            pytest.raises(ConfigError, match=f"refuses .status {status}."),
        ):
            Server(url, KEY).states(PATH)
    assert shown == []


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"3", b"null", b'{"data": null}', b'{"data": []}', b"<html>"]
)
@pytest.mark.parametrize(
    "asked",
    [
        lambda server: server.states(PATH),
        lambda server: server.heartbeat("agent1", None),
        lambda server: server.make("{}", description="d", entity=None, project="fly"),
    ],
)
def test_what_is_no_answer_of_wandb_counts_as_none(
    body: bytes, asked: Callable[[Server], object]
) -> None:
    """So says the page of a network that wants a login first, or of a broken proxy."""
    with answering(200, body) as (url, _), pytest.raises(UnreachableError, match=url):
        asked(Server(url, KEY))


def test_a_server_that_repeats_the_key_does_not_bring_it_into_a_message() -> None:
    for status, body in (
        (400, f"bad header: Basic {ACCOUNT}"),
        (418, f"no user has the key {KEY}"),
        (200, f'{{"errors": [{{"message": "no user of {KEY}"}}]}}'),
        (200, f'{{"errors": ["no user of {KEY}"]}}'),
    ):
        with answering(status, body.encode()) as (url, shown), pytest.raises(RunnerError) as caught:
            Server(url, KEY).states(PATH)
        assert shown == [f"Basic {ACCOUNT}"]
        assert KEY not in str(caught.value) and ACCOUNT not in str(caught.value)
        assert "***" in str(caught.value)


@pytest.mark.parametrize("address", ["wandb.example.org", "http://127.0.0.1:x", "http://["])
def test_an_address_that_is_none_is_out_of_reach(address: str) -> None:
    with pytest.raises(UnreachableError, match="gives no answer"):
        Server(address, KEY).states(PATH)


def test_a_port_that_is_no_number_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:x")
    assert "127.0.0.1 cannot be reached" in str(wandb_log.unreachable())


def test_an_address_with_a_password_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand in grid.json, in the links to the pages, and in messages."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "https://me:hidden@wandb.example.org")
    with pytest.raises(UnreachableError) as caught:
        Server.configured()
    assert "hidden" not in str(caught.value)
