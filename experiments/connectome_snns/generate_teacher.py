"""Stage 3: let the tuned network smell, and keep what went in and what came out.

Its spikes are what students are taught with. Hands the network on too, so that a student and its
data cannot come from different ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from activity import Activity, Measured, by_type, measure, record, save_statistics, summarize
from stages import (
    MODEL,
    SPIKE_DATA,
    Model,
    find_stage,
    load_model,
    make_input,
    make_reproducible,
    read_parameters,
    save_model,
)

from neuro.metrics.firing import fano_factors, synchrony_chi
from neuro.metrics.trains import train_window_counts
from neuro.models.assembly_network import assembly_network
from neuro.spiking.inputs import InputStream, OdorMixture
from neuro.spiking.spike_data import OdorMixtures, SpikeData, save_spike_data
from neuro.spiking.surrogate import FastSigmoid

if TYPE_CHECKING:
    from pathlib import Path

EARLIER = ["homeostatic_plasticity", "generate_connectome"]
SHOWN_PER_TYPE = 3


@dataclass(frozen=True)
class Parameters:
    """The keys of the parameter file, which says what each means."""

    seed: int
    threads: int
    backend: str
    dt_ms: float
    n_trials: int
    duration_ms: float
    chunk_ms: float
    settle_ms: float
    window_ms: float
    mixture: OdorMixture

    @property
    def n_steps(self) -> int:
        """Steps of a trial."""
        return round(self.duration_ms / self.dt_ms)

    @property
    def settle_steps(self) -> int:
        """Steps that statistics leave out."""
        return round(self.settle_ms / self.dt_ms)


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str]:
    """Simulate, keep the spikes, measure them."""
    values = read_parameters(params_file)
    parameters = Parameters(**(values | {"mixture": OdorMixture(**values["mixture"])}))
    make_reproducible(parameters.seed, parameters.threads)
    model = load_model(find_stage(input_dir, EARLIER, MODEL))
    activity = simulate(model, parameters)
    measured = measure(activity, settle_steps=parameters.settle_steps, dt_ms=parameters.dt_ms)
    save_statistics(output_dir / "firing_statistics.csv", measured, model.structure)
    draw_figures(output_dir, activity, measured, model, parameters)
    # Last: what is handed on is there only where all else is.
    save_spike_data(output_dir / SPIKE_DATA, spike_data(activity, model, parameters))
    save_model(output_dir, model)
    return {
        **summarize(measured, model.structure),
        **population_statistics(activity, parameters),
        "input_spikes": len(activity.input.unit),
        "output_spikes": len(activity.output.unit),
        "trials": parameters.n_trials,
        "duration_s": parameters.duration_ms / 1000,
        "backend": activity.backend,
    }


def simulate(model: Model, parameters: Parameters) -> Activity:
    """Run the network under odors that come and go, differently in every trial."""
    network = assembly_network(
        model.structure,
        model.physiology,
        dt_ms=parameters.dt_ms,
        surrogate=FastSigmoid(),
        backend=parameters.backend,
    )
    source = make_input(model, parameters.mixture, parameters.dt_ms)
    return record(
        network,
        InputStream(source, n_trials=parameters.n_trials, seed=parameters.seed),
        n_steps=parameters.n_steps,
        chunk_steps=round(parameters.chunk_ms / parameters.dt_ms),
        shown=shown_cells(model),
        title="simulate",
    )


def shown_cells(model: Model) -> list[int]:
    """Return the first cells of each type, whose potentials are drawn."""
    types = model.structure.cell_type_ids
    return [
        int(cell)
        for number in range(len(model.structure.cell_type_names))
        for cell in np.flatnonzero(types == number)[:SHOWN_PER_TYPE]
    ]


def spike_data(activity: Activity, model: Model, parameters: Parameters) -> SpikeData:
    """Put together what students read."""
    share = torch.softmax(activity.activation / parameters.mixture.temperature, dim=-1)
    odors = OdorMixtures(model.patterns_hz, activity.activation_step, share.float().numpy())
    return SpikeData(activity.input, activity.output, parameters.dt_ms, odors)


def population_statistics(activity: Activity, parameters: Parameters) -> dict[str, float]:
    """Return the median Fano factor over cells and the mean synchrony over trials, in windows."""
    trains = activity.output.span(parameters.settle_steps)
    counts = train_window_counts(trains, window_ms=parameters.window_ms, dt_ms=parameters.dt_ms)
    fano = fano_factors(counts, window_ms=1.0, dt_ms=1.0)
    return {
        "fano_factor": float(np.nanmedian(fano)) if np.isfinite(fano).any() else float("nan"),
        "synchrony_chi": float(synchrony_chi(counts).mean()),
    }


def draw_figures(
    output_dir: Path, activity: Activity, measured: Measured, model: Model, parameters: Parameters
) -> None:
    """Draw raster.png, statistics.png and potentials.png."""
    from neuro import plots

    structure, dt_ms = model.structure, parameters.dt_ms
    types = structure.cell_type_names[structure.cell_type_ids]
    spikes = activity.output.of_trial(0).dense()[:, 0]
    with plots.publication():
        figure = plots.new_figure(width_in=7.0, height_in=4.5)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 4])
        share = torch.softmax(activity.activation[:, 0] / parameters.mixture.temperature, dim=-1)
        # Each odor in the color that the raster gives the first type of its assembly's cells.
        colors = [f"C{len(structure.cell_type_names) * odor}" for odor in range(share.shape[1])]
        above.stackplot(activity.activation_step * dt_ms, share.T.numpy(), colors=colors)
        above.set_ylabel("Share of odor")
        group = [
            f"{name} {'-' if assembly < 0 else assembly}"
            for name, assembly in zip(types, structure.assembly_ids, strict=True)
        ]
        order = plots.assembly_order(structure.assembly_ids, structure.cell_type_ids)
        plots.draw_population_raster(
            below, spikes[:, order], dt_ms=dt_ms, group=[group[cell] for cell in order]
        )
        plots.save_png(figure, output_dir / "raster.png")
        figure = plots.new_figure(width_in=7.0, height_in=2.6)
        left, right = figure.subplots(1, 2)
        plots.draw_rate_distributions(left, by_type(measured.rate_hz, structure))
        cv = by_type(measured.cv, structure)
        plots.draw_distribution(right, cv, label="CV of the intervals", reference=1.0)
        plots.save_png(figure, output_dir / "statistics.png")
        figure = plots.new_figure(width_in=7.0, height_in=4.0)
        cells = shown_cells(model)
        threshold = [model.physiology.cell(types[cell]).threshold for cell in cells]
        last = min(len(spikes), round(2000 / dt_ms))
        plots.draw_potentials(
            figure.subplots(),
            activity.potential[:last],
            dt_ms=dt_ms,
            threshold=threshold,
            spikes=spikes[:last, cells],
            labels=[f"{types[cell]} {cell}" for cell in cells],
            unit=model.physiology.unit,
        )
        plots.save_png(figure, output_dir / "potentials.png")
