"""Whether a linear readout of the network predicts the measured innate valence of odors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from evaluation.responses import layer_counts
from neuro.connectome import fly_tables
from neuro.metrics.linear_readout import ReadoutScore, score_readout
from neuro.metrics.similarity import mean_by_odor

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from evaluation.responses import Responses

# Columns of the table by what their names contain, in this order.
COLUMNS = {"cas": "cas", "inchikey": "inchikey", "valence": "attraction index|valence|preference"}
NAME = "odorant|odor|odour|name"
GREEK = {"a": "alpha", "b": "beta", "g": "gamma", "d": "delta"}
# Populations that are read out, where the network has them.
READ_OUT = {"ORN": "ORN", "PN": "ALPN", "KC": "KC", "MBON": "MBON"}
MISSING = (
    "No table of measured valence was given, so this was not measured. Knaden et al. 2012, Cell "
    "Reports 1, list the attraction index of 110 odors; the repository "
    "YijieYin/connectome_interpreter (MIT license) has the list as "
    "connectome_interpreter/data/Knaden2012/Knaden2012_odour_valence.csv at commit c8185c4. Save "
    "it outside the run folder and evaluate again with --config "
    '\'data.inputs.2={path="PATH", name="valence"}\'.'
)


class Matched(NamedTuple):
    """Odors of the task with a measured valence.

    Attributes:
        label: position among the task's odors, rising, shape (m,).
        valence: shape (m,).
        unmatched: names in the table that no odor of the task has.
        by: how many were matched by "cas", "inchikey" and "name".
    """

    label: np.ndarray
    valence: np.ndarray
    unmatched: list[str]
    by: dict[str, int]


def match_valence(table: Path, tables: Path, odors: Iterable[str]) -> Matched:
    """Find the task's odors in a table of valences: by CAS number, else InChIKey, else name.

    Args:
        table: a CSV file with a column for the odor's name, one for its valence, and perhaps CAS
            number and InChIKey.
        tables: the folder of tables, among them DoOR's list of odors.
        odors: names of the task's odors, by class.

    Raises:
        ValueError: a needed column is missing.
    """
    given = pd.read_csv(table, dtype=str)
    columns = {key: _column(given, pattern) for key, pattern in COLUMNS.items()}
    columns["name"] = _column(given, NAME)
    if columns["valence"] is None or columns["name"] is None:
        msg = (
            f"{table} has columns {list(given.columns)}; it needs one whose name contains odor or "
            "name, and one that contains attraction index, valence or preference"
        )
        raise ValueError(msg)
    known = _identities(tables, list(odors))
    label, valence, unmatched, by = [], [], [], {"cas": 0, "inchikey": 0, "name": 0}
    for _, row in given.iterrows():
        for kind in by:
            column = columns[kind]
            text = "" if column is None or pd.isna(row[column]) else str(row[column])
            found = known[kind].get(_clean(kind, text))
            if found is not None and found not in label:
                label.append(found)
                valence.append(float(row[columns["valence"]]))
                by[kind] += 1
                break
        else:
            unmatched.append(str(row[columns["name"]]).strip())
    order = np.argsort(label)
    return Matched(np.array(label, int)[order], np.array(valence)[order], unmatched, by)


class Readout(NamedTuple):
    """What linear readouts say of the odors that were matched and presented.

    Attributes:
        matched: odors and their valence.
        label: of the odors predicted, shape (m,).
        measured: their valence, shape (m,).
        scores: by population.
    """

    matched: Matched
    label: np.ndarray
    measured: np.ndarray
    scores: dict[str, ReadoutScore]

    def as_json(self, odors: np.ndarray) -> dict[str, Any]:
        """Return everything by name, odors too."""
        return {
            "n_in_table": len(self.matched.label) + len(self.matched.unmatched),
            "n_matched": len(self.matched.label),
            "matched_by": self.matched.by,
            "unmatched": self.matched.unmatched,
            "odors": [str(odors[label]) for label in self.label],
            "measured": self.measured.tolist(),
            "readout": {name: _score_as_json(one) for name, one in self.scores.items()},
        }


def read_valence(
    responses: Responses, matched: Matched, *, n_folds: int, n_permutations: int, seed: int
) -> Readout:
    """Predict the valence of each matched odor from the mean responses to it.

    Every population is read with the same folds and permutations.
    """
    presented = np.isin(matched.label, responses.label)
    label, measured = matched.label[presented], matched.valence[presented]
    counts = layer_counts(responses)
    scores = {}
    for name, layer in READ_OUT.items():
        if layer in counts:
            means = mean_by_odor(counts[layer], responses.label)
            scores[name] = score_readout(
                means.response[np.searchsorted(means.label, label)],
                measured,
                n_folds=n_folds,
                n_permutations=n_permutations,
                generator=np.random.default_rng(seed),
            )
    return Readout(matched, label, measured, scores)


def _score_as_json(score: ReadoutScore) -> dict[str, Any]:
    return {
        "correlation": {"value": score.correlation, "error": score.error, "n": score.n},
        "chance": score.chance,
        "chance_95": score.chance_95,
        "p": score.p,
        "n_units": score.n_units,
        "predicted": score.predicted.tolist(),
    }


def _identities(tables: Path, odors: list[str]) -> dict[str, dict[str, int]]:
    """Return the class of each CAS number, InChIKey and name."""
    listed = fly_tables.read_table(tables, fly_tables.DOOR_ODORS)
    place = {name: label for label, name in reversed(list(enumerate(odors)))}
    ours = listed[listed["Name"].isin(place)].drop_duplicates("Name")
    label = [place[name] for name in ours["Name"]]
    return {
        "cas": dict(zip((_clean("cas", str(cas)) for cas in ours["CAS"]), label, strict=True)),
        "inchikey": dict(zip(map(str, ours.index), label, strict=True)),
        "name": {_clean("name", name): label for name, label in place.items()},
    }


def _column(table: pd.DataFrame, pattern: str) -> str | None:
    """Return the first column whose name contains the pattern."""
    found = [str(name) for name in table.columns if re.search(pattern, str(name), re.IGNORECASE)]
    return found[0] if found else None


def _clean(kind: str, text: str) -> str | None:
    """Return what two spellings of the same identity have in common; None for an empty one."""
    if kind == "cas":
        return re.sub(r"[^0-9]+", "-", text.strip()).strip("-") or None
    if kind == "inchikey":
        return text.strip().upper() or None
    lower = text.strip().lower()
    prefix, dash, rest = lower.partition("-")
    if dash and prefix in GREEK:
        lower = GREEK[prefix] + rest
    return re.sub(r"[^a-z0-9]", "", lower) or None
