"""The fly's tables: built from public files, equal to the extracts, with the published sums."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuro.connectome import fly_tables, odors
from neuro.connectome.content import content_hash

SOURCES = Path(__file__).parents[2] / "experiments" / "fly_olfaction" / "sources.toml"


@pytest.fixture(scope="module")
def extracts(shared_data):
    return shared_data / "fly"


@pytest.fixture(scope="module")
def built(extracts):
    return fly_tables.build_tables(extracts / "raw")


@pytest.fixture(scope="module")
def described():
    tables = tomllib.loads(SOURCES.read_text(encoding="utf-8"))["table"]
    return {table["name"]: table["sha256"] for table in tables}


def normal_form(table):
    """Sorted rows, one kind of missing value, no index: compared by pandas, not by our hash."""
    columns = table.reset_index() if table.index.name else table.reset_index(drop=True)
    columns = columns.astype({c: str for c in columns.columns[columns.dtypes == "category"]})
    columns = columns.sort_values(list(columns.columns), ignore_index=True)
    return columns.astype(object).where(columns.notna(), None)


def test_tables_built_from_raw_files_equal_the_extracts(built, extracts):
    for name, table in built.items():
        extract = fly_tables.read_table(extracts, name)
        pd.testing.assert_frame_equal(
            normal_form(table), normal_form(extract), check_dtype=False, check_exact=True
        )
    files = {path.stem for path in extracts.glob("*.parquet")}
    assert set(built) == files


def test_committed_hashes_are_those_of_the_extracts_and_of_the_built_tables(
    built, extracts, described
):
    assert {name: content_hash(table) for name, table in built.items()} == described
    for name, sha256 in described.items():
        assert content_hash(fly_tables.read_table(extracts, name)) == sha256, name


def test_content_hash_ignores_order_and_width_but_no_value():
    table = pd.DataFrame({"a": [1, 2, 3], "b": ["x", None, "None"], "c": [0.5, np.nan, -0.0]})
    same = [
        table.iloc[::-1],
        table[["c", "a", "b"]],
        table.astype({"a": "int8", "b": "category"}),
        table.assign(b=["x", np.nan, "None"], c=[0.5, None, 0.0]),
        table.set_axis([7, 8, 9], axis=0),
        table.set_index("a"),
    ]
    other = [
        table.assign(a=[1, 2, 4]),
        table.assign(b=["x", "None", None]),
        table.assign(c=[np.nextafter(0.5, 1), np.nan, 0.0]),
        table.rename(columns={"a": "d"}),
        table.astype({"a": float}),
        table.astype({"a": str}),
        table.iloc[:2],
        pd.concat([table, table]),
    ]
    assert {content_hash(equal) for equal in same} == {content_hash(table)}
    assert len({content_hash(different) for different in [table, *other]}) == len(other) + 1


def test_content_hash_refuses_what_it_cannot_write_down():
    with pytest.raises(TypeError, match="'a'"):
        content_hash(pd.DataFrame({"a": [[1], [2]]}))


# Pairs and synapses of each class of connection (FlyWire v783).
SUMS = {
    ("ORN", "ALPN"): (6979, 135263),
    ("ORN", "ALLN"): (8257, 76370),
    ("ALPN", "KC"): (22177, 364078),
    ("ALPN", "APL"): (220, 5081),
    ("KC", "MBON"): (25932, 178068),
    ("DAN", "KC"): (3136, 17127),
    ("DAN", "MBON"): (866, 20814),
    ("DAN", "APL"): (166, 3750),
    ("MBON", "MBON"): (307, 6981),
    ("APL", "MBON"): (65, 3330),
}


@pytest.mark.parametrize(("pre", "post"), SUMS)
def test_pairs_and_synapses_between_classes_are_the_published_ones(built, pre, post):
    neurons, edges = built[fly_tables.NEURONS], built[fly_tables.CONNECTIONS]
    kind = neurons["class_broad"].replace({"ALRN": "ORN"})
    chosen = edges[(kind[edges["pre"]].values == pre) & (kind[edges["post"]].values == post)]
    assert (len(chosen), chosen["syn_count"].sum()) == SUMS[pre, post]
    assert not chosen.duplicated(["pre", "post"]).any()


LARVAL_SUMS = {
    ("sensory", "PNs"): (2118, 14479),
    ("sensory", "LNs"): (789, 9211),
    ("LNs", "PNs"): (1370, 6654),
    ("LNs", "LNs"): (851, 4959),
    ("PNs", "LNs"): (1438, 5895),
    ("PNs", "KCs"): (898, 4798),
    ("KCs", "KCs"): (7230, 16405),
    ("KCs", "MBONs"): (3053, 17778),
    ("MBINs", "KCs"): (1703, 4773),
}


@pytest.mark.parametrize(("pre", "post"), LARVAL_SUMS)
def test_larval_pairs_and_synapses_are_the_published_ones(built, pre, post):
    neurons, edges = built[fly_tables.LARVA_NEURONS], built[fly_tables.LARVA_CONNECTIONS]
    members = {kind: neurons.index[neurons[kind] == "True"] for kind in (pre, post)}
    chosen = edges[edges["pre"].isin(members[pre]) & edges["post"].isin(members[post])]
    assert (len(chosen), chosen["syn_count"].sum()) == LARVAL_SUMS[pre, post]


def test_selection_rule_gives_the_281_published_odors(extracts):
    chosen = odors.load_odors(extracts)
    published = fly_tables.read_table(extracts, fly_tables.DOOR_SELECTED)
    assert len(chosen.names) == len(set(chosen.names)) == 281
    assert set(chosen.names) == set(published.index)
    once = published[~published.index.duplicated()].loc[list(chosen.names)]
    np.testing.assert_allclose(chosen.response, once.to_numpy(), rtol=0, atol=1e-15)
    assert len(chosen.chemical_class) == 281
    assert "ester" in chosen.chemical_class


def test_284_classes_only_under_seed_compat(extracts):
    compatible = odors.load_odors(extracts, seed_compat=True)
    assert len(compatible.names) == 284
    repeated = pd.Series(compatible.names).value_counts()
    assert set(repeated.index[repeated > 1]) == {"beta-citronellol", "citral", "methyl jasmonate"}


def test_drive_sums_the_receptors_of_a_neuron_under_their_names_in_door():
    response = np.array([[0.25, 0.5, 0.0], [1.0, 0.0, 0.75]])
    made = odors.Odors(("one", "two"), ("", ""), response, ("Or47a", "Or65a", "ab4B"))
    carried = pd.Series(["Or47a", "Or65|Or47a", "Or56a", "Ir75", ""])
    expected = [[0.25, 0.75, 0.0, 0.0, 0.0], [1.0, 1.0, 0.75, 0.0, 0.0]]
    np.testing.assert_array_equal(made.drive(carried), expected)
