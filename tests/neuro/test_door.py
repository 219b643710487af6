"""Odors of DoOR and the receptors of neurons: which, how many, and how strongly they respond."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from neuro.connectome import door, fly_tables, odors
from neuro.connectome.flywire import load_adult


@pytest.fixture(scope="module")
def tables(shared_data):
    return shared_data / "fly"


@pytest.fixture(scope="module")
def published_inputs(tables):
    neurons = load_adult(tables, receptor_map="published").neurons
    return neurons[neurons["is_input"]]


@pytest.fixture(scope="module")
def typed_inputs(tables):
    neurons = load_adult(tables).neurons
    return neurons[neurons["is_input"]]


def test_response_matrix_has_the_published_values(tables):
    matrix = fly_tables.read_table(tables, fly_tables.DOOR_RESPONSES)
    assert matrix.notna().sum().sum() == 7379
    assert matrix.notna().any(axis=1).sum() == 646
    assert (matrix.min().min(), matrix.max().max()) == (0, 1)
    assert matrix.index[0] == "SFR"


def test_selection_rule_gives_the_281_published_odors(tables):
    chosen = odors.load_odors(tables)
    published = fly_tables.read_table(tables, fly_tables.DOOR_SELECTED)
    assert len(chosen.names) == len(set(chosen.names)) == 281
    assert chosen.names[0] == "sfr"
    assert set(chosen.names) == set(published.index)
    once = published[~published.index.duplicated()].loc[list(chosen.names)]
    np.testing.assert_allclose(chosen.response, once.to_numpy(), rtol=0, atol=1e-15)
    assert len(chosen.chemical_class) == 281
    assert "ester" in chosen.chemical_class


def test_284_classes_repeat_three_odors_with_one_responding_receptor(tables):
    published = odors.load_odors(tables, classes="published_284")
    assert published.response.shape == (284, 52)
    assert not np.isnan(published.response).any()
    responding = (published.response > 0).sum(axis=1)
    assert (responding.min(), np.median(responding), responding.max()) == (1, 18, 50)
    repeated = pd.Series(published.names).value_counts()
    names = {"beta-citronellol", "citral", "methyl jasmonate"}
    assert set(repeated.index[repeated > 1]) == names
    assert len(repeated) == 281
    alone = np.array(published.names)[responding == 1]
    assert sorted(alone) == sorted(names)


def test_an_odor_is_selected_when_more_than_two_of_the_units_respond(tmp_path):
    responses = {
        "Or1": [0.1, 0.2, 0.3, np.nan],
        "Or2": [0.1, 0.0, 0.3, 0.2],
        "Or3": [0.1, 0.9, 0.3, 0.2],
        "Or4": [np.nan, 0.9, np.nan, 0.0],
        "Or5": [0.9, 0.9, 0.9, 0.9],  # no neuron is assigned to this one
    }
    keys = ["SFR", "K1", "K2", "K3"]
    known = {"Name": ["sfr", "one", "two", "three"], "Class": [None, "acid", "ester", "acid"]}
    for name, table in (
        (fly_tables.DOOR_RESPONSES, pd.DataFrame(responses, index=keys)),
        (fly_tables.DOOR_SELECTED, pd.DataFrame(columns=["Or1", "Or2", "Or3", "Or4"], dtype=float)),
        (fly_tables.DOOR_ODORS, pd.DataFrame(known, index=keys)),
    ):
        table.to_parquet(fly_tables.table_path(tmp_path, name))
    chosen = odors.load_odors(tmp_path)
    assert chosen.names == ("sfr", "one", "two")
    assert chosen.chemical_class == ("", "acid", "ester")
    assert chosen.units == ("Or1", "Or2", "Or3", "Or4")
    np.testing.assert_array_equal(chosen.response[1], [0.2, 0, 0.9, 0.9])


def test_unknown_classes_are_refused(tables):
    with pytest.raises(ValueError, match="classes = '284' is none of 'selection', 'published_284'"):
        odors.load_odors(tables, classes="284")


def test_drive_sums_the_receptors_of_a_neuron_under_their_names_in_door():
    response = np.array([[0.25, 0.5, 0.0], [1.0, 0.0, 0.75]])
    made = odors.Odors(("one", "two"), ("", ""), response, ("Or47a", "Or65a", "ab4B"))
    carried = pd.Series(["Or47a", "Or65|Or47a", "Or56a", "Ir75", ""])
    expected = [[0.25, 0.75, 0.0, 0.0, 0.0], [1.0, 1.0, 0.75, 0.0, 0.0]]
    np.testing.assert_array_equal(made.drive(carried), expected)


@pytest.mark.parametrize(
    ("text", "glomeruli"),
    [("DA1", ["DA1"]), ("DM5+DM3", ["DM5", "DM3"]), ("DL2d/v+VC3", ["DL2d", "DL2v", "VC3"])],
)
def test_door_writes_several_glomeruli_in_two_ways(text, glomeruli):
    assert door.split_glomeruli(text) == glomeruli


def test_receptors_of_a_type_are_those_of_its_glomerulus():
    mappings = pd.DataFrame(
        {"receptor": ["Or1", "Or2", "Or3", "Or2"], "glomerulus": ["A", "A+B", "C", "D"]}
    )
    types = pd.Series(["ORN_B", "ORN_A", "ORN_C", "PN_A", "untyped"], index=[5, 4, 3, 2, 1])
    found = door.receptors_of_types(mappings, ["Or2", "Or1"], types)
    expected = pd.Series(["Or2", "Or2|Or1", "", "", ""], index=types.index)
    pd.testing.assert_series_equal(found, expected, check_names=False)


def test_published_receptors_sit_in_door_s_glomerulus_in_47_of_52(tables, published_inputs):
    mappings = fly_tables.read_table(tables, fly_tables.DOOR_MAPPINGS)
    place = mappings.drop_duplicates("receptor").set_index("receptor")["glomerulus"]
    carriers = published_inputs.assign(receptor=published_inputs["receptors"].str.split("|"))
    carriers = carriers.explode("receptor").groupby("receptor")["glomerulus"]
    disagreeing = {}
    for receptor, glomeruli in carriers:
        counts = glomeruli.value_counts()
        known = place.get(door.ALIASES.get(receptor, receptor))
        if counts.index[0] != known:
            share = round(counts.iloc[0] / len(glomeruli), 2)
            disagreeing[receptor] = (counts.index[0], share, known)
    assert len(carriers) == 52
    assert disagreeing == {
        "Ir41a": ("VM6m", 0.41, "VC5"),
        "Ir75": ("DP1l", 0.43, None),
        "Ir76a": ("VC5", 0.96, "VM4"),
        "Or33b": ("DM5", 0.67, "DM5+DM3"),
        "Or35a": ("VM7v", 1.0, "VC3"),
    }


def test_published_receptors_drive_the_published_share_of_neurons(tables, published_inputs):
    drive = odors.load_odors(tables, classes="published_284").drive(published_inputs["receptors"])
    # 8 Hz baseline, 96 Hz at a response of 1 (Nanami et al. 2024 with half the concentration).
    assert 8 + 96 * drive.mean() == pytest.approx(12.95, abs=0.02)
    assert (drive > 0).mean() == pytest.approx(0.38, abs=0.005)
    silent = published_inputs[~(drive > 0).any(axis=0)]
    assert silent["receptors"].value_counts().to_dict() == {"Or67d": 125, "Ir75": 30}


def test_mapping_by_cell_type_gives_a_type_one_set_of_receptors_that_door_agrees_with(
    tables, typed_inputs
):
    assert (typed_inputs.groupby("cell_type")["receptors"].nunique() == 1).all()
    mappings = fly_tables.read_table(tables, fly_tables.DOOR_MAPPINGS).set_index("receptor")
    for _, cell_type, carried in (
        typed_inputs[["cell_type", "receptors"]].drop_duplicates().itertuples()
    ):
        for receptor in filter(None, carried.split("|")):
            glomeruli = door.split_glomeruli(mappings.loc[receptor, "glomerulus"])
            assert cell_type.removeprefix("ORN_") in glomeruli


def test_types_of_which_no_selected_unit_is_known_carry_no_receptor(tables, typed_inputs):
    without = typed_inputs.loc[typed_inputs["receptors"] == "", "cell_type"]
    # Ir75b and Ir75c (DL2) are not among the 52 units; DoOR has nothing of VM6.
    assert without.value_counts().to_dict() == {
        **{"ORN_VM6m": 33, "ORN_VM6v": 26, "ORN_VM6l": 21, "ORN_DL2v": 18, "ORN_DL2d": 14}
    }
    drive = odors.load_odors(tables).drive(typed_inputs["receptors"])
    silent = typed_inputs.loc[~(drive > 0).any(axis=0), "cell_type"]
    assert set(silent) == {*without, "ORN_DA1"}
