"""Continue and repeat: through the command line, after moves, amends and losses."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Project

from engram import record

TRAIN = """\
import random
import time
import tomllib

import numpy as np
import torch
from engram import checkpoint, metrics


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    order = torch.Generator().manual_seed(4)
    layers = torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=parameters["learning_rate"])
    points = torch.randn(64, 8, generator=torch.Generator().manual_seed(5))
    data = torch.utils.data.TensorDataset(points)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=order)
    saved = checkpoint.Checkpoints(output_dir, keep_last=2)
    state = {"model": model, "optimizer": optimizer, "generators": {"order": order}}
    first = checkpoint.load(resume_from, **state).step if resume_from else 0
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        for epoch in range(first + 1, parameters["epochs"] + 1):
            for (batch,) in loader:
                noise = float(np.random.rand()) + random.random()
                loss = ((model(batch) - noise) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            log(step=epoch, loss=loss.item(), python=random.random(), numpy=float(np.random.rand()))
            saved.save(epoch, **state)
            time.sleep(parameters["pause"])
    weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    streams = {"order": order.get_state(), "torch": torch.get_rng_state()}
    torch.save({**weights, **streams}, output_dir / "final.pt")
    return {"loss": loss.item(), "python": random.random(), "numpy": float(np.random.rand())}
"""


@pytest.fixture
def training(project: Project) -> Project:
    """A project whose script trains a net with every random stream in use."""
    project.write("work.py", TRAIN)
    project.write("parameters.toml", "learning_rate = 1e-2\nepochs = 6\npause = 0.0\n")
    project.commit()
    return project


def test_rerun_of_a_training_is_identical(training: Project) -> None:
    assert training.run("experiment.toml").returncode == 0
    first = training.latest()
    done = training.run("--rerun", "latest")
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stderr
    assert training.record()["comparison"]["verdict"] == "identical"
    assert record.load(first)["reruns"][0]["verdict"] == "identical"


@pytest.mark.slow
def test_killed_training_resumes_bit_for_bit(training: Project) -> None:
    import torch

    straight = training.run("experiment.toml", "--set", "epochs=6")
    assert straight.returncode == 0, straight.stderr
    whole = training.latest()
    slow = training.start("experiment.toml", "--set", "pause=0.3")
    end = time.monotonic() + 300
    while time.monotonic() < end and not list(
        training.latest().outputs.glob("checkpoints/step-*3")
    ):
        time.sleep(0.01)
    time.sleep(random.Random(7).uniform(0.0, 0.3))
    os.kill(slow.pid, signal.SIGKILL)
    slow.communicate()
    killed = training.latest()
    done = training.run("--resume", killed.run_id, "--set", "pause=0.0")
    assert done.returncode == 0, done.stderr
    resumed = training.latest()
    found = record.load(resumed)
    assert found["parents"]["resumed_from"]["run"] == killed.run_id
    assert record.load(whole)["summary"] == found["summary"]
    assert whole.metrics.read_bytes() == resumed.metrics.read_bytes()
    a, b = (torch.load(paths.outputs / "final.pt", weights_only=True) for paths in (whole, resumed))
    assert torch.equal(a["torch"], b["torch"])
    assert torch.equal(a["order"], b["order"])
    for key, value in a["model"].items():
        assert torch.equal(value, b["model"][key]), key
    for number, values in a["optimizer"]["state"].items():
        for key, value in values.items():
            assert torch.equal(value, b["optimizer"]["state"][number][key]), (number, key)
    again = training.run("--rerun", resumed.run_id)
    assert again.returncode == 0, again.stderr


def test_different_result_is_named_and_exits_4(project: Project) -> None:
    script = (project.root / "work.py").read_text()
    project.write(
        "work.py",
        "import os, json\n"
        + script.replace(
            'print("value"',
            'pid = json.dumps({"pid": os.getpid()})\n'
            '    (output_dir / "r.json").write_text(pid)\n    print("value"',
        ),
    )
    project.commit()
    project.run("experiment.toml")
    done = project.run("--rerun", "latest")
    assert done.returncode == 4
    assert "r.json" in done.stderr
    assert "pid" in done.stderr


def test_run_reruns_after_amend_and_garbage_collection(project: Project) -> None:
    project.run("experiment.toml")
    project.write("work.py", "raise SystemExit('another history')\n")
    project.git("add", "-A")
    project.git("commit", "-q", "--amend", "-m", "amended")
    project.git("reflog", "expire", "--expire=now", "--all")
    project.git("gc", "-q", "--prune=now")
    done = project.run("--rerun", "latest")
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stderr


def test_run_folder_alone_is_enough_after_move_and_loss_of_the_repository(
    project: Project, tmp_path: Path
) -> None:
    project.run("experiment.toml")
    moved = tmp_path / "archive" / project.latest().run_id
    moved.parent.mkdir()
    shutil.copytree(project.latest().folder, moved, symlinks=True)
    shutil.rmtree(project.root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for verb in (["show", str(moved)], ["verify", str(moved)], ["--rerun", str(moved)]):
        done = project.run(*verb, cwd=elsewhere)
        assert done.returncode == 0, (verb, done.stderr)
    assert "identical" in done.stderr


def test_verify_names_the_altered_file(project: Project) -> None:
    project.run("experiment.toml")
    assert project.run("verify", "latest").returncode == 0
    result = project.latest().outputs / "result.txt"
    result.write_text("43\n")
    done = project.run("verify", "latest")
    assert done.returncode == 4
    assert "result.txt" in done.stdout + done.stderr


def test_rerun_judges_by_the_record_where_the_originals_file_was_altered(project: Project) -> None:
    project.run("experiment.toml")
    first = project.latest()
    (first.outputs / "result.txt").write_text("tampered\n")
    done = project.run("--rerun", first.run_id)
    assert done.returncode == 0, done.stderr
    files = {item["path"]: item for item in project.record()["comparison"]["files"]}
    assert files["result.txt"]["verdict"] == "identical"
    assert "altered" in files["result.txt"]["reason"]


def test_rerun_of_a_run_that_failed_says_that_nothing_was_compared(project: Project) -> None:
    project.write("parameters.toml", "other = 1\n")
    project.run("experiment.toml")
    done = project.run("--rerun", "latest")
    assert done.returncode == 1
    assert "not compared" in done.stderr


def test_rerun_refuses_changed_inputs_unless_allowed(project: Project, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("1\n")
    project.write(
        "experiment.toml",
        (project.root / "experiment.toml").read_text() + f'[[data.inputs]]\npath = "{data}"\n',
    )
    project.commit()
    done = project.run("experiment.toml")
    assert done.returncode == 0, done.stderr
    data.write_text("2\n")
    refused = project.run("--rerun", "latest")
    assert refused.returncode == 2
    assert str(data) in refused.stderr
    allowed = project.run("--rerun", "latest", "--allow-changed-inputs")
    assert allowed.returncode == 0, allowed.stderr


def test_earlier_run_is_an_input_and_an_edge(project: Project) -> None:
    project.run("experiment.toml")
    first = project.latest()
    project.write(
        "second.toml",
        (project.root / "experiment.toml").read_text()
        + '[[data.inputs]]\nrun = "latest:project"\nname = "first"\n',
    )
    project.write(
        "second.py",
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    return {'read': (input_dir / 'first' / 'result.txt').read_text().strip()}\n",
    )
    project.commit()
    done = project.run("second.toml", "--config", 'script="second.py"')
    assert done.returncode == 0, done.stderr
    assert project.record()["summary"] == {"read": "42"}
    assert project.record()["inputs"][0]["run"] == first.run_id
    assert first.run_id in project.run("show", "latest", "--lineage").stdout


def test_resume_without_a_checkpoint_is_refused(project: Project) -> None:
    project.run("experiment.toml")
    done = project.run("--resume", "latest")
    assert done.returncode == 2
    assert "checkpoint" in done.stderr


def test_source_pack_opens_with_plain_git(project: Project, tmp_path: Path) -> None:
    project.run("experiment.toml")
    commit = project.git("rev-parse", "HEAD")
    target = tmp_path / "source"
    subprocess.run(["git", "init", "-q", str(target)], check=True)
    with project.latest().source.open("rb") as pack:
        subprocess.run(["git", "-C", str(target), "unpack-objects", "-q"], stdin=pack, check=True)
    subprocess.run(["git", "-C", str(target), "checkout", "-q", commit], check=True)
    assert (target / "work.py").read_text() == (project.root / "work.py").read_text()
