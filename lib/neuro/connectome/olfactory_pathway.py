"""The pathway ORN -> PN -> KC of an adult fly, as matrices (FlyWire v783)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from neuro.connectome import fly_tables

if TYPE_CHECKING:
    from pathlib import Path

Inhibition = Literal["lumped", "none"]


@dataclass(frozen=True)
class Pathway:
    """Neurons in the order of their root ids, and who drives whom how strongly.

    Every weight matrix has shape (presynaptic, postsynaptic); the absolute weights onto a neuron sum
    to 1 in each matrix, since synapse counts of different sources cannot be compared.

    Attributes:
        orn, pn, kc, ln: the rows of the neuron table, one a neuron.
        orn_to_pn, orn_to_ln: share of receptor input, >= 0 (data).
        pn_to_kc: share of PN input, signed by the PN's transmitter (data, or shuffled).
        ln_to_pn: share of inhibition, >= 0 (inferred, not data).
    """

    orn: pd.DataFrame
    pn: pd.DataFrame
    kc: pd.DataFrame
    ln: pd.DataFrame
    orn_to_pn: np.ndarray
    orn_to_ln: np.ndarray
    pn_to_kc: np.ndarray
    ln_to_pn: np.ndarray

    @property
    def fingerprint(self) -> str:
        """A sha256 over all root ids and weights: equal fingerprint, equal wiring."""
        digest = hashlib.sha256()
        for neurons in (self.orn, self.pn, self.kc, self.ln):
            digest.update(neurons["root_id"].to_numpy("<i8").tobytes())
        for weight in (self.orn_to_pn, self.orn_to_ln, self.pn_to_kc, self.ln_to_pn):
            digest.update(weight.astype("<f4").tobytes())
        return digest.hexdigest()


def load_pathway(
    folder: Path,
    *,
    inhibition: str = "lumped",
    shuffle_pn_to_kc: np.random.Generator | None = None,
) -> Pathway:
    """Cut the pathway out of the tables.

    The 2,113 receptor neurons that have a receptor in DoOR; the PNs that they drive and that drive a
    left KC; these KCs; the LNs that the receptor neurons drive.

    Args:
        folder: where the tables lie.
        inhibition: "lumped" or "none"; see `check_inhibition`.
        shuffle_pn_to_kc: permute the KC of all PN -> KC pairs by this generator, as a control; None
            keeps the real pairs.

    Returns:
        The pathway; `ln_to_pn` and `orn_to_ln` are zero where there is no inhibition.

    Raises:
        ValueError: see `check_inhibition`.
    """
    check_inhibition(inhibition)
    # By root id, not by row: the table was appended to, and rows are no identity.
    neurons = fly_tables.read_table(folder, fly_tables.NEURONS)
    edges = fly_tables.read_table(folder, fly_tables.CONNECTIONS)
    root_id = neurons.set_index("index")["root_id"]
    edges = edges.assign(pre=edges["pre"].map(root_id), post=edges["post"].map(root_id))
    neurons = neurons.set_index("root_id", drop=False).rename_axis(None).sort_index()
    broad = neurons["class_broad"]
    orn = neurons[neurons["seed_input"]]
    left_kc = neurons[(broad == "KC") & (neurons["side"] == "left")]
    alpn, alln = neurons[broad == "ALPN"], neurons[broad == "ALLN"]
    orn_to_alpn, alpn_to_kc = between(edges, orn, alpn), between(edges, alpn, left_kc)
    pn = alpn.loc[np.intersect1d(orn_to_alpn["post"], alpn_to_kc["pre"])]
    pn_to_kc = between(edges, pn, left_kc)
    orn_to_alln = between(edges, orn, alln)
    pathway = Pathway(
        orn=orn,
        pn=pn,
        kc=left_kc.loc[np.unique(pn_to_kc["post"])],
        ln=alln.loc[np.unique(orn_to_alln["post"])],
        orn_to_pn=np.empty(0),
        orn_to_ln=np.empty(0),
        pn_to_kc=np.empty(0),
        ln_to_pn=np.empty(0),
    )
    if shuffle_pn_to_kc is not None:
        pn_to_kc = shuffle_targets(pn_to_kc, shuffle_pn_to_kc)
    # A PN of unknown sign is taken as excitatory, as most are.
    sign = pathway.pn["sign"].replace(0, 1).to_numpy()[:, None]
    pathway = replace(
        pathway,
        orn_to_pn=input_shares(orn_to_alpn, orn, pathway.pn),
        orn_to_ln=input_shares(orn_to_alln, orn, pathway.ln),
        pn_to_kc=sign * input_shares(pn_to_kc, pathway.pn, pathway.kc),
    )
    return replace(pathway, ln_to_pn=infer_ln_to_pn(pathway))
