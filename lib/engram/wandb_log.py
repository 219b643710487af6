"""Send metrics to W&B when it is configured, and never let W&B fail a run.

The only module that imports wandb, and only when [wandb] is enabled. Mode, id, address and the
first thing that went wrong are kept in the run's wandb.json; W&B's own files lie beside it, outside
outputs/, so that they are no difference between a run and its rerun.
"""

from __future__ import annotations

import configparser
import netrc
import os
import random
import socket
import sys
import tomllib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engram.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engram.metrics_files import MetricsPlace

# Long enough for a slow network; without a bound the end of a run would wait for days for a lost
# one.
CONNECT_S = 5.0
INIT_S = 30.0
FINISH_S = 300.0

_SECRETS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
# Names of one server: wandb logs in to the second by default since its version 0.31.
SAME_SERVER = ("api.wandb.ai", "api.forge.coreweave.com")
_OFFLINE_MODES = ("offline", "dryrun")
_OWN_KEYS = ("project", "entity", "tags", "notes")


class WandbLog:
    """A W&B run that may have failed already; every method returns quietly then."""

    def __init__(self, place: MetricsPlace, config: Mapping[str, Any], mode: str) -> None:
        """Remember what is written to wandb.json; see `start`."""
        self._run: Any = None
        self._place = place
        self.record: dict[str, Any] = {
            "id": None,
            "mode": mode,
            "project": config.get("project"),
            "entity": config.get("entity"),
            "url": None,
            "error": None,
        }

    def begin(self, config: Mapping[str, Any]) -> None:
        """Start the W&B run in the recorded mode, or offline when that fails."""
        if self.record["mode"] == "online" and (reason := unreachable()) is not None:
            self.fall_back(reason)
        try:
            self._init(config)
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, the run goes on
            online = self.record["mode"] == "online"
            self.note(error)
            if online:
                self.record["mode"] = "offline"
                with self._noting():
                    self._init(config)
        if self._run is None:
            self.record["mode"] = "unavailable"
        self.save()

    def _init(self, config: Mapping[str, Any]) -> None:
        with _random_untouched():
            import wandb

            run = wandb.init(
                **{key: config[key] for key in _OWN_KEYS if config.get(key) is not None},
                name=self._place.run.run_id if self._place.run else None,
                config=_parameters(self._place),
                mode=self.record["mode"],
                dir=str(self._place.wandb_parent),
                settings=_settings(wandb),
            )
        self._run = run
        self.record.update(
            id=run.id, project=run.project or self.record["project"], url=run.url or None
        )
        self.record["entity"] = run.entity or self.record["entity"]

    def log(self, row: Mapping[str, Any]) -> None:
        """Send one line of metrics."""
        if self._run is not None:
            values = {name: value for name, value in row.items() if name != "step"}
            with self._noting():
                self._run.log(values, step=row["step"])

    def finish(self, *, failed: bool) -> None:
        """End the W&B run; what could not be sent stays on disk for `wandb sync`."""
        if self._run is not None:
            with self._noting():
                self._run.finish(exit_code=1 if failed else 0)
            self._run = None

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, the run goes on
            self.note(error)
            self._run = None
            self.save()

    def fall_back(self, reason: str) -> None:
        """Go offline and say why."""
        self.record["mode"] = "offline"
        self.note(reason)

    def note(self, error: Exception | str) -> None:
        """Keep the first thing that went wrong, without secrets; say every one aloud."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        for name in _SECRETS:
            if os.environ.get(name):
                text = text.replace(os.environ[name], "***")
        if self.record["error"] is None:
            self.record["error"] = text
        say(f"W&B: {text}; the run goes on, its metrics are in {self._place.metrics}")

    def save(self) -> None:
        """Write wandb.json."""
        write_json(self._place.wandb_record, self.record)


def start(place: MetricsPlace, config: Mapping[str, Any]) -> WandbLog:
    """Start logging to W&B.

    Args:
        place: where the metrics lie.
        config: project, entity, tags, notes; all optional.

    Returns:
        A log to which lines are sent; it works, without effect, when W&B does not.
    """
    log = WandbLog(place, config, mode())
    log.begin(config)
    return log


def mode() -> str:
    """Return "online", "offline" or "disabled": WANDB_MODE, else offline without an account."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked in _OFFLINE_MODES:
        return "offline"
    if asked == "disabled":
        return "disabled"
    return "online" if has_account() else "offline"


def has_account() -> bool:
    """Say whether W&B would find credentials: environment, netrc or its settings file."""
    if any(os.environ.get(name) for name in _SECRETS):
        return True
    return bool(_settings_file().get("identity_token_file")) or api_key() is not None


def api_key() -> str | None:
    """Return the key that W&B would find: environment, settings file, netrc; None for none."""
    if found := os.environ.get("WANDB_API_KEY") or _settings_file().get("api_key"):
        return found
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for name in files:
        # A netrc that cannot be read holds no account for W&B either.
        with suppress(OSError, netrc.NetrcParseError):
            entries = netrc.netrc(Path(name).expanduser())
            for host in _hosts():
                if (entry := entries.authenticators(host)) and entry[2]:
                    return entry[2]
    return None


def _hosts() -> tuple[str, ...]:
    """The server as `wandb login` may have called it."""
    host = urlsplit(base_url()).netloc
    return SAME_SERVER if host in SAME_SERVER else (host,)


def unreachable() -> str | None:
    """Say why W&B's server cannot be reached, or None; a proxy is trusted to reach it."""
    if any(
        os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    ):
        return None
    url = urlsplit(base_url())
    host = url.hostname or "api.wandb.ai"
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return None
    except (OSError, ValueError) as error:  # a port that is no number is a ValueError
        return f"{host} cannot be reached ({error}), logging offline"


def say(message: str) -> None:
    """Print to standard error; nobody listening is no reason to fail."""
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def _settings(wandb: Any) -> Any:  # noqa: ANN401
    """Return settings that keep the remote's URL, the command line and the code out of W&B's files.

    The console is left alone too: log.out and log.err are the raw streams. Names this wandb does
    not know are left out, since they change from release to release.
    """
    wanted = {
        "console": "off",
        "disable_git": True,
        "disable_code": True,
        "x_disable_meta": True,
        "init_timeout": INIT_S,
        "finish_timeout": FINISH_S,
    }
    known = getattr(wandb.Settings, "model_fields", wanted)
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def _parameters(place: MetricsPlace) -> dict[str, Any]:
    if place.run is None or not place.run.parameters.exists():
        return {}
    with place.run.parameters.open("rb") as stream:
        return tomllib.load(stream)


def _settings_file() -> dict[str, str]:
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, UnicodeDecodeError):
        parser.read(folder / "settings")
    return dict(parser["default"]) if parser.has_section("default") else {}


def base_url() -> str:
    """Return the address of W&B's server: environment, settings file, else the public one."""
    return (
        os.environ.get("WANDB_BASE_URL")
        or _settings_file().get("base_url")
        or "https://api.wandb.ai"
    )


@contextmanager
def _random_untouched() -> Iterator[None]:
    """Keep the global random streams: a run with W&B draws the same numbers as one without."""
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    legacy = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(legacy)
