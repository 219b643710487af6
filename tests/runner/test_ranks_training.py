"""Ranks that train and save together: one checkpoint, each rank's own streams, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Project

from engram import checkpoint_files, record
from engram.errors import ResumeError

torch = pytest.importorskip("torch", reason="checkpoints hold tensors of torch")
np = pytest.importorskip("numpy", reason="random streams of numpy are saved too")

from engram.checkpoint import Checkpoints, load  # noqa: E402

LIB = Path(checkpoint_files.__file__).parents[1]
# One rank that draws from every stream, saves, and tells what it draws next.
DRAW = """
import json, os, random, sys, time
from pathlib import Path
import numpy as np, torch
from engram.checkpoint import Checkpoints
rank = int(os.environ["RANK"])
output_dir, resume_from = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None
random.seed(rank); np.random.seed(rank); torch.manual_seed(rank)
own = np.random.default_rng(rank)
checkpoints = Checkpoints(output_dir, wait_s=120)
checkpoints.resume(resume_from, generators={"own": own})
def draw():
    return [random.random(), np.random.rand(), torch.rand(1).item(), own.normal()]
if resume_from is None:
    for step in (1, 2, 2, 3):
        draw()
        time.sleep(0.05 * (step + rank) % 0.1)
        path = checkpoints.save(step, generators={"own": own}, extra={"rank": rank})
        if rank == 0:
            assert (path / "meta.json").exists()
(output_dir / f"draws{sys.argv[3]}{rank}.json").write_text(json.dumps(draw()))
"""
# Data-parallel training by hand: dropout and noise that differ between the ranks, one update.
TRAIN = """
import os, random, time, tomllib

import numpy as np
import torch
import torch.distributed as dist
from engram import metrics
from engram.checkpoint import Checkpoints


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 12), torch.nn.Dropout(0.5), torch.nn.Linear(12, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seed = int(os.environ["ENGRAM_SEED"]) + rank
    torch.manual_seed(seed); np.random.seed(seed); random.seed(seed)
    order = torch.Generator().manual_seed(seed)
    points = torch.randn(32, 6, generator=torch.Generator().manual_seed(5))[rank::size]
    data = torch.utils.data.TensorDataset(points)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=order)
    checkpoints = Checkpoints(output_dir, keep_last=2)
    state = {"model": model, "optimizer": optimizer, "generators": {"order": order}}
    start = checkpoints.resume(resume_from, **state)
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        for epoch in range(start.step + 1, parameters["epochs"] + 1):
            for (batch,) in loader:
                noise = float(np.random.rand()) + random.random()
                loss = ((model(batch) - noise) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                for parameter in model.parameters():
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= size
                optimizer.step()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            log(step=epoch, loss=mean / size, mine=loss)
            checkpoints.save(epoch, **state)
            if parameters["die"] == epoch and rank == 1:
                os.kill(os.getpid(), 9)
            time.sleep(parameters["pause"])
    weights = [torch.empty(0)] * size
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    weights = [torch.empty_like(flat) for _ in range(size)]
    dist.all_gather(weights, flat)
    final = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "weights": weights,
             "order": order.get_state(), "torch": torch.get_rng_state()}
    torch.save(final, output_dir / f"final{rank}.pt")
    dist.destroy_process_group()
    return {"loss": loss.item(), "python": random.random(), "numpy": float(np.random.rand())}
"""


def start_rank(rank, folder, resume_from="", name="a", *, script=DRAW, size=2):
    environ = {**os.environ, "PYTHONPATH": str(LIB), "RANK": f"{rank}", "WORLD_SIZE": f"{size}"}
    command = [sys.executable, "-c", script, str(folder), str(resume_from), name]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


def both_ranks(folder, resume_from="", name="a"):
    """Run both to their end; return what each drew last."""
    started = [start_rank(rank, folder, resume_from, name) for rank in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    return [json.loads((folder / f"draws{name}{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The outputs of a group of two that saved steps 1, 2, 2 again and 3, and what it drew last."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, both_ranks(folder)


@pytest.fixture
def as_rank(monkeypatch):
    """Let this process be a rank."""

    def be(rank: int, size: int = 2) -> None:
        monkeypatch.setenv("ENGRAM_RANK", str(rank))
        monkeypatch.setenv("ENGRAM_WORLD_SIZE", str(size))

    return be


def test_each_rank_gets_its_own_streams_back(saved, tmp_path):
    folder, drawn = saved
    assert drawn[0] != drawn[1]

    assert both_ranks(tmp_path, folder / "checkpoints/step-00000003") == drawn


def test_one_checkpoint_of_all_ranks_lies_there_and_nothing_else(saved):
    folder, _ = saved
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    step = folder / "checkpoints/step-00000003"

    assert names == ["step-00000001", "step-00000002", "step-00000003"]
    assert sorted(path.name for path in step.iterdir()) == [
        *("meta.json", "rng.json", "rng.rank1.json", "state.pt")
    ]
    assert checkpoint_files.read_meta(step).processes == 2


def test_what_rank_0_has_is_what_the_checkpoint_holds(saved, as_rank):
    folder, _ = saved
    for rank in range(2):
        as_rank(rank)
        found = load(folder / "checkpoints", generators={"own": np.random.default_rng()})
        assert found.extra == {"rank": 0}


@pytest.mark.parametrize("damage", ["alter", "remove"])
def test_a_damaged_stream_of_another_rank_is_found_out(saved, tmp_path, damage):
    copy = tmp_path / "checkpoints"
    shutil.copytree(saved[0] / "checkpoints", copy)
    file = copy / "step-00000003/rng.rank1.json"
    if damage == "alter":
        file.write_text(file.read_text().replace("1", "2", 1))
    else:
        file.unlink()

    assert "rng.rank1.json" in checkpoint_files.problem(file.parent)
    assert checkpoint_files.newest_valid(copy).name == "step-00000002"


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 3), (2, 3)])
def test_another_number_of_processes_is_refused(saved, as_rank, rank, size):
    as_rank(rank, size)
    with pytest.raises(ResumeError, match=f"processes: {size} here, 2 in the checkpoint"):
        load(saved[0] / "checkpoints", generators={"own": np.random.default_rng()})


def test_one_process_restores_a_model_of_several(saved):
    before = torch.get_rng_state()
    assert load(saved[0] / "checkpoints", partial=True).step == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_several_processes_refuse_the_checkpoint_of_one(tmp_path, as_rank):
    Checkpoints(tmp_path).save(1)
    as_rank(1)
    with pytest.raises(ResumeError, match="processes: 2 here, 1 in the checkpoint"):
        load(tmp_path / "checkpoints")


def test_the_checkpoint_of_a_single_process_says_nothing_of_ranks(tmp_path):
    path = Checkpoints(tmp_path).save(1)

    assert sorted(file.name for file in path.iterdir()) == ["meta.json", "rng.json", "state.pt"]
    assert "processes" not in json.loads((path / "meta.json").read_text())


@pytest.mark.parametrize(
    ("rank", "missing"), [(0, "ranks 1, 2 did not save step 7"), (1, "rank 0 did not save step 7")]
)
def test_a_rank_that_does_not_come_is_named(tmp_path, as_rank, rank, missing):
    as_rank(rank, 3)
    with pytest.raises(TimeoutError, match=missing):
        Checkpoints(tmp_path, wait_s=0.1).save(7)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_a_killed_rank_had_handed_in_is_not_taken_for_news(tmp_path, as_rank):
    as_rank(1)
    stale = tmp_path / "checkpoints/.step-00000001.rank1.json"
    stale.parent.mkdir()
    stale.write_text("{}")
    (stale.parent / f".{stale.name}.123.tmp").write_text("{")
    others = stale.with_name(".step-00000001.rank11.json")
    others.write_text("{}")
    Checkpoints(tmp_path)

    assert list(stale.parent.iterdir()) == [others]


def test_only_rank_0_copies_the_checkpoints_it_continues_from(saved, tmp_path, as_rank):
    generators = {"own": np.random.default_rng()}
    as_rank(1)
    Checkpoints(tmp_path).resume(saved[0] / "checkpoints", generators=generators)
    assert list(tmp_path.iterdir()) == []

    as_rank(0)
    Checkpoints(tmp_path, keep_last=1).resume(saved[0] / "checkpoints", generators=generators)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


@pytest.fixture
def training(project: Project) -> Project:
    """A project in which two ranks train one net with gloo."""
    project.write("work.py", TRAIN)
    project.write("parameters.toml", "epochs = 5\npause = 0.0\ndie = 0\n")
    experiment = (project.root / "experiment.toml").read_text() + "seed = 11\n"
    project.write("experiment.toml", experiment + "[engine]\nprocesses = 2\n")
    project.commit()
    return project


def final(paths, rank):
    return torch.load(paths.outputs / f"final{rank}.pt", weights_only=True)


def same(a, b):
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.slow
def test_a_group_that_is_killed_resumes_bit_for_bit_and_reruns_identically(training: Project):
    straight = training.run("experiment.toml")
    assert straight.returncode == 0, straight.stderr
    whole = training.latest()
    one, two = final(whole, 0), final(whole, 1)
    assert same(one["model"], two["model"]), "the ranks hold one model"
    assert same(one["weights"][0], one["weights"][1])
    assert not same(one["torch"], two["torch"]), "each rank draws its own noise"
    assert not same(one["order"], two["order"])

    dead = training.run("experiment.toml", "--set", "die=3")
    assert dead.returncode == 1
    assert training.record()["exit"]["cause"].startswith("rank 1: the process was ended by SIGKILL")
    done = training.run("--resume", training.latest().run_id, "--set", "die=0")
    assert done.returncode == 0, done.stderr
    resumed = training.latest()
    # Rank 1 dies while rank 0 may still be writing what both saved.
    newest = training.record()["parents"]["resumed_from"]["checkpoint"]
    assert newest in ("step-00000002", "step-00000003")
    for rank in range(2):
        assert same(final(whole, rank), final(resumed, rank)), rank
    assert whole.metrics.read_bytes() == resumed.metrics.read_bytes()
    assert record.load(whole)["summary"] == record.load(resumed)["summary"]

    again = training.run("--rerun", resumed.run_id)
    assert again.returncode == 0, again.stderr
    assert training.record()["comparison"]["verdict"] == "identical"


@pytest.mark.slow
def test_a_group_whose_runner_is_killed_resumes_bit_for_bit(training: Project):
    assert training.run("experiment.toml").returncode == 0
    whole = training.latest()
    slow = training.start("experiment.toml", "--set", "pause=0.3")
    end = time.monotonic() + 300
    pattern = "checkpoints/step-*2"
    while time.monotonic() < end and not list(training.latest().outputs.glob(pattern)):
        time.sleep(0.01)
    os.kill(slow.pid, signal.SIGKILL)
    slow.communicate()
    done = training.run("--resume", training.latest().run_id, "--set", "pause=0.0")
    assert done.returncode == 0, done.stderr

    for rank in range(2):
        assert same(final(whole, rank), final(training.latest(), rank)), rank
    assert whole.metrics.read_bytes() == training.latest().metrics.read_bytes()


@pytest.mark.slow
def test_the_documented_example_runs(training: Project):
    page = (Path(__file__).resolve().parents[2] / "docs/script.md").read_text()
    (example,) = [
        block.split("```")[0]
        for block in page.split("```python\n")
        if "init_process_group" in block
    ]
    training.write("work.py", example)
    training.commit()
    done = training.run("experiment.toml")

    assert done.returncode == 0, done.stderr
    assert len(training.latest().metrics.read_text().splitlines()) == 10
