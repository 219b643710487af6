"""Evaluate a trained network: one report, with every number in results.json too.

Reads what a training run left (`trained`), the tables, and where they are given a table of measured
valences (`valence`) and the points of a grid of training runs (`controls`).
"""

from __future__ import annotations

import csv
import json
import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from evaluation import activity, coding, published, retrained, structure
from evaluation.responses import load_responses
from evaluation.simulation import open_trained
from evaluation.valence import Readout, match_valence, read_valence

from engram import progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evaluation.responses import Responses
    from evaluation.simulation import Simulation
    from matplotlib.figure import Figure

# Every part that draws at random has a stream of its own, so that none changes another.
STRUCTURE, CODING = range(2)


@dataclass(frozen=True)
class Controls:
    """The keys of [controls] in parameters_evaluate.toml, which says what each means."""

    trials_per_odor: int
    seeds: list[int]
    batch_size: int


@dataclass(frozen=True)
class Valence:
    """The keys of [valence]."""

    folds: int
    permutations: int


@dataclass(frozen=True)
class Parameters:
    """The keys of parameters_evaluate.toml."""

    seed: int
    threads: int
    convergence_shuffles: int
    controls: Controls
    valence: Valence


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int]:
    """Measure, draw, and write report.html, results.json, cell_types.csv and the figures."""
    parameters = read_parameters(params_file)
    torch.set_num_threads(parameters.threads)
    torch.use_deterministic_algorithms(True)
    inputs = find_inputs(input_dir)
    responses = load_responses(inputs["trained"] / "responses.npz")
    network = open_trained(inputs, responses, parameters.controls)
    with progress.bar("evaluate", total=6) as bar:
        results = measure(responses, network, inputs, parameters, bar)
        readout = measure_valence(responses, inputs, parameters)
        results["valence"] = None if readout is None else readout.as_json(responses.odor)
        bar.advance()
        drawings = draw(responses, network, results, readout)
        figures = save_figures(output_dir, drawings)
        bar.advance()
    from evaluation.report import write_report

    text = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False)
    (output_dir / "results.json").write_text(text + "\n", encoding="utf-8")
    save_types(output_dir / "cell_types.csv", results["types"])
    (output_dir / "report.html").write_text(write_report(results, figures), encoding="utf-8")
    return summarize(results)


def read_parameters(params_file: Path) -> Parameters:
    """Read parameters_evaluate.toml; `./run --seed` reaches a script as ENGRAM_SEED."""
    values = tomllib.loads(params_file.read_text(encoding="utf-8"))
    values["seed"] = int(os.environ.get("ENGRAM_SEED", values["seed"]))
    controls, readout = Controls(**values.pop("controls")), Valence(**values.pop("valence"))
    return Parameters(**values, controls=controls, valence=readout)


def find_inputs(input_dir: Path | None) -> dict[str, Path]:
    """Return the inputs by name.

    Raises:
        FileNotFoundError: one that is needed is missing.
    """
    places = {} if input_dir is None else {place.name: place for place in input_dir.iterdir()}
    remedies = {
        "trained": 'name a trained run: [[data.inputs]] run = "latest:fly_olfaction"',
        "tables": "get the tables with `./run fetch fly_olfaction`",
    }
    for name, remedy in remedies.items():
        if name not in places or not places[name].is_dir():
            msg = f"there is no folder {name!r} in the inputs ({input_dir}): {remedy}"
            raise FileNotFoundError(msg)
    return places


def measure(
    responses: Responses,
    network: Simulation,
    inputs: dict[str, Path],
    parameters: Parameters,
    bar: progress.Bar,
) -> dict[str, Any]:
    """Measure everything that the report shows but valence."""
    types = activity.measure_types(responses)
    results: dict[str, Any] = {
        "network": str(responses.network),
        "trial_ms": float(responses.trial_ms),
        "dt_ms": float(responses.dt_ms),
        "accuracy": activity.measure_accuracy(responses, network.observer_decisions()),
        "most_confused": activity.most_confused(responses),
        "classes": activity.measure_classes(responses),
        "types": types,
        "kc_types_ranked": activity.rank_kc_types(types),
        "coding": coding.measure_coding(responses, stream(parameters, CODING)),
        "edge_classes": network.edge_classes(),
    }
    bar.advance()
    results["structure"] = structure.measure_structure(
        inputs["tables"],
        n_shuffles=parameters.convergence_shuffles,
        generator=stream(parameters, STRUCTURE),
    )
    bar.advance()
    results["controls"] = network.measure_controls()
    results["not_simulated"] = network.missing if results["controls"] is None else ""
    bar.advance()
    grid = inputs.get("controls")
    results["retrained"] = None if grid is None else retrained.read_retrained(grid)
    results["published"] = published.compare(results)
    verdicts = [claim["verdict"] for claim in results["published"]]
    results["verdicts"] = {kind: verdicts.count(kind) for kind in published.VERDICTS}
    bar.advance()
    return results


def measure_valence(
    responses: Responses, inputs: dict[str, Path], parameters: Parameters
) -> Readout | None:
    """Read out valence, where a table of it was given."""
    if "valence" not in inputs:
        return None
    matched = match_valence(inputs["valence"], inputs["tables"], responses.odor.tolist())
    return read_valence(
        responses,
        matched,
        n_folds=parameters.valence.folds,
        n_permutations=parameters.valence.permutations,
        seed=parameters.seed,
    )


def draw(
    responses: Responses,
    network: Simulation,
    results: dict[str, Any],
    readout: Readout | None,
) -> dict[str, Callable[[], Figure | None]]:
    """Return what draws each figure, by name."""
    # Measuring needs no drawing, which takes a second to import.
    from evaluation import figures

    from neuro.plots.valence import draw_valence_readout

    drawings: dict[str, Callable[[], Figure | None]] = {
        "learning": lambda: figures.learning(network.history, results["accuracy"]),
        "confusion": lambda: figures.confusion(responses),
        "similarity": lambda: figures.similarity(responses),
        "sparseness": lambda: figures.selectivity(responses),
        "tuning": lambda: figures.tuning(responses),
        "raster": lambda: figures.raster(responses, network.receptor_spikes(trial=0)),
        "kc_types": lambda: figures.kc_types(results["types"], results["kc_types_ranked"]),
    }
    if results["controls"] is not None:
        drawings["interventions"] = lambda: figures.interventions(results["controls"])
    if readout is not None:
        drawings["valence"] = lambda: draw_valence_readout(readout.measured, readout.scores)
    return drawings


def save_figures(
    output_dir: Path, drawings: dict[str, Callable[[], Figure | None]]
) -> dict[str, Path]:
    """Draw and write every figure there is; return the files by name."""
    from neuro import plots

    figures = {}
    with plots.publication():
        for name, draw_one in drawings.items():
            if (figure := draw_one()) is not None:
                figures[name] = output_dir / f"{name}.png"
                plots.save_png(figure, figures[name])
    return figures


def save_types(path: Path, types: dict[str, Any]) -> None:
    """Write one row for each cell type: value, standard error and n of every measure."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        kinds = ("value", "error", "n")
        measured = [f"{name}_{kind}" for name in activity.MEASURES for kind in kinds]
        table.writerow(["cell_class", "cell_type", "n_units", "n_trials", *measured])
        for one in types.values():
            cells = [one[name][kind] for name in activity.MEASURES for kind in kinds]
            about = [one[key] for key in ("cell_class", "cell_type", "n_units", "n_trials")]
            table.writerow([*about, *cells])


def summarize(results: dict[str, Any]) -> dict[str, float | int]:
    """Return what grids and lists compare."""
    classes, accuracy = results["classes"], results["accuracy"]
    summary = {
        "validation_accuracy": accuracy["network"]["value"],
        "validation_accuracy_se": accuracy["network"]["error"],
        "kc_active_fraction": classes["KC"]["active_fraction"]["value"],
        "pn_active_fraction": classes["ALPN"]["active_fraction"]["value"],
        "kc_odor_correlation": classes["KC"]["odor_correlation"]["value"],
        "pn_odor_correlation": classes["ALPN"]["odor_correlation"]["value"],
        "claims_passed": results["verdicts"][published.PASS],
        "claims_failed": results["verdicts"][published.FAIL],
    }
    if "ideal_observer" in accuracy:
        summary["ideal_observer_accuracy"] = accuracy["ideal_observer"]["value"]
    for condition in (results["controls"] or {"conditions": []})["conditions"][1:]:
        for key in ("accuracy", "kc_active_fraction"):
            summary[f"{condition['change']}_{key}"] = condition[key]["value"]
    if results["valence"] is not None:
        for name, one in results["valence"]["readout"].items():
            summary[f"valence_{name.lower()}_correlation"] = one["correlation"]["value"]
            summary[f"valence_{name.lower()}_p"] = one["p"]
    return summary


def stream(parameters: Parameters, purpose: int) -> np.random.Generator:
    """Return the random stream of a purpose."""
    return np.random.default_rng([parameters.seed, purpose])
