"""Inhibition that the adult's tables do not hold, modelled: local neurons -> PN, APL <-> KC.

All of it is inferred or assumed; nothing here is a measured synapse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuro.connectome.flywire import check_choice, count_synapses
from neuro.connectome.synapse_file import WHERE

if TYPE_CHECKING:
    from numpy.typing import NDArray

INHIBITORY = ("GABA", "GLUT")
SIDES = ("left", "right")


def check_inhibition(kind: str, choices: tuple[str, ...] = ("lumped", "none")) -> None:
    """Refuse a kind of inhibition that does not exist.

    Args:
        kind: "lumped" (modelled), "none", or another of the choices.
        choices: what there is.

    Raises:
        ValueError: it is none of them; "data" is refused with the reason.
    """
    if kind == "data":
        msg = (
            "inhibition = 'data' cannot be had for the adult fly: these tables hold no output of "
            "local neurons (LN -> PN) and no synapse between APL and Kenyon cells. Use 'lumped' "
            "(modelled) or 'none', or, for the whole circuit, 'file' with a table of your own. "
            f"{WHERE}"
        )
        raise ValueError(msg)
    check_choice("inhibition", kind, choices)


def lumped_inhibition(neurons: pd.DataFrame, edges: pd.DataFrame) -> pd.DataFrame:
    """Model the missing pairs within each side of the brain.

    ALLN->ALPN: local neurons inhibit the PNs driven by the same glomeruli as they, in proportion to
    the overlap. Those predicted to release something else than GABA or glutamate do not; those of
    unknown transmitter do, for they take in half of the receptor neurons' synapses onto local
    neurons, and most local neurons inhibit. KC->APL and APL->KC: all to all, for APL touches nearly
    every Kenyon cell.

    Args:
        neurons: of the circuit, from `neuro.connectome.flywire.load_adult`.
        edges: from the same.

    Returns:
        Columns pre, post (root ids), strength (comparable within an edge class), edge_class, sign.
    """
    of_class = {name: group for name, group in neurons.groupby("cell_class")}
    parts = []
    for side in SIDES:
        alpn, alln, kc, apl = (
            of_class[name][of_class[name]["side"] == side] if name in of_class else neurons[:0]
            for name in ("ALPN", "ALLN", "KC", "APL")
        )
        inhibiting = alln[alln["transmitter"].isna() | alln["transmitter"].isin(INHIBITORY)]
        parts.append(_from_local_neurons(edges, of_class["ORN"], inhibiting, alpn))
        parts.append(_all_to_all(kc, apl, edge_class="KC->APL", sign=1))
        parts.append(_all_to_all(apl, kc, edge_class="APL->KC", sign=-1))
    return pd.concat(parts, ignore_index=True)


def glomerular_overlap(
    orn_to_pn: NDArray[np.int64], orn_to_ln: NDArray[np.int64], glomerulus: pd.Series
) -> NDArray[np.float64]:
    """Return how far a local neuron and a PN are driven by the same glomeruli.

    Args:
        orn_to_pn: synapses, shape (ORN, PN).
        orn_to_ln: synapses, shape (ORN, LN).
        glomerulus: of the ORNs, shape (ORN,); None is none.

    Returns:
        The chance that a synapse of the local neuron and one of the PN, drawn from all that they
        get from ORNs, come from one glomerulus, 0 .. 1, shape (LN, PN).
    """
    onto_pn, onto_ln = (
        pd.DataFrame(counts).groupby(glomerulus.to_numpy()).sum().to_numpy()
        for counts in (orn_to_pn, orn_to_ln)
    )
    # Whole numbers up to here: the last bit depends on no library's order of summation.
    shared = onto_ln.T @ onto_pn
    all_pairs = np.multiply.outer(orn_to_ln.sum(axis=0), orn_to_pn.sum(axis=0))
    return shared / np.maximum(all_pairs, 1)


def _from_local_neurons(
    edges: pd.DataFrame, orn: pd.DataFrame, alln: pd.DataFrame, alpn: pd.DataFrame
) -> pd.DataFrame:
    overlap = glomerular_overlap(
        count_synapses(edges, orn, alpn), count_synapses(edges, orn, alln), orn["glomerulus"]
    )
    row, column = np.nonzero(overlap)
    return pd.DataFrame(
        {
            "pre": alln.index[row],
            "post": alpn.index[column],
            "strength": overlap[row, column],
            "edge_class": "ALLN->ALPN",
            "sign": -1,
        }
    )


def _all_to_all(
    pre: pd.DataFrame, post: pd.DataFrame, *, edge_class: str, sign: int
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pre": np.repeat(pre.index, len(post)),
            "post": np.tile(post.index, len(pre)),
            "strength": 1.0,
            "edge_class": edge_class,
            "sign": sign,
        }
    )
