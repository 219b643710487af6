"""experiment.toml: what is accepted, what is refused and how, and what is written back."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import toml
from engram.config import load, load_parameters, parse_duration, resolved
from engram.errors import ConfigError, UnrecordedCodeError

FULL = """\
name = "odors"
description = "what it is about"
script = "experiments/a/train.py"
output_dir = "runs"
parameters_file = "experiments/a/parameters.toml"
log_file = "logs/all.jsonl"
seed = 7
timeout = "1h30m"

[[data.inputs]]
path = "data/a.npz"
sha256 = "AB00000000000000000000000000000000000000000000000000000000000000"

[[data.inputs]]
run = "latest:pretraining"
name = "weights"
strategy = "copy"

[wandb]
enabled = true
project = "fly"
entity = "lab"
tags = ["a", "b"]
notes = "none"

[audit]
on_finding = "fail"

[outputs]
volatile = ["*.log"]
rtol = 1e-6
atol = 0

[environment]
record = ["MY_FLAG"]
hash_seed = 3
threads = 2

[project]
paths = ["code", "."]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that stands for a repository."""
    (tmp_path / "repository" / "experiments" / "a").mkdir(parents=True)
    return tmp_path / "repository"


def write(root: Path, text: str, name: str = "experiments/a/experiment.toml") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_arrives(root: Path):
    config = load(write(root, FULL), root=root)
    assert config.name == "odors"
    assert config.description == "what it is about"
    assert config.script == "experiments/a/train.py"
    assert config.output_dir == root / "runs"
    assert config.parameters_file == root / "experiments/a/parameters.toml"
    assert config.log_file == root / "logs/all.jsonl"
    assert config.seed == 7
    assert config.timeout_s == 5400
    first, second = config.inputs
    assert first.path == root / "data/a.npz"
    assert first.strategy == "symlink"
    assert first.sha256 == "ab" + "0" * 62
    assert (second.run, second.name, second.strategy) == ("latest:pretraining", "weights", "copy")
    assert config.wandb.for_script() == {
        "project": "fly",
        "entity": "lab",
        "tags": ["a", "b"],
        "notes": "none",
    }
    assert config.audit.on_finding == "fail"
    assert config.outputs == (("*.log",), 1e-6, 0.0)
    assert config.environment == (("MY_FLAG",), 3, 2)
    assert config.project_paths == ("code", ".")


def test_defaults_need_only_a_script(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    config = load(write(root, 'script = "work.py"'), root=root)
    assert config.name == "a"
    assert config.output_dir == root / "runs"
    assert config.parameters_file is None
    assert config.log_file is None
    assert config.seed is None
    assert config.timeout_s is None
    assert config.inputs == ()
    assert config.wandb.for_script() is None
    assert config.audit.on_finding == "record"
    assert config.environment == ((), 0, 3)
    assert config.project_paths == ()


@pytest.mark.parametrize(
    ("file", "name"), [("a/experiment.toml", "a"), ("a/odors.toml", "odors"), ("w.toml", "w")]
)
def test_the_name_is_the_stem_or_the_folder(root: Path, file, name):
    assert load(write(root, 'script = "work.py"', file), root=root).name == name


def test_paths_start_at_the_root_and_dotted_ones_at_the_file(root: Path, tmp_path: Path):
    text = f"""\
script = "./train.py"
output_dir = "{tmp_path}/elsewhere"
parameters_file = "./sub/../parameters.toml"
log_file = "logs/../all.jsonl"
[[data.inputs]]
path = "~/data"
[[data.inputs]]
path = "../beside"
"""
    config = load(write(root, text), root=root)
    assert config.script == "experiments/a/train.py"
    assert config.output_dir == tmp_path / "elsewhere"
    assert config.parameters_file == root / "experiments/a/parameters.toml"
    assert config.log_file == root / "all.jsonl"
    assert config.inputs[0].path == Path.home() / "data"
    assert config.inputs[1].path == tmp_path / "beside"


def test_the_current_folder_does_not_matter(root: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(root, FULL)
    here = load(path, root=root)
    monkeypatch.chdir(root / "experiments")
    assert load(path, root=root) == here


@pytest.mark.parametrize("script", ["../work.py", "/elsewhere/work.py", "a/../../work.py"])
def test_a_script_outside_the_repository_is_refused(root: Path, script):
    said = r"work\.py' lies outside the repository"
    with pytest.raises(UnrecordedCodeError, match=said) as caught:
        load(write(root, f'script = "{script}"'), root=root)
    assert caught.value.exit_code == 3


def test_a_script_named_through_a_linked_repository_is_inside(root: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(root)
    (root / "work.py").touch()
    path = write(root, f'script = "{tmp_path}/link/work.py"')
    assert load(path, root=root).script == "work.py"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "scrpt = 'a.py'",
            "'script' is missing: name the file that defines main(...); is it written as 'scrpt'?",
        ),
        ("script = 'a.py'\nscrip = 1", "unknown key 'scrip'; did you mean 'script'?"),
        ("script = 'a.py'\noutputdir = 'x'", "did you mean 'output_dir'?"),
        ("script = 'a.py'\n[wandb]\nenable = true", "'wandb.enable'; did you mean 'enabled'?"),
        (
            "script = 'a.py'\n[[data.inputs]]\npth = 'x'",
            "'data.inputs.0.pth'; did you mean 'path'?",
        ),
        ("script = 'a.py'\n[data]\ninput = 1", "'data.input'; did you mean 'inputs'?"),
        ("script = 'a.py'\n[grid]\nsample = 1", "'grid.sample'; did you mean 'samples'?"),
        ("script = 'a.py'\n[engine]\nprocess = 1", "'engine.process'; did you mean 'processes'?"),
        ("script = 3", "key 'script' is 3: expected a string"),
        ("script = ''", "expected text that is not empty"),
        ("script = 'a.py'\nseed = true", "key 'seed' is True: expected a whole number from 0"),
        ("script = 'a.py'\nseed = 1.5", "key 'seed' is 1.5"),
        ("script = 'a.py'\nseed = -1", "key 'seed' is -1"),
        ("script = 'a.py'\nseed = 4294967296", "to 4294967295"),
        ("script = 'a.py'\ntimeout = 'soon'", "key 'timeout': 'soon' is no time span"),
        ("script = 'a.py'\ntimeout = 0", "write a positive number"),
        ("script = 'a.py'\nname = '../x'", "expected a folder name"),
        ("script = 'a.py'\nname = '.x'", "expected a folder name"),
        ("script = 'a.py'\nname = \"x\\ny\"", "expected a folder name"),
        ("script = 'a.py'\nwandb = true", "key 'wandb' is True: expected a table"),
        ("script = 'a.py'\n[wandb]\nenabled = 'yes'", "'yes': expected true or false"),
        ("script = 'a.py'\n[wandb]\ntags = 'a'", "'wandb.tags' is 'a': expected a list"),
        ("script = 'a.py'\n[wandb]\ntags = [1]", "expected a list of strings"),
        (
            "script = 'a.py'\n[audit]\non_finding = 'fial'",
            "'record' or 'fail'; did you mean 'fail'?",
        ),
        ("script = 'a.py'\n[outputs]\nrtol = -1", "'outputs.rtol' is -1"),
        ("script = 'a.py'\n[outputs]\natol = nan", "'outputs.atol' is nan"),
        ("script = 'a.py'\n[environment]\nrecord = ['A=B']", "name of an environment variable"),
        ("script = 'a.py'\n[environment]\nhash_seed = 'x'", "'environment.hash_seed' is 'x'"),
        ("script = 'a.py'\n[environment]\nthreads = 0", "'environment.threads' is 0"),
        ("script = 'a.py'\n[project]\npaths = ['../x']", "inside the repository"),
        ("script = 'a.py'\n[project]\npaths = ['/x']", "inside the repository"),
        ("script = 'a.py'\n[data]\ninputs = ['x']", "write [[data.inputs]]"),
        ("script = 'a.py'\n[[data.inputs]]\nname = 'x'", "the key 'path' or the key 'run'"),
        ("script = 'a.py'\n[[data.inputs]]\npath = 'x'\nrun = 'y'", "either the key 'path'"),
        ("script = 'a.py'\n[[data.inputs]]\npath = 'x'\nname = 'a/b'", "a file name"),
        ("script = 'a.py'\n[[data.inputs]]\npath = 'x'\nname = '..'", "a file name"),
        ("script = 'a.py'\n[[data.inputs]]\npath = 'x'\nsha256 = 'abc'", "64 hexadecimal digits"),
        (
            "script = 'a.py'\n[[data.inputs]]\npath = 'x'\nstrategy = 'hardlink'",
            "'symlink' or 'copy'",
        ),
        ("script = 'a.py'\noutput_dir = '.'", "a folder of its own"),
        ("script = 'a.py'\noutput_dir = '..'", "a folder of its own"),
        ("script = 'b/a.py'\noutput_dir = 'b'", "that holds no code"),
        ("script = 'a.py'\noutput_dir = '.git/runs'", "outside .git"),
        ("script = 'a.py'\nlog_file = 'a.py'", "'log_file'"),
        ("script = 'a.py'\nlog_file = './experiment.toml'", "a file of its own"),
        ("script = 'a.py'\nparameters_file = 'p.toml'\nlog_file = 'p.toml'", "a file of its own"),
        ("script = 'a.py", "line 1"),
    ],
)
def test_a_mistake_is_refused_with_file_key_and_remedy(root: Path, text, what):
    path = write(root, text)
    with pytest.raises(ConfigError) as caught:
        load(path, root=root)
    assert what in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1.5d", 129600), ("250ms", 0.25)]
    + [(5, 5), (0.5, 0.5), ("90", 90), (" 2 h ", 7200)],
)
def test_time_spans(value, seconds):
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "s", "-5s", "5 parsecs", "1h-3m", "0", 0, -1, True, None, "inf", float("nan"), []]
)
def test_what_is_no_time_span_is_refused(value):
    with pytest.raises(ConfigError, match="is no time span"):
        parse_duration(value)


def test_overrides_of_the_experiment(root: Path):
    overrides = ["wandb.enabled=false", "data.inputs.0.strategy=copy", "description=a b", "seed=9"]
    config = load(write(root, FULL), root=root, overrides=overrides)
    assert config.wandb.for_script() is None
    assert config.inputs[0].strategy == "copy"
    assert config.description == "a b"
    assert config.seed == 9


def test_seed_and_timeout_of_the_command_line_win(root: Path):
    config = load(write(root, FULL), root=root, overrides=["seed=9"], seed=11, timeout="2m")
    assert config.seed == 11
    assert config.timeout_s == 120


def test_an_override_may_add_a_table_the_file_lacks(root: Path):
    path = write(root, 'script = "work.py"')
    assert load(path, root=root, overrides=["wandb.project=fly"]).wandb.project == "fly"


def test_an_unknown_override_of_the_experiment_is_refused(root: Path):
    with pytest.raises(ConfigError, match=r"'wandb\.enabeld'; did you mean 'enabled'"):
        load(write(root, FULL), root=root, overrides=["wandb.enabeld=true"])
    with pytest.raises(ConfigError, match="--config 'wandb' is not KEY=VALUE"):
        load(write(root, FULL), root=root, overrides=["wandb"])


@pytest.mark.parametrize("text", [FULL, 'script = "work.py"\n'])
def test_the_resolved_experiment_means_the_same_again(root: Path, text):
    config = load(write(root, text), root=root)
    folder = root / "runs" / "odors" / "20261121T070000.123Z-odors-3f2a9c"
    again = load(write(root, resolved(config), str(folder / "experiment.toml")), root=root)
    assert again.parameters_file == folder / "parameters.toml"
    skipped = {"source", "parameters_file"}
    for key in set(config._fields) - skipped:
        assert getattr(again, key) == getattr(config, key), key


def test_the_resolved_experiment_keeps_places_outside_the_repository(root: Path, tmp_path: Path):
    text = (
        f'script = "work.py"\noutput_dir = "{tmp_path}/runs"\n[[data.inputs]]\npath = "/data/x"\n'
    )
    values = tomllib.loads(resolved(load(write(root, text), root=root)))
    assert values["output_dir"] == f"{tmp_path}/runs"
    assert values["data"]["inputs"][0]["path"] == "/data/x"


def test_parameters_without_overrides_are_the_exact_bytes(tmp_path: Path):
    data = b"# comment\r\nx   = 0x10\r\n"
    (tmp_path / "p.toml").write_bytes(data)
    found = load_parameters(tmp_path / "p.toml")
    assert found.data == data
    assert found.values == {"x": 16}
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.overridden == ()


def test_overridden_parameters_are_written_back(tmp_path: Path):
    (tmp_path / "p.toml").write_text("seed = 1\n[training]\nlr = 0.1\n")
    found = load_parameters(tmp_path / "p.toml", ["training.lr=0.2", "+training.warm=true"], seed=4)
    assert found.values == {"seed": 4, "training": {"lr": 0.2, "warm": True}}
    assert tomllib.loads(found.data.decode()) == found.values
    assert found.sha256 == hashlib.sha256(found.data).hexdigest()
    assert found.overridden == ("seed", "training.lr", "training.warm")


def test_the_seed_of_the_run_is_a_parameter_only_where_the_file_has_one(tmp_path: Path):
    (tmp_path / "p.toml").write_text("x = 1\n")
    assert load_parameters(tmp_path / "p.toml", seed=4).values == {"x": 1}
    (tmp_path / "p.toml").write_text("seed = 1\n")
    assert load_parameters(tmp_path / "p.toml", ["seed=2"], seed=4).values == {"seed": 2}


def test_parameters_without_a_file(tmp_path: Path):
    assert load_parameters(None).data == b""
    assert load_parameters(None, ["+x=1"]).values == {"x": 1}
    with pytest.raises(ConfigError, match="no parameters_file is named"):
        load_parameters(None, ["x=1"])
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_parameters(tmp_path / "absent.toml")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
WORDS = TEXT.filter(str.strip)


@given(description=TEXT, notes=WORDS, tags=st.lists(TEXT), rtol=st.floats(0, 1e300))
@settings(deadline=None, max_examples=50)
def test_any_text_survives_being_resolved(tmp_path_factory, description, notes, tags, rtol):
    root = tmp_path_factory.mktemp("r")
    values = {
        "script": "work.py",
        "name": "n",
        "description": description,
        "wandb": {"notes": notes, "tags": tags},
        "outputs": {"rtol": rtol},
    }
    config = load(write(root, toml.dumps(values), "e.toml"), root=root)
    again = load(write(root, resolved(config), "runs/n/id/experiment.toml"), root=root)
    assert (again.description, again.wandb, again.outputs) == (
        config.description,
        config.wandb,
        config.outputs,
    )
    assert (again.description, again.wandb.tags) == (description, tuple(tags))
