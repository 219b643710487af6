"""Other tools that record runs, each doing the same trivial work in its ordinary way.

Every one lives in a virtual environment of its own, so that their versions never meet. Called by
launch.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from timing import Case, environment, once

NUMBER = 1000
RESULT = str(sum(i * i for i in range(NUMBER)))
TOML = f"n = {NUMBER}\n"
JSON = f'{{"n": {NUMBER}}}\n'
YAML = f"n: {NUMBER}\n"

BARE = """\
import sys
import tomllib

with open("parameters.toml", "rb") as stream:
    n = tomllib.load(stream)["n"]
with open("result.txt", "w") as stream:
    stream.write(str(sum(i * i for i in range(n))))
"""

SACRED = """\
from sacred import Experiment
from sacred.observers import FileStorageObserver

ex = Experiment("trivial")
ex.add_config("parameters.json")
ex.observers.append(FileStorageObserver("runs"))


@ex.automain
def main(n):
    value = sum(i * i for i in range(n))
    with open("result.txt", "w") as stream:
        stream.write(str(value))
    ex.add_artifact("result.txt")
    return value
"""

MLFLOW = """\
import tomllib

import mlflow

with open("parameters.toml", "rb") as stream:
    parameters = tomllib.load(stream)
with mlflow.start_run():
    mlflow.log_params(parameters)
    value = sum(i * i for i in range(parameters["n"]))
    with open("result.txt", "w") as stream:
        stream.write(str(value))
    mlflow.log_metric("value", value)
    mlflow.log_artifact("result.txt")
"""

WANDB = """\
import tomllib

import wandb

with open("parameters.toml", "rb") as stream:
    parameters = tomllib.load(stream)
run = wandb.init(project="trivial", config=parameters)
value = sum(i * i for i in range(parameters["n"]))
with open("result.txt", "w") as stream:
    stream.write(str(value))
run.log({"value": value})
run.finish()
"""

HYDRA = """\
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base=None, config_path=".", config_name="parameters")
def main(parameters):
    value = sum(i * i for i in range(parameters.n))
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "result.txt").write_text(str(value))


main()
"""

SIGNAC = """\
import tomllib

import signac

with open("parameters.toml", "rb") as stream:
    parameters = tomllib.load(stream)
job = signac.get_project().open_job(parameters).init()
value = sum(i * i for i in range(parameters["n"]))
with open(job.fn("result.txt"), "w") as stream:
    stream.write(str(value))
job.doc.value = value
"""

GUILD = """\
import yaml

with open("parameters.yml") as stream:
    n = yaml.safe_load(stream)["n"]
value = sum(i * i for i in range(n))
with open("result.txt", "w") as stream:
    stream.write(str(value))
print(f"value: {value}")
"""

GUILD_FILE = """\
train:
  main: script
  flags-dest: config:parameters.yml
  flags-import: all
"""

DVC_FILE = """\
stages:
  train:
    cmd: python script.py
    deps:
      - script.py
    params:
      - parameters.toml:
          - n
    outs:
      - result.txt
"""


@dataclass(frozen=True)
class Peer:
    """One tool.

    Attributes:
        name: its row.
        key: its folder.
        packages: what pip installs.
        files: the project, by file name.
        command: words; "python" and the tool's own programs come from its environment.
        how: what of it is used, in words.
        result: a pattern of the files the number may lie in.
        setup: commands run once in the project, in front of everything.
        prepare: commands run before every timing, outside of it.
        environ: variables it needs.
    """

    name: str
    key: str
    packages: Sequence[str]
    files: dict[str, str]
    command: Sequence[str]
    how: str
    result: str = "result.txt"
    setup: Sequence[Sequence[str]] = ()
    prepare: Sequence[Sequence[str]] = ()
    environ: dict[str, str] = field(default_factory=dict)


SCRIPT = ("python", "script.py")
COMMIT = ("git", "commit", "-q", "-m", "work")
INIT = (("git", "init", "-q", "-b", "main"), ("git", "add", "-A"), COMMIT)
# pkg_resources, which older tools import, left setuptools in version 82.
OLD_SETUPTOOLS = "setuptools<81"

PEERS = (
    Peer(
        "signac",
        "signac",
        ["signac"],
        {"script.py": SIGNAC, "parameters.toml": TOML},
        SCRIPT,
        "a job initialized, its document written; neither code nor environment is recorded",
        result="workspace/*/result.txt",
        setup=(("signac", "init"),),
    ),
    Peer(
        "Hydra",
        "hydra",
        ["hydra-core"],
        {"script.py": HYDRA, "parameters.yaml": YAML},
        SCRIPT,
        "hydra.main with its output folder; neither code nor environment is recorded",
        result="outputs/*/*/result.txt",
    ),
    Peer(
        "Sacred",
        "sacred",
        ["sacred", OLD_SETUPTOOLS],
        {"script.py": SACRED, "parameters.json": JSON},
        SCRIPT,
        "automain, FileStorageObserver, one artifact; copies the sources, names the commit",
        setup=INIT,
    ),
    Peer(
        "DataLad",
        "datalad",
        ["datalad", "git-annex"],
        {"script.py": BARE, "parameters.toml": TOML},
        ("datalad", "run", "-m", "run", "-i", "parameters.toml", "-o", "result.txt", *SCRIPT),
        "datalad run with one input and one output; refuses unsaved changes, commits the output",
        setup=(("datalad", "create", "--force", "-c", "text2git"), ("datalad", "save", "-m", "a")),
        prepare=(("git", "rm", "-q", "--ignore-unmatch", "result.txt"), (*COMMIT, "--allow-empty")),
    ),
    Peer(
        "Guild AI",
        "guild",
        ["guildai", OLD_SETUPTOOLS],
        {"script.py": GUILD, "parameters.yml": YAML, "guild.yml": GUILD_FILE},
        ("guild", "run", "train", "-y"),
        "guild run with flags from a file; copies the sources and runs the copy",
        result=".guild/runs/*/result.txt",
        setup=(("mkdir", ".guild"), *INIT),
    ),
    Peer(
        "W&B offline",
        "wandb",
        ["wandb"],
        {"script.py": WANDB, "parameters.toml": TOML},
        SCRIPT,
        "init, one log, finish, with WANDB_MODE=offline; names the commit",
        setup=INIT,
        environ={"WANDB_MODE": "offline"},
    ),
    Peer(
        "DVC",
        "dvc",
        ["dvc"],
        {
            "script.py": BARE,
            "parameters.toml": TOML,
            "dvc.yaml": DVC_FILE,
            ".gitignore": "result.txt\n",
        },
        ("dvc", "exp", "run", "--force"),
        "dvc exp run of one stage, analytics and update check off; commits the workspace",
        setup=(
            INIT[0],
            ("dvc", "init", "-q"),
            ("dvc", "config", "core.analytics", "false"),
            ("dvc", "config", "core.check_update", "false"),
            *INIT[1:],
        ),
    ),
    Peer(
        "MLflow",
        "mlflow",
        ["mlflow"],
        {"script.py": MLFLOW, "parameters.toml": TOML},
        SCRIPT,
        "start_run, parameters, one metric, one artifact, its default store; names the commit",
        setup=INIT,
        environ={"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"},
    ),
)


def install(peer: Peer, folder: Path, python: str) -> str | None:
    """Make a peer's environment, one package at a time on the machine, politely.

    Returns:
        None, or why it cannot be had.
    """
    place, reason = folder / peer.key, folder / f"{peer.key}.failed"
    done = place / "installed"
    if done.exists():
        return None
    steps = (
        [python, "-m", "venv", "--clear", str(place)],
        [str(place / "bin/python"), "-m", "pip", "install", "-q", "--no-input", *peer.packages],
    )
    for step in steps:
        ended = subprocess.run(
            ["nice", *step], env=environment(), capture_output=True, text=True, check=False
        )
        if ended.returncode:
            lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no message"]
            reason.write_text(lines[-1] + "\n")
            return lines[-1]
    reason.unlink(missing_ok=True)
    done.touch()
    return None


def variables(peer: Peer, folder: Path, project: Path) -> dict[str, str]:
    """Its own programs first on PATH, a home of its own, and an author for its commits."""
    person = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "benchmark"), ("EMAIL", "benchmark@example.org"))
    }
    place = folder / peer.key
    return {
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(place),
        "HOME": str(project.parent),
        "GUILD_HOME": str(project / ".guild"),
        **person,
        **peer.environ,
    }


def case(peer: Peer, folder: Path, project: Path) -> Case:
    """Lay out a peer's project and say how to time it.

    Raises:
        RuntimeError: it is not installed, or does not do the work; the message says why.
    """
    if not (folder / peer.key / "installed").exists():
        reason = folder / f"{peer.key}.failed"
        msg = reason.read_text().strip() if reason.exists() else "not installed; see --setup"
        raise RuntimeError(msg)
    environ = variables(peer, folder, project)
    project.mkdir(parents=True)
    for name, text in peer.files.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)

    def call(commands: Sequence[Sequence[str]]) -> None:
        for words in commands:
            once(words, project, environ)

    call(peer.setup)
    return Case(
        peer.name,
        peer.command,
        project,
        environ,
        (lambda: call(peer.prepare)) if peer.prepare else None,
        newest_equals(project, peer.result),
    )


def newest_equals(folder: Path, pattern: str) -> Callable[[], None]:
    """A check that the newest file of a pattern holds the number; each answer counts once."""

    def check() -> None:
        found = max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)
        if found is None or found.read_text().strip() != RESULT:
            msg = f"{folder}: no {pattern} holds the number {RESULT}"
            raise RuntimeError(msg)

    return check


if __name__ == "__main__":
    sys.exit("this file holds what launch.py compares with; run that")
