"""The larva as read and as a circuit: published sums, both APLs, assumed signs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_fly import write_larva

from neuro.connectome import fly_tables
from neuro.connectome.larva import larva_circuit, load_larva


@pytest.fixture(scope="module")
def tables(shared_data):
    return shared_data / "fly"


@pytest.fixture(scope="module")
def brain(tables):
    return load_larva(tables)


@pytest.fixture(scope="module")
def circuit(tables):
    return larva_circuit(tables)


def test_larva_of_seven_neurons_is_read_and_weighed_as_by_hand(tmp_path):
    tables = write_larva(tmp_path)
    brain = load_larva(tables)
    classes = {1: "APL", 2: "KC", 3: "KC", 4: "PN", 5: "sensory", 6: "LN", 7: "sensory"}
    assert brain.neurons["cell_class"].to_dict() == classes
    sides = {1: "left", 2: "right", 3: "left", 4: "left", 5: "right", 6: "center", 7: "left"}
    assert brain.neurons["side"].to_dict() == sides
    assert brain.edges["edge_class"].iloc[0] == "APL->KC"
    circuit = larva_circuit(tables)
    # Inputs: 5, 7; hidden: 1, 2, 3, 4, 6. What 6 and 7 send to sensory neurons is left out.
    assert circuit.forward.pre.tolist() == [0, 1, 1]
    assert circuit.forward.post.tolist() == [3, 3, 4]
    np.testing.assert_allclose(circuit.forward.weight, [1 / 4, 3 / 4, 1])
    assert circuit.recurrent.pre.tolist() == [0, 1, 2, 2, 3, 3, 4]
    assert circuit.recurrent.post.tolist() == [2, 0, 0, 1, 1, 2, 3]
    expected = [-1, 2 / 8, 6 / 8, 1, 1, 1, -1]
    np.testing.assert_allclose(circuit.recurrent.weight, expected)
    assert circuit.readout.tolist() == [1, 2]


def test_brain_is_the_whole_published_one_ordered_by_skid(brain):
    assert (len(brain.neurons), len(brain.edges)) == (3591, 119010)
    assert brain.edges["syn_count"].sum() == 376091
    assert (np.diff(brain.neurons["root_id"]) > 0).all()
    pd.testing.assert_index_equal(brain.neurons.index, pd.Index(brain.neurons["root_id"].values))
    pair = brain.edges["pre"].to_numpy(), brain.edges["post"].to_numpy()
    np.testing.assert_array_equal(np.lexsort(pair[::-1]), np.arange(len(brain.edges)))


FLAGS = {
    **{"sensory": "sensory", "KC": "KCs", "PN": "PNs", "MBON": "MBONs"},
    **{"MBIN": "MBINs", "LN": "LNs", "APL": "LNs"},
}
SIZES = {"KC": 222, "PN": 206, "MBON": 48, "LN": 108, "APL": 2}  # 110 local neurons with the APLs


def test_classes_have_the_published_sizes_and_agree_with_the_flags(brain, tables):
    sizes = brain.neurons["cell_class"].value_counts()
    assert {name: sizes[name] for name in SIZES} == SIZES
    flags = fly_tables.read_table(tables, fly_tables.LARVA_NEURONS).sort_index()
    for flag in set(FLAGS.values()):
        classes = [name for name, its_flag in FLAGS.items() if its_flag == flag]
        members = brain.neurons["cell_class"].isin(classes).to_numpy()
        np.testing.assert_array_equal(members, flags[flag] == "True")


# Pairs and synapses; what is published of local neurons counts the APLs among them.
LN = ("LN", "APL")
SUMS = [
    (("sensory",), ("PN",), 2118, 14479),
    (("sensory",), LN, 789, 9211),
    (LN, ("PN",), 1370, 6654),
    (LN, LN, 851, 4959),
    (("PN",), LN, 1438, 5895),
    (("PN",), ("KC",), 898, 4798),
    (("KC",), ("KC",), 7230, 16405),
    (("KC",), ("MBON",), 3053, 17778),
    (("MBIN",), ("KC",), 1703, 4773),
    (("KC",), ("APL",), 151, 1517),
    (("APL",), ("KC",), 156, 757),
    (("PN",), ("APL",), 28, 69),
]


@pytest.mark.parametrize(("pre", "post", "pairs", "synapses"), SUMS)
def test_pairs_and_synapses_between_classes_are_the_published_ones(
    brain, pre, post, pairs, synapses
):
    names = [f"{a}->{b}" for a in pre for b in post]
    chosen = brain.edges[brain.edges["edge_class"].isin(names)]
    assert (len(chosen), chosen["syn_count"].sum()) == (pairs, synapses)


def test_the_two_apl_neurons_are_those_with_other_names(brain):
    apl = brain.neurons[brain.neurons["cell_class"] == "APL"]
    assert apl["root_id"].tolist() == [3234817, 15571194]
    assert apl["name"].tolist() == ["MBE12 right", "MBE12 left"]
    assert apl["side"].tolist() == ["right", "left"]
    assert apl["pair"].tolist() == [15571194, 3234817]


def test_circuit_leads_from_sensory_neurons_to_all_others_and_reads_kenyon_cells(circuit, brain):
    kind = brain.neurons["cell_class"]
    assert circuit.inputs["root_id"].tolist() == kind.index[kind == "sensory"].tolist()
    assert circuit.hidden["root_id"].tolist() == kind.index[kind != "sensory"].tolist()
    assert set(circuit.hidden["cell_class"].iloc[circuit.readout]) == {"KC"}
    assert len(circuit.readout) == 222
    # All pairs but those onto sensory neurons, which are spike sources.
    onto_others = (brain.edges["post"].map(kind) != "sensory").sum()
    assert len(circuit.forward.pre) + len(circuit.recurrent.pre) == onto_others


def test_only_local_neurons_and_apl_inhibit_and_signs_are_labeled_assumed(circuit):
    kind = circuit.hidden["cell_class"].to_numpy()[circuit.recurrent.pre]
    np.testing.assert_array_equal(circuit.recurrent.weight < 0, np.isin(kind, ("LN", "APL")))
    assert (circuit.forward.weight > 0).all()
    table = circuit.edge_table().set_index("edge_class")
    assert table.loc["KC->APL"].tolist() == [151, "data", "assumed"]
    assert set(table["origin"]) == {"data"}
    assert set(table["sign_origin"]) == {"assumed"}


def test_weights_are_shares_of_synapses_in_each_edge_class(circuit, brain):
    edges, hidden = circuit.recurrent, circuit.hidden["root_id"].to_numpy()
    code = edges.edge_classes.index("KC->APL")
    chosen = edges.edge_class == code
    pairs = brain.edges[brain.edges["edge_class"] == "KC->APL"]
    total = pairs.groupby("post")["syn_count"].transform("sum")
    expected = pairs.assign(weight=pairs["syn_count"] / total).set_index(["pre", "post"])["weight"]
    found = pd.Series(
        edges.weight[chosen],
        index=pd.MultiIndex.from_arrays([hidden[edges.pre[chosen]], hidden[edges.post[chosen]]]),
    )
    np.testing.assert_allclose(found.sort_index(), expected.sort_index(), rtol=1e-12)
