"""In silico and published: each claim with our values, a criterion and a verdict."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

CLAIMS = Path(__file__).with_name("claims.toml")
PASS, FAIL, UNTESTED = VERDICTS = ("pass", "fail", "not testable")
# Of fewer, chance alone lies above all in more than 5 % of cases.
LEAST_SHUFFLES = 19
NO_ESTIMATE = {"value": None, "error": None, "n": 0}


class Outcome(NamedTuple):
    """Our values by name, estimates or plain numbers, and whether they meet the criterion."""

    ours: dict[str, Any]
    agrees: bool


def compare(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Test every claim.

    Args:
        results: classes, coding, accuracy, and structure and controls, which may be None.

    Returns:
        For each claim what claims.toml says of it, our values and the verdict.
    """
    rows = []
    for claim in tomllib.loads(CLAIMS.read_text(encoding="utf-8"))["claim"]:
        test = TESTS.get(claim["key"])
        outcome = test(results) if test else None
        verdict = UNTESTED if outcome is None else PASS if outcome.agrees else FAIL
        ours = {} if outcome is None else outcome.ours
        rows.append({"remark": "", **claim, "ours": ours, "verdict": verdict})
    return rows


def _pns_per_kc_extract(results: dict[str, Any]) -> Outcome | None:
    if (structure := results["structure"]) is None:
        return None
    mean, median = structure["pns_per_kc"], structure["pns_per_kc_median"]
    agrees = abs(mean["value"] - 4.67) <= 0.005 and median == 5
    return Outcome({"mean": mean, "median": median}, agrees)


def _pns_per_kc(results: dict[str, Any]) -> Outcome | None:
    if (structure := results["structure"]) is None:
        return None
    mean = structure["pns_per_kc"]
    return Outcome({"mean": mean}, 5 <= mean["value"] <= 20)


def _same_glomerulus(results: dict[str, Any]) -> Outcome | None:
    if (structure := results["structure"]) is None:
        return None
    share, pairs = structure["same_glomerulus_share"], structure["same_glomerulus_pairs"]
    return Outcome({"share": share, "pairs": pairs}, abs(share - 0.894) <= 1e-3 and pairs == 6898)


def _pn_convergence(results: dict[str, Any]) -> Outcome | None:
    if (structure := results["structure"]) is None:
        return None
    found = structure["pn_convergence"]
    if found["shuffled"]["n"] < LEAST_SHUFFLES:
        return None
    ours = {
        "standard deviation, real": found["real"],
        "shuffled (± s.d.)": found["shuffled"],
        "z": found["z"],
        "p": found["p"],
    }
    return Outcome(ours, found["p"] <= 1 / (1 + found["shuffled"]["n"]) + 1e-12)


def _kc_sparser(results: dict[str, Any]) -> Outcome | None:
    kc, pn = (results["classes"][name]["active_fraction"] for name in ("KC", "ALPN"))
    if not pn["value"]:
        return None
    return Outcome({"KC": kc, "PN": pn, "KC / PN": _ratio(kc, pn)}, 3 * kc["value"] <= pn["value"])


def _kc_selective(results: dict[str, Any]) -> Outcome | None:
    kc, pn = (results["classes"][name]["lifetime_sparseness"] for name in ("KC", "ALPN"))
    return _above({"KC": kc, "PN": pn})


def _overlap_falls(results: dict[str, Any]) -> Outcome | None:
    orn, kc = (results["classes"][name]["odor_correlation"] for name in ("ORN", "KC"))
    return _above({"ORN": orn, "KC": kc})


def _kc_constant(results: dict[str, Any]) -> Outcome | None:
    kc, pn = results["coding"]["kc_variation"], results["coding"]["pn_variation"]
    return Outcome({"KC": kc, "PN": pn}, kc["value"] < 0.5) if kc["value"] is not None else None


def _kc_ensemble(results: dict[str, Any]) -> Outcome | None:
    found = results["coding"]["kc_ensemble"]
    return Outcome({"told apart": found}, found["value"] >= 0.75) if found["n"] else None


def _whitening(results: dict[str, Any]) -> Outcome | None:
    orn, pn = (results["classes"][name]["participation_ratio"] for name in ("ORN", "ALPN"))
    return _above({"PN": pn, "ORN": orn})


def _mbon_tuning(results: dict[str, Any]) -> Outcome | None:
    coding = results["coding"]
    return _above({"MBON": coding.get("mbon_tuning", NO_ESTIMATE), "KC": coding["kc_tuning"]})


def _apl(results: dict[str, Any]) -> Outcome | None:
    change = (results["controls"] or {}).get("apl_removed_minus_intact")
    if change is None:
        return None
    ours = {
        "KC active, change": change["kc_active_fraction"],
        "KC odor correlation, change": change["kc_odor_correlation"],
    }
    if any(one["error"] is None for one in ours.values()):
        return None
    return Outcome(ours, all(exceeds(one, ZERO) for one in ours.values()))


def _accuracy(results: dict[str, Any]) -> Outcome | None:
    network = results["accuracy"]["network"]
    return Outcome({"accuracy": network}, exceeds(network, {"value": 0.76, "error": 0.0}))


ZERO = {"value": 0.0, "error": 0.0}
TESTS: dict[str, Callable[[dict[str, Any]], Outcome | None]] = {
    "pns_per_kc_extract": _pns_per_kc_extract,
    "pns_per_kc": _pns_per_kc,
    "same_glomerulus": _same_glomerulus,
    "pn_convergence": _pn_convergence,
    "kc_sparser": _kc_sparser,
    "kc_selective": _kc_selective,
    "overlap_falls": _overlap_falls,
    "kc_constant": _kc_constant,
    "kc_ensemble": _kc_ensemble,
    "whitening": _whitening,
    "mbon_tuning": _mbon_tuning,
    "apl": _apl,
    "accuracy": _accuracy,
}


def exceeds(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether an estimate lies above another by more than two standard errors of the difference."""
    error = math.hypot(first["error"], second["error"])
    return first["value"] - second["value"] > 2 * error


def _above(ours: dict[str, dict[str, Any]]) -> Outcome | None:
    """Whether the first of two estimates exceeds the second; None where one has no error."""
    first, second = ours.values()
    if first["error"] is None or second["error"] is None:
        return None
    return Outcome(dict(ours), exceeds(first, second))


def _ratio(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the ratio of two estimates; their errors are taken as independent."""
    value = first["value"] / second["value"]
    if not value or first["error"] is None or second["error"] is None:
        return {"value": value, "error": None, "n": first["n"]}
    relative = math.hypot(first["error"] / first["value"], second["error"] / second["value"])
    return {"value": value, "error": value * relative, "n": first["n"]}
