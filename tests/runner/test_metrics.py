"""Metrics: one whole line a step, and a W&B that can fail in every way without failing the run."""

import csv
import errno
import importlib.util
import json
import math
import os
import random
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from engram import metrics, metrics_files, wandb_log
from engram.errors import ResumeError
from engram.paths import RunPaths

LIB = Path(metrics.__file__).parents[1]


@pytest.fixture
def run(tmp_path) -> RunPaths:
    """The folders that a runner makes before it starts a script."""
    run = RunPaths(tmp_path / "runs" / "20261121T070000.123Z-test-3f2a9c")
    run.outputs.mkdir(parents=True)
    run.provenance.mkdir()
    return run


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No test may find this machine's W&B account, or reach the network."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("NETRC", raising=False)
    return home


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lines(path: Path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_a_call_without_wall_times(run):
    with metrics.open(run.outputs) as log:
        log(step=1, loss=0.1)
        log({"validation/accuracy": 0.5, "phase": "late", "best": True}, step=1)
        log({"train": {"loss": 2, "lr": {"head": 1e-3}}}, step=2)
    assert run.metrics.read_text() == (
        '{"step": 1, "loss": 0.1}\n'
        '{"step": 1, "validation/accuracy": 0.5, "phase": "late", "best": true}\n'
        '{"step": 2, "train/loss": 2, "train/lr/head": 0.001}\n'
    )
    assert list(run.outputs.iterdir()) == []
    times = lines(run.metrics_times)
    text = run.metrics.read_bytes()
    assert [text[time["at"] :].split(b"\n")[0] for time in times] == text.splitlines()
    assert all(time["time"].endswith("+00:00") for time in times)


def test_outside_a_run_all_files_lie_in_the_given_folder(tmp_path):
    folder = tmp_path / "notebook" / "outputs"
    with metrics.open(folder) as log:
        log(step=0, a=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.jsonl",
        "metrics_times.jsonl",
    ]
    assert list(folder.parent.iterdir()) == [folder]


def test_lines_can_be_read_while_the_log_is_open(run):
    with metrics.open(run.outputs) as log:
        log(step=1, a=1)
        assert list(metrics.read(run.metrics)) == [{"step": 1, "a": 1}]


def test_numbers_keep_their_bits(run):
    np = pytest.importorskip("numpy")
    values = [0.1 + 0.2, 5e-324, -0.0, 1 << 80, float("inf"), -math.inf, np.float32(0.1)]
    values += [np.int64(-3), np.bool_(True), np.array([2.5]), np.array(3)]
    with metrics.open(run.outputs) as log:
        log({f"v{i}": value for i, value in enumerate(values)}, step=np.int32(4))
        log(step=5, nan=np.nan)
    first, second = metrics.read(run.metrics)
    expected = [*values[:6], float(np.float32(0.1)), -3, True, 2.5, 3]
    assert list(first.values()) == [4, *expected]
    assert [type(value) for value in first.values()] == [int, *map(type, expected)]
    assert math.copysign(1, first["v2"]) == -1
    assert math.isnan(second["nan"])


def test_pandas_reads_the_file(run):
    pandas = pytest.importorskip("pandas")
    with metrics.open(run.outputs) as log:
        log(step=1, loss=math.nan)
        log(step=2, loss=math.inf)
    frame = pandas.read_json(run.metrics, lines=True)
    assert list(frame["step"]) == [1, 2]
    assert math.isnan(frame["loss"][0])
    assert frame["loss"][1] == math.inf


def test_torch_scalars_are_numbers(run):
    torch = pytest.importorskip("torch")
    weight = torch.tensor(0.5, requires_grad=True)
    with metrics.open(run.outputs) as log:
        log(step=torch.tensor(1), loss=weight * 2, half=torch.tensor([1.5], dtype=torch.bfloat16))
    assert list(metrics.read(run.metrics)) == [{"step": 1, "loss": 1.0, "half": 1.5}]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"step": 1, "a": [1, 2]}, TypeError, r"'a' is \[1, 2\] of type list"),
        ({"step": 1, "a": None}, TypeError, "'a' is None"),
        ({"step": 1, "a": 1j}, TypeError, "'a' is 1j of type complex"),
        ({"step": 1.5}, TypeError, "step is 1.5; it must be a whole number"),
        ({"step": True}, TypeError, "step is True"),
        ({"step": -1}, ValueError, "step is -1"),
    ],
)
def test_what_is_no_number_is_refused_and_nothing_written(run, values, error, message):
    with metrics.open(run.outputs) as log, pytest.raises(error, match=message):
        log(**values)
    assert run.metrics.read_bytes() == b""


def test_arrays_are_refused_with_their_shape(run):
    np = pytest.importorskip("numpy")
    with (
        metrics.open(run.outputs) as log,
        pytest.raises(TypeError, match=r"'a' has shape \(2, 3\)"),
    ):
        log(step=1, a=np.ones((2, 3)))


def test_a_name_given_twice_or_empty_is_refused(run):
    with metrics.open(run.outputs) as log:
        with pytest.raises(ValueError, match="'a/b' is given twice"):
            log({"a/b": 1, "a": {"b": 2}}, step=1)
        with pytest.raises(ValueError, match="'step' is given twice"):
            log({"step": 2}, step=1)
        with pytest.raises(TypeError, match="metric name ''"):
            log({"": 1}, step=1)


def test_steps_never_go_backwards_not_even_after_reopening(run):
    with metrics.open(run.outputs) as log:
        log(step=3)
        log(step=3)
        with pytest.raises(ValueError, match="step 2 follows step 3"):
            log(step=2)
    with (
        metrics.open(run.outputs) as log,
        pytest.raises(ValueError, match=r"step 1 follows step 3.*metrics\.jsonl"),
    ):
        log(step=1)


def test_a_line_torn_by_a_crash_is_dropped_by_the_next_writer(run):
    run.metrics.write_bytes(b'{"step": 1, "a": 2}\n{"step": 2, "a"')
    assert list(metrics.read(run.metrics)) == [{"step": 1, "a": 2}]
    with metrics.open(run.outputs) as log:
        log(step=2, a=3)
    assert run.metrics.read_text() == '{"step": 1, "a": 2}\n{"step": 2, "a": 3}\n'


def test_a_full_disk_leaves_no_half_line(run, monkeypatch):
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(bytes(data))
        if len(calls) == 1:
            return write(descriptor, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with metrics.open(run.outputs) as log:
        log(step=1, a=1)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            log(step=2, a=2)
        monkeypatch.undo()
    assert run.metrics.read_text() == '{"step": 1, "a": 1}\n'


def test_a_closed_log_says_so(run):
    with metrics.open(run.outputs) as log:
        pass
    with pytest.raises(ValueError, match="is closed"):
        log(step=1)


def test_csv_has_a_column_a_name_in_order_of_appearance(run):
    with metrics.open(run.outputs) as log:
        log(step=1, loss=0.1, note='a "quoted", text')
        log(step=2, accuracy=math.nan, loss=1e-300)
        path = log.to_csv()
        assert log.to_csv(run.outputs / "other.csv").read_bytes() == path.read_bytes()
    assert path == run.outputs / "metrics.csv"
    with path.open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["step", "loss", "note", "accuracy"],
            ["1", "0.1", 'a "quoted", text', ""],
            ["2", "1e-300", "", "nan"],
        ]


def resumed(tmp_path) -> RunPaths:
    child = RunPaths(tmp_path / "runs" / "child")
    child.provenance.mkdir(parents=True)
    child.outputs.mkdir()
    return child


def test_a_resumed_run_begins_with_the_lines_up_to_the_checkpoint(run, tmp_path):
    with metrics.open(run.outputs) as log:
        for step in (1, 2):
            log(step=step, a=step)
        position = metrics_files.position(run.outputs)
        log(step=3, a=3)
    child = resumed(tmp_path)
    metrics_files.copy_until(run, child, position)
    assert lines(child.metrics) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}]
    assert lines(child.metrics_times) == lines(run.metrics_times)[:2]
    with metrics.open(child.outputs) as log:
        log(step=3, a=3)
    assert child.metrics.read_bytes() == run.metrics.read_bytes()
    assert [time["at"] for time in lines(child.metrics_times)] == [
        time["at"] for time in lines(run.metrics_times)
    ]


def test_a_run_without_metrics_hands_on_nothing(run, tmp_path):
    assert metrics_files.position(run.outputs) == 0
    child = resumed(tmp_path)
    metrics_files.copy_until(run, child, 0)
    assert child.metrics.read_bytes() == b""


@pytest.mark.parametrize("position", [5, 1000])
def test_altered_metrics_of_the_parent_are_refused(run, tmp_path, position):
    run.metrics.write_text('{"step": 1}\n')
    with pytest.raises(ResumeError, match=f"no line that ends at byte {position}"):
        metrics_files.copy_until(run, resumed(tmp_path), position)


def fake_wandb(monkeypatch, *, init=None, log=None, finish=None):
    """Put a stand-in for wandb in place; each part may raise."""
    calls = []

    def part(name, error):
        def call(*arguments, **named):
            calls.append((name, arguments, named))
            if error is not None and (name != "init" or error[1] in (None, named["mode"])):
                raise error[0]
            return run

        return call

    class Settings:
        model_fields = ("console", "disable_git")

        def __init__(self, **values):
            self.values = values

    run = types.SimpleNamespace(id="abc", url="https://example.org/abc", project="p", entity="e")
    run.log = part("log", (log, None) if log else None)
    run.finish = part("finish", (finish, None) if finish else None)
    module = types.ModuleType("wandb")
    module.init, module.Settings = part("init", init), Settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def log_three(run) -> dict:
    with metrics.open(run.outputs, wandb_config={"project": "p", "tags": ["a"]}) as log:
        for step in range(3):
            log(step=step, a=step)
    assert len(lines(run.metrics)) == 3
    return json.loads(run.wandb.read_text())


def test_wandb_gets_every_line_with_its_step_and_the_parameters(run, monkeypatch):
    run.parameters.write_text("lr = 0.1\n")
    calls = fake_wandb(monkeypatch)
    record = log_three(run)
    assert record == {
        "id": "abc",
        "mode": "offline",
        "project": "p",
        "entity": "e",
        "url": "https://example.org/abc",
        "error": None,
    }
    names = [name for name, _, _ in calls]
    assert names == ["init", "log", "log", "log", "finish"]
    init = calls[0][2]
    assert (init["mode"], init["name"], init["config"]) == ("offline", run.run_id, {"lr": 0.1})
    assert (init["project"], init["tags"], init["dir"]) == ("p", ["a"], str(run.provenance))
    assert init["settings"].values == {"console": "off", "disable_git": True}
    assert [(args[0], named) for _, args, named in calls[1:4]] == [
        ({"a": step}, {"step": step}) for step in range(3)
    ]
    assert calls[-1][2] == {"exit_code": 0}


def test_a_failing_script_ends_its_wandb_run_as_failed(run, monkeypatch):
    calls = fake_wandb(monkeypatch)
    with pytest.raises(KeyError), metrics.open(run.outputs, wandb_config={}):
        raise KeyError("x")
    assert calls[-1][::2] == ("finish", {"exit_code": 1})


def test_wandb_is_not_touched_unless_configured(run, monkeypatch):
    calls = fake_wandb(monkeypatch)
    with metrics.open(run.outputs) as log:
        log(step=1, a=1)
    assert calls == []
    assert not run.wandb.exists()


def test_wandb_that_is_not_installed_never_fails_the_run(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    record = log_three(run)
    assert (record["mode"], record["id"]) == ("unavailable", None)
    assert "ModuleNotFoundError" in record["error"] or "ImportError" in record["error"]
    assert "W&B: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemError("x"), TypeError("y")])
@pytest.mark.parametrize("part", ["init", "log", "finish"])
def test_wandb_failing_at_any_point_never_fails_the_run(run, monkeypatch, capsys, part, error):
    calls = fake_wandb(monkeypatch, **{part: (error, None) if part == "init" else error})
    record = log_three(run)
    assert record["error"] == f"{type(error).__name__}: {error}"
    assert capsys.readouterr().err.count("W&B: ") == 1
    if part == "log":
        assert [name for name, _, _ in calls] == ["init", "log"]


def test_wandb_that_cannot_go_online_goes_offline(run, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        error = ConnectionError(f"key {'k' * 40} was refused")
        calls = fake_wandb(monkeypatch, init=(error, "online"))
        record = log_three(run)
    assert [named["mode"] for name, _, named in calls if name == "init"] == ["online", "offline"]
    assert (record["mode"], record["id"]) == ("offline", "abc")
    assert record["error"] == "ConnectionError: key *** was refused"
    assert "k" * 40 not in capsys.readouterr().err


def test_wandb_without_network_goes_offline_at_once(run, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    calls = fake_wandb(monkeypatch)
    record = log_three(run)
    assert [named["mode"] for name, _, named in calls if name == "init"] == ["offline"]
    assert record["mode"] == "offline"
    assert "127.0.0.1 cannot be reached" in record["error"]


def test_wandb_settings_decide_between_online_and_offline(monkeypatch, no_account):
    assert wandb_log.mode() == "offline"
    (no_account / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    assert wandb_log.mode() == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    assert wandb_log.mode() == "offline"
    (no_account / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_log.mode() == "online"
    (no_account / ".netrc").write_text("machine api.wandb.ai nonsense\n")
    assert wandb_log.mode() == "offline"
    settings = no_account / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\napi_key = secret\n")
    assert wandb_log.mode() == "online"
    settings.write_text("not an ini file")
    assert wandb_log.mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert wandb_log.mode() == "online"
    for asked, found in (("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")):
        monkeypatch.setenv("WANDB_MODE", asked)
        assert wandb_log.mode() == found


def test_wandb_leaves_the_random_streams_alone(run, monkeypatch):
    fake_wandb(monkeypatch)
    init = sys.modules["wandb"].init
    sys.modules["wandb"].init = lambda **named: (random.random(), init(**named))[1]
    random.seed(1)
    expected = random.Random(1).random()
    with metrics.open(run.outputs, wandb_config={}):
        assert random.random() == expected


REAL = """
import sys
from pathlib import Path
from engram import metrics
with metrics.open(Path(sys.argv[1]), wandb_config={"project": "p", "notes": "n"}) as log:
    for step in range(3):
        log(step=step, loss=1 / (step + 1), **{"validation/accuracy": step})
"""


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
@pytest.mark.parametrize("account", [False, True])
def test_real_wandb_runs_offline_and_leaks_no_secret(run, account):
    secrets = {"FOO_SECRET": "hunter2hunter2"}
    if account:
        secrets["WANDB_API_KEY"] = "0123456789abcdef" * 2 + "01234567"
    token = "ghp_tokenInsideTheRemote"
    git = ["git", "-C", run.folder]
    subprocess.run([*git, "init", "-q"], check=True)
    remote = f"https://user:{token}@example.org/x.git"
    subprocess.run([*git, "remote", "add", "origin", remote], check=True)
    command = [sys.executable, "-c", REAL, run.outputs]
    environment = {**os.environ, **secrets, "PYTHONPATH": str(LIB)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=run.outputs, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(run.wandb.read_text())
    assert record["mode"] == "offline"
    assert record["project"] == "p"
    assert (record["error"] is None) != account
    assert len(lines(run.metrics)) == 3
    (written,) = (run.provenance / "wandb").glob("offline-run-*")
    assert written.name.endswith(record["id"])
    assert list(run.outputs.iterdir()) == []
    (run.folder / ".git" / "config").unlink()
    for secret in (*secrets.values(), token):
        found = subprocess.run(["grep", "-rlaF", secret, run.folder], capture_output=True)
        assert found.stdout == b"", secret
        assert secret not in done.stdout + done.stderr


def test_lines_of_many_threads_stay_whole(run):
    with metrics.open(run.outputs) as log:
        threads = [
            threading.Thread(target=lambda: [log(step=1, text="x" * 5000) for _ in range(20)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [len(line["text"]) for line in lines(run.metrics)] == [5000] * 160
    starts = [time["at"] for time in lines(run.metrics_times)]
    assert starts == [i * (run.metrics.stat().st_size // 160) for i in range(160)]
