"""Sections of the report that compare: with publications, changed networks, and behavior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation import retrained as retrained_runs
from evaluation import valence as valence_readout
from evaluation.page import (
    Html,
    Numbers,
    details,
    drawn,
    label,
    note,
    paragraph,
    table,
    with_remark,
)

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {"pass": "pass", "fail": "fail", "not testable": "untested"}
CONTROL_COLUMNS = {
    "accuracy": "Accuracy",
    "kc_active_fraction": "KCs active",
    "pn_active_fraction": "PNs active",
    "kc_odor_correlation": "KC odor correlation",
}
SHARES = {
    *("accuracy", "kc_active_fraction", "pn_active_fraction"),
    *("validation_accuracy", "ideal_observer_accuracy"),
}


def published(numbers: Numbers) -> list[Html]:
    """Every claim with our value, criterion and verdict."""
    rows = []
    for place, claim in enumerate(numbers.at("published")):
        ours = [
            Html(f"{name}: {_value(numbers, 'published', place, 'ours', name)}")
            for name in claim["ours"]
        ]
        rows.append(
            [
                with_remark(claim["claim"], claim["remark"]),
                claim["source"],
                Html("<br>".join(ours) or "&ndash;"),
                claim["criterion"],
                label(claim["verdict"], KINDS[claim["verdict"]]),
                label(claim["about"], claim["about"]),
            ]
        )
    head = ["Published", "Source", "Ours", "Criterion", "Verdict", "About"]
    return [
        paragraph(
            "Agreement with a criterion is no proof of the mechanism, and most criteria had to be "
            "chosen, as the sources give no number. A verdict on what is modelled says how the "
            "model behaves, not the fly."
        ),
        table(head, rows, numeric=False),
    ]


def controls(numbers: Numbers, figures: dict[str, Path]) -> list[Html]:
    """The trained network with one thing changed."""
    found = numbers.at("controls")
    if found is None:
        return [paragraph(numbers.at("not_simulated"))]
    rows = [
        [
            one["name"],
            *(
                numbers.estimate(
                    "controls", "conditions", place, measure, percent=measure in SHARES
                )
                for measure in CONTROL_COLUMNS
            ),
        ]
        for place, one in enumerate(found["conditions"])
    ]
    blocks = [
        paragraph(
            "The trained network is simulated again in ",
            numbers.plain("controls", "n_trials"),
            " of the validation trials, as it is and with one thing changed. Learned values stay, "
            "nothing is trained again: a drop says that this network depends on what was changed, "
            "not that a network trained without it would do worse.",
        ),
        table(["Network", *CONTROL_COLUMNS.values()], rows),
    ]
    blocks += _without_apl(numbers)
    blocks.append(
        note(
            "PN -> KC shuffled within type: targets are permuted among the Kenyon cells of one "
            "type and side, degrees stay. Signs: permuted over the neurons of each class. Of "
            "shuffles, ± is over shuffle seeds and n counts them; of the others it is over trials "
            "or odors."
        )
    )
    caption = "Points: mean ± s.e.; small dots: shuffle seeds; dotted line: as trained."
    return [*blocks, *drawn(figures, "interventions", caption)]


def _without_apl(numbers: Numbers) -> list[Html]:
    """What removing APL changed, where the network has one."""
    found = numbers.at("controls")
    if "apl_removed_minus_intact" not in found:
        return []
    differences = [
        [
            CONTROL_COLUMNS[measure],
            numbers.estimate(
                "controls", "apl_removed_minus_intact", measure, percent=measure in SHARES
            ),
        ]
        for measure in found["apl_removed_minus_intact"]
    ]
    title = "APL -> KC removed minus as trained, in the same trials (percent: points)"
    return [
        table(["", "Change"], differences, caption=title),
        note(
            label("modelled", "modelled"),
            " APL is all-to-all here. Publication: without it Kenyon cells answer more, and odors "
            "become more alike (Lin et al. 2014).",
        ),
    ]


def retrained(numbers: Numbers) -> list[Html]:
    """Conditions of a grid of training runs."""
    found = numbers.at("retrained")
    if found is None:
        return [paragraph(retrained_runs.MISSING)]
    names = found["parameters"]
    rows, differences = [], []
    for place, one in enumerate(found["conditions"]):
        title = ", ".join(
            f"{name} = {value}" for name, value in zip(names, one["values"], strict=True)
        )
        for kind, target in (("measures", rows), ("difference", differences)):
            if kind in one:
                cells = (
                    numbers.estimate(
                        "retrained", "conditions", place, kind, name, percent=name in SHARES
                    )
                    for name in found["measures"]
                )
                target.append([title or "all", *cells])
    head = ["Condition", *(name.replace("_", " ") for name in found["measures"])]
    blocks = [
        paragraph(
            "Each condition was trained from the start with every seed; ± is over seeds. ",
            numbers.plain("retrained", "incomplete"),
            " points that did not complete are left out.",
        ),
        table(head, rows),
    ]
    if differences:
        title = "Difference from the first condition, paired by seed"
        blocks.append(table(head, differences, caption=title))
    return blocks


def valence(numbers: Numbers, figures: dict[str, Path]) -> list[Html]:
    """A linear readout of innate valence."""
    found = numbers.at("valence")
    if found is None:
        return [paragraph(valence_readout.MISSING)]
    rows = [
        [
            name,
            numbers.plain("valence", "readout", name, "n_units"),
            numbers.estimate("valence", "readout", name, "correlation"),
            numbers.plain("valence", "readout", name, "chance", decimals=3),
            numbers.plain("valence", "readout", name, "chance_95", decimals=3),
            numbers.plain("valence", "readout", name, "p", decimals=4),
        ]
        for name in found["readout"]
    ]
    head = ["Population", "Cells that vary", "Correlation", "Chance", "95 % of chance", "p"]
    blocks = [
        paragraph(
            numbers.plain("valence", "n_matched"),
            " of the table's ",
            numbers.plain("valence", "n_in_table"),
            " odors are among the task's. A ridge regression on mean responses predicts the "
            "measured valence of odors it has not seen; the correlation with the measured values "
            "is compared with that after permuting the valences among the odors.",
        ),
        table(head, rows),
        note(
            "Error: bootstrap over odors. p: share of permutations that do as well, one-sided. "
            "The network was trained to name odors, not on valence; a readout of ORNs shows how "
            "much the receptors say by themselves. Valence was measured with free flies, at other "
            "concentrations."
        ),
    ]
    caption = "Every point is an odor, predicted by a readout that has not seen it."
    blocks += drawn(figures, "valence", caption)
    if found["unmatched"]:
        blocks.append(details("Odors without a partner", paragraph(", ".join(found["unmatched"]))))
    return blocks


def _value(numbers: Numbers, *path: Any) -> Html:  # noqa: ANN401
    """Write an estimate or a plain number."""
    if isinstance(numbers.at(*path), dict):
        return numbers.estimate(*path)
    return numbers.plain(*path)
