"""The fly experiment, small, on the real tables: main() called directly, and once through ./run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neuro.connectome import fly_tables

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "fly_olfaction"
SMALL = {
    "samples_per_class": "{ train = 1, validation = 1 }",
    "epochs": 2,
    "dt_ms": 50,
    "batch_size": 94,
}
IN_ANOTHER_PROCESS = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("fly_olfaction_train", sys.argv[1])
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.main(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def script():
    """The experiment script as a module; what it changes in PyTorch is put back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    spec = importlib.util.spec_from_file_location("fly_olfaction_train", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def inputs(shared_data, tmp_path_factory):
    """An inputs folder as the runner makes it."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tables").symlink_to(shared_data / "fly")
    return folder


@pytest.fixture(autouse=True)
def no_seed_from_outside(monkeypatch):
    monkeypatch.delenv("ENGRAM_SEED", raising=False)


def write_parameters(path: Path, **changed: object) -> Path:
    lines = (FOLDER / "parameters.toml").read_text().splitlines()
    for key, value in (SMALL | changed).items():
        places = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert len(places) == 1, key
        lines[places[0]] = f"{key} = {value}"
    path.write_text("\n".join(lines))
    return path


def run(script, inputs: Path, folder: Path, *, resume_from: Path | None = None, **changed) -> dict:
    folder.mkdir()
    parameters = write_parameters(folder.with_suffix(".toml"), **changed)
    return script.main(inputs, folder, parameters, resume_from=resume_from)


def newest_checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoints/step-*"))


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_results(first: Path, second: Path) -> None:
    for name in ("responses.npz", "learning.png", "activity.png", "confusion.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    both = [(newest_checkpoint(folder) / "state.pt").read_bytes() for folder in (first, second)]
    assert both[0] == both[1]


@pytest.fixture(scope="module")
def straight(script, inputs, tmp_path_factory):
    """A small run that others are compared with, and its summary."""
    folder = tmp_path_factory.mktemp("straight") / "out"
    return folder, run(script, inputs, folder)


def test_small_run_leaves_everything_it_promises(straight):
    folder, summary = straight
    written = {path.name for path in folder.iterdir()}
    figures = {"learning.png", "activity.png", "confusion.png"}
    assert {"checkpoints", "responses.npz", "metrics.jsonl"} | figures <= written
    assert [row["step"] for row in metrics_of(folder)] == [1, 2]
    assert metrics_of(folder)[-1]["validation/accuracy"] == summary["validation_accuracy"]
    assert summary["classes"] == 281
    n_trials = 281
    p = summary["validation_accuracy"]
    assert summary["validation_accuracy_se"] == pytest.approx((p * (1 - p) / n_trials) ** 0.5)


def test_accuracy_lies_above_chance_and_not_above_the_ideal_observer(straight):
    _, summary = straight
    assert summary["validation_accuracy"] > 10 / 281
    sampling = 3 * np.hypot(summary["validation_accuracy_se"], (0.25 / 2810) ** 0.5)
    assert summary["validation_accuracy"] <= summary["ideal_observer_accuracy"] + sampling
    assert 0.93 < summary["ideal_observer_accuracy"] < 1


def test_responses_are_those_of_real_kenyon_cells_and_give_the_summary(straight, inputs):
    folder, summary = straight
    neurons = fly_tables.read_table(inputs / "tables", fly_tables.NEURONS).set_index("root_id")
    with np.load(folder / "responses.npz") as saved:
        assert set(neurons.loc[saved["kc_id"], "class_broad"]) == {"KC"}
        assert set(neurons.loc[saved["pn_id"], "class_broad"]) == {"ALPN"}
        assert saved["kc_count"].shape == (281, 2332)
        assert summary["validation_accuracy"] == np.mean(saved["decided"] == saved["label"])
        for kind in ("kc", "pn"):
            active = np.mean(saved[f"{kind}_count"] > 0)
            assert summary[f"{kind}_active_fraction"] == pytest.approx(active)
        assert sorted(saved["label"]) == list(range(281))
        assert ((saved["duration_ms"] >= 70) & (saved["duration_ms"] < 500)).all()


@pytest.mark.slow
def test_same_seed_gives_the_same_bits_in_another_process_with_another_hash_seed(
    straight, inputs, tmp_path
):
    folder, _ = straight
    (tmp_path / "there").mkdir()
    subprocess.run(
        [
            *(sys.executable, "-c", IN_ANOTHER_PROCESS),
            *(FOLDER / "train.py", inputs, tmp_path / "there", folder.with_suffix(".toml")),
        ],
        env=os.environ
        | {"PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=True,
        capture_output=True,
    )
    assert_same_results(folder, tmp_path / "there")
    assert metrics_of(folder) == metrics_of(tmp_path / "there")


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    script, straight, inputs, tmp_path
):
    folder, summary = straight
    run(script, inputs, tmp_path / "begun", epochs=1)
    # Whatever the random stream is when a run resumes must not matter.
    torch.manual_seed(999)
    begun = newest_checkpoint(tmp_path / "begun")
    resumed = run(script, inputs, tmp_path / "resumed", resume_from=begun)
    assert resumed == summary
    assert_same_results(folder, tmp_path / "resumed")
    streams = [newest_checkpoint(out) / "rng.json" for out in (folder, tmp_path / "resumed")]
    torch_streams = [json.loads(stream.read_text())["torch"] for stream in streams]
    assert torch_streams[0] == torch_streams[1]
    lines = metrics_of(tmp_path / "begun") + metrics_of(tmp_path / "resumed")
    assert lines == metrics_of(folder)


def test_checkpoint_of_the_real_wiring_is_refused_by_the_shuffled_one(
    script, straight, inputs, tmp_path
):
    checkpoint = newest_checkpoint(straight[0])
    with pytest.raises(ValueError, match="wiring"):
        run(script, inputs, tmp_path / "out", resume_from=checkpoint, pn_to_kc='"shuffled"')


def test_another_number_of_samples_changes_no_other_trial(script, inputs, tmp_path):
    drawn = []
    for samples in ("{ train = 1, validation = 1 }", "{ train = 2, validation = 1 }"):
        parameters = script.read_parameters(
            write_parameters(tmp_path / "p.toml", samples_per_class=samples)
        )
        odors, pathway = script.load_tables(inputs / "tables", parameters)
        model = script.FlyOlfaction(
            pathway, n_classes=281, settings=parameters.network, inhibition=True
        )
        drawn.append(script.make_task(odors, pathway, model, parameters))
    one, two = drawn
    assert len(two.train.label) == 2 * len(one.train.label) == 562
    for part in ("pn", "ln"):
        first, second = (getattr(task.train.drive, part) for task in drawn)
        assert torch.equal(first, second[:, :281])
        assert not torch.equal(second[:, :281], second[:, 281:])
        assert torch.equal(getattr(one.validation.drive, part), getattr(two.validation.drive, part))
    assert not torch.equal(one.train.drive.pn, one.validation.drive.pn)


def test_seed_of_the_command_line_replaces_the_parameter(script, tmp_path, monkeypatch):
    parameters = write_parameters(tmp_path / "p.toml", seed=4)
    assert script.read_parameters(parameters).seed == 4
    monkeypatch.setenv("ENGRAM_SEED", "7")
    assert script.read_parameters(parameters).seed == 7


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inhibition": '"data"'}, "cannot be had for the adult fly"),
        ({"classes": '"all"'}, "classes = 'all' is none of 'selection', 'seed_compat'"),
        ({"pn_to_kc": '"random"'}, "pn_to_kc = 'random' is none of 'real', 'shuffled'"),
        ({"samples_per_class": "{ train = 1 }"}, "must hold train and validation"),
    ],
)
def test_impossible_parameters_are_refused(script, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        script.read_parameters(write_parameters(tmp_path / "p.toml", **changed))


@pytest.mark.parametrize("folder", [None, "empty"])
def test_missing_data_name_the_command_that_gets_them(script, tmp_path, folder):
    input_dir = None if folder is None else tmp_path / folder
    with pytest.raises(FileNotFoundError, match="run fetch fly_olfaction"):
        script.find_tables(input_dir)


def test_every_parameter_has_a_comment_that_explains_it():
    for line in (FOLDER / "parameters.toml").read_text().splitlines():
        assert not line or line.startswith("[") or line.partition("#")[2].strip(), line


@pytest.mark.slow
def test_fetched_from_a_mirror_it_runs_through_the_runner(project, shared_data):
    from engram.fetch import fetch

    for name in ("lib", "experiments/fly_olfaction"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, project.root / name, ignore=ignore)
    project.write(".gitignore", "runs\n__pycache__\n/data\n")
    project.commit()
    fetch("fly_olfaction", root=project.root, mirror=shared_data / "fly" / "raw")
    small = [f"{key}={value}" for key, value in SMALL.items() if key != "dt_ms"]
    done = project.run(
        "experiments/fly_olfaction/experiment.toml",
        *(argument for setting in (*small, "network.dt_ms=50") for argument in ("--set", setting)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = project.record()
    assert record["state"] == "completed"
    assert record["summary"]["classes"] == 281
    assert [given["name"] for given in record["inputs"]] == ["tables"]
    assert [found for found in record["findings"] if found["severity"] == "error"] == []
