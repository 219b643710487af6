"""The table [engine]: what is accepted, what is refused and how, and what a run keeps of it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from engram.config import load, resolved
from engram.engine_table import KINDS, ONLY
from engram.errors import ConfigError
from engram.grid.devices import choose
from engram.settings import EngineConfig

LOCAL = """\
kind = "local"
processes = 2
devices = [0, "GPU-8932f937"]
slots_per_device = 3
devices_per_run = 2
"""
SLURM = """\
kind = "slurm"
processes = 4
partition = "gpu"
gres = "gpu:h200:2"
time = "2h30m"
memory = "32G"
account = "lab"
cpus_per_task = 8
throttle = 10
extra = { qos = "high", exclusive = true, nice = 5, "mail-type" = "END" }
"""
RAY = """\
kind = "ray"
address = "10.0.0.1:6379"
num_gpus = 0.25
num_cpus = 2
"""
EXAMPLES = {"local": LOCAL, "slurm": SLURM, "ray": RAY}


@pytest.fixture
def read(tmp_path: Path):
    """Reads an experiment whose [engine] holds some lines."""

    def engine(lines: str, *overrides: str):
        path = tmp_path / "experiment.toml"
        path.write_text(f'script = "work.py"\n[engine]\n{lines}')
        return load(path, root=tmp_path, overrides=overrides)

    return engine


def test_every_key_of_every_kind_arrives(read):
    assert read(LOCAL).engine == EngineConfig(
        processes=2, devices=(0, "GPU-8932f937"), slots_per_device=3, devices_per_run=2
    )
    assert read(SLURM).engine == EngineConfig(
        kind="slurm",
        processes=4,
        partition="gpu",
        gres="gpu:h200:2",
        time_s=9000.0,
        memory="32G",
        account="lab",
        cpus_per_task=8,
        throttle=10,
        extra={"qos": "high", "exclusive": True, "nice": 5, "mail-type": "END"},
    )
    assert read(RAY).engine == EngineConfig(
        kind="ray", address="10.0.0.1:6379", num_gpus=0.25, num_cpus=2.0
    )
    written = {key for text in EXAMPLES.values() for key in tomllib.loads(text)}
    assert written == {"kind", "processes", *ONLY}


def test_an_absent_table_is_one_process_here(tmp_path: Path, read):
    path = tmp_path / "experiment.toml"
    path.write_text('script = "work.py"')
    assert load(path, root=tmp_path).engine == read("").engine == EngineConfig()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ONLY)
def test_a_key_of_another_kind_is_refused(read, key: str, kind: str):
    value = tomllib.loads(EXAMPLES[ONLY[key]])[key]
    override = f"engine.{key}={json.dumps(value)}" if key != "extra" else "engine.extra.qos=high"
    if kind == ONLY[key]:
        assert read(f'kind = "{kind}"', override)
        return
    with pytest.raises(ConfigError) as caught:
        read(f'kind = "{kind}"', override)
    assert f"key 'engine.{key}' is for kind = {ONLY[key]!r}" in str(caught.value)
    assert f"'engine.kind' is {kind!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("knd = 1", "unknown key 'engine.knd'; did you mean 'kind'?"),
        ("partiton = 'gpu'", "unknown key 'engine.partiton'; did you mean 'partition'?"),
        ("kind = 'slrum'", "or 'ray'; did you mean 'slurm'?"),
        ("processes = 0", "key 'engine.processes' is 0: expected a whole number from 1"),
        ("processes = true", "key 'engine.processes' is True"),
        ("devices = 2", "'engine.devices' is 2: expected a list of indices or UUIDs"),
        ("devices = [0.5]", "'engine.devices' is [0.5]"),
        ("devices = [true]", "'engine.devices' is [True]"),
        ("slots_per_device = 65", "from 1 to 64"),
        ("devices_per_run = 0", "'engine.devices_per_run' is 0"),
        ("kind = 'slurm'\ntime = 'soon'", "key 'engine.time': 'soon' is no time span"),
        ("kind = 'slurm'\ngres = ''", "'engine.gres' is '': expected text that is not empty"),
        ("kind = 'slurm'\nmemory = 32", "'engine.memory' is 32: expected a string"),
        ("kind = 'slurm'\nthrottle = 0", "'engine.throttle' is 0"),
        ("kind = 'slurm'\nextra = 'x'", "'engine.extra' is 'x': expected a table"),
        ("kind = 'slurm'\nextra.a = [1]", "'engine.extra.a' is [1]: expected a string, a number"),
        ("kind = 'ray'\nnum_gpus = -1", "'engine.num_gpus' is -1"),
        ("kind = 'ray'\nnum_cpus = 'all'", "'engine.num_cpus' is 'all'"),
    ],
)
def test_a_mistake_is_refused_with_file_key_and_remedy(read, tmp_path: Path, lines, what):
    with pytest.raises(ConfigError) as caught:
        read(lines)
    assert what in str(caught.value)
    assert str(tmp_path / "experiment.toml") in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "''", "'-1'", "[-1]", "['-1']"])
def test_no_devices_can_be_written_in_every_usual_way(read, text: str):
    devices = read(f"devices = {text}").engine.devices
    assert devices is not None
    assert choose(devices, {}, tool="none", library="none").hidden


def test_devices_may_be_written_as_in_the_variable(read):
    devices = read("devices = '2,GPU-8932f937'").engine.devices
    found = choose(devices, {}, tool="none", library="none")
    assert [device.visible for device in found.devices] == ["2", "GPU-8932f937"]


def test_a_run_keeps_of_the_engine_what_its_result_depends_on(read):
    kept = tomllib.loads(resolved(read(LOCAL)))
    assert kept["engine"] == {"processes": 2}
    assert tomllib.loads(resolved(read(SLURM)))["engine"] == {"processes": 4}
    assert "engine" not in tomllib.loads(resolved(read(RAY)))
    assert "engine" not in tomllib.loads(resolved(read("")))


def test_the_engine_survives_a_record(read):
    for text in EXAMPLES.values():
        engine = read(text).engine
        again = EngineConfig(**json.loads(json.dumps(engine._asdict())))
        assert again._replace(devices=engine.devices) == engine
        assert list(again.devices or ()) == list(engine.devices or ())
