"""The pathway ORN -> PN -> KC of an adult fly, as matrices (FlyWire v783)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from neuro.connectome.flywire import count_synapses, load_adult
from neuro.connectome.lumped_inhibition import glomerular_overlap
from neuro.connectome.wiring_controls import shuffle_targets

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cells:
    """The neurons of the pathway, columns of `neuro.connectome.flywire.AdultFly`, by root id.

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
        ln_to_pn: shares of inhibition, >= 0: modelled, for there are no data.
        shuffled: whether `pn_to_kc` is a control.
    """

    cells: Cells
    orn_to_pn: NDArray[np.float64]
    orn_to_ln: NDArray[np.float64]
    pn_to_kc: NDArray[np.float64]
    ln_to_pn: NDArray[np.float64]
    shuffled: bool = False

    def edge_table(self) -> pd.DataFrame:
        """Return one row an edge class, for records; see `Circuit.edge_table`.

        APL, which a network of this pathway has as one graded value, is in it.
        """
        sign_origin = "|".join(sorted(set(self.cells.pn["sign_origin"])))
        origin, n_kc = "shuffled" if self.shuffled else "data", len(self.cells.kc)
        rows = [
            ("ALLN->ALPN", np.count_nonzero(self.ln_to_pn), "modelled", "assumed"),
            ("ALPN->KC", np.count_nonzero(self.pn_to_kc), origin, sign_origin),
            ("APL->KC", n_kc, "modelled", "known"),
            ("KC->APL", n_kc, "modelled", "known"),
            ("ORN->ALLN", np.count_nonzero(self.orn_to_ln), "data", "known"),
            ("ORN->ALPN", np.count_nonzero(self.orn_to_pn), "data", "known"),
        ]
        return pd.DataFrame(rows, columns=["edge_class", "pairs", "origin", "sign_origin"])

    @property
    def fingerprint(self) -> bytes:
        """32 bytes of sha256 over all root ids and weights: equal wiring, equal bytes."""
        cells = (self.cells.orn, self.cells.pn, self.cells.kc, self.cells.ln)
        weights = (self.orn_to_pn, self.orn_to_ln, self.pn_to_kc, self.ln_to_pn)
        digest = hashlib.sha256()
        for array in (*(kind["root_id"].to_numpy() for kind in cells), *weights):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()


def load_pathway(
    folder: Path,
    *,
    shuffle: np.random.Generator | None = None,
    receptor_map: str = "cell_type",
) -> Pathway:
    """Cut the pathway out of the tables.

    Args:
        folder: where the tables lie.
        shuffle: permute the Kenyon cells over all PN -> KC pairs with this generator, as a control;
            None keeps the real pairs.
        receptor_map: see `neuro.connectome.flywire.load_adult`.

    Returns:
        The pathway.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: no such map.
    """
    # A PN of unknown sign counts as excitatory, as most are.
    neurons, edges = load_adult(folder, sign_rule="published", receptor_map=receptor_map)
    cells = select_cells(neurons, edges)
    pn_to_kc = pairs(edges, cells.pn, cells.kc)
    if shuffle is not None:
        pn_to_kc = shuffle_targets(pn_to_kc, shuffle)
    orn_to_pn = count_synapses(edges, cells.orn, cells.pn)
    orn_to_ln = count_synapses(edges, cells.orn, cells.ln)
    sign = cells.pn["sign"].to_numpy()[:, None]
    return Pathway(
        cells=cells,
        orn_to_pn=input_shares(orn_to_pn),
        orn_to_ln=input_shares(orn_to_ln),
        pn_to_kc=sign * input_shares(count_synapses(pn_to_kc, cells.pn, cells.kc)),
        ln_to_pn=infer_inhibition(orn_to_pn, orn_to_ln, cells.orn["glomerulus"]),
        shuffled=shuffle is not None,
    )


def select_cells(neurons: pd.DataFrame, edges: pd.DataFrame) -> Cells:
    """Choose the neurons of the pathway; see `Cells`."""
    kind = neurons["cell_class"]
    orn = neurons[neurons["is_input"]]
    alpn, alln = neurons[kind == "ALPN"], neurons[kind == "ALLN"]
    left_kc = neurons[(kind == "KC") & (neurons["side"] == "left")]
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


def input_shares(synapses: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each neuron's input by source as shares of its synapses, shape (pre, post)."""
    return synapses / synapses.sum(axis=0)


def infer_inhibition(
    orn_to_pn: NDArray[np.int64], orn_to_ln: NDArray[np.int64], glomerulus: pd.Series
) -> NDArray[np.float64]:
    """Infer LN -> PN: an LN inhibits a PN as far as they are driven by the same glomeruli.

    Args:
        orn_to_pn: synapses, shape (ORN, PN).
        orn_to_ln: synapses, shape (ORN, LN).
        glomerulus: of the ORNs, shape (ORN,).

    Returns:
        Shares of inhibition, >= 0, shape (LN, PN); those onto a PN sum to 1.
    """
    overlap = glomerular_overlap(orn_to_pn, orn_to_ln, glomerulus)
    return overlap / overlap.sum(axis=0)
