"""Connected pairs of a table that the user has: what the shipped tables of the adult leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from pyarrow import parquet

if TYPE_CHECKING:
    from pathlib import Path

WHERE = (
    "The whole-brain tables of FlyWire v783 hold them: Connectivity_783.parquet of Shiu et al. "
    "(`./run fetch fly_whole_brain`), or connections.csv.gz of codex.flywire.ai; the input is to "
    "be called inhibition.parquet or inhibition.csv"
)

# What the public tables call the presynaptic neuron, the postsynaptic one and the synapses, and
# the sign of the presynaptic one, which only some of them hold.
_NAMES = (
    ("pre", "post", "syn_count", "sign"),
    ("pre_root_id", "post_root_id", "syn_count", "sign"),
    ("Presynaptic_ID", "Postsynaptic_ID", "Connectivity", "Excitatory"),
)


def read_synapses(path: Path | None, among: pd.Index) -> pd.DataFrame:
    """Read the pairs among some neurons and their synapses, summed over repeated rows.

    Args:
        path: a table, .parquet or .csv (also .csv.gz), with the columns pre, post, syn_count and,
            if it has it, sign (+1 or -1), or those of Codex or of Shiu et al. 2024.
        among: root ids.

    Returns:
        Columns pre, post (root ids), syn_count, sign (0 where the table has none), ordered by pre
        and post.

    Raises:
        FileNotFoundError: no file is given, or it is not there; says where one can be had.
        ValueError: it has other columns, or values that are no pairs.
    """
    if path is None or not path.is_file():
        lacking = "no table of synapses is given" if path is None else f"{str(path)!r} is no file"
        msg = f"inhibition = 'file', but {lacking}. {WHERE}"
        raise FileNotFoundError(msg)
    table = _read(path)
    whole = all(pd.api.types.is_integer_dtype(dtype) for dtype in table.dtypes)
    if not whole or (table["syn_count"] <= 0).any() or not table["sign"].isin((-1, 0, 1)).all():
        msg = (
            f"{str(path)!r}: root ids, synapse counts and signs must be whole numbers, counts at "
            "least 1, signs +1 or -1. A root id read as a float has lost its last digits"
        )
        raise ValueError(msg)
    table = table[table["pre"].isin(among) & table["post"].isin(among)]
    pairs = table.groupby(["pre", "post"])
    return pairs.agg({"syn_count": "sum", "sign": "first"}).reset_index()


def _read(path: Path) -> pd.DataFrame:
    """Read the columns pre, post, syn_count and sign under whichever names they have."""
    packed = path.suffix == ".parquet"
    columns = parquet.read_schema(path).names if packed else list(pd.read_csv(path, nrows=0))
    for names in _NAMES:
        if set(names[:3]) <= set(columns):
            present = [name for name in names if name in columns]
            # The whole brain's table has 15 million rows, and more columns than these.
            table = (
                pd.read_parquet(path, columns=present)
                if packed
                else pd.read_csv(path, usecols=present)
            )
            table = table.rename(columns=dict(zip(names, _NAMES[0], strict=True)))
            return table if "sign" in table else table.assign(sign=0)
    msg = f"{str(path)!r} has the columns {columns!r}: it needs pre, post (root ids) and syn_count"
    raise ValueError(msg)
