"""Stage 1: draw a connectome of cell types and assemblies, and say what its cells and synapses are.

Writes the network that the other stages take over, and what it looks like. Reads no input.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from stages import Model, read_parameters, save_model

from neuro.connectome.assemblies import AssemblyWiring, FeedforwardWiring
from neuro.connectome.cell_types import Population
from neuro.connectome.mitral_patterns import OdorRates, odor_patterns
from neuro.connectome.synthetic import SyntheticConnectome, draw_structure
from neuro.connectome.weights import WeightLaw
from neuro.models.assembly_network import Cells, assembly_neuron, assign_channels
from neuro.models.physiology import Physiology
from neuro.spiking.surrogate import FastSigmoid

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.connectome.network_structure import NetworkStructure, WeightedEdges

TABLES = {
    "cells": Population,
    "recurrent": AssemblyWiring,
    "recurrent_weights": WeightLaw,
    "inputs": Population,
    "feedforward": FeedforwardWiring,
    "feedforward_weights": WeightLaw,
}


@dataclass(frozen=True)
class Parameters:
    """The keys of the parameter file, which says what each means."""

    seed: int
    connectome: SyntheticConnectome
    physiology: Physiology
    odors: OdorRates


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int]:
    """Draw the network, write it, count it."""
    parameters = make_parameters(read_parameters(params_file))
    generator = np.random.default_rng(parameters.seed)
    structure = draw_structure(parameters.connectome, generator=generator)
    check_physiology(structure, parameters.physiology)
    rows = statistics(structure)
    save_statistics(output_dir / "network_statistics.csv", rows)
    draw_figures(output_dir, structure, parameters.physiology)
    patterns_hz = odor_patterns(structure, parameters.odors)
    # Last: what is handed on is there only where all else is.
    save_model(output_dir, Model(structure, parameters.physiology, patterns_hz))
    return {
        "cells": structure.n_cells,
        "inputs": structure.n_inputs,
        "assemblies": structure.n_assemblies,
        "recurrent_edges": len(structure.recurrent_pre),
        "feedforward_edges": len(structure.feedforward_pre),
        "recurrent_density": len(structure.recurrent_pre)
        / (structure.n_cells * (structure.n_cells - 1)),
        "mean_recurrent_weight": float(structure.recurrent_weight.mean(dtype=np.float64)),
        "mean_feedforward_weight": float(structure.feedforward_weight.mean(dtype=np.float64)),
    }


def make_parameters(values: dict[str, Any]) -> Parameters:
    """Turn the tables of the parameter file into what they describe."""
    tables = values.pop("connectome")
    if sorted(tables) != sorted(TABLES):
        msg = f"[connectome] holds the tables {sorted(tables)}; it must hold {sorted(TABLES)}"
        raise ValueError(msg)
    connectome = SyntheticConnectome(**{name: TABLES[name](**row) for name, row in tables.items()})
    physiology = Physiology.from_tables(values.pop("physiology"))
    odors = OdorRates(**values.pop("odors"))
    return Parameters(**values, connectome=connectome, physiology=physiology, odors=odors)


def check_physiology(structure: NetworkStructure, physiology: Physiology) -> None:
    """Refuse a physiology that cannot simulate this network, now and not two stages later."""
    cells = Cells(structure.cell_type_names, structure.cell_type_ids)
    sources = [*structure.cell_type_names.tolist(), *structure.input_type_names.tolist()]
    assembly_neuron(physiology, cells, assign_channels(physiology, sources), FastSigmoid())


def statistics(structure: NetworkStructure) -> list[dict[str, str | int | float]]:
    """Count edges and measure weights, one row for each projection and pair of types."""
    names = structure.cell_type_names.tolist()
    rows = []
    for projection, edges, pairs, sources, n_sources in (
        (
            "recurrent",
            structure.recurrent,
            structure.recurrent_type_pairs,
            names,
            np.bincount(structure.cell_type_ids, minlength=len(names)),
        ),
        (
            "feedforward",
            structure.feedforward,
            structure.feedforward_type_pairs,
            structure.input_type_names.tolist(),
            np.bincount(structure.input_type_ids, minlength=len(structure.input_type_names)),
        ),
    ):
        n_targets = np.bincount(structure.cell_type_ids, minlength=len(names))
        for pre, source in enumerate(sources):
            for post, target in enumerate(names):
                chosen = (pairs[0] == pre) & (pairs[1] == post)
                rows.append(
                    {"projection": projection, "pre": source, "post": target}
                    | measure(edges, chosen, int(n_sources[pre]), int(n_targets[post]))
                )
    return rows


def measure(
    edges: WeightedEdges, chosen: np.ndarray, n_pre: int, n_post: int
) -> dict[str, int | float]:
    """Describe some edges between so many cells."""
    weight = edges.weight[chosen].astype(float)
    some = weight if weight.size else np.full(1, np.nan)
    return {
        "n_pre": n_pre,
        "n_post": n_post,
        "edges": int(chosen.sum()),
        "density": weight.size / max(n_pre * n_post, 1),
        "mean_in_degree": weight.size / max(n_post, 1),
        "weight_mean": float(some.mean()),
        "weight_std": float(some.std()),
        "weight_median": float(np.median(some)),
        "weight_max": float(some.max()),
    }


def save_statistics(path: Path, rows: list[dict[str, str | int | float]]) -> None:
    """Write rows of equal keys as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def draw_figures(output_dir: Path, structure: NetworkStructure, physiology: Physiology) -> None:
    """Draw connectivity.png, and distributions.png of weights and of their sums onto each cell."""
    from neuro import plots

    names = structure.cell_type_names
    types = names[structure.cell_type_ids]
    order = plots.assembly_order(structure.assembly_ids, structure.cell_type_ids)
    sign = np.array([1.0 if physiology.excites(name) else -1.0 for name in names.tolist()])
    signed = sign[structure.recurrent_type_pairs[0]] * structure.recurrent_weight
    with plots.publication():
        figure = plots.new_figure(width_in=7.0, height_in=3.4)
        axes = figure.subplots(1, 2)
        for ax, weight, title in (
            (axes[0], np.ones_like(signed), "Probability of a connection"),
            (axes[1], signed, "Mean weight, inhibition negative"),
        ):
            image = plots.connectivity_image(
                structure.recurrent_pre,
                structure.recurrent_post,
                weight,
                order_pre=order,
                order_post=order,
                n_pixels=100,
            )
            n = structure.n_cells
            shown = plots.draw_connectivity(ax, image, n_pre=n, n_post=n)
            figure.colorbar(shown, ax=ax, shrink=0.8)
            ax.set_title(title)
        plots.save_png(figure, output_dir / "connectivity.png")
        figure = plots.new_figure(width_in=7.0, height_in=2.6)
        axes = figure.subplots(1, 3)
        for ax, edges, source in (
            (axes[0], structure.recurrent, "cells"),
            (axes[1], structure.feedforward, "inputs"),
        ):
            total = np.bincount(edges.post, edges.weight, minlength=structure.n_cells)
            by_type = {name: total[types == name] for name in names.tolist()}
            plots.draw_distribution(ax, by_type, label=f"Sum of weights from {source}")
        weights = {
            "recurrent": np.log10(structure.recurrent_weight),
            "feedforward": np.log10(structure.feedforward_weight),
        }
        plots.draw_distribution(axes[2], weights, label="log10 weight")
        plots.save_png(figure, output_dir / "distributions.png")
