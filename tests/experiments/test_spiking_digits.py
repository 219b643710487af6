"""The embedded experiment, small: main() called directly, without the runner."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parents[2] / "experiments" / "spiking_digits"
SMALL = {"epochs": 2, "hidden_units": 32, "presentation_ms": 40.0}
IN_ANOTHER_PROCESS = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("spiking_digits_train", sys.argv[1])
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.main(None, Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def script():
    """The experiment script as a module; what it changes in PyTorch is put back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    spec = importlib.util.spec_from_file_location("spiking_digits_train", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def write_parameters(path: Path, **changed: float) -> Path:
    values = tomllib.loads((FOLDER / "parameters.toml").read_text()) | SMALL | changed
    path.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    return path


def run(script, folder: Path, *, resume_from: Path | None = None, **changed: float) -> dict:
    folder.mkdir()
    parameters = write_parameters(folder.with_suffix(".toml"), **changed)
    return script.main(None, folder, parameters, resume_from=resume_from)


def weights(folder: Path) -> bytes:
    return (newest_checkpoint(folder) / "state.pt").read_bytes()


def newest_checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoints/step-*"))


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_small_run_learns_and_leaves_everything_it_promises(script, tmp_path):
    summary = run(script, tmp_path / "out", epochs=4)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"checkpoints", "predictions.npz", "confusion.png", "raster.png"} <= written
    assert [row["step"] for row in metrics_of(tmp_path / "out")] == [1, 2, 3, 4]
    assert metrics_of(tmp_path / "out")[-1]["validation/accuracy"] == summary["validation_accuracy"]
    assert summary["test_accuracy"] > 0.7
    for figure in ("confusion.png", "raster.png"):
        assert (tmp_path / "out" / figure).read_bytes().startswith(b"\x89PNG")


def test_predictions_speak_about_the_real_images_and_give_the_summary(script, tmp_path):
    summary = run(script, tmp_path / "out")
    with np.load(tmp_path / "out" / "predictions.npz") as predictions:
        digits = load_digits().target[predictions["row"]]
        np.testing.assert_array_equal(predictions["label"], digits)
        decided = predictions["spike_count"].argmax(axis=1)
        np.testing.assert_array_equal(predictions["decided"], decided)
        assert summary["test_accuracy"] == np.mean(decided == digits)
        assert summary["test_images"] == len(digits) == len(set(predictions["row"]))


def test_every_image_is_in_exactly_one_split_whatever_the_seed(script, tmp_path):
    splits, reseeded, divided_anew = (
        script.load_splits(
            script.read_parameters(write_parameters(tmp_path / "parameters.toml", **changed))
        )
        for changed in ({}, {"seed": 5}, {"split_seed": 5})
    )
    rows = np.concatenate([part.row for part in splits])
    np.testing.assert_array_equal(np.sort(rows), np.arange(1797))
    np.testing.assert_array_equal(splits.test.row, reseeded.test.row)
    assert set(splits.test.row) != set(divided_anew.test.row)
    for part in splits:
        share = np.bincount(part.label) / len(part.label)
        np.testing.assert_allclose(share, np.bincount(load_digits().target) / 1797, atol=0.005)


def test_same_seed_gives_the_same_bits_in_another_process(script, tmp_path):
    run(script, tmp_path / "here")
    (tmp_path / "there").mkdir()
    subprocess.run(
        [
            *(sys.executable, "-c", IN_ANOTHER_PROCESS),
            *(FOLDER / "train.py", tmp_path / "there", tmp_path / "here.toml"),
        ],
        env=os.environ
        | {"PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=True,
        capture_output=True,
    )
    names = ["predictions.npz", "confusion.png", "raster.png", "metrics.jsonl"]
    for name in names:
        here, there = (tmp_path / folder / name for folder in ("here", "there"))
        assert here.read_bytes() == there.read_bytes(), name
    assert weights(tmp_path / "here") == weights(tmp_path / "there")


def test_other_seed_gives_other_weights(script, tmp_path):
    run(script, tmp_path / "zero", epochs=1)
    run(script, tmp_path / "one", epochs=1, seed=1)
    assert weights(tmp_path / "zero") != weights(tmp_path / "one")


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(script, tmp_path):
    straight = run(script, tmp_path / "straight", epochs=4)
    run(script, tmp_path / "begun", epochs=2)
    # Whatever the random stream is when a run resumes must not matter.
    torch.manual_seed(999)
    resumed = run(
        script,
        tmp_path / "resumed",
        epochs=4,
        resume_from=newest_checkpoint(tmp_path / "begun"),
    )
    assert resumed == straight
    assert weights(tmp_path / "resumed") == weights(tmp_path / "straight")
    streams = [newest_checkpoint(tmp_path / name) / "rng.json" for name in ("resumed", "straight")]
    assert streams[0].read_bytes() == streams[1].read_bytes()
    lines = metrics_of(tmp_path / "begun") + metrics_of(tmp_path / "resumed")
    assert lines == metrics_of(tmp_path / "straight")
    for name in ("predictions.npz", "confusion.png", "raster.png"):
        both = [(tmp_path / folder / name).read_bytes() for folder in ("resumed", "straight")]
        assert both[0] == both[1], name


def test_every_parameter_has_a_comment_that_explains_it():
    for line in (FOLDER / "parameters.toml").read_text().splitlines():
        assert not line or line.partition("#")[2].strip(), line
