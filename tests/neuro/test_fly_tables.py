"""The fly's tables: built from public files, equal to the extracts, of the published sizes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuro.connectome import fly_tables
from neuro.connectome.content import content_hash
from neuro.connectome.fly_connections import CODEX
from neuro.connectome.fly_neurons import CONNECTOME, read_receptors

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


# Rows and columns of the extracts, as their description gives them; index columns not counted.
SIZES = {
    fly_tables.NEURONS: (9852, 12),
    fly_tables.CONNECTIONS: (68688, 5),
    fly_tables.CELL_TYPES: (137677, 3),
    fly_tables.DOOR_RESPONSES: (691, 78),
    fly_tables.DOOR_ODORS: (691, 5),
    fly_tables.DOOR_MAPPINGS: (96, 20),
    fly_tables.DOOR_SELECTED: (284, 52),
    fly_tables.LARVA_NEURONS: (3591, 13),
    fly_tables.LARVA_CONNECTIONS: (119010, 3),
}


@pytest.mark.parametrize("name", SIZES)
def test_tables_have_the_published_sizes(built, name):
    assert built[name].shape == SIZES[name]


def test_cell_types_of_the_whole_brain_are_8547(built):
    types = built[fly_tables.CELL_TYPES]["primary_type"]
    assert types.nunique() == 8547
    assert types.str.startswith("ORN_").sum() == 2279


def test_synapses_are_summed_over_neuropils(built, extracts):
    # The published network keeps one of several rows of a pair.
    rows = pd.read_csv(extracts / "raw" / CONNECTOME / "fruitfly_w1.csv")
    assert len(rows) == 16218
    connections = built[fly_tables.CONNECTIONS]
    from_codex = connections[connections["source"] == CODEX]
    assert len(from_codex) == len(rows.drop_duplicates(["pre_root_id", "post_root_id"])) == 15236
    assert from_codex["syn_count"].sum() == rows["syn_count"].sum()


def test_published_list_of_receptor_neurons_repeats_some(extracts):
    listed = read_receptors(extracts / "raw")
    every = np.concatenate(list(listed.values()))
    assert (len(every), len(np.unique(every))) == (2264, 2113)


def test_appended_rows_leave_the_order_of_root_ids(built):
    root_id = built[fly_tables.NEURONS]["root_id"].to_numpy()
    assert (np.diff(root_id[:9729]) > 0).all()
    assert (np.diff(root_id[9729:]) > 0).all()
    assert root_id[9729] < root_id[9728]
