"""experiment.toml and the parameters file: read once, checked whole, as frozen values."""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engram import engine_table, grid_table, toml
from engram import overrides as overriding
from engram.errors import ConfigError, UnrecordedCodeError
from engram.settings import (
    AuditConfig,
    EngineConfig,
    EnvironmentConfig,
    ExperimentConfig,
    GridConfig,
    InputSpec,
    OutputsConfig,
    Parameters,
    WandbConfig,
    resolved,
)
from engram.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "IMPORT_ROOTS",
    "AuditConfig",
    "EngineConfig",
    "EnvironmentConfig",
    "ExperimentConfig",
    "GridConfig",
    "InputSpec",
    "OutputsConfig",
    "Parameters",
    "WandbConfig",
    "load",
    "load_parameters",
    "parse_duration",
    "resolved",
]

IMPORT_ROOTS = ("lib", "src", ".")  # those that exist in the code that runs, in this order
STRATEGIES = ("symlink", "copy")
ON_FINDING = ("record", "fail")
MAX_SEED = 2**32 - 1  # the largest that numpy takes
MAX_NAME = 100  # characters
UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Compiled on first use: most files need none of them, and starting up is measured.
DURATION = r"([0-9]+(?:\.[0-9]*)?)\s*([a-z]*)\s*"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


def load(
    path: Path,
    *,
    root: Path,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    timeout: str | float | None = None,
) -> ExperimentConfig:
    """Read and check an experiment file; nothing is created and no other file is opened.

    Args:
        path: the experiment file.
        root: the repository's root, where relative paths start; those that begin with `./` start at
            the file's folder.
        overrides: KEY=VALUE from `--config`, applied in order.
        seed: replaces the key `seed`.
        timeout: replaces the key `timeout`; a number of seconds or "15m".

    Raises:
        ConfigError: the file is not TOML, or a key is unknown, missing or has a value that does not
            fit; the message names file, key, value and what would fit.
        UnrecordedCodeError: the script lies outside the repository.
    """
    _, values = toml.read(path)
    changes = [overriding.parse(text, option="--config") for text in overrides]
    overriding.apply(values, changes, where=str(path), create=True)
    if seed is not None:
        values["seed"] = seed
    if timeout is not None:
        values["timeout"] = timeout
    return _experiment(Table(values, str(path)), path.absolute(), root.absolute())


def _experiment(table: Table, source: Path, root: Path) -> ExperimentConfig:
    """The whole file; taking every key once is what finds those that nobody asks for."""
    places = _Places(source.parent, root)
    engine = engine_table.read(table.table("engine"), parse_duration)
    config = ExperimentConfig(
        source=source,
        root=root,
        name=_name(table, source),
        script=_script(table, places),
        output_dir=places.of(table.text("output_dir", "runs")),
        parameters_file=places.optional(table.text("parameters_file", None)),
        log_file=places.optional(table.text("log_file", None)),
        description=table.text("description", ""),
        seed=table.integer("seed", None, least=0, most=MAX_SEED),
        timeout_s=_timeout(table),
        inputs=_inputs(table.table("data"), places),
        wandb=_wandb(table.table("wandb")),
        audit=_audit(table.table("audit")),
        outputs=_outputs(table.table("outputs")),
        environment=_environment(table.table("environment"), engine.processes),
        project_paths=_project(table.table("project")),
        engine=engine,
        grid=grid_table.read(table, MAX_SEED),
    )
    table.finish()
    _check_places(config, table)
    return config


class _Places(NamedTuple):
    """Where relative paths start."""

    folder: Path  # of the experiment file
    root: Path  # of the repository

    def of(self, text: str) -> Path:
        """The absolute path that a path in experiment.toml means."""
        if text.startswith("~/"):
            return Path(os.path.normpath(Path(text).expanduser()))
        start = self.folder if text.startswith("./") else self.root
        return Path(os.path.normpath(start / text))

    def optional(self, text: str | None) -> Path | None:
        """The same, for a key that may be absent."""
        return None if text is None else self.of(text)


def _name(table: Table, source: Path) -> str:
    """The experiment's name, which is also the folder of its runs."""
    given = source.parent.name if source.stem == "experiment" else source.stem
    name = table.text("name", usable_name(given))
    if not _is_name(name) or name.startswith((".", " ")) or len(name) > MAX_NAME:
        what = f"a folder name of at most {MAX_NAME} characters without slashes or a leading dot"
        table.refuse("name", name, what)
    return name


def usable_name(text: str) -> str:
    """Reduce the name of a file or folder, which nobody chose for this, to one that can be used."""
    printable = text.encode("utf-8", "replace").decode()
    kept = "".join(c if c.isprintable() and c not in "/\\" else "-" for c in printable)
    return kept.strip(" .-")[:MAX_NAME] or "experiment"


def _is_name(text: str) -> bool:
    """Whether a file may be called so everywhere and be read in a message."""
    return text.isprintable() and not {"/", "\\"} & set(text) and text not in ("", ".", "..")


def _script(table: Table, places: _Places) -> str:
    """The script relative to the root.

    Raises:
        UnrecordedCodeError: it lies outside the repository, so that no commit can hold it.
    """
    text = table.text("script", None)
    if text is None:
        msg = f"{table.where}: the key 'script' is missing: name the file that defines main(...)"
        raise ConfigError(msg + table.near("script"))
    path = places.of(text)
    for one, root in ((path, places.root), (_real_folder(path), places.root.resolve())):
        if one.is_relative_to(root) and one != root:
            return one.relative_to(root).as_posix()
    msg = f"script {str(path)!r} lies outside the repository {str(places.root)!r}"
    msg += f": no commit can record it; move it inside (key 'script' in {table.where})"
    raise UnrecordedCodeError(msg)


def _real_folder(path: Path) -> Path:
    """The path with links in its folders resolved, but not the file itself: git tracks that."""
    return path.parent.resolve() / path.name


def _timeout(table: Table) -> float | None:
    value = table.take("timeout", None)
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ConfigError as error:
        msg = f"{table.where}: key 'timeout': {error}"
        raise ConfigError(msg) from error


def parse_duration(value: object) -> float:
    """Read a time span.

    Args:
        value: a number of seconds, or text such as "90s", "15m", "2h", "1h30m", "1.5d".

    Returns:
        Seconds, > 0.

    Raises:
        ConfigError: it is no time span, not positive or not finite.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _text_duration(value.strip())
    if not 0 < seconds < math.inf:
        msg = (
            f"{value!r} is no time span: write a positive number of seconds, or 90s, 15m, 2h, 1h30m"
        )
        raise ConfigError(msg)
    return seconds


def _text_duration(text: str) -> float:
    total, end = 0.0, 0
    for match in re.finditer(DURATION, text):
        if match.start() != end or match[2] not in UNITS_S:
            return math.nan
        total, end = total + float(match[1]) * UNITS_S[match[2]], match.end()
    return total if end == len(text) else math.nan


def _inputs(table: Table, places: _Places) -> tuple[InputSpec, ...]:
    specs = tuple(_input(item, places) for item in table.tables("inputs"))
    table.finish()
    return specs


def _input(table: Table, places: _Places) -> InputSpec:
    spec = InputSpec(
        path=places.optional(table.text("path", None)),
        run=table.text("run", None),
        name=table.text("name", None),
        strategy=table.choice("strategy", "symlink", STRATEGIES),
        sha256=table.text("sha256", None),
    )
    table.finish()
    if (spec.path is None) == (spec.run is None):
        msg = f"{table.where}: {table.label} needs either the key 'path' or the key 'run'"
        raise ConfigError(msg)
    if spec.name is not None and not _is_name(spec.name):
        table.refuse("name", spec.name, "a file name without slashes")
    if spec.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", spec.sha256):
        table.refuse("sha256", spec.sha256, "64 hexadecimal digits")
    return spec._replace(sha256=spec.sha256.lower()) if spec.sha256 else spec


def _wandb(table: Table) -> WandbConfig:
    config = WandbConfig(
        enabled=table.boolean("enabled", False),
        project=table.text("project", None),
        entity=table.text("entity", None),
        tags=table.texts("tags"),
        notes=table.text("notes", None),
    )
    table.finish()
    return config


def _audit(table: Table) -> AuditConfig:
    config = AuditConfig(table.choice("on_finding", "record", ON_FINDING))
    table.finish()
    return config


def _outputs(table: Table) -> OutputsConfig:
    config = OutputsConfig(
        table.texts("volatile"), table.number("rtol", 0.0), table.number("atol", 0.0)
    )
    table.finish()
    return config


def _environment(table: Table, processes: int) -> EnvironmentConfig:
    record = table.texts("record")
    for name in record:
        if not re.fullmatch(VARIABLE, name):
            table.refuse("record", name, "the name of an environment variable")
    seed = table.take("hash_seed", 0)
    if seed != "random":
        seed = table.integer("hash_seed", 0, least=0, most=MAX_SEED)
    config = EnvironmentConfig(
        record, seed, table.integer("threads", _threads(processes), least=1, most=4096)
    )
    table.finish()
    return config


def _threads(processes: int) -> int:
    """Threads of each process: as the shell asks, else the usable processors shared out."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdigit() and int(asked) > 0:
        return min(int(asked), 4096)
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return max(1, len(usable) // processes)


def _project(table: Table) -> tuple[str, ...]:
    paths = table.texts("paths")
    table.finish()
    for path in paths:
        if os.path.isabs(path) or os.path.normpath(path).startswith(".."):  # noqa: PTH117
            table.refuse("paths", path, "a folder inside the repository, relative to its root")
    return tuple(os.path.normpath(path) for path in paths)


def _check_places(config: ExperimentConfig, table: Table) -> None:
    """Refuse places that would let a run overwrite code, or hide code from the clean rule."""
    script = config.root / config.script
    output = config.output_dir
    if script.is_relative_to(output) or config.root.is_relative_to(output):
        table.refuse("output_dir", str(output), "a folder of its own that holds no code")
    if ".git" in output.parts:
        table.refuse("output_dir", str(output), "a folder outside .git")
    taken = (script, config.source, config.parameters_file, output, config.root)
    if config.log_file is not None and config.log_file in taken:
        table.refuse("log_file", str(config.log_file), "a file of its own")


def load_parameters(
    path: Path | None, overrides: Sequence[str] = (), *, seed: int | None = None
) -> Parameters:
    """Read the parameters, once.

    Args:
        path: the parameters file; None means that there are none but the overrides.
        overrides: KEY=VALUE from `--set`, applied in order; +KEY=VALUE adds a key.
        seed: the run's seed, which replaces a parameter `seed` where the file has one; `--set
            seed=...` wins.

    Returns:
        The exact bytes of the file where nothing is overridden, else its text with the new values,
        comments kept where possible.

    Raises:
        ConfigError: the file is missing or not TOML, or an override does not fit it.
    """
    data, values = (b"", {}) if path is None else toml.read(path)
    changes = [overriding.parse(text) for text in overrides]
    if seed is not None and "seed" in values:
        changes.insert(0, overriding.parse(f"seed={seed}"))
    if changes:
        where = "the parameters (no parameters_file is named)" if path is None else str(path)
        data = toml.edit(data, changes, where=where)
        values = toml.loads(data, where=where)
    keys = dict.fromkeys(change.key for change in changes)
    return Parameters(data, values, hashlib.sha256(data).hexdigest(), tuple(keys))
