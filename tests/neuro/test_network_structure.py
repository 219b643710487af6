"""The file that hands a network from stage to stage: what goes in comes out, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro.connectome.assemblies import AssemblyWiring, FeedforwardWiring
from neuro.connectome.cell_types import Population
from neuro.connectome.network_structure import NetworkStructure, load_structure, save_structure
from neuro.connectome.synthetic import SyntheticConnectome, draw_structure
from neuro.connectome.weights import WeightLaw

NAMES = [field.name for field in dataclasses.fields(NetworkStructure)]


def tables(**changed):
    """Parameters of a small connectome, as a TOML file gives them."""
    weights = {"law": "log-normal", "w_mean": [[0.1, 0.05], [0.2, 0.19]], "w_variance": 0.1}
    return {
        "cells": {"n_cells": 83, "names": ["E", "I"], "proportions": [0.8, 0.2]},
        "recurrent": {
            "n_assemblies": 4,
            "law": "configuration",
            "conn_within": [[0.2, 0.2], [0.4, 0.2]],
            "conn_between": 0.05,
        },
        "recurrent_weights": weights,
        "inputs": {"n_cells": 30, "names": ["mitral"], "proportions": [1.0]},
        "feedforward": {"law": "configuration", "probability": 0.1},
        "feedforward_weights": weights | {"w_mean": [[0.05, 0.02]]},
    } | changed


def draw(seed=0, **changed):
    kinds = {
        "cells": Population,
        "recurrent": AssemblyWiring,
        "recurrent_weights": WeightLaw,
        "inputs": Population,
        "feedforward": FeedforwardWiring,
        "feedforward_weights": WeightLaw,
    }
    parameters = {name: kinds[name](**table) for name, table in tables(**changed).items()}
    return draw_structure(SyntheticConnectome(**parameters), generator=np.random.default_rng(seed))


def arrays(structure):
    return {name: getattr(structure, name) for name in NAMES}


def hand_made(**changed):
    """Three cells and two inputs:

    recurrent 0 -> 1, 0 -> 2, 2 -> 0; feed-forward 0 -> 0, 1 -> 2
    """
    return {
        "cell_type_names": np.array(["E", "I"]),
        "cell_type_ids": np.array([0, 0, 1]),
        "assembly_ids": np.array([0, 0, -1]),
        "input_type_names": np.array(["mitral"]),
        "input_type_ids": np.array([0, 0]),
        "recurrent_pre": np.array([0, 0, 2]),
        "recurrent_post": np.array([1, 2, 0]),
        "recurrent_weight": np.array([0.5, 0.25, 2.0]),
        "feedforward_pre": np.array([0, 1]),
        "feedforward_post": np.array([0, 2]),
        "feedforward_weight": np.array([1.0, 0.0]),
    } | changed


def assert_same(first, second):
    for name, array in arrays(first).items():
        other = getattr(second, name)
        assert array.dtype == other.dtype, name
        np.testing.assert_array_equal(array, other, err_msg=name)


def test_a_drawn_structure_survives_the_round_trip_bit_for_bit(tmp_path):
    structure = draw()
    save_structure(tmp_path / "network_structure.npz", structure)
    assert_same(load_structure(tmp_path / "network_structure.npz"), structure)
    assert [path.name for path in tmp_path.iterdir()] == ["network_structure.npz"]


@settings(max_examples=20, deadline=None)
@given(
    n_cells=st.integers(1, 6),
    n_inputs=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_any_small_structure_survives_the_round_trip(tmp_path_factory, n_cells, n_inputs, seed):
    generator = np.random.default_rng(seed)
    joined = generator.random((n_cells, n_cells)) < 0.5
    np.fill_diagonal(joined, val=False)
    recurrent, feedforward = np.nonzero(joined), np.nonzero(generator.random((n_inputs, n_cells)))
    structure = NetworkStructure(
        cell_type_names=np.array(["E"]),
        cell_type_ids=np.zeros(n_cells, dtype=int),
        assembly_ids=np.full(n_cells, -1),
        input_type_names=np.array(["mitral", "granule"]),
        input_type_ids=generator.integers(0, 2, n_inputs),
        recurrent_pre=recurrent[0],
        recurrent_post=recurrent[1],
        recurrent_weight=generator.random(len(recurrent[0])),
        feedforward_pre=feedforward[0],
        feedforward_post=feedforward[1],
        feedforward_weight=generator.random(len(feedforward[0])),
    )
    path = tmp_path_factory.mktemp("structure") / "network_structure.npz"
    save_structure(path, structure)
    assert_same(load_structure(path), structure)


def test_equal_structures_give_equal_bytes(tmp_path):
    for name in ("first", "second"):
        save_structure(tmp_path / f"{name}.npz", draw(seed=3))
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def test_types_on_disk_are_those_of_the_schema(tmp_path):
    save_structure(tmp_path / "s.npz", NetworkStructure(**hand_made()))
    with np.load(tmp_path / "s.npz") as file:
        assert sorted(file.files) == sorted(NAMES)
        for name in NAMES:
            kind = "U" if name.endswith("_names") else "f4" if name.endswith("weight") else "i8"
            assert file[name].dtype.kind == "U" if kind == "U" else file[name].dtype == kind


def test_sizes_and_type_pairs_are_read_off_the_arrays():
    structure = NetworkStructure(**hand_made())
    assert (structure.n_cells, structure.n_inputs, structure.n_assemblies) == (3, 2, 1)
    factor = np.array([[1.0, 2.0], [3.0, 4.0]])
    # 0 -> 1 is E -> E, 0 -> 2 is E -> I, 2 -> 0 is I -> E
    assert factor[structure.recurrent_type_pairs].tolist() == [1.0, 2.0, 3.0]
    assert [pair.tolist() for pair in structure.feedforward_type_pairs] == [[0, 0], [0, 1]]
    assert structure.cell_type("I") == 1
    with pytest.raises(ValueError, match="cell type 'X' is none of 'E', 'I'"):
        structure.cell_type("X")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cell_type_ids": np.array([0, 0, 2])}, "cell_type_ids holds 2, which is not in 0 .. 1"),
        ({"cell_type_ids": np.array([0.0, 0, 1])}, "cell_type_ids has .* not one axis of whole"),
        ({"input_type_ids": np.array([0, -1])}, "input_type_ids holds -1"),
        ({"assembly_ids": np.array([0, -2, 0])}, "assembly_ids holds -2, which is not in -1"),
        ({"assembly_ids": np.array([0, 0])}, "assembly_ids has 2 entries for 3 cells"),
        ({"cell_type_names": np.array(["E", "E"])}, "cell_type_names = .* a name twice"),
        ({"cell_type_names": np.array([1, 2])}, "cell_type_names has .* not one axis of names"),
        ({"recurrent_post": np.array([1, 3, 0])}, "recurrent_post holds 3, which is not in 0 .. 2"),
        ({"recurrent_post": np.array([1, 2, 2])}, "an edge from a cell to itself"),
        ({"recurrent_post": np.array([2, 1, 0])}, "are not sorted by"),
        ({"recurrent_post": np.array([1, 1, 0])}, "or hold an edge twice"),
        ({"recurrent_weight": np.array([0.5, 0.25])}, "differ in length: .*'recurrent_weight': 2"),
        ({"recurrent_weight": np.array([0.5, -0.25, 1])}, "recurrent_weight holds .* negative"),
        ({"recurrent_weight": np.array([0.5, np.nan, 1])}, "recurrent_weight holds .* no number"),
        ({"recurrent_weight": np.array([0.5, 1e39, 1])}, "recurrent_weight holds .* infinite"),
        ({"recurrent_weight": np.ones((3, 1))}, "recurrent_weight has shape"),
        ({"feedforward_pre": np.array([0, 2])}, "feedforward_pre holds 2, which is not in 0 .. 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name_when_made_and_when_loaded(
    tmp_path, changed, message
):
    with pytest.raises(ValueError, match=message):
        NetworkStructure(**hand_made(**changed))
    np.savez(tmp_path / "bad.npz", **hand_made(**changed))
    with pytest.raises(ValueError, match=f"bad.npz: .*{message}.*: write it with"):
        load_structure(tmp_path / "bad.npz")


def test_missing_and_unknown_arrays_are_refused_by_name(tmp_path):
    renamed = hand_made()
    renamed["weights"] = renamed.pop("recurrent_weight")
    np.savez(tmp_path / "renamed.npz", **renamed)
    with pytest.raises(ValueError, match=r"renamed.npz lacks recurrent_weight .*\['weights'\]"):
        load_structure(tmp_path / "renamed.npz")
    np.savez(tmp_path / "more.npz", **hand_made(), delays=np.zeros(3))
    with pytest.raises(ValueError, match="more.npz holds delays, which no network structure has"):
        load_structure(tmp_path / "more.npz")


def test_files_that_are_no_structure_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no network structure .*absent.npz"):
        load_structure(tmp_path / "absent.npz")
    save_structure(tmp_path / "s.npz", NetworkStructure(**hand_made()))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:-100])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "pickled.npz", cell_type_ids=np.array([{}], dtype=object))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("cut.npz", "text.npz", "empty.npz", "pickled.npz", "array.npy"):
        with pytest.raises(ValueError, match=f"{name} is no whole .npz file"):
            load_structure(tmp_path / name)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "network_structure.npz"
    save_structure(path, NetworkStructure(**hand_made()))
    before = path.read_bytes()

    def break_off(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", break_off)
    with pytest.raises(OSError, match="disk full"):
        save_structure(path, draw())
    assert path.read_bytes() == before


def test_a_drawn_structure_has_the_parameters_sizes():
    structure = draw()
    assert (structure.n_cells, structure.n_inputs, structure.n_assemblies) == (83, 30, 4)
    # 83 = 4 * 20 + 3; of each assembly 16 E and 4 I, of the three left over 2 and 1.
    assert (structure.assembly_ids == -1).sum() == 3
    assert np.bincount(structure.cell_type_ids).tolist() == [66, 17]
    assert len(structure.feedforward_pre) == round(0.1 * 30 * 66) + round(0.1 * 30 * 17)


def test_other_weights_leave_the_graph_and_another_graph_leaves_the_types():
    first = draw()
    heavier = draw(recurrent_weights=tables()["recurrent_weights"] | {"w_variance": 0.2})
    denser = draw(recurrent=tables()["recurrent"] | {"conn_between": 0.1})
    other = draw(seed=1)
    np.testing.assert_array_equal(first.recurrent_post, heavier.recurrent_post)
    np.testing.assert_array_equal(first.feedforward_weight, heavier.feedforward_weight)
    assert not np.array_equal(first.recurrent_weight, heavier.recurrent_weight)
    np.testing.assert_array_equal(first.cell_type_ids, denser.cell_type_ids)
    np.testing.assert_array_equal(first.feedforward_weight, denser.feedforward_weight)
    assert not np.array_equal(first.cell_type_ids, other.cell_type_ids)
