"""The embedded default through the real command line, in a fresh clone of this checkout's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project

from engram import record

pytest.importorskip("snntorch", reason="the experiment needs snntorch")


@pytest.fixture
def checkout(tmp_path: Path) -> Project:
    """A repository of this checkout's code, as a clone on a new machine would be."""
    project = Project(tmp_path / "checkout", tool=tmp_path / "checkout")
    skipped = shutil.ignore_patterns("__pycache__", "experiment.toml~")
    for name in ("lib", "experiments"):
        shutil.copytree(CHECKOUT / name, project.root / name, ignore=skipped)
    (project.root / "workspace").mkdir()
    template = "workspace/experiment.template.toml"
    for name in (".gitignore", "run_experiment.py", "uv.lock", template):
        shutil.copyfile(CHECKOUT / name, project.root / name)
    project.git("init", "-q", "-b", "main")
    project.commit()
    return project


def test_default_without_arguments_trains_and_reruns_identically(checkout: Project) -> None:
    done = checkout.run("--set", "epochs=2")
    assert done.returncode == 0, done.stderr
    assert (checkout.root / "workspace" / "experiment.toml").is_file()
    first = checkout.latest()
    assert {"confusion.png", "raster.png", "checkpoints"} <= {
        path.name for path in first.outputs.iterdir()
    }
    again = checkout.run("--rerun", "latest")
    assert again.returncode == 0, again.stderr
    assert "identical" in again.stderr
    assert checkout.run("verify", "latest").returncode == 0


@pytest.mark.slow
def test_default_reaches_95_percent_on_the_test_digits(checkout: Project) -> None:
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    found = record.load(checkout.latest())
    assert found["summary"]["test_accuracy"] >= 0.95
    assert [item for item in found["findings"] if item["severity"] == "error"] == []


def test_missing_data_is_refused_with_the_command_that_fetches_it(checkout: Project) -> None:
    done = checkout.run("experiments/fly_olfaction/experiment.toml")
    assert done.returncode == 2
    assert "./run fetch fly_olfaction" in done.stderr
    assert not (checkout.root / "runs").exists()
