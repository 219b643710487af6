"""Checkpoints: what is saved comes back bit for bit, and no crash leaves a wrong one."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engram import checkpoint_files, metrics_files
from engram.checkpoint_files import newest_valid, problem
from engram.errors import ResumeError
from engram.paths import RunPaths

torch = pytest.importorskip("torch", reason="checkpoints hold tensors of torch")
np = pytest.importorskip("numpy", reason="random streams of numpy are saved too")

from engram.checkpoint import Checkpoints, load  # noqa: E402

LIB = Path(checkpoint_files.__file__).parents[1]

# A small training that uses every kind of random stream and can be killed within an epoch.
TRAIN = """
import json, os, random, signal, sys
from pathlib import Path
import numpy as np
import torch
from engram import metrics
from engram.checkpoint import Checkpoints

output_dir, resume_from = Path(sys.argv[1]), sys.argv[2]
epochs, die_in = int(sys.argv[3]), int(sys.argv[4])
random.seed(1); np.random.seed(2); torch.manual_seed(3)
torch.set_num_threads(1)
shuffle, noise = torch.Generator().manual_seed(4), np.random.default_rng(5)
x = torch.randn(24, 5); y = torch.arange(24) % 3
data = torch.utils.data.TensorDataset(torch.arange(24), x, y)
loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=shuffle)
model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7),
                            torch.nn.Dropout(0.3), torch.nn.Linear(7, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
streams = {"shuffle": shuffle, "noise": noise}
checkpoints = Checkpoints(output_dir, keep_last=2, keep_best="score")
start = checkpoints.resume(Path(resume_from) if resume_from else None, **state, generators=streams)
order = start.extra.get("order", [])
with metrics.open(output_dir) as log:
    for epoch in range(start.step + 1, epochs + 1):
        for count, (index, inputs, target) in enumerate(loader):
            order.append(index.tolist())
            jitter = random.random() + np.random.rand() + noise.normal()
            loss = torch.nn.functional.cross_entropy(model(inputs + jitter), target)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            log(step=epoch, loss=loss, jitter=jitter)
            if epoch == die_in and count == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        scheduler.step()
        checkpoints.save(epoch, **state, generators=streams, metric=[0, 1, 9, 2, 3, 4, 5][epoch],
                         extra={"order": order})
draws = [random.random(), np.random.rand(), noise.normal(), torch.rand(1).item(),
         torch.rand(1, generator=shuffle).item()]
(output_dir / "draws.json").write_text(json.dumps([draws, order]))
torch.save([value.state_dict() for value in state.values()], output_dir / "final.pt")
"""


def new_run(folder: Path) -> RunPaths:
    run = RunPaths(folder)
    run.outputs.mkdir(parents=True)
    run.provenance.mkdir()
    return run


def train(run: RunPaths, *, resume_from: Path | None = None, die_in: int = 0) -> int:
    script = run.folder / "train.py"
    script.write_text(TRAIN)
    command = [sys.executable, script, run.outputs, str(resume_from or ""), "6", str(die_in)]
    environment = {**os.environ, "PYTHONPATH": str(LIB)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def equal(a, b) -> bool:
    """Compare nested states without any code of engram."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def test_training_killed_and_resumed_equals_uninterrupted_training(tmp_path):
    straight, killed, resumed = (new_run(tmp_path / name) for name in ("a", "b", "c"))
    assert train(straight) == 0
    assert train(killed, die_in=4) == -signal.SIGKILL
    newest = newest_valid(killed.checkpoints)
    assert newest is not None
    assert newest.name == "step-00000003"
    position = checkpoint_files.read_meta(newest).metrics_position
    metrics_files.copy_until(killed, resumed, position)
    assert train(resumed, resume_from=newest) == 0

    assert resumed.metrics.read_bytes() == straight.metrics.read_bytes()
    assert killed.metrics.read_bytes() != straight.metrics.read_bytes()
    assert len(straight.metrics.read_text().splitlines()) == 6 * 3
    draws = [json.loads((run.outputs / "draws.json").read_text()) for run in (straight, resumed)]
    assert draws[0] == draws[1]
    assert len({tuple(sum(draws[0][1][i : i + 3], [])) for i in range(0, 18, 3)}) == 6
    final = [torch.load(run.outputs / "final.pt", weights_only=True) for run in (straight, resumed)]
    assert equal(*final)
    assert tree(resumed.checkpoints) == tree(straight.checkpoints)
    assert sorted(path.name for path in resumed.checkpoints.iterdir()) == [
        "step-00000002",
        "step-00000005",
        "step-00000006",
    ]


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Saves in forked children that are killed: at each operation in turn, then at random moments.
CRASH = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from engram.checkpoint import Checkpoints

folder, events, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)

def save(checkpoints, step):
    model = torch.nn.Linear(50, 50)
    torch.nn.init.constant_(model.weight, step)
    checkpoints.save(step, model=model, metric=-step)

def child(case, kill_at, repeat):
    checkpoints = Checkpoints(folder / case, keep_last=2, keep_best="m")
    for step in (1, 2, 3):
        save(checkpoints, step)
    left = [kill_at]
    def hook(name, arguments):
        if name == "open" or name.startswith(("os.", "shutil.")):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    save(checkpoints, 3 if repeat else 4)
    os._exit(0)

def run(function, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        finally:
            os._exit(9)
    return pid

for repeat in (0, 1):
    for n in range(1, events + 1):
        pid = run(child, f"at-{repeat}-{n}", n, repeat)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, (repeat, n, status)
            print("whole", repeat, n, flush=True)
            break

def endless(case, pipe):
    checkpoints = Checkpoints(folder / case, keep_last=2, keep_best="m")
    step = 0
    while True:
        step += 1
        save(checkpoints, step)
        os.write(pipe, step.to_bytes(4, "big"))

dice = random.Random(int(sys.argv[4]))
for n in range(rounds):
    reader, writer = os.pipe()
    pid = run(endless, f"random-{n}", writer)
    os.close(writer)
    saved = os.read(reader, 4)
    time.sleep(dice.random() * 0.03)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    rest = saved + os.read(reader, 1 << 16)
    os.close(reader)
    print("random", n, int.from_bytes(rest[-4:], "big"), flush=True)
"""


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """Folders left by writers killed at every operation of a save and at random moments."""
    folder = tmp_path_factory.mktemp("crashed")
    seed = random.randrange(1 << 30)
    script = folder / "crash.py"
    script.write_text(CRASH)
    command = [sys.executable, script, folder, "200", "25", str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(LIB)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(f"random moments drawn with seed {seed}")
    return folder, [line.split() for line in done.stdout.splitlines()]


def whole(checkpoint: Path) -> int:
    """Check a checkpoint with sha256sum and torch alone, and return its step."""
    meta = json.loads((checkpoint / "meta.json").read_text())
    sums = "".join(f"{file['sha256']}  {name}\n" for name, file in meta["files"].items())
    subprocess.run(
        ["sha256sum", "--check", "--quiet"], input=sums, text=True, cwd=checkpoint, check=True
    )
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    weight = state["objects"]["model"]["state"]["weight"]
    assert torch.equal(weight, torch.full((50, 50), float(meta["step"])))
    return int(meta["step"])


def test_kill_at_any_operation_of_a_save_leaves_the_newest_checkpoint_valid(crashed):
    folder, lines = crashed
    tried = {int(repeat): int(n) for kind, repeat, n in lines if kind == "whole"}
    assert set(tried) == {0, 1}
    assert min(tried.values()) > 15
    for repeat, count in tried.items():
        for n in range(1, count + 1):
            checkpoints = folder / f"at-{repeat}-{n}" / "checkpoints"
            newest = newest_valid(checkpoints)
            assert newest is not None, (repeat, n)
            assert whole(newest) in ((3,) if repeat else (3, 4))
            best = checkpoint_files.best(checkpoints, "m", "max")
            assert best is not None, (repeat, n)
            assert whole(best) == 1
            for _, path in checkpoint_files.saved_steps(checkpoints):
                assert problem(path) is None, (repeat, n, path)


def test_kill_at_a_random_moment_keeps_every_save_that_returned(crashed):
    folder, lines = crashed
    finished = {int(n): int(step) for kind, n, step in lines if kind == "random"}
    assert len(finished) == 25
    for n, step in finished.items():
        newest = newest_valid(folder / f"random-{n}" / "checkpoints")
        assert newest is not None
        assert whole(newest) in (step, step + 1)


def small(seed: int = 0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    return model, torch.optim.Adam(model.parameters())


def test_leftovers_of_a_killed_writer_are_cleared_by_the_next_save(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    leftover = checkpoints.folder / ".step-00000009.1.tmp"
    leftover.mkdir(parents=True)
    (leftover / "state.pt").write_bytes(b"half")
    checkpoints.save(1, model=small()[0])
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("name", ["state.pt", "rng.json", "meta.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_checkpoint_is_passed_over_for_the_next_older_one(tmp_path, name, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        newest = checkpoints.save(step, model=small()[0])
    data = bytearray((newest / name).read_bytes())
    if damage == "remove":
        (newest / name).unlink()
    elif damage == "truncate":
        (newest / name).write_bytes(data[: len(data) // 2])
    else:
        # The first byte of a JSON file, any byte of a tensor.
        at = 0 if name == "meta.json" else len(data) // 2
        data[at] ^= 0xFF
        (newest / name).write_bytes(data)
    found = newest_valid(checkpoints.folder)
    assert found == checkpoints.folder / "step-00000001"
    with pytest.raises(ResumeError, match="step-00000002.*not a valid checkpoint"):
        load(newest, model=small()[0])


def test_newest_valid_of_nothing_is_none(tmp_path):
    assert newest_valid(tmp_path / "absent") is None
    assert newest_valid(tmp_path) is None


def test_newest_valid_works_without_any_installed_package(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    newest = checkpoints.save(12, model=small()[0])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from engram.checkpoint_files import newest_valid\n"
        "print(newest_valid(Path(sys.argv[2]))); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-S", "-I", "-c", code, LIB, checkpoints.folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(newest)


def test_every_random_stream_continues_where_it_was(tmp_path):
    streams = {
        "torch": torch.Generator().manual_seed(1),
        **{name: np.random.Generator(getattr(np.random, name)(2)) for name in BIT_GENERATORS},
        "legacy": np.random.RandomState(3),
        "python": random.Random(4),
    }
    # Odd numbers of normal draws leave a second one waiting inside the generator.
    random.gauss(0, 1)
    np.random.randn(3)  # noqa: NPY002
    streams["legacy"].randn(3)
    streams["python"].gauss(0, 1)
    streams["MT19937"].integers(0, 10, dtype=np.uint32)
    saved = Checkpoints(tmp_path).save(1, generators=streams)
    expected = draw(streams)
    assert draw(streams) != expected
    load(saved, generators=streams)
    assert draw(streams) == expected


BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def draw(streams) -> list[float]:
    named = [streams[name].standard_normal(3).tolist() for name in BIT_GENERATORS]
    single = [
        int(streams[name].integers(0, 1 << 32, dtype=np.uint32, size=3)[1])
        for name in BIT_GENERATORS
    ]
    return [
        random.gauss(0, 1),
        random.random(),
        np.random.randn(),  # noqa: NPY002
        np.random.rand(),  # noqa: NPY002
        torch.randn(3).tolist(),
        torch.randn(3, generator=streams["torch"]).tolist(),
        *named,
        *single,
        streams["legacy"].randn(),
        streams["python"].gauss(0, 1),
    ]


def test_random_streams_of_every_cuda_device_are_restored(tmp_path, monkeypatch):
    devices = tuple(torch.Generator().manual_seed(seed) for seed in (1, 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", devices)
    saved = Checkpoints(tmp_path).save(1)
    expected = [torch.rand(2, generator=device).tolist() for device in devices]
    load(saved)
    assert [torch.rand(2, generator=device).tolist() for device in devices] == expected
    monkeypatch.setattr(torch.cuda, "default_generators", devices[:1])
    with pytest.warns(UserWarning, match="cuda:1, which is not here"):
        load(saved)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_real_cuda_stream_is_restored(tmp_path):
    torch.rand(3, device="cuda")
    own = torch.Generator("cuda").manual_seed(7)
    saved = Checkpoints(tmp_path).save(1, generators={"own": own})
    expected = [torch.rand(3, device="cuda").tolist(), torch.rand(3, device="cuda", generator=own)]
    load(saved, generators={"own": own})
    assert torch.rand(3, device="cuda").tolist() == expected[0]
    assert torch.equal(torch.rand(3, device="cuda", generator=own), expected[1])


def test_other_shape_is_refused_with_the_key_and_both_shapes(tmp_path):
    model, optimizer = small()
    saved = Checkpoints(tmp_path).save(1, model=model, optimizer=optimizer)
    wider = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    before = {key: value.clone() for key, value in wider.state_dict().items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with pytest.raises(ResumeError) as caught:
        load(saved, model=wider, optimizer=torch.optim.Adam(wider.parameters()))
    text = str(caught.value)
    assert "model.0.weight: shape (5, 3) here, (4, 3) in the checkpoint" in text
    assert "model.1.weight: shape (2, 5) here, (2, 4) in the checkpoint" in text
    assert "optimizer.param_groups[0].params[0]: shape (5, 3) here, (4, 3)" in text
    assert str(saved) in text
    assert equal(dict(wider.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), state)


def other_names(model):
    return torch.nn.ModuleDict({"first": torch.nn.Linear(3, 4)})


def doubles(model):
    return small()[0].double()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_names, "model.first.weight is not in the checkpoint, shape (4, 3)"),
        (other_names, "model.0.weight is only in the checkpoint, shape (4, 3)"),
        (doubles, "model.0.bias: dtype torch.float64 here, torch.float32 in the checkpoint"),
        (
            lambda m: torch.optim.Adam(m.parameters()),
            "model: optimizer Adam here, module Sequential",
        ),
    ],
)
def test_model_that_does_not_fit_is_refused_by_name(tmp_path, change, message):
    model, _ = small()
    saved = Checkpoints(tmp_path).save(1, model=model)
    with pytest.raises(ResumeError) as caught:
        load(saved, model=change(model))
    assert message in str(caught.value)


def two_groups(model):
    return torch.optim.Adam([{"params": list(part.parameters())} for part in model])


def one_less(model):
    return torch.optim.Adam(list(model.parameters())[:-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_groups, "optimizer: 2 parameter groups here, 1 in the checkpoint"),
        (one_less, "optimizer.param_groups[0]: 3 parameters here, 4 in the checkpoint"),
        (lambda m: torch.optim.SGD(m.parameters()), "optimizer: SGD here, Adam in the checkpoint"),
    ],
)
def test_other_optimizer_is_refused(tmp_path, make, message):
    model, optimizer = small()
    saved = Checkpoints(tmp_path).save(1, model=model, optimizer=optimizer)
    with pytest.raises(ResumeError) as caught:
        load(saved, model=model, optimizer=make(model))
    assert message in str(caught.value)


def test_forgotten_object_or_generator_is_refused_unless_partial(tmp_path):
    model, optimizer = small()
    streams = {"shuffle": torch.Generator()}
    saved = Checkpoints(tmp_path).save(1, model=model, optimizer=optimizer, generators=streams)
    with pytest.raises(ResumeError) as caught:
        load(saved, model=model, generators={"other": random.Random()})
    assert "optimizer of the checkpoint is not given" in str(caught.value)
    assert "generators['shuffle'] of the checkpoint is not given" in str(caught.value)
    assert "generators['other'] is not in the checkpoint" in str(caught.value)
    with pytest.raises(ResumeError, match=r"'shuffle'.*: python here, torch cpu in the checkpoint"):
        load(saved, model=model, optimizer=optimizer, generators={"shuffle": random.Random()})
    fresh, _ = small(seed=5)
    before = torch.get_rng_state()
    load(saved, model=fresh, partial=True)
    assert equal(dict(fresh.state_dict()), dict(model.state_dict()))
    assert torch.equal(torch.get_rng_state(), before)


SCHEDULERS = {
    "multistep": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3]),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "onecycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        [2],
    ),
}
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "lbfgs": lambda p: torch.optim.LBFGS(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
}


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        *((optimizer, "multistep") for optimizer in OPTIMIZERS),
        *(("sgd", scheduler) for scheduler in SCHEDULERS if scheduler != "multistep"),
    ],
)
def test_optimizers_and_schedulers_continue_bit_for_bit(tmp_path, optimizer, scheduler):
    straight = steps(None, optimizer, scheduler, tmp_path / "a", save_at=2)
    saved = tmp_path / "a" / "checkpoints" / "step-00000002"
    assert equal(steps(saved, optimizer, scheduler, tmp_path / "b"), straight)


def steps(resume_from, optimizer_name, scheduler_name, output_dir, save_at=None):
    model, _ = small()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    scheduler = SCHEDULERS[scheduler_name](optimizer)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    checkpoints = Checkpoints(output_dir)
    done = checkpoints.resume(resume_from, **state).step

    def loss():
        optimizer.zero_grad()
        value = model(torch.full((2, 3), float(step))).square().sum()
        value.backward()
        return value

    for step in range(done + 1, 6):
        value = optimizer.step(loss)
        scheduler.step(*([value.item()] if scheduler_name == "plateau" else []))
        if step == save_at:
            checkpoints.save(step, **state)
    return [model.state_dict(), optimizer.state_dict(), optimizer.param_groups[0]["lr"]]


def test_equal_states_are_saved_as_equal_bytes(tmp_path):
    model, optimizer = small()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    extra = {"name": "".join(["a", "b"]), "ab": ["ab", ("ab", 1.5)]}
    first = Checkpoints(tmp_path / "a").save(1, model=model, optimizer=optimizer, extra=extra)
    again, adam = small(seed=9)
    found = load(first, model=again, optimizer=adam)
    second = Checkpoints(tmp_path / "b").save(1, model=again, optimizer=adam, extra=found.extra)
    assert tree(first) == tree(second)


def test_extra_data_comes_back_with_its_types(tmp_path):
    extra = {
        "int": 1 << 70,
        "float": 0.1,
        "nan": float("inf"),
        "none": None,
        "bool": True,
        "text": "é",
        "nested": [1, (2, {"x": torch.ones(2, dtype=torch.bfloat16)}), b"raw"],
        1: "int key",
    }
    saved = Checkpoints(tmp_path).save(3, extra={**extra, "numpy": np.float64(0.5)})
    found = load(saved)
    assert found.step == 3
    assert type(found.extra["numpy"]) is float
    assert equal(found.extra, {**extra, "numpy": 0.5})


@pytest.mark.parametrize("value", [{1, 2}, object(), np.ones(2), Path("x")])
def test_data_that_weights_only_would_refuse_is_refused_at_the_save(tmp_path, value):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match=rf"extra\['a'\]\[1\] is a {type(value).__name__}"):
        checkpoints.save(1, extra={"a": [0, value]})
    assert not checkpoints.folder.exists()


def test_pickled_code_is_never_run(tmp_path):
    saved = Checkpoints(tmp_path).save(1, model=small()[0])
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    torch.save({"objects": Evil(), "extra": {}}, saved / "state.pt")
    meta = json.loads((saved / "meta.json").read_text())
    digest = hashlib.sha256((saved / "state.pt").read_bytes()).hexdigest()
    meta["files"]["state.pt"]["sha256"] = digest
    (saved / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(Exception, match="weights_only|Weights only"):
        load(saved, model=small()[0])
    assert not marker.exists()


def test_a_view_of_a_large_tensor_is_saved_alone(tmp_path):
    large = torch.zeros(1_000_000)
    saved = Checkpoints(tmp_path).save(1, extra={"few": large[10:20]})
    assert (saved / "state.pt").stat().st_size < 10_000
    assert torch.equal(load(saved).extra["few"], torch.zeros(10))


def kept(checkpoints: Checkpoints) -> list[int]:
    return sorted(step for step, _ in checkpoint_files.saved_steps(checkpoints.folder))


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("max", [1, 9, 3, 9, 5, 6], [2, 5, 6]),
        ("min", [5, 1, 3, 1, 5, 6], [2, 5, 6]),
        ("max", [float("nan"), 1, float("nan"), 0, 0, 0], [2, 5, 6]),
        ("max", [1, 2, 3, 4, 5, 6], [5, 6]),
    ],
)
def test_the_last_and_the_best_checkpoint_are_kept(tmp_path, mode, values, expected):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best="accuracy", mode=mode)
    for step, value in enumerate(values, start=1):
        checkpoints.save(step, metric=value)
    assert kept(checkpoints) == expected


def test_all_checkpoints_are_kept_on_request(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=None)
    for step in range(5):
        checkpoints.save(step)
    assert kept(checkpoints) == [0, 1, 2, 3, 4]
    assert checkpoints.newest() == checkpoints.folder / "step-00000004"


def test_a_resumed_run_keeps_the_best_checkpoint_of_its_parent(tmp_path):
    parent = Checkpoints(tmp_path / "a", keep_last=2, keep_best="score")
    for step, value in enumerate([5, 9, 1, 2], start=1):
        parent.save(step, metric=value, extra={"step": step})
    before = tree(parent.folder)
    child = Checkpoints(tmp_path / "b", keep_last=2, keep_best="score")
    found = child.resume(parent.folder / "step-00000004")
    assert (found.step, found.extra, found.metric) == (4, {"step": 4}, 2.0)
    child.save(5, metric=3)
    assert kept(child) == [2, 4, 5]
    assert child.best() == child.folder / "step-00000002"
    assert tree(parent.folder) == before


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, extra={"a": 1})
    saved = checkpoints.save(1, extra={"a": 2})
    assert load(saved).extra == {"a": 2}
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


def test_resuming_from_nothing_begins_at_step_0(tmp_path):
    found = Checkpoints(tmp_path).resume(None, model=small()[0])
    assert (found.step, found.extra, found.path) == (0, {}, None)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("missing", ["nothing", "checkpoints"])
def test_loading_where_no_checkpoint_is_says_so(tmp_path, missing):
    with pytest.raises(ResumeError, match="not a valid checkpoint.*meta.json is missing"):
        load(tmp_path / missing)


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_last is 0"):
        Checkpoints(tmp_path, keep_last=0)
    with pytest.raises(ValueError, match="mode is 'best'"):
        Checkpoints(tmp_path, mode="best")
    with pytest.raises(ValueError, match="step is -1"):
        Checkpoints(tmp_path).save(-1)
    with pytest.raises(ValueError, match="metric is None and keep_best is 'a'"):
        Checkpoints(tmp_path, keep_best="a").save(1)
    with pytest.raises(ValueError, match="metric is 1 and keep_best is None"):
        Checkpoints(tmp_path).save(1, metric=1)
    with pytest.raises(TypeError, match="model is a dict, which has no state_dict"):
        Checkpoints(tmp_path).save(1, model={})
    with pytest.raises(TypeError, match=r"generators\['g'\] is 5"):
        Checkpoints(tmp_path).save(1, generators={"g": 5})


def test_a_failed_save_leaves_no_trace_and_the_older_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        checkpoints.save(2)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


def test_a_copied_checkpoint_folder_loads_alone(tmp_path):
    model, _ = small()
    saved = Checkpoints(tmp_path / "a").save(7, model=model)
    shutil.copytree(saved, tmp_path / "mine")
    fresh, _ = small(seed=3)
    assert load(tmp_path / "mine", model=fresh).step == 7
    assert equal(dict(fresh.state_dict()), dict(model.state_dict()))


def test_buffers_versions_and_lazy_layers_survive(tmp_path):
    model = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.BatchNorm1d(3))
    model(torch.randn(4, 2))
    saved = Checkpoints(tmp_path).save(1, model=model)
    again = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.BatchNorm1d(3))
    again(torch.randn(4, 2))
    load(saved, model=again)
    assert equal(dict(again.state_dict()), dict(model.state_dict()))
    assert model.state_dict()._metadata == again.state_dict()._metadata
