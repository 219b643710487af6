"""The pathway ORN -> PN -> KC of an adult fly, as matrices (FlyWire v783)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuro.connectome import fly_tables

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

INHIBITION = ("lumped", "none")


@dataclass(frozen=True)
class Cells:
    """The neurons of the pathway, rows of the neuron table; each kind is ordered by root id.

    Attributes:
        orn: receptor neurons that carry a receptor of DoOR.
        pn: projection neurons that they drive and that drive a Kenyon cell of the left side.
        kc: Kenyon cells of the left side that these drive.
        ln: local neurons that the receptor neurons drive.
    """

    orn: pd.DataFrame
    pn: pd.DataFrame
    kc: pd.DataFrame
    ln: pd.DataFrame


@dataclass(frozen=True)
class Pathway:
    """Who drives whom how strongly.

    Weights have shape (presynaptic, postsynaptic). The absolute weights onto a neuron sum to 1 in
    each matrix, since synapse counts of different sources cannot be compared.

    Attributes:
        cells: the neurons, in the order of the axes.
        orn_to_pn, orn_to_ln: shares of receptor input, >= 0: data.
        pn_to_kc: shares of PN input, signed by the PN's transmitter: data, unless shuffled.
        ln_to_pn: shares of inhibition, >= 0: inferred, for there are no data.
    """

    cells: Cells
    orn_to_pn: NDArray[np.float64]
    orn_to_ln: NDArray[np.float64]
    pn_to_kc: NDArray[np.float64]
    ln_to_pn: NDArray[np.float64]

    @property
    def fingerprint(self) -> bytes:
        """32 bytes of sha256 over all root ids and weights: equal wiring, equal bytes."""
        cells = (self.cells.orn, self.cells.pn, self.cells.kc, self.cells.ln)
        weights = (self.orn_to_pn, self.orn_to_ln, self.pn_to_kc, self.ln_to_pn)
        digest = hashlib.sha256()
        for array in (*(kind["root_id"].to_numpy() for kind in cells), *weights):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()


def load_pathway(folder: Path, *, shuffle: np.random.Generator | None = None) -> Pathway:
    """Cut the pathway out of the tables.

    Args:
        folder: where the tables lie.
        shuffle: permute the Kenyon cells over all PN -> KC pairs with this generator, as a control;
            None keeps the real pairs.

    Returns:
        The pathway.

    Raises:
        FileNotFoundError: a table is missing.
    """
    neurons, edges = read_by_root_id(folder)
    cells = select_cells(neurons, edges)
    pn_to_kc = pairs(edges, cells.pn, cells.kc)
    if shuffle is not None:
        pn_to_kc = shuffle_targets(pn_to_kc, shuffle)
    orn_to_pn = input_shares(pairs(edges, cells.orn, cells.pn), cells.orn, cells.pn)
    orn_to_ln = input_shares(pairs(edges, cells.orn, cells.ln), cells.orn, cells.ln)
    # A PN of unknown sign counts as excitatory, as most are.
    sign = cells.pn["sign"].replace(0, 1).to_numpy()[:, None]
    return Pathway(
        cells=cells,
        orn_to_pn=orn_to_pn,
        orn_to_ln=orn_to_ln,
        pn_to_kc=sign * input_shares(pn_to_kc, cells.pn, cells.kc),
        ln_to_pn=infer_inhibition(orn_to_pn, orn_to_ln, cells.orn["glomerulus"]),
    )


def check_inhibition(kind: str) -> None:
    """Refuse a kind of inhibition that does not exist.

    Args:
        kind: "lumped" (LN -> PN inferred from the LN's input, one APL value for all KCs) or "none".

    Raises:
        ValueError: it is neither; "data" is refused with the reason.
    """
    if kind == "data":
        msg = (
            "inhibition = 'data' cannot be had for the adult fly: these tables hold no output of "
            "local neurons (LN -> PN) and no synapse between APL and Kenyon cells. Use 'lumped' "
            "(modelled) or 'none'"
        )
        raise ValueError(msg)
    if kind not in INHIBITION:
        msg = f"inhibition = {kind!r} is none of {', '.join(map(repr, INHIBITION))}"
        raise ValueError(msg)


def read_by_root_id(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read neurons, indexed by and ordered by root id, and edges between root ids.

    Rows of the neuron table are no identity: it was appended to.
    """
    neurons = fly_tables.read_table(folder, fly_tables.NEURONS)
    edges = fly_tables.read_table(folder, fly_tables.CONNECTIONS)
    root_id = neurons.set_index("index")["root_id"]
    edges = edges.assign(pre=edges["pre"].map(root_id), post=edges["post"].map(root_id))
    neurons = neurons.set_index("root_id", drop=False).rename_axis(None).sort_index()
    return neurons, edges.sort_values(["pre", "post"], ignore_index=True)


def select_cells(neurons: pd.DataFrame, edges: pd.DataFrame) -> Cells:
    """Choose the neurons of the pathway; see `Cells`."""
    broad = neurons["class_broad"]
    orn = neurons[neurons["seed_input"]]
    alpn, alln = neurons[broad == "ALPN"], neurons[broad == "ALLN"]
    left_kc = neurons[(broad == "KC") & (neurons["side"] == "left")]
    driven = pairs(edges, orn, alpn)["post"]
    driving = pairs(edges, alpn, left_kc)["pre"]
    pn = alpn.loc[np.intersect1d(driven, driving)]
    kc = left_kc.loc[np.unique(pairs(edges, pn, left_kc)["post"])]
    ln = alln.loc[np.unique(pairs(edges, orn, alln)["post"])]
    return Cells(orn=orn, pn=pn, kc=kc, ln=ln)


def pairs(edges: pd.DataFrame, pre: pd.DataFrame, post: pd.DataFrame) -> pd.DataFrame:
    """Return the edges from one population to another: pre, post, syn_count."""
    chosen = edges["pre"].isin(pre.index) & edges["post"].isin(post.index)
    return edges.loc[chosen, ["pre", "post", "syn_count"]].reset_index(drop=True)


def shuffle_targets(edges: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Permute the postsynaptic neurons over all pairs; a pair keeps its synapse count.

    Counted with multiplicity, every presynaptic neuron keeps its out-degree and every postsynaptic
    one its in-degree.
    """
    return edges.assign(post=generator.permutation(edges["post"].to_numpy()))


def input_shares(edges: pd.DataFrame, pre: pd.DataFrame, post: pd.DataFrame) -> NDArray[np.float64]:
    """Return each neuron's input by source as shares of its synapses, shape (pre, post)."""
    counts = np.zeros((len(pre), len(post)))
    rows = pre.index.get_indexer(pd.Index(edges["pre"]))
    columns = post.index.get_indexer(pd.Index(edges["post"]))
    np.add.at(counts, (rows, columns), edges["syn_count"].to_numpy())
    return counts / counts.sum(axis=0)


def infer_inhibition(
    orn_to_pn: NDArray[np.float64], orn_to_ln: NDArray[np.float64], glomerulus: pd.Series
) -> NDArray[np.float64]:
    """Infer LN -> PN: an LN inhibits a PN as far as they are driven by the same glomeruli.

    Args:
        orn_to_pn: shares of receptor input, shape (ORN, PN).
        orn_to_ln: shares of receptor input, shape (ORN, LN).
        glomerulus: of the ORNs, shape (ORN,).

    Returns:
        Shares of inhibition, >= 0, shape (LN, PN); those onto a PN sum to 1.
    """
    member = pd.get_dummies(glomerulus).to_numpy(dtype=np.float64)
    overlap = (member.T @ orn_to_ln).T @ (member.T @ orn_to_pn)
    return overlap / overlap.sum(axis=0)
