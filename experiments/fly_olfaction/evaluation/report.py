"""The report: sections of text, tables and figures, every number taken from the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation import report_comparisons
from evaluation.page import (
    Html,
    Numbers,
    Section,
    details,
    drawn,
    label,
    note,
    paragraph,
    render,
    table,
)

if TYPE_CHECKING:
    from pathlib import Path

CLASS_NAMES = {
    "ORN": "ORN: receptor neurons",
    "ORN, undriven": "ORN without input here",
    "ALLN": "ALLN: local neurons",
    "ALPN": "ALPN: projection neurons (PN)",
    "KC": "KC: Kenyon cells",
    "MBON": "MBON: mushroom body output neurons",
    "DAN": "DAN: dopaminergic neurons",
}
COLUMNS = {
    "active_fraction": "Active in a trial",
    "rate_hz": "Rate (Hz)",
    "lifetime_sparseness": "Lifetime sparseness",
    "population_sparseness": "Population sparseness",
    "odor_correlation": "Odor-pair correlation",
    "participation_ratio": "Participation ratio",
}
PERCENT = {"active_fraction"}
# What each part of the model is, and why.
PARTS = (
    ("ORN -> PN, ORN -> LN, PN -> KC and other pairs: who, how many synapses", "data", ""),
    ("signs of neurons", "data", "predicted transmitters, some known; not measured signs"),
    ("receptor spikes", "modelled", "from DoOR's measured responses; 8 Hz without odor"),
    ("LN -> PN", "modelled", "inferred from shared glomeruli: the tables lack outputs of LNs"),
    ("APL <-> KC", "modelled", "all-to-all: the tables lack synapses between KC and APL"),
    ("time constants, thresholds, gains, readout", "modelled", "chosen, or trained on the task"),
)

# Parts that a network may have from a table of the user instead, or not at all.
INFERRED = {"LN -> PN": "ALLN->ALPN", "APL <-> KC": "APL->KC"}


def write_report(results: dict[str, Any], figures: dict[str, Path]) -> str:
    """Write the page.

    Args:
        results: as in results.json.
        figures: PNG files by name; a figure that could not be drawn is not there.
    """
    numbers = Numbers(results)
    sections = [
        Section("summary", "Summary", summary(numbers)),
        Section("status", "What is data and what is modelled", status(numbers)),
        Section("accuracy", "Accuracy and ideal observer", accuracy(numbers, figures)),
        Section("classes", "Activity of each cell class", classes(numbers, figures)),
        Section("similarity", "Similarity of odors", similarity(figures)),
        Section("types", "Cell types", types(numbers, figures)),
        Section("published", "In silico and published", report_comparisons.published(numbers)),
        Section(
            "controls",
            "APL -> KC removed, wiring and signs shuffled",
            report_comparisons.controls(numbers, figures),
        ),
        Section("retrained", "Controls trained anew", report_comparisons.retrained(numbers)),
        Section("valence", "Innate valence", report_comparisons.valence(numbers, figures)),
        Section("methods", "How the numbers were made", methods(numbers)),
    ]
    network = numbers.at("network")
    lead = [
        paragraph(
            f"The {network} network, {wiring_words(numbers)} (FlyWire v783), "
            "was trained to name odors. This page measures what it does on the validation trials "
            "of that run. ",
            label("data", "data"),
            " marks what was measured in flies, ",
            label("modelled", "modelled"),
            " what was not.",
        )
    ]
    title = f"Fly olfaction: evaluation of the {network} network"
    return render(title=title, lead=lead, sections=sections)


def summary(numbers: Numbers) -> list[Html]:
    """What matters most."""
    found = numbers.at("accuracy")
    rows = [["Validation accuracy", numbers.estimate("accuracy", "network", percent=True)]]
    if "ideal_observer" in found:
        best = numbers.estimate("accuracy", "ideal_observer", percent=True)
        rows.append(["Ideal observer, same trials", best])
    rows.append(["Chance", Html(f"{numbers.plain('accuracy', 'chance', scale=100)}&nbsp;%")])
    for name, title in (("KC", "Kenyon cells"), ("ALPN", "PNs")):
        active = numbers.estimate("classes", name, "active_fraction", percent=True)
        rows.append([f"{title} active in a trial", active])
    verdicts = [
        Html(f"{numbers.plain('verdicts', key)}&nbsp;{label(verdict, kind)}")
        for key, verdict, kind in (
            ("pass", "pass", "pass"),
            ("fail", "fail", "fail"),
            ("not testable", "not testable", "untested"),
        )
    ]
    rows.append(["Published claims", Html(" ".join(verdicts))])
    return [table(["", "Value ± standard error"], rows, numeric=False)]


def wiring_words(numbers: Numbers) -> str:
    """Say whose wiring the network has: a control is not the fly's."""
    origins = {one[key] for one in numbers.at("edge_classes") for key in ("origin", "sign_origin")}
    if "shuffled" in origins:
        return "a control with wiring shuffled from that of the fly's olfactory pathway"
    return "wired like the fly's olfactory pathway"


def status(numbers: Numbers) -> list[Html]:
    """Which parts are measured."""
    edges = numbers.at("edge_classes")
    origin = {one["edge_class"]: one["origin"] for one in edges}
    rows = []
    for part, kind, remark in PARTS:
        if edges and part in INFERRED:
            # Of a network with a table of its edges, what is in that table counts.
            found = origin.get(INFERRED[part])
            if found != kind:
                kind, remark = found or "none", "from a table of the user" if found else "left out"
        rows.append([part, label(kind, kind), remark])
    blocks = [table(["Part", "Status", "Remark"], rows, numeric=False)]
    if edges:
        counted = [
            [
                one["edge_class"],
                numbers.plain("edge_classes", place, "pairs"),
                label(one["origin"], one["origin"]),
                one["sign_origin"].replace("|", ", "),
            ]
            for place, one in enumerate(edges)
        ]
        head = ["From -> to", "Connected pairs", "Synapses", "Signs of senders"]
        blocks.append(details("Edge classes of this network", table(head, counted)))
    return blocks


def accuracy(numbers: Numbers, figures: dict[str, Path]) -> list[Html]:
    """How well odors are named, beside the best that is possible with the same spikes."""
    found = numbers.at("accuracy")
    rows = [["Network", numbers.estimate("accuracy", "network", percent=True)]]
    if "ideal_observer" in found:
        rows += [
            ["Ideal observer", numbers.estimate("accuracy", "ideal_observer", percent=True)],
            [
                "Network minus observer",
                numbers.estimate("accuracy", "difference", percent=True),
            ],
        ]
    rows.append(["Chance", Html(f"{numbers.plain('accuracy', 'chance', scale=100)}&nbsp;%")])
    blocks = [
        paragraph(
            numbers.plain("accuracy", "n_trials"),
            " validation trials of ",
            numbers.plain("accuracy", "n_odors_presented"),
            " odors, ",
            numbers.plain("accuracy", "n_odors"),
            " classes.",
        ),
        table(["", "Trials named right ± s.e."], rows),
        note(
            "The ideal observer reads how often every receptor neuron fired in the same trials, "
            "knows all rates, and takes the most likely odor, not knowing how long it lasted. "
            "Errors of accuracies are binomial; that of the difference is over trials, paired."
        ),
        *drawn(figures, "learning", "Training loss and validation accuracy, epoch by epoch."),
        *drawn(
            figures,
            "confusion",
            "Which odor was named when each was presented, ordered by chemical class.",
        ),
    ]
    return [*blocks, *_confused(numbers)]


def _confused(numbers: Numbers) -> list[Html]:
    pairs = numbers.at("most_confused")
    if not pairs:
        return []
    rows = [
        [
            one["presented"],
            one["named"],
            Html(
                f"{numbers.plain('most_confused', place, 'times')} of "
                f"{numbers.plain('most_confused', place, 'of')}"
            ),
        ]
        for place, one in enumerate(pairs)
    ]
    head = ["Presented", "Named", "Trials"]
    return [table(head, rows, caption="Most frequent confusions", numeric=False)]


def classes(numbers: Numbers, figures: dict[str, Path]) -> list[Html]:
    """Activity, sparseness and similarity of each class."""
    rows = [
        [
            CLASS_NAMES.get(name, name),
            numbers.plain("classes", name, "n_units"),
            *(
                numbers.estimate("classes", name, measure, percent=measure in PERCENT)
                for measure in COLUMNS
            ),
        ]
        for name in numbers.at("classes")
    ]
    return [
        table(["Class", "Cells", *COLUMNS.values()], rows),
        note(
            "Sparseness is Treves and Rolls', S = 1 - mean(r)^2 / mean(r^2): lifetime, over odors, "
            "averaged over cells that respond; population, over cells, averaged over odors. "
            "Participation ratio: over how many directions the responses to all odors spread. "
            "Both and the correlations are of mean responses to each odor; they keep some noise of "
            "single trials, which lowers correlations and raises the ratio. Errors: over odors "
            "(activity, population sparseness), over cells (lifetime sparseness), or by leaving "
            "out each odor (correlation, ratio). n counts odors, or cells."
        ),
        *drawn(figures, "sparseness", "Sparseness of single cells, and of responses to odors."),
        *drawn(
            figures,
            "tuning",
            "Tuning curves: rates of cells with their odors in falling order; gray: single cells, "
            "evenly spaced by their strongest response.",
        ),
        *drawn(
            figures,
            "raster",
            "One validation trial, layer by layer; classes without a spike are left out.",
        ),
    ]


def similarity(figures: dict[str, Path]) -> list[Html]:
    """Correlations of all pairs of odors, layer by layer."""
    caption = (
        "Correlation of mean responses to two odors, in receptor neurons, PNs and Kenyon cells; "
        "odors by chemical class; gray where nothing responds."
    )
    return drawn(figures, "similarity", caption)


def types(numbers: Numbers, figures: dict[str, Path]) -> list[Html]:
    """Kenyon cell types ranked, then every type."""
    ranked = numbers.at("kc_types_ranked")
    blocks = [
        paragraph("Kenyon cell types, most active first."),
        *drawn(figures, "kc_types", "Share of cells active in a trial, and rate, ± s.e."),
        _type_table(numbers, ranked, "Kenyon cell types, most active first"),
    ]
    by_class: dict[str, list[str]] = {}
    for key, one in numbers.at("types").items():
        by_class.setdefault(one["cell_class"], []).append(key)
    for name, keys in by_class.items():
        if name != "KC":
            title = f"{CLASS_NAMES.get(name, name)}: {len(keys)} types"
            blocks.append(details(title, _type_table(numbers, keys, "")))
    blocks.append(note("All of them with more digits: cell_types.csv and results.json."))
    return blocks


def _type_table(numbers: Numbers, keys: list[str], caption: str) -> Html:
    rows = [
        [
            numbers.at("types", key, "cell_type"),
            numbers.plain("types", key, "n_units"),
            *(
                numbers.estimate(
                    "types", key, measure, percent=measure in PERCENT, show_n=len(keys) < 20
                )
                for measure in COLUMNS
            ),
        ]
        for key in keys
    ]
    return table(["Type", "Cells", *COLUMNS.values()], rows, caption=caption)


def methods(numbers: Numbers) -> list[Html]:
    """Sources, and what to keep in mind."""
    return [
        paragraph(
            "All numbers are in results.json under the path that their HTML element names "
            "(data-path). Nothing on this page was tuned: criteria stood in claims.toml before the "
            "network was measured. ± is one standard error unless a table says otherwise; one "
            "trained network is measured, so errors say nothing about another training seed."
        ),
        paragraph(
            "Trials last ",
            numbers.plain("trial_ms"),
            " ms, in steps of ",
            numbers.plain("dt_ms"),
            " ms. Wiring: FlyWire v783 (Dorkenwald et al. 2024, doi:10.1038/s41586-024-07558-y; "
            "Schlegel et al. 2024, doi:10.1038/s41586-024-07686-5), CC BY-NC 4.0. Receptor "
            "responses: DoOR (Münch & Galizia 2016, doi:10.1038/srep21841), CC BY-SA 4.0. Trials: "
            "after Nanami et al. 2024, doi:10.3389/fnins.2024.1384336. Sparseness: Treves & Rolls "
            "1991, doi:10.1088/0954-898X_2_4_004.",
        ),
    ]
