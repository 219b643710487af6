"""What is written for PyNN: synapses, delays, spikes, the script; and what is refused."""

from __future__ import annotations

import ast
import configparser
import json

import numpy as np
import pytest
import torch
from pynn_networks import (
    DT_MS,
    N_INPUTS,
    N_STEPS,
    N_TRIALS,
    N_UNITS,
    make_network,
    make_neuron,
    stimulus,
)

from neuro.export import (
    PynnError,
    PynnMissing,
    PynnReadout,
    SpinnakerMachine,
    compare_spike_counts,
    read_result,
    run_pynn,
    write_pynn,
)
from neuro.export.running import PYTHON_VARIABLE
from neuro.spiking import LeakyReadout, Network, Projection
from neuro.spiking.neurons import LIF

BOARD = SpinnakerMachine("192.168.240.9", version=3, time_scale_factor=10, host="192.168.240.2")


def written(folder, network=None, **options):
    export = write_pynn(folder, network or make_network(), {"stimulus": stimulus()}, **options)
    return export, dict(np.load(folder / "network.npz"))


def table(arrays, name, receptor):
    prefix = f"synapses.{name}.{receptor}."
    columns = (arrays[prefix + key] for key in ("pre", "post", "weight", "delay"))
    return np.column_stack(list(columns))


def test_synapses_are_split_by_sign_and_those_of_weight_zero_are_left_out(tmp_path):
    weights = torch.tensor([[0.5, 0.0, -2.0], [0.0, 0.0, 1.0]])
    neuron = LIF(10.0, tau_syn_ms=10.0, reset="zero", gain="exact")
    network = Network(
        neuron, {"stimulus": Projection(n_pre=2, n_post=3, weights=weights)}, n_units=3, dt_ms=1.0
    )
    export = write_pynn(tmp_path, network, {"stimulus": torch.zeros(5, 1, 2)})
    arrays = dict(np.load(tmp_path / "network.npz"))
    # Of gain "exact" weights are PyNN's own; pre, post and weight by hand.
    exciting = table(arrays, "population.stimulus", "excitatory")[:, :3]
    np.testing.assert_allclose(exciting, [[0, 0, 0.5], [1, 2, 1.0]])
    inhibiting = table(arrays, "population.stimulus", "inhibitory")[:, :3]
    np.testing.assert_allclose(inhibiting, [[0, 2, -2.0]])
    assert export.n_synapses == 3


@pytest.mark.parametrize("timestep_ms", [1.0, 0.5, 0.1])
def test_no_delay_is_shorter_than_the_simulators_least_and_late_synapses_are_counted(
    tmp_path, timestep_ms
):
    network = make_network(recurrent_delay=1)
    export, arrays = written(tmp_path, network, timestep_ms=timestep_ms)
    delays = np.concatenate([value for key, value in arrays.items() if key.endswith(".delay")])
    assert delays.min() == pytest.approx(timestep_ms)
    assert export.late_synapses == len(network.projections["lateral"].effective_weights())


def test_recurrent_delays_are_a_step_less_as_a_spike_ends_its_step(tmp_path):
    delays = torch.arange(N_UNITS) % 3 + 2
    ring = Projection(
        n_pre=N_UNITS,
        n_post=N_UNITS,
        weights=torch.ones(N_UNITS),
        edges=(torch.arange(N_UNITS), torch.arange(N_UNITS).roll(1)),
        delay_steps=delays,
    )
    network = make_network(recurrent_delay=1)
    network.projections["lateral"] = ring
    export, arrays = written(tmp_path, network)
    found = table(arrays, "population.lateral", "excitatory")
    assert export.late_synapses == 0
    assert dict(found[:, [0, 3]]) == {unit: unit % 3 + 1 for unit in range(N_UNITS)}


def test_a_readout_is_wired_from_the_units_that_it_reads_and_cannot_spike(tmp_path):
    readout = LeakyReadout(n_outputs=2, dt_ms=DT_MS, tau_ms=30.0)
    units = torch.tensor([31, 4, 17])
    weights = torch.tensor([[1.0, 2.0], [3.0, 0.0], [-5.0, 6.0]])
    _, arrays = written(
        tmp_path, readouts={"odors": PynnReadout("population", weights, readout, units=units)}
    )
    exciting = table(arrays, "odors", "excitatory")[:, :3].tolist()
    assert exciting == [[31, 0, 1.0], [31, 1, 2.0], [4, 0, 3.0], [17, 1, 6.0]]
    assert table(arrays, "odors", "inhibitory")[:, :3].tolist() == [[17, 0, -5.0]]
    assert (arrays["cells.odors.v_thresh"] > 1e4).all()


def test_inputs_hold_each_spike_with_its_trial_step_and_unit_and_counts_as_repeats(tmp_path):
    spikes = torch.zeros(N_STEPS, N_TRIALS, N_INPUTS)
    spikes[7, 1, 3], spikes[9, 0, 24] = 2, 1
    write_pynn(tmp_path, make_network(), {"stimulus": spikes})
    events = np.load(tmp_path / "inputs.npz")
    found = {tuple(row) for row in np.stack([events[f"stimulus.{k}"] for k in KEYS], axis=1)}
    assert found == {(1, 7, 3), (0, 9, 24)}
    assert sorted(events["stimulus.unit"]) == [3, 3, 24]


KEYS = ("trial", "step", "unit")


def test_script_imports_the_backend_and_nothing_of_this_project(tmp_path):
    for backend, module in (("nest", "pyNN.nest"), ("spinnaker", "pyNN.spiNNaker")):
        written(tmp_path, backend=backend)
        tree = ast.parse((tmp_path / "run.py").read_text(encoding="utf-8"))
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert module in names
        assert names <= {"sys", "Path", "numpy", module}


def test_names_that_hold_quotes_make_a_script_all_the_same(tmp_path):
    name = 'the "old" one\'s'
    network = make_network()
    networks = {name: network}
    write_pynn(tmp_path, networks, {"stimulus": stimulus()})
    tree = ast.parse((tmp_path / "run.py").read_text(encoding="utf-8"))
    assert name in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_a_step_may_be_a_whole_number(tmp_path):
    network = make_network(recurrent_delay=1)
    network.dt_ms = 1
    weights = torch.ones(N_UNITS, 1)
    readouts = {"out": PynnReadout("population", weights, LIF(10.0, reset="zero"))}
    written(tmp_path, network, readouts=readouts)
    assert json.loads((tmp_path / "export.json").read_text(encoding="utf-8"))["dt_ms"] == 1


def test_a_chain_starts_later_and_loses_no_time(tmp_path):
    second = Network(
        make_neuron(),
        {"first": Projection(n_pre=N_UNITS, n_post=N_UNITS, weights=torch.ones(N_UNITS, N_UNITS))},
        n_units=N_UNITS,
        dt_ms=DT_MS,
    )
    networks = {"first": make_network(), "second": second}
    export = write_pynn(tmp_path, networks, {"stimulus": stimulus()})
    about = json.loads((tmp_path / "export.json").read_text(encoding="utf-8"))
    starts = {name: part["start_ms"] for name, part in about["parts"].items()}
    # A delay of one step here is one step there, as a spike is at the end of its step.
    assert starts["second"] == starts["first"] + DT_MS
    assert export.late_synapses == 0


def loop():
    wires = Projection(n_pre=N_UNITS, n_post=N_UNITS, weights=torch.ones(N_UNITS, N_UNITS))
    sizes = {"n_units": N_UNITS, "dt_ms": DT_MS}
    neuron = make_neuron()
    other = make_network(recurrent_delay=1).projections["stimulus"]
    return {
        "first": Network(neuron, {"second": wires, "stimulus": other}, **sizes),
        "second": Network(neuron, {"first": wires}, **sizes),
    }


def reading(**values):
    options = {
        "source": "population",
        "weights": torch.ones(2, 3),
        "neuron": LIF(10.0, reset="zero"),
    }
    return {"out": PynnReadout(**{**options, **values})}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "genesis"}, "backend = 'genesis' is none of 'nest'"),
        ({"timestep_ms": 0.3}, "timestep_ms = 0.3 does not divide"),
        ({"timestep_ms": 2.0}, "timestep_ms = 2.0 does not divide"),
        ({"machine": BOARD}, "use backend = 'spinnaker'"),
        ({"network": loop()}, "feed back onto each other"),
        ({"network": {"a.b": make_network()}}, "arrays are named with dots"),
        ({"network": {"stimulus": make_network()}}, "name of the population itself"),
        ({"readouts": reading()}, "units must hold each of them once"),
        ({"readouts": reading(units=torch.tensor([3, 3]))}, "units must hold each of them once"),
        ({"readouts": reading(units=torch.tensor([3, 40]))}, "within the 40 of 'population'"),
        ({"readouts": reading(source="cells")}, "reads 'cells'; there are"),
        ({"inputs": {}}, "the networks read \\['stimulus'\\]"),
        ({"inputs": {"stimulus": stimulus()[..., :3]}}, "it must be \\(150, 2, 25\\)"),
        ({"inputs": {"stimulus": 0.5 * stimulus()}}, "no numbers of spikes"),
        ({"inputs": {"stimulus": -stimulus()}}, "no numbers of spikes"),
        ({"inputs": {"stimulus": 2 * stimulus()}, "backend": "spinnaker"}, "make steps shorter"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, options, message):
    inputs = options.pop("inputs", {"stimulus": stimulus()})
    network = options.pop("network", None) or make_network()
    with pytest.raises(PynnError, match=message):
        write_pynn(tmp_path / "out", network, inputs, **options)
    assert not (tmp_path / "out").exists()


def test_a_new_export_takes_away_the_results_of_the_old_one(tmp_path):
    (tmp_path / "results.npz").write_bytes(b"old")
    written(tmp_path)
    with pytest.raises(FileNotFoundError, match="run `python run.py` there first"):
        read_result(tmp_path)


def test_machine_is_written_as_spynnaker_reads_it(tmp_path):
    written(tmp_path, backend="spinnaker", machine=BOARD)
    settings = configparser.ConfigParser()
    settings.read(tmp_path / "spynnaker.cfg")
    # Names of sections and options after the spynnaker.cfg and spinnaker.cfg of sPyNNaker 7.4.1.
    assert dict(settings["Machine"]) == {
        "machine_name": "192.168.240.9",
        "version": "3",
        "time_scale_factor": "10",
    }
    assert settings["Recording"]["live_spike_host"] == "192.168.240.2"


@pytest.mark.parametrize(
    "machine", [SpinnakerMachine("", 3), SpinnakerMachine("a", 0), SpinnakerMachine("a", 5, 0)]
)
def test_a_machine_that_is_none_is_refused(tmp_path, machine):
    with pytest.raises(PynnError, match="is no machine"):
        written(tmp_path / "out", backend="spinnaker", machine=machine)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def bare_python(tmp_path, monkeypatch):
    """A Python that has no PyNN, named by the variable."""
    path = tmp_path / "bare_python"
    path.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'pyNN'\" >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(path))
    return path


def test_without_spynnaker_it_is_said_what_to_install_and_what_to_run(tmp_path, bare_python):
    export, _ = written(tmp_path / "out", backend="spinnaker", machine=BOARD)
    with pytest.raises(PynnMissing) as caught:
        run_pynn(export)
    message = str(caught.value)
    assert f"{bare_python} cannot import pyNN.spiNNaker" in message
    assert "pip install 'sPyNNaker'" in message
    assert "Nothing was run" in message
    assert f"run `python run.py` in {tmp_path / 'out'}" in message
    assert not (tmp_path / "out" / "results.npz").exists()


def test_a_script_that_fails_is_reported_with_its_last_lines(tmp_path, bare_python):
    export, _ = written(tmp_path / "out")
    with pytest.raises(PynnError, match="(?s)ended with 1.*No module named 'pyNN'"):
        run_pynn(export, python=str(bare_python))


def test_counts_are_compared_over_units_and_trials():
    spikes = torch.zeros(4, 2, 3)
    spikes[:, 0, 0], spikes[:2, 1, 1], spikes[3, 1, 2] = 1, 1, 1
    others = torch.zeros(4, 2, 3)
    others[:3, 0, 0], others[:2, 1, 1] = 1, 1
    agreement = compare_spike_counts(spikes, others)
    # Counts by hand: 4 0 0 | 0 2 1 and 3 0 0 | 0 2 0.
    expected = np.corrcoef([4, 0, 0, 0, 2, 1], [3, 0, 0, 0, 2, 0])[0, 1]
    assert agreement == pytest.approx((expected, 4 / 6, 7, 5))


def test_silence_has_no_correlation_and_other_shapes_are_refused():
    assert np.isnan(compare_spike_counts(torch.zeros(4, 1, 3), torch.zeros(4, 1, 3)).correlation)
    with pytest.raises(ValueError, match="rasters have shapes"):
        compare_spike_counts(torch.zeros(4, 1, 3), torch.zeros(4, 1, 2))


def test_recorded_times_become_steps_of_the_network(tmp_path):
    written(tmp_path, timestep_ms=0.5)
    start_ms = 3 * 0.5
    # Ends of steps 0 and 2, the middle of step 5, before the first step and after the last one.
    times = np.array([1.0, 3.0, 5.5, 0.0, N_STEPS + 1.0]) + start_ms
    times[3] = start_ms
    np.savez(
        tmp_path / "results.npz",
        **{"trials": [1], "1.population.time": times, "1.population.unit": [0, 1, 2, 3, 4]},
    )
    result = read_result(tmp_path)
    found = np.argwhere(result.spikes["population"]).tolist()
    assert found == [[0, 0, 0], [2, 0, 1], [5, 0, 2]]
