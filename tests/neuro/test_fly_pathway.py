"""The pathway cut out of the tables: who is in it, in which order, and with what weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_fly import write_tables

from neuro.connectome import fly_tables
from neuro.connectome.flywire import load_adult
from neuro.connectome.lumped_inhibition import check_inhibition
from neuro.connectome.olfactory_pathway import infer_inhibition, load_pathway, pairs
from neuro.connectome.wiring_controls import shuffle_targets


@pytest.fixture
def tiny(tmp_path):
    return load_pathway(write_tables(tmp_path / "tables"))


@pytest.fixture(scope="module")
def real_tables(shared_data):
    return shared_data / "fly"


@pytest.fixture(scope="module")
def real(real_tables):
    return load_pathway(real_tables)


def test_cells_are_those_on_the_way_to_left_kenyon_cells_ordered_by_root_id(tiny):
    found = {
        kind: getattr(tiny.cells, kind)["root_id"].tolist() for kind in ("orn", "pn", "kc", "ln")
    }
    assert found == {
        "orn": [101, 102, 103],
        "pn": [100, 201, 202],
        "kc": [301, 302],
        "ln": [401],
    }


def test_weights_are_shares_of_input_with_the_sign_of_the_pn(tiny):
    # Columns: PNs 100, 201, 202; the 99 synapses of a neuron without receptor do not count.
    np.testing.assert_allclose(tiny.orn_to_pn, [[0, 0.6, 0], [0, 0.2, 0], [1, 0.2, 1]])
    np.testing.assert_allclose(tiny.orn_to_ln, [[0.75], [0], [0.25]])
    # Rows: PN 100 of unknown sign (excites), 201 excites, 202 inhibits; columns: KCs 301, 302.
    np.testing.assert_allclose(tiny.pn_to_kc, [[0, 0.5], [0.75, 0], [-0.25, -0.5]])


def test_every_edge_class_says_how_many_pairs_it_has_and_whether_they_are_data(tmp_path):
    tables = write_tables(tmp_path / "tables")
    found = load_pathway(tables).edge_table().set_index("edge_class")
    # Counted by hand in the matrices of the test before; the LN shares glomeruli with all PNs.
    pairs_of = {"ORN->ALPN": 5, "ORN->ALLN": 2, "ALPN->KC": 4, "ALLN->ALPN": 3}
    assert found["pairs"].to_dict() == pairs_of | {"APL->KC": 2, "KC->APL": 2}
    modelled = {"ALLN->ALPN", "APL->KC", "KC->APL"}
    assert set(found.index[found["origin"] == "modelled"]) == modelled
    assert set(found.loc[found["origin"] != "modelled", "origin"]) == {"data"}
    control = load_pathway(tables, shuffle=np.random.default_rng(0)).edge_table()
    assert control.set_index("edge_class").loc["ALPN->KC", "origin"] == "shuffled"


def test_inferred_inhibition_follows_shared_glomeruli():
    orn_to_pn = np.array([[4, 0], [0, 3], [0, 3]])
    orn_to_ln = np.array([[8, 0], [2, 5], [0, 5]])
    glomerulus = pd.Series(["A", "B", "B"])
    # LN 0: A .8, B .2; LN 1: B 1. PN 0: A 1; PN 1: B 1. Overlaps: [[.8, .2], [0, 1]].
    expected = [[1.0, 0.2 / 1.2], [0.0, 1.0 / 1.2]]
    np.testing.assert_allclose(infer_inhibition(orn_to_pn, orn_to_ln, glomerulus), expected)


def test_row_order_of_the_tables_changes_nothing(tiny, tmp_path):
    folder = write_tables(tmp_path / "reordered")
    for name in (fly_tables.NEURONS, fly_tables.CONNECTIONS):
        table = fly_tables.read_table(folder, name)
        table.sample(frac=1, random_state=3).to_parquet(fly_tables.table_path(folder, name))
    assert load_pathway(folder).fingerprint == tiny.fingerprint


def test_other_weight_or_other_neuron_changes_the_fingerprint(tiny, tmp_path):
    folder = write_tables(tmp_path / "changed")
    path = fly_tables.table_path(folder, fly_tables.CONNECTIONS)
    edges = fly_tables.read_table(folder, fly_tables.CONNECTIONS)
    edges.assign(syn_count=edges["syn_count"] + (edges.index == 0)).to_parquet(path)
    assert load_pathway(folder).fingerprint != tiny.fingerprint


def test_asking_for_inhibition_as_data_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"cannot be had.*no output of local neurons"):
        check_inhibition("data")
    with pytest.raises(ValueError, match="'gap' is none of 'lumped', 'none'"):
        check_inhibition("gap")
    check_inhibition("lumped")
    check_inhibition("none")


def test_shuffling_keeps_out_degrees_in_degrees_and_synapse_counts(real_tables):
    _, edges = load_adult(real_tables)
    cells = load_pathway(real_tables).cells
    before = pairs(edges, cells.pn, cells.kc)
    after = shuffle_targets(before, np.random.default_rng(0))
    assert not after["post"].equals(before["post"])
    for end in ("pre", "post"):
        pd.testing.assert_series_equal(
            before[end].value_counts(sort=False).sort_index(),
            after[end].value_counts(sort=False).sort_index(),
        )
    pd.testing.assert_frame_equal(before[["pre", "syn_count"]], after[["pre", "syn_count"]])


def test_shuffle_changes_only_the_pn_to_kc_weights_and_follows_its_seed(real_tables, real):
    shuffled = [load_pathway(real_tables, shuffle=np.random.default_rng(s)) for s in (0, 0, 1)]
    assert shuffled[0].fingerprint == shuffled[1].fingerprint
    assert len({real.fingerprint, *(pathway.fingerprint for pathway in shuffled)}) == 3
    np.testing.assert_array_equal(shuffled[0].orn_to_pn, real.orn_to_pn)
    np.testing.assert_array_equal(shuffled[0].cells.kc["root_id"], real.cells.kc["root_id"])


def test_real_pathway_has_the_published_size(real):
    cells = real.cells
    sizes = [len(kind) for kind in (cells.orn, cells.pn, cells.kc)]
    assert sizes == [2113, 110, 2332]
    assert np.count_nonzero(real.pn_to_kc) == 10228
    assert (cells.pn["cell_type"].nunique(), cells.kc["cell_type"].nunique()) == (54, 6)
    for kind in (cells.orn, cells.pn, cells.kc, cells.ln):
        assert (np.diff(kind["root_id"]) > 0).all()
    for weight in (real.orn_to_pn, real.orn_to_ln, real.pn_to_kc, real.ln_to_pn):
        np.testing.assert_allclose(np.abs(weight).sum(axis=0), 1)


def test_every_readout_index_is_a_left_kenyon_cell(real, real_tables):
    neurons = fly_tables.read_table(real_tables, fly_tables.NEURONS).set_index("root_id")
    found = neurons.loc[real.cells.kc["root_id"]]
    assert set(found["class_broad"]) == {"KC"}
    assert set(found["side"]) == {"left"}
