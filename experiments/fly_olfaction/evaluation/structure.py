"""What the connectome itself says, before any simulation: convergence onto Kenyon cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evaluation.activity import as_json
from neuro.connectome.flywire import load_adult
from neuro.connectome.wiring_controls import shuffle_targets_within_type
from neuro.metrics.estimate import Estimate, mean_of

if TYPE_CHECKING:
    from pathlib import Path


def measure_structure(
    tables: Path, *, n_shuffles: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Count what section "Published values" compares with the literature.

    Args:
        tables: the folder of tables.
        n_shuffles: of PN -> KC pairs for the convergence of PN types.
        generator: of these shuffles.

    Returns:
        pns_per_kc (over Kenyon cells with an input, n counts them), pns_per_kc_median, n_kc,
        n_mbon, same_glomerulus_share of ORN -> PN synapses and the pairs it was counted over, and
        pn_convergence, see `measure_convergence`.
    """
    neurons, edges = load_adult(tables)
    onto_kc = edges[edges["edge_class"] == "ALPN->KC"]
    per_kc = onto_kc.groupby("post").size()
    onto_pn = edges[edges["edge_class"] == "ORN->ALPN"]
    pre, post = (onto_pn[end].map(neurons["glomerulus"]) for end in ("pre", "post"))
    known = (pre.notna() & post.notna()).to_numpy()
    synapses = onto_pn["syn_count"].to_numpy()[known]
    same = (pre == post).to_numpy()[known]
    classes = neurons["cell_class"].value_counts()
    return {
        "pns_per_kc": as_json(mean_of(per_kc)),
        "pns_per_kc_median": float(per_kc.median()),
        "n_kc": int(classes["KC"]),
        "n_mbon": int(classes["MBON"]),
        "same_glomerulus_share": float((synapses * same).sum() / synapses.sum()),
        "same_glomerulus_pairs": int(known.sum()),
        "pn_convergence": measure_convergence(
            onto_kc, neurons, n_shuffles=n_shuffles, generator=generator
        ),
    }


def measure_convergence(
    onto_kc: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    n_shuffles: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Compare how unevenly pairs of PN types meet in Kenyon cells with shuffled pairs.

    For every two PN types, the Kenyon cells that both drive are counted; the statistic is the
    standard deviation of these counts over pairs of types. Shuffling keeps how many Kenyon cells of
    each type and side every PN drives, and how many inputs each Kenyon cell has: types that drive
    many, or prefer the same type, meet often in both.

    Args:
        onto_kc: pairs, columns pre and post.
        neurons: by root id, with cell_type and side.
        n_shuffles: of the pairs.
        generator: of the shuffles.

    Returns:
        real, shuffled (mean; the error is the standard deviation over shuffles, as it is one
        shuffled wiring that the real one is compared with), z and p.
    """
    kind = pd.factorize(onto_kc["pre"].map(neurons["cell_type"]))[0]
    real = _unevenness(kind, onto_kc["post"])
    shuffles = (shuffle_targets_within_type(onto_kc, neurons, generator) for _ in range(n_shuffles))
    shuffled = np.array([_unevenness(kind, pairs["post"]) for pairs in shuffles])
    spread = float(shuffled.std(ddof=1)) if n_shuffles > 1 else np.nan
    return {
        "real": real,
        "shuffled": as_json(Estimate(float(shuffled.mean()), spread, n_shuffles)),
        "z": float((real - shuffled.mean()) / spread) if spread > 0 else None,
        "p": float((1 + (shuffled >= real).sum()) / (1 + n_shuffles)),
    }


def _unevenness(kind: np.ndarray, post: pd.Series) -> float:
    """Return the standard deviation, over pairs of types, of how many Kenyon cells they share."""
    cell = pd.factorize(post)[0]
    drives = np.zeros((kind.max() + 1, cell.max() + 1))
    drives[kind, cell] = 1
    shared = drives @ drives.T
    return float(shared[np.triu_indices(len(shared), 1)].std())
