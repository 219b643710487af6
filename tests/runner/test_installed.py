"""engram installed beside somebody else's repository of two files."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project

from engram import record

TRAIN = """\
import torch
from engram import checkpoint, metrics


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    weight = torch.nn.Linear(2, 2)
    saved = checkpoint.Checkpoints(output_dir)
    start = saved.resume(resume_from, weight=weight)
    with metrics.open(output_dir) as log:
        for epoch in range(start.step + 1, 5):
            with torch.no_grad():
                weight.weight += torch.randn(2, 2)
            log(step=epoch, total=weight.weight.sum().item())
            saved.save(epoch, weight=weight)
            if epoch == 3 and resume_from is None and not (output_dir / "whole").exists():
                raise SystemExit("stopped on purpose")
    return {"total": weight.weight.sum().item()}
"""


@dataclass
class Installed(Project):
    """A repository where engram is a command of another environment."""

    program: Path = Path()

    def command(self, *arguments: str) -> list[str]:
        """Call the console script."""
        return [str(self.program), *arguments]


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """An environment as pip would leave it: the package, its console script, and torch."""
    pytest.importorskip("torch", reason="checkpoints need torch")
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
    packages = Path(site.stdout.strip())
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "lib" / "engram", packages / "engram", ignore=skipped)
    (packages / "torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = folder / "bin" / "engram"
    program.write_text(f"#!{python}\nimport sys\nfrom engram.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    project = Installed(tmp_path / "theirs", program=program)
    project.write("train.py", TRAIN)
    project.write("experiment.toml", 'script = "train.py"\n')
    project.git("init", "-q", "-b", "main")
    project.commit()
    return project


def test_two_file_repository_runs_resumes_and_reruns_with_engram_installed(
    installed: Installed,
) -> None:
    stopped = installed.run("experiment.toml", "--seed", "1")
    assert stopped.returncode == 1, stopped.stderr
    assert "stopped on purpose" in stopped.stderr
    resumed = installed.run("--resume", "latest")
    assert resumed.returncode == 0, resumed.stderr
    repeated = installed.run("--rerun", "latest")
    assert repeated.returncode == 0, repeated.stderr
    states = [record.load(paths)["state"] for paths in installed.runs()]
    assert states == ["failed", "completed", "completed"]
    errors = [
        item for item in record.load(installed.latest())["findings"] if item["severity"] == "error"
    ]
    assert errors == []
    assert "engram --rerun" in resumed.stderr
