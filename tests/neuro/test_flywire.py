"""The adult as read: order, signs, receptors, and every published count of neurons and synapses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_fly import write_tables

from neuro.connectome import fly_tables
from neuro.connectome.flywire import count_synapses, load_adult


@pytest.fixture
def tables(tmp_path):
    return write_tables(tmp_path / "tables")


@pytest.fixture(scope="module")
def real_tables(shared_data):
    return shared_data / "fly"


@pytest.fixture(scope="module")
def real(real_tables):
    return load_adult(real_tables)


def test_neurons_are_ordered_by_root_id_whatever_the_rows_of_the_table(tables):
    expected = load_adult(tables)
    for name in (fly_tables.NEURONS, fly_tables.CONNECTIONS):
        table = fly_tables.read_table(tables, name)
        table.sample(frac=1, random_state=3).to_parquet(fly_tables.table_path(tables, name))
    for table, reordered in zip(expected, load_adult(tables), strict=True):
        pd.testing.assert_frame_equal(table, reordered)
    root_ids = [100, 101, 102, 103, 104, 201, 202, 203, 301, 302, 303, 304, 401, 501, 601, 602, 701]
    assert expected.neurons["root_id"].tolist() == expected.neurons.index.tolist() == root_ids
    pre_and_post = list(zip(expected.edges["pre"], expected.edges["post"], strict=True))
    assert pre_and_post == sorted(pre_and_post)


@pytest.mark.parametrize("end", ["pre", "post"])
def test_pairs_of_neurons_that_the_other_table_lacks_are_refused(tables, end):
    path = fly_tables.table_path(tables, fly_tables.CONNECTIONS)
    pairs = fly_tables.read_table(tables, fly_tables.CONNECTIONS)
    pairs.loc[3, end] = 99
    pairs.to_parquet(path)
    with pytest.raises(ValueError, match="names neuron 99, which fly_olfactory_neurons does not"):
        load_adult(tables)


def test_edges_name_root_ids_their_classes_and_their_detection(tables):
    edges = load_adult(tables).edges.set_index(["pre", "post"])
    assert edges.loc[(103, 201)].tolist() == [10, "ORN->ALPN", "Buhmann"]
    assert edges.loc[(202, 301)].tolist() == [5, "ALPN->KC", "Princeton"]
    assert len(edges) == 18


def test_sign_is_that_of_the_transmitter_and_else_zero_or_as_published(tables):
    signs = {rule: load_adult(tables, sign_rule=rule).neurons for rule in ("extract", "published")}
    origins = signs["extract"]["sign_origin"]
    # PN 201 acetylcholine, LN 401 GABA, PN 100 unknown, DAN 701 dopamine, KC and ORN known.
    ids = [201, 401, 100, 701, 301, 101]
    assert signs["extract"]["sign"][ids].tolist() == [1, -1, 0, 0, 1, 1]
    assert signs["published"]["sign"][ids].tolist() == [1, -1, 1, 1, 1, 1]
    expected = ["predicted", "predicted", "assumed", "assumed", "known", "known"]
    assert origins[ids].tolist() == expected


def test_receptors_follow_the_cell_type_or_the_published_list(tables):
    by_type = load_adult(tables).neurons["receptors"]
    published = load_adult(tables, receptor_map="published").neurons["receptors"]
    ids = [101, 103, 104, 201]
    assert by_type[ids].tolist() == ["Or1", "Or2", "Or2", ""]
    assert published[ids].tolist() == ["Or1", "Or2|Or1", "", ""]


@pytest.mark.parametrize("changed", [{"sign_rule": "mine"}, {"receptor_map": "mine"}])
def test_unknown_choices_are_refused(tables, changed):
    with pytest.raises(ValueError, match=f"{next(iter(changed))} = 'mine' is none of"):
        load_adult(tables, **changed)


def test_synapses_are_counted_between_two_populations(tables):
    neurons, edges = load_adult(tables)
    counted = count_synapses(edges, neurons.loc[[101, 103]], neurons.loc[[201, 202, 401]])
    np.testing.assert_array_equal(counted, [[30, 0, 30], [10, 20, 10]])


# From here on: FlyWire v783 as published.

CLASS_SIZES = {
    **{"ORN": 2380, "ALPN": 683, "ALLN": 429, "KC": 5177, "MBON": 96, "DAN": 319, "APL": 2},
    **{"LHLN": 514, "LHCENT": 45, "WEDPN": 98, "other": 101, "CX": 4, "MBIN": 2, "AN": 2},
}


def test_classes_have_the_published_sizes(real):
    assert real.neurons["cell_class"].value_counts().to_dict() == CLASS_SIZES
    assert real.neurons["is_input"].sum() == 2113
    assert real.neurons["is_hidden"].sum() == 7616
    assert not (real.neurons["is_input"] & real.neurons["is_hidden"]).any()
    assert real.neurons.loc[real.neurons["is_hidden"], "cell_type"].nunique() == 552


def test_receptor_neurons_are_of_53_glomeruli(real):
    orn = real.neurons[real.neurons["cell_class"] == "ORN"]
    typed = orn.loc[orn["cell_type"].str.startswith("ORN_"), "cell_type"].value_counts()
    assert (typed.sum(), len(typed)) == (2268, 53)
    assert (typed.index[0], typed.iloc[0]) == ("ORN_DA1", 126)
    assert (typed.index[-1], typed.iloc[-1]) == ("ORN_VA5", 12)
    assert real.neurons["cell_type"][real.neurons["is_input"]].str.startswith("ORN_").all()


def test_projection_neurons_have_185_types_and_58_glomeruli(real):
    alpn = real.neurons[real.neurons["cell_class"] == "ALPN"]
    assert alpn["cell_type"][alpn["cell_type"] != "untyped"].nunique() == 185
    assert alpn["glomerulus"].notna().sum() == 510
    assert alpn["glomerulus"].nunique() == 58


KENYON_TYPES = {
    **{"KCg-m": 2190, "KCab": 1643, "KCapbp-m": 338, "KCapbp-ap2": 298},
    **{"KCg-d": 295, "KCapbp-ap1": 280, "KCab-p": 128, "KCg-s": 5},
}


def test_kenyon_cells_have_the_published_types_and_sides(real):
    kc = real.neurons[real.neurons["cell_class"] == "KC"]
    # The five gamma-s cells are numbered s1 .. s3.
    types = kc["cell_type"].str.replace(r"(?<=KCg-s)\d\S*", "", regex=True)
    assert types.value_counts().to_dict() == KENYON_TYPES
    assert kc["side"].value_counts().to_dict() == {"left": 2580, "right": 2597}


TRANSMITTERS = {
    "ORN": {"ACH": 2380},
    "ALPN": {"ACH": 471, "GABA": 200, "GLUT": 8, "unknown": 4},
    "ALLN": {"GABA": 113, "GLUT": 96, "ACH": 43, "SER": 25, "unknown": 152},
    "KC": {"ACH": 5177},
    "MBON": {"ACH": 51, "GABA": 17, "GLUT": 23, "unknown": 5},
    "APL": {"GABA": 2},
}


@pytest.mark.parametrize("cell_class", TRANSMITTERS)
def test_transmitters_and_signs_are_the_published_ones(real, cell_class):
    chosen = real.neurons[real.neurons["cell_class"] == cell_class]
    counts = chosen["transmitter"].fillna("unknown").value_counts().to_dict()
    assert counts == TRANSMITTERS[cell_class]
    of_sign = {1: counts.get("ACH", 0), -1: counts.get("GABA", 0) + counts.get("GLUT", 0)}
    for sign, n in of_sign.items():
        assert (chosen["sign"] == sign).sum() == n


def test_prediction_that_receptor_neurons_release_serotonin_is_kept_but_not_believed(real):
    orn = real.neurons[real.neurons["cell_class"] == "ORN"]
    predicted = orn["transmitter_predicted"].value_counts()
    assert (predicted["SER"], predicted["ACH"]) == (507 + 9, 1651 + 30)
    assert (orn["sign"] == 1).all()


def test_the_two_apl_neurons_have_a_side_each(real):
    apl = real.neurons[real.neurons["cell_class"] == "APL"]
    assert apl["side"].to_dict() == {720575940613583001: "right", 720575940624547622: "left"}


# Pairs, synapses, and the detection that found them.
EDGE_CLASSES = {
    "ORN->ALPN": (6979, 135263, "Buhmann"),
    "ORN->ALLN": (8257, 76370, "Buhmann"),
    "ALPN->KC": (22177, 364078, "Princeton"),
    "ALPN->APL": (220, 5081, "Princeton"),
    "KC->MBON": (25932, 178068, "Princeton"),
    "DAN->KC": (3136, 17127, "Princeton"),
    "DAN->MBON": (866, 20814, "Princeton"),
    "DAN->APL": (166, 3750, "Princeton"),
    "MBON->MBON": (307, 6981, "Princeton"),
    "APL->MBON": (65, 3330, "Princeton"),
}


@pytest.mark.parametrize("name", EDGE_CLASSES)
def test_edge_classes_have_the_published_pairs_synapses_and_detection(real, name):
    chosen = real.edges[real.edges["edge_class"] == name]
    *sums, detection = EDGE_CLASSES[name]
    assert [len(chosen), chosen["syn_count"].sum()] == sums
    assert set(chosen["detection"]) == {detection}
    assert not chosen.duplicated(["pre", "post"]).any()


def test_no_edge_class_mixes_two_detections_of_synapses(real):
    assert (real.edges.groupby("edge_class")["detection"].nunique() == 1).all()


@pytest.mark.parametrize(
    "name", ["ALLN->ALPN", "ALLN->ALLN", "ALLN->ORN", "ALPN->ALLN", "KC->APL", "APL->KC", "KC->KC"]
)
def test_tables_hold_no_output_of_local_neurons_and_nothing_between_apl_and_kc(real, name):
    assert not (real.edges["edge_class"] == name).any()


def test_kenyon_cells_get_5_projection_neurons_of_16_synapses_each(real):
    pairs = real.edges[real.edges["edge_class"] == "ALPN->KC"]
    fan_in = pairs["post"].value_counts()
    assert len(fan_in) == 4748
    assert fan_in.mean() == pytest.approx(4.67, abs=0.005)
    assert fan_in.median() == 5
    assert pairs["syn_count"].mean() == pytest.approx(16.4, abs=0.05)


def test_synapses_of_receptor_neurons_stay_in_the_glomerulus(real):
    pairs = real.edges[real.edges["edge_class"] == "ORN->ALPN"]
    glomerulus = real.neurons["glomerulus"]
    pre, post = pairs["pre"].map(glomerulus), pairs["post"].map(glomerulus)
    uniglomerular = post.notna()
    assert uniglomerular.sum() == 6898
    same = pairs["syn_count"][pre == post].sum() / pairs["syn_count"][uniglomerular].sum()
    assert same == pytest.approx(0.894, abs=0.0005)
