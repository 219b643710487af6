"""The export of a trained pathway, on the small fly: what is written, compared and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_fly import FOLDER, imported, write_parameters, write_small_tables

from neuro.export import PynnMissing, find_python
from neuro.spiking.nir import from_nir

BARE = "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'pyNN'\" >&2\nexit 1\n"


def train(model, inputs, **changed):
    """An inputs folder with tables and a run, as the runner makes it."""
    write_small_tables(inputs / "tables")
    (inputs / "trained").mkdir()
    parameters = write_parameters(model, inputs / "p.toml", **changed)
    with imported("train") as script:
        script.main(inputs, inputs / "trained", parameters)
    return inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    # At most one spike of a receptor neuron a step: what SpiNNaker can send.
    return train("full", tmp_path_factory.mktemp("inputs"), **{"network.dt_ms": 1})


@pytest.fixture
def export():
    with imported("export") as script:
        yield script


def parameters_file(folder, **changed):
    text = (FOLDER / "parameters_export.toml").read_text(encoding="utf-8")
    for before, after in {"trials = 1": "trials = 3", **changed}.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path = folder / "parameters_export.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def without_pynn(tmp_path, monkeypatch):
    python = tmp_path / "bare_python"
    python.write_text(BARE)
    python.chmod(0o755)
    monkeypatch.setenv("ENGRAM_PYNN_PYTHON", str(python))
    return python


def test_without_pynn_everything_is_written_and_the_summary_says_why_nothing_is_compared(
    export, inputs, tmp_path, without_pynn
):
    nir = pytest.importorskip("nir")
    summary = export.main(inputs, tmp_path, parameters_file(tmp_path))
    assert f"{without_pynn} cannot import pyNN.nest" in summary["not_compared"]
    assert "spike_count_correlation" not in summary
    assert summary["nir"] == "written" and summary["trials"] == 3
    assert {path.name for path in (tmp_path / "pynn").iterdir()} == {
        *("run.py", "network.npz", "inputs.npz", "export.json")
    }
    arrays = np.load(tmp_path / "pynn" / "network.npz")
    trained = export.load_trained(inputs)
    kinds = trained.built.network.units["cell_class"].to_numpy()
    read = np.concatenate(
        [arrays[key] for key in arrays.files if key.startswith("synapses.odors.") and ".pre" in key]
    )
    assert set(kinds[read]) == {"KC"}
    here = export.simulate(trained, 3)
    model = from_nir(nir.read(tmp_path / "network.nir"), dtype=torch.float32)
    runs, outputs = model({"receptors": here.receptors})
    assert here.spikes.sum() > 10
    assert torch.equal(runs["cells"].spikes, here.spikes)
    torch.testing.assert_close(outputs["odors"], here.outputs, rtol=1e-4, atol=1e-5)


def test_spinnaker_gets_its_machine_and_is_not_said_to_have_run(
    export, inputs, tmp_path, without_pynn
):
    path = parameters_file(tmp_path, **{'backend = "nest" ': 'backend = "spinnaker" '})
    summary = export.main(inputs, tmp_path, path)
    assert "Nothing was run" in summary["not_compared"]
    assert "machine_name = 192.168.240.9" in (tmp_path / "pynn" / "spynnaker.cfg").read_text()
    assert "pyNN.spiNNaker" in (tmp_path / "pynn" / "run.py").read_text()


def test_nest_agrees_with_the_trained_network(export, inputs, tmp_path):
    try:
        find_python("nest")
    except PynnMissing as missing:
        pytest.skip(str(missing))
    summary = export.main(inputs, tmp_path, parameters_file(tmp_path))
    assert summary["spikes"] > 10
    assert summary["spike_count_correlation"] > 0.95
    assert summary["output_correlation"] > 0.9
    assert 0 <= summary["same_decision_fraction"] <= 1


def test_the_compact_network_is_refused(export, tmp_path):
    inputs = train("compact", tmp_path)
    with pytest.raises(ValueError, match="graded value that neither PyNN"):
        export.main(inputs, tmp_path, parameters_file(tmp_path))


@pytest.mark.parametrize(
    ("given", "message"), [("tables", "name a run of full.toml"), ("trained", "run fetch")]
)
def test_a_missing_input_is_named_with_its_remedy(export, tmp_path, given, message):
    (tmp_path / given).mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        export.main(tmp_path, tmp_path, parameters_file(tmp_path))
