"""What a notebook uses: finding runs and reading what they left."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys

import pytest
from conftest import CHECKOUT
from made_runs import make_hashed_run, make_run

import engram
from engram import errors, record
from engram.paths import RunPaths


@pytest.fixture
def root(tmp_path):
    """A run root without a repository."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def output(paths, name, data):
    path = paths.outputs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def only(root):
    """The one run of a root, as a notebook gets it."""
    (found,) = engram.runs(root=root)
    return found


def test_package_offers_two_names_and_imports_them_late():
    code = (
        "import sys, engram\n"
        "assert 'engram.api' not in sys.modules and 'pandas' not in sys.modules\n"
        "assert {'run', 'runs'} <= set(dir(engram)) and callable(engram.runs)\n"
        "assert not {'pandas', 'numpy', 'torch'} & set(sys.modules)\n"
        "try: engram.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise SystemExit('no error')\n"
        "from engram import errors\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=300)


def test_runs_come_newest_first_and_are_chosen(root):
    make_run(root, "a", parameters="lr = 0.1\n", created="2026-01-01T00:00:00.000000+00:00")
    make_run(root, "b", "failed", "lr = 0.5\n", created="2026-01-02T00:00:00.000000+00:00")
    make_run(root, "a", "killed", "lr = 0.9\n", created="2026-01-03T00:00:00.000000+00:00")

    def chosen(**conditions):
        return [run.parameters["lr"] for run in engram.runs(root=root, **conditions)]

    assert chosen() == [0.9, 0.5, 0.1]
    assert chosen(name="a") == [0.9, 0.1]
    assert chosen(state="failed") == [0.5]
    assert chosen(state=["completed", "killed"]) == [0.9, 0.1]
    assert chosen(state=["completed", "killed"], limit=1) == [0.9]
    assert chosen(filters="param.lr<0.6") == [0.5, 0.1]
    assert chosen(filters=["param.lr<0.6", "param.lr>0.2"], name="b") == [0.5]
    assert chosen(sort="param.lr", limit=2) == [0.1, 0.5]


def test_runs_are_a_sequence(root):
    for lr in (1, 2, 3):
        make_run(root, parameters=f"lr = {lr}\n")
    found = engram.runs(root=root, sort="param.lr")
    assert (len(found), found[-1].parameters) == (3, {"lr": 3})
    assert [run.parameters["lr"] for run in found[1:]] == [2, 3]
    assert repr(found[:1]).splitlines()[0] == "1 run"
    assert found[0].run_id in repr(found)
    assert found[0].run_id in found._repr_html_()
    assert "and 5 more" in repr(engram.api.Runs(found._rows * 25)[:25])


def test_wrong_conditions_and_places_are_refused_with_advice(root, tmp_path):
    make_run(root)
    with pytest.raises(errors.ConfigError, match="did you mean 'failed'"):
        engram.runs(root=root, state="faild")
    with pytest.raises(errors.ConfigError, match="not a filter"):
        engram.runs(root=root, filters="lr")
    with pytest.raises(errors.ConfigError, match="no folder"):
        engram.runs(root=tmp_path / "none")
    with pytest.raises(errors.RunNotFoundError):
        engram.run("20990101", root=root)


def test_frame_holds_parameters_and_summaries_as_columns(root):
    pd = pytest.importorskip("pandas", reason="makes the frame")
    paths = make_run(root, parameters="lr = 0.1\nkind = 'x'\n[net.deep]\nsize = [1, 2]\nw = nan\n")
    record.annotate(paths, tags=["paper"])
    make_hashed_run(root)
    frame = engram.runs(root=root, sort="created").to_frame()
    assert list(frame.columns) == [
        *("run_id", "experiment", "state", "created", "run_s", "commit"),
        *("param.lr", "param.kind", "param.net.deep.size", "param.net.deep.w"),
        *("summary.accuracy", "tags", "path"),
    ]
    first, second = frame.iloc[0], frame.iloc[1]
    assert (first["run_id"], first["param.net.deep.size"]) == (paths.run_id, [1, 2])
    assert isinstance(first["param.net.deep.w"], float)
    assert math.isnan(first["param.net.deep.w"])
    assert (first["tags"], first["path"]) == (["paper"], str(paths.folder))
    assert first["created"] == pd.Timestamp(record.load(paths)["times"]["created"])
    assert (second["summary.accuracy"], second["run_s"]) == (0.9, 1.0)
    assert pd.isna(first["summary.accuracy"])


def test_frame_of_no_runs_has_its_columns(root):
    pytest.importorskip("pandas", reason="makes the frame")
    frame = engram.runs(root=root).to_frame()
    assert len(frame) == 0
    assert list(frame.columns)[-2:] == ["tags", "path"]


def test_one_run_is_found_by_every_reference(root):
    old, new = make_run(root, "a"), make_run(root, "b")
    for reference in (old.run_id, old.run_id[:-1], str(old.folder), old.folder, "latest:a"):
        assert engram.run(reference, root=root).path == old.folder
    assert engram.run(root=root).path == new.folder


def test_run_gives_what_its_folder_holds(root):
    paths = make_hashed_run(root)
    run = only(root)
    assert run.record == record.load(paths)
    assert (run.state, run.experiment, run.tags, run.findings) == ("completed", "digits", [], [])
    assert (run.parameters, run.summary) == ({"lr": 0.1}, {"accuracy": 0.9})
    assert (run.outputs, run.inputs) == (paths.outputs, paths.inputs)
    assert (run.log(), run.log("err")) == ("out\n", "err\n")
    assert repr(run) == f"<Run {paths.run_id} completed accuracy=0.9>"
    with pytest.raises(ValueError, match="'both'"):
        run.log("both")


def test_index_is_not_needed(root, monkeypatch):
    paths = make_run(root)
    for path in sorted((root / ".engram").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / ".engram").rmdir()
    assert only(root).run_id == paths.run_id
    monkeypatch.chdir(root)
    assert engram.run().run_id == paths.run_id


def test_state_is_that_of_now(root):
    paths = make_run(root, state="running")
    run = only(root)
    assert (run.state, run.summary) == ("running", {})
    record.change(paths, state="completed", summary={"x": 1})
    assert (run.state, run.summary) == ("completed", {"x": 1})


def test_folder_without_a_record_is_shown_and_says_so(root):
    paths = record.new_run_folder(root, "early")
    paths.provenance.mkdir()
    paths.lease.touch()
    run = engram.run(paths.folder)
    assert run.state == "killed"
    assert "killed before its record was born" in run._repr_html_()
    with pytest.raises(errors.RunNotFoundError):
        _ = run.record


def test_card_escapes_what_people_wrote(root):
    make_run(root, parameters="title = '<script>alert(1)</script>'\n")
    html = only(root)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_text_formats_come_back_as_values(root):
    paths = make_run(root)
    output(paths, "a.json", '{"x": [1, NaN]}')
    output(paths, "a.toml", "x = 1\n[y]\nz = true\n")
    output(paths, "a.jsonl", '{"step": 0}\n\n{"step": 1}\n')
    output(paths, "deep/notes.md", "# é\n")
    output(paths, "latin.txt", "é".encode("latin-1"))
    output(paths, "a.bin", b"a\0b")
    run = only(root)
    assert run.load("a.json")["x"][0] == 1
    assert run.load("a.toml") == {"x": 1, "y": {"z": True}}
    assert run.load("a.jsonl") == [{"step": 0}, {"step": 1}]
    assert run.load("deep/notes.md") == "# é\n"
    assert run.load("latin.txt") == "é".encode("latin-1")
    assert run.load("a.bin") == b"a\0b"


def test_arrays_come_back_as_arrays(root):
    np = pytest.importorskip("numpy", reason="reads the arrays")
    paths = make_run(root)
    np.save(paths.outputs / "a.npy", np.arange(3))
    np.savez(paths.outputs / "a.npz", x=np.eye(2), y=np.float32(1))
    np.save(paths.outputs / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    run = only(root)
    assert run.load("a.npy").tolist() == [0, 1, 2]
    loaded = run.load("a.npz")
    assert (list(loaded), loaded["x"].tolist()) == (["x", "y"], [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="allow_pickle") as caught:
        run.load("bad.npy")
    assert caught.value.__notes__ == [f"while reading {str(paths.outputs / 'bad.npy')!r}"]


def test_safetensors_come_back_as_arrays(root):
    np = pytest.importorskip("numpy", reason="reads the arrays")
    paths = make_run(root)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    data = struct.pack("<Q", len(header)) + header + struct.pack("<HH", 0x3F80, 0xC000)
    output(paths, "m.safetensors", data)
    loaded = only(root).load("m.safetensors")
    assert (loaded["w"].dtype, loaded["w"].tolist()) == (np.float32, [1.0, -2.0])


def test_open_store_comes_back_for_zarr(root):
    zarr = pytest.importorskip("zarr", reason="reads .zarr")
    paths = make_run(root)
    zarr.create_array(str(paths.outputs / "x.zarr"), shape=(3,), dtype="i4")[:] = [1, 2, 3]
    loaded = only(root).load("x.zarr")
    assert loaded[:].tolist() == [1, 2, 3]
    with pytest.raises(Exception, match="read-only"):
        loaded[:] = 0


def test_tables_come_back_as_frames(root):
    pd = pytest.importorskip("pandas", reason="reads tables")
    paths = make_run(root)
    output(paths, "a.csv", "x,y\n1,a\n")
    output(paths, "a.tsv", "x\ty\n1\ta\n")
    output(paths, "empty.csv", "")
    run = only(root)
    expected = pd.DataFrame({"x": [1], "y": ["a"]})
    assert run.load("a.csv").equals(expected)
    assert run.load("a.tsv").equals(expected)
    assert run.load("empty.csv").empty
    pytest.importorskip("pyarrow", reason="reads parquet")
    expected.to_parquet(paths.outputs / "a.parquet")
    assert run.load("a.parquet").equals(expected)


def test_weights_come_back_as_tensors_and_never_run_code(root):
    torch = pytest.importorskip("torch", reason="reads .pt")
    paths = make_run(root)
    torch.save({"w": torch.ones(2)}, paths.outputs / "model.pt")
    torch.save({"w": RunPaths(paths.folder)}, paths.outputs / "code.pt")
    run = only(root)
    assert run.load("model.pt")["w"].tolist() == [1, 1]
    with pytest.raises(Exception, match="weights_only") as caught:
        run.load("code.pt")
    assert "code.pt" in caught.value.__notes__[0]


def test_missing_output_is_named_with_what_is_near(root):
    paths = make_run(root)
    run = only(root)
    with pytest.raises(FileNotFoundError, match="it has none"):
        run.load("a.npz")
    output(paths, "rates.npz", "")
    output(paths, "deep/weights.pt", "")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'rates\.npz'"):
        run.load("rate.npz")
    with pytest.raises(FileNotFoundError, match="did you mean 'deep/weights.pt'"):
        run.load("weights.pt")
    with pytest.raises(FileNotFoundError, match="there are 'deep/weights.pt', 'rates.npz'"):
        run.load("zzz")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        run.load("deep")


@pytest.mark.parametrize("name", ["../parameters.toml", "/etc/hostname", "deep/../../log.out"])
def test_load_stays_inside_outputs(root, name):
    make_run(root)
    with pytest.raises(ValueError, match="does not lie in the outputs"):
        only(root).load(name)


def test_missing_package_is_named(root, monkeypatch):
    paths = make_run(root)
    output(paths, "a.csv", "x\n1\n")
    output(paths, "a.npy", "")
    paths.metrics.write_text('{"step": 0, "loss": 1.5}\n')
    for name in ("pandas", "numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    run = only(root)
    with pytest.raises(errors.EnvironmentMissingError, match="'a.csv' needs pandas"):
        run.load("a.csv")
    with pytest.raises(errors.EnvironmentMissingError, match="'a.npy' needs numpy"):
        run.load("a.npy")
    with pytest.raises(errors.EnvironmentMissingError, match="needs pandas"):
        engram.runs(root=root).to_frame()
    assert run.metrics() == [{"step": 0, "loss": 1.5}]


def test_metrics_are_a_frame_without_the_torn_line_of_a_killed_run(root):
    pytest.importorskip("pandas", reason="makes the frame")
    paths = make_run(root)
    assert len(only(root).metrics()) == 0
    lines = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("nan"), "acc": 0.5}]
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2')
    frame = only(root).metrics()
    assert list(frame.columns) == ["step", "loss", "acc"]
    assert frame["step"].tolist() == [0, 1]
    assert frame["loss"].isna().tolist() == [False, True]


def test_notebook_in_a_repository_sees_its_runs(project, monkeypatch):
    assert project.run("experiment.toml").returncode == 0
    monkeypatch.chdir(project.root)
    run = engram.run("latest")
    assert (run.summary, run.load("result.txt")) == ({"doubled": 42}, "42\n")
    assert run.log() == "value 21\n"
    assert engram.runs(root=project.root)[0].run_id == run.run_id
