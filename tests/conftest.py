"""Fixtures that test folders share: a real git repository with an experiment, and the real CLI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engram import record
from engram.paths import RunPaths

CHECKOUT = Path(__file__).resolve().parents[1]

SCRIPT = """\
import tomllib


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    (output_dir / "result.txt").write_text(f"{parameters['value'] * 2}\\n")
    print("value", parameters["value"])
    return {"doubled": parameters["value"] * 2}
"""

EXPERIMENT = """\
script = "work.py"
parameters_file = "parameters.toml"
output_dir = "runs"
log_file = "runs/log.jsonl"
"""


@dataclass
class Project:
    """Somebody's repository, and the checkout of engram that is called there."""

    root: Path
    tool: Path = CHECKOUT

    def write(self, name: str, text: str) -> Path:
        """Write one file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def git(self, *arguments: str) -> str:
        """Run git here; return what it printed."""
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(
            command, cwd=self.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, message: str = "work") -> str:
        """Commit everything; return the commit."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def command(self, *arguments: str) -> list[str]:
        """The command line of one call of engram."""
        return [sys.executable, str(self.tool / "run_experiment.py"), *arguments]

    def run(
        self, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Call engram here and wait for it."""
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.root,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Call engram here without waiting; the caller ends it."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def runs(self) -> list[RunPaths]:
        """The run folders, oldest first."""
        found = (self.root / "runs").glob("*/*Z-*")
        return sorted((RunPaths(path) for path in found), key=lambda paths: paths.run_id)

    def latest(self) -> RunPaths:
        """The newest run."""
        return self.runs()[-1]

    def record(self) -> dict[str, object]:
        """The newest run's record."""
        return record.load(self.latest())


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of the science use small tensors: on a busy machine a second thread costs far more."""
    if "neuro" not in request.path.parts:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A clean repository of a script, its parameters and an experiment.toml."""
    made = Project(tmp_path / "project")
    made.write("work.py", SCRIPT)
    made.write("parameters.toml", "value = 21\n")
    made.write("experiment.toml", EXPERIMENT)
    made.write(".gitignore", "runs\n__pycache__\n")
    made.git("init", "-q", "-b", "main")
    made.commit()
    return made


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it skip where it is absent."""
    folder = os.environ.get("ENGRAM_DATA")
    if not folder:
        pytest.skip("ENGRAM_DATA is not set: the real data sets are not at hand")
    return Path(folder)
