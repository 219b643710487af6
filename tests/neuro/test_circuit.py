"""The adult's circuit: weights checked by hand, degrees that controls keep, data and models."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from tiny_fly import write_tables

from neuro.connectome.circuit import load_circuit
from neuro.connectome.flywire import load_adult
from neuro.connectome.lumped_inhibition import lumped_inhibition
from neuro.connectome.wiring_controls import (
    shuffle_signs,
    shuffle_targets,
    shuffle_targets_within_type,
)


@pytest.fixture
def tables(tmp_path):
    return write_tables(tmp_path / "tables")


@pytest.fixture(scope="module")
def real_tables(shared_data):
    return shared_data / "fly"


@pytest.fixture(scope="module")
def real(real_tables):
    return load_circuit(real_tables)


@pytest.fixture(scope="module")
def adult(real_tables):
    return load_adult(real_tables)


def weights(circuit, pre, edges, edge_class):
    """Return {(pre id, post id): weight} of one edge class."""
    chosen = edges.edge_class == edges.edge_classes.index(edge_class)
    ends = (
        pre["root_id"].to_numpy()[edges.pre[chosen]].tolist(),
        circuit.hidden["root_id"].to_numpy()[edges.post[chosen]].tolist(),
    )
    return dict(zip(zip(*ends, strict=True), edges.weight[chosen].tolist(), strict=True))


def forward(circuit, edge_class):
    return weights(circuit, circuit.inputs, circuit.forward, edge_class)


def recurrent(circuit, edge_class):
    return weights(circuit, circuit.hidden, circuit.recurrent, edge_class)


def test_inputs_carry_receptors_and_all_others_of_the_network_are_hidden(tables):
    circuit = load_circuit(tables)
    assert circuit.inputs["root_id"].tolist() == [101, 102, 103]
    hidden = [100, 104, 201, 202, 203, 301, 302, 303, 304, 401, 601, 602, 701]
    assert circuit.hidden["root_id"].tolist() == hidden
    assert circuit.hidden["root_id"].iloc[circuit.readout].tolist() == [301, 302, 303, 304]
    assert circuit.hidden["cell_type"].iloc[-1] == "untyped"


def test_weights_are_signed_shares_of_synapses_in_each_edge_class(tables):
    circuit = load_circuit(tables)
    assert forward(circuit, "ORN->ALPN") == pytest.approx(
        {(101, 201): 0.6, (102, 201): 0.2, (103, 201): 0.2}
        | {(103, 202): 1, (103, 100): 1, (101, 203): 1}
    )
    assert forward(circuit, "ORN->ALLN") == pytest.approx({(101, 401): 0.75, (103, 401): 0.25})
    assert recurrent(circuit, "ORN->ALPN") == {(104, 201): 1}
    # PN 100 of unknown transmitter has sign 0: its synapses weigh nothing and do not count.
    assert recurrent(circuit, "ALPN->KC") == pytest.approx(
        {(201, 301): 15 / 20, (202, 301): -5 / 20, (202, 302): -1}
        | {(201, 303): 50 / 59, (203, 303): 9 / 59}
    )
    assert "DAN->KC" not in circuit.recurrent.edge_classes


def test_published_sign_rule_lets_the_unknown_and_dopamine_excite(tables):
    circuit = load_circuit(tables, sign_rule="published")
    assert recurrent(circuit, "DAN->KC") == {(701, 301): 1}
    assert recurrent(circuit, "ALPN->KC")[100, 302] == pytest.approx(8 / 16)


def test_lumped_inhibition_is_modelled_and_labeled_so(tables):
    circuit = load_circuit(tables)
    # The only local neuron shares glomeruli A and B with all four PNs.
    inhibited = dict.fromkeys([(401, 100), (401, 201), (401, 202), (401, 203)], -1)
    assert recurrent(circuit, "ALLN->ALPN") == inhibited
    left = dict.fromkeys([(301, 601), (302, 601), (304, 601)], 1 / 3)
    assert recurrent(circuit, "KC->APL") == pytest.approx(left | {(303, 602): 1})
    onto_kc = [(601, 301), (601, 302), (601, 304), (602, 303)]
    assert recurrent(circuit, "APL->KC") == dict.fromkeys(onto_kc, -1)
    origin = circuit.edge_table().set_index("edge_class")["origin"].to_dict()
    modelled = {name for name, its_origin in origin.items() if its_origin == "modelled"}
    assert modelled == {"ALLN->ALPN", "KC->APL", "APL->KC"}
    assert origin["ALPN->KC"] == origin["ALPN->APL"] == "data"


@pytest.mark.parametrize("shuffle", ["targets", "targets_within_type", "signs"])
def test_what_a_control_shuffled_is_not_labeled_data(tables, shuffle):
    circuit = load_circuit(tables, shuffle=shuffle, generator=np.random.default_rng(0))
    table = circuit.edge_table().set_index("edge_class")
    wired, signed = table.loc["ALPN->KC", ["origin", "sign_origin"]]
    if shuffle == "signs":
        assert (wired, signed) == ("data", "shuffled")
    else:
        assert wired == "shuffled"
        assert signed != "shuffled"
    assert (table.loc["ORN->ALPN", "origin"] == "data").all()


def test_without_inhibition_only_data_are_left(tables):
    circuit = load_circuit(tables, inhibition="none")
    assert set(circuit.edge_table()["origin"]) == {"data"}
    assert circuit.recurrent.edge_classes == ("ALPN->APL", "ALPN->KC", "ORN->ALPN")


def test_local_neurons_inhibit_by_shared_glomeruli_on_their_side_unless_predicted_to_excite():
    neurons = pd.DataFrame(
        [
            *[(1, "ORN", "left", "A", "ACH"), (2, "ORN", "left", "B", "ACH")],
            *[(3, "ORN", "left", None, "ACH"), (11, "ALPN", "left", "A", "ACH")],
            *[(12, "ALPN", "right", "A", "ACH"), (21, "ALLN", "left", None, "GABA")],
            *[(22, "ALLN", "left", None, None), (23, "ALLN", "left", None, "ACH")],
            *[(24, "ALLN", "right", None, "GLUT")],
        ],
        columns=["root_id", "cell_class", "side", "glomerulus", "transmitter"],
    ).set_index("root_id", drop=False)
    edges = pd.DataFrame(
        [(1, 11, 3), (2, 11, 1), (3, 11, 4), (1, 12, 5)]
        + [(1, 21, 2), (2, 22, 5), (1, 23, 9), (1, 24, 1), (2, 24, 3)],
        columns=["pre", "post", "syn_count"],
    )
    found = lumped_inhibition(neurons, edges).set_index(["pre", "post"])
    # PN 11: A 3/8, B 1/8, none 4/8. LN 21: A; LN 22: B; LN 24: A 1/4, B 3/4. PN 12: A.
    expected = {(21, 11): 3 / 8, (22, 11): 1 / 8, (24, 12): 1 / 4}
    assert found["strength"].to_dict() == pytest.approx(expected)
    assert set(found["sign"]) == {-1}


def write_synapses(path, *, rows, columns=("pre", "post", "syn_count")):
    table = pd.DataFrame(rows, columns=list(columns))
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("mine.csv", ("pre", "post", "syn_count")),
        ("codex.csv.gz", ("pre_root_id", "post_root_id", "syn_count")),
        ("whole.parquet", ("Presynaptic_ID", "Postsynaptic_ID", "Connectivity")),
    ],
)
def test_file_adds_the_edge_classes_that_the_tables_lack_as_data(tables, tmp_path, name, columns):
    rows = [
        *[(401, 201, 6), (401, 201, 2), (601, 301, 5), (304, 601, 1), (301, 601, 3)],
        *[(201, 304, 99), (101, 202, 99)],  # ALPN->KC, ORN->ALPN: of the tables, not of the file
        *[(999, 301, 9), (501, 301, 9)],  # not of the network
    ]
    path = write_synapses(tmp_path / name, rows=rows, columns=columns)
    circuit = load_circuit(tables, inhibition="file", inhibition_file=path)
    assert recurrent(circuit, "ALLN->ALPN") == {(401, 201): -1}
    assert recurrent(circuit, "APL->KC") == {(601, 301): -1}
    assert recurrent(circuit, "KC->APL") == pytest.approx({(304, 601): 0.25, (301, 601): 0.75})
    assert set(circuit.edge_table()["origin"]) == {"data"}
    without = load_circuit(tables, inhibition="none")
    assert recurrent(circuit, "ALPN->KC") == recurrent(without, "ALPN->KC")
    assert circuit.forward.pre.tolist() == without.forward.pre.tolist()


def test_file_tells_the_sign_of_neurons_of_unknown_transmitter_only(tables, tmp_path):
    # PN 100 is of unknown transmitter; LN 401 releases GABA, whatever the file says.
    rows = [(100, 401, 6, -1), (401, 201, 6, 1)]
    columns = ("pre", "post", "syn_count", "sign")
    path = write_synapses(tmp_path / "synapses.csv", rows=rows, columns=columns)
    circuit = load_circuit(tables, inhibition="file", inhibition_file=path)
    assert recurrent(circuit, "ALPN->ALLN") == {(100, 401): -1}
    assert recurrent(circuit, "ALLN->ALPN") == {(401, 201): -1}
    # Where the rule lets the unknown excite, it does so in all edge classes.
    arguments = {"inhibition": "file", "inhibition_file": path, "sign_rule": "published"}
    assert recurrent(load_circuit(tables, **arguments), "ALPN->ALLN") == {(100, 401): 1}
    unsigned = write_synapses(tmp_path / "unsigned.csv", rows=[row[:3] for row in rows])
    circuit = load_circuit(tables, inhibition="file", inhibition_file=unsigned)
    assert "ALPN->ALLN" not in circuit.recurrent.edge_classes


def test_outputs_of_local_neurons_cannot_be_had_as_data_and_the_error_says_where(tables, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be had.*no output of.*Connectivity_783\.parquet"):
        load_circuit(tables, inhibition="data")
    with pytest.raises(FileNotFoundError, match=r"no table of synapses.*Connectivity_783\.parquet"):
        load_circuit(tables, inhibition="file")
    with pytest.raises(FileNotFoundError, match=r"gone\.csv' is no file.*Connectivity_783"):
        load_circuit(tables, inhibition="file", inhibition_file=tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([(401, 201, 6)], ("from", "to", "n"), "it needs pre, post"),
        ([(401.0, 201.0, 6)], ("pre", "post", "syn_count"), "must be whole numbers"),
        ([(401, 201, 0)], ("pre", "post", "syn_count"), "counts at least 1"),
        ([(401, 201, 1, 5)], ("pre", "post", "syn_count", "sign"), r"signs \+1 or -1"),
        ([(201, 301, 6)], ("pre", "post", "syn_count"), "is it of FlyWire v783"),
    ],
)
def test_file_that_is_no_table_of_new_pairs_is_refused(tables, tmp_path, rows, columns, message):
    path = write_synapses(tmp_path / "synapses.parquet", rows=rows, columns=columns)
    with pytest.raises(ValueError, match=message):
        load_circuit(tables, inhibition="file", inhibition_file=path)


def test_unknown_choices_and_a_shuffle_without_chance_are_refused(tables):
    with pytest.raises(ValueError, match="inhibition = 'gap' is none of 'lumped', 'none', 'file'"):
        load_circuit(tables, inhibition="gap")
    with pytest.raises(ValueError, match="shuffle = 'all' is none of 'targets'"):
        load_circuit(tables, shuffle="all", generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="shuffle = 'targets' needs a generator"):
        load_circuit(tables, shuffle="targets")


def test_neurons_out_of_order_and_a_readout_of_others_are_refused(tables):
    circuit = load_circuit(tables)
    with pytest.raises(ValueError, match="hidden are not in ascending order"):
        dataclasses.replace(circuit, hidden=circuit.hidden.iloc[::-1])
    with pytest.raises(ValueError, match=r"the readout holds \['ALLN'\]"):
        dataclasses.replace(circuit, readout=np.append(circuit.readout, 9))


def test_fingerprint_tells_ids_and_weights_apart(tables):
    circuit = load_circuit(tables)
    other_id = circuit.hidden.assign(root_id=circuit.hidden["root_id"] + 1)
    weight = circuit.recurrent.weight.copy()
    weight[3] = np.nextafter(weight[3], 0)
    prints = {
        circuit.fingerprint,
        dataclasses.replace(circuit, hidden=other_id).fingerprint,
        dataclasses.replace(
            circuit, recurrent=circuit.recurrent._replace(weight=weight)
        ).fingerprint,
        load_circuit(tables, inhibition="none").fingerprint,
    }
    assert len(prints) == 4
    assert load_circuit(tables).fingerprint == circuit.fingerprint


# From here on: FlyWire v783 as published.


def test_real_circuit_has_the_published_size(real):
    assert (len(real.inputs), len(real.hidden)) == (2113, 7616)
    assert real.hidden["cell_type"].nunique() == 552
    assert len(real.readout) == 5177
    assert set(real.hidden["cell_class"].iloc[real.readout]) == {"KC"}
    assert len(real.forward.pre) == 15236


def test_real_edges_are_those_of_the_tables_and_the_modelled_ones(real):
    pairs = real.edge_table().set_index("edge_class")["pairs"]
    data = {"ORN->ALPN": 6979, "ORN->ALLN": 8257, "ALPN->KC": 22177, "ALPN->APL": 220}
    assert pairs[list(data)].to_dict() == data
    assert pairs["KC->MBON"] == 25932
    assert pairs["KC->APL"] == pairs["APL->KC"] == 5177
    # Every PN that a receptor neuron drives is inhibited; see the sums of weights.
    driven = set(
        real.forward.post[real.hidden["cell_class"].to_numpy()[real.forward.post] == "ALPN"]
    )
    code = real.recurrent.edge_classes.index("ALLN->ALPN")
    inhibited = set(real.recurrent.post[real.recurrent.edge_class == code])
    assert inhibited <= driven
    assert len(real.recurrent.pre) < 70000


@pytest.mark.parametrize("name", ["forward", "recurrent"])
def test_absolute_weights_onto_a_neuron_sum_to_one_in_each_edge_class(real, name):
    edges = getattr(real, name)
    sums = pd.Series(np.abs(edges.weight)).groupby([edges.post, edges.edge_class]).sum()
    np.testing.assert_allclose(sums, 1, rtol=1e-12)
    order = np.lexsort((edges.post, edges.pre))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    assert not pd.DataFrame({"pre": edges.pre, "post": edges.post}).duplicated().any()


def test_every_neuron_sends_one_sign_only(real):
    edges = real.recurrent
    spread = pd.Series(np.sign(edges.weight)).groupby(edges.pre).nunique()
    assert (spread == 1).all()
    kind = real.hidden["cell_class"].to_numpy()[edges.pre]
    assert (edges.weight[np.isin(kind, ("ALLN", "APL"))] < 0).all()
    assert (edges.weight[kind == "KC"] > 0).all()
    assert (real.forward.weight > 0).all()


def real_pairs(adult):
    return adult.edges[adult.edges["edge_class"] == "ALPN->KC"]


def degrees(pairs, end, *others):
    return pairs.groupby([end, *others]).size().sort_index()


def test_shuffled_targets_keep_out_degrees_in_degrees_and_synapse_counts(adult):
    before = real_pairs(adult)
    after = shuffle_targets(before, np.random.default_rng(0))
    assert (after["post"] != before["post"]).mean() > 0.9
    for end in ("pre", "post"):
        pd.testing.assert_series_equal(degrees(before, end), degrees(after, end))
    pd.testing.assert_frame_equal(before[["pre", "syn_count"]], after[["pre", "syn_count"]])


def test_shuffle_within_type_also_keeps_how_many_pairs_a_pn_has_onto_each_type_and_side(adult):
    before = real_pairs(adult)
    after = shuffle_targets_within_type(before, adult.neurons, np.random.default_rng(0))
    assert (after["post"] != before["post"]).mean() > 0.9
    pd.testing.assert_series_equal(degrees(before, "post"), degrees(after, "post"))
    groups = adult.neurons["cell_type"] + adult.neurons["side"]
    pd.testing.assert_series_equal(
        degrees(before.assign(group=before["post"].map(groups)), "pre", "group"),
        degrees(after.assign(group=after["post"].map(groups)), "pre", "group"),
    )
    everywhere = shuffle_targets(before, np.random.default_rng(0))["post"].map(groups)
    assert (everywhere.to_numpy() != before["post"].map(groups).to_numpy()).any()


def test_shuffled_signs_stay_as_many_in_each_class(adult):
    after = shuffle_signs(adult.neurons, np.random.default_rng(0))
    for sign in (-1, 0, 1):
        counts = [
            (table["sign"] == sign).groupby(table["cell_class"]).sum()
            for table in (adult.neurons, after)
        ]
        pd.testing.assert_series_equal(*counts)
    pn = adult.neurons["cell_class"] == "ALPN"
    assert (after["sign"][pn] != adult.neurons["sign"][pn]).any()


def test_shuffled_targets_change_the_edges_from_pn_to_kc_alone(real_tables, real):
    shuffled = load_circuit(real_tables, shuffle="targets", generator=np.random.default_rng(0))
    assert shuffled.fingerprint != real.fingerprint
    tables = [
        pd.DataFrame(circuit.recurrent._asdict() | {"edge_classes": 0, "origin": 0})
        for circuit in (real, shuffled)
    ]
    code = real.recurrent.edge_classes.index("ALPN->KC")
    of_others = [table[table["edge_class"] != code].reset_index(drop=True) for table in tables]
    pd.testing.assert_frame_equal(*of_others)
    np.testing.assert_array_equal(shuffled.forward.weight, real.forward.weight)


PROGRAM = """
import hashlib, sys
from pathlib import Path
import pandas as pd
from neuro.connectome.circuit import load_circuit
from neuro.connectome.flywire import load_adult
from neuro.connectome.larva import larva_circuit
from neuro.connectome.olfactory_pathway import load_pathway
tables = Path(sys.argv[1])
for table in load_adult(tables):
    print(hashlib.sha256(pd.util.hash_pandas_object(table).to_numpy().tobytes()).hexdigest())
for load in (load_circuit, larva_circuit, load_pathway):
    print(load(tables).fingerprint.hex())
"""


def test_two_fresh_processes_of_other_hash_seeds_read_the_same_tables_and_circuits(
    real_tables, real
):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, real_tables],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "4711")
    ]
    printed = [process.communicate()[0].splitlines() for process in processes]
    assert printed[0] == printed[1]
    assert printed[0][2] == real.fingerprint.hex()
    assert len(printed[0]) == 5
