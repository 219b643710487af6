"""The script of an exported network, and the arrays that it reads."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from neuro.export.backends import Backend
from neuro.export.layout import Layout

_TEMPLATE = Path(__file__).with_name("run.template")


def script_text(layout: Layout, backend: Backend, *, n_steps: int, n_trials: int) -> str:
    """Return the source of a script that builds and runs a layout.

    Args:
        layout: of the network.
        backend: that the script is for.
        n_steps: T.
        n_trials: B.
    """
    spiking = [name for name, part in layout.parts.items() if not part.reads]
    readouts = [name for name, part in layout.parts.items() if part.reads]
    delays = [table.delay_ms.max() for table in layout.synapses]
    first, last = layout.first_input_ms, max(part.start_ms for part in layout.parts.values())
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=backend.title,
        requirements=", ".join(backend.requirements),
        module=backend.module,
        step_ms=_number(layout.dt_ms),
        first_input_ms=_number(first),
        timestep_ms=_number(layout.timestep_ms),
        max_delay_ms=_number(max([layout.timestep_ms, *delays])),
        # One time step more: not every simulator gives what happens at the very end.
        duration_ms=_number(last + n_steps * layout.dt_ms + layout.timestep_ms),
        trials=n_trials,
        before=_before(layout, backend),
        setup=f", {backend.setup}" if backend.setup else "",
        inputs=_lines(
            8,
            (
                f"{_text(name)}: make_source({_text(name)}, {size}, trial),"
                for name, size in layout.inputs.items()
            ),
        ),
        populations=_lines(
            8,
            (
                f"{_text(name)}: make_cells({_text(name)}, sim.{part.cells.model}),"
                for name, part in layout.parts.items()
            ),
        ),
        recordings=_lines(
            4,
            (
                f"parts[{_text(name)}].record({_text('v' if part.reads else 'spikes')})"
                for name, part in layout.parts.items()
            ),
        ),
        connections=_lines(
            4,
            (
                f"connect(parts[{_text(table.source)}], parts[{_text(table.target)}], "
                f"{_text(synapse_key(table.target, table.name))}, {_text(table.receptor)})"
                for table in layout.synapses
            ),
        ),
        spiking=_list(spiking),
        readouts=_list(readouts),
    )


def network_arrays(layout: Layout, backend: Backend) -> dict[str, Any]:
    """Return parameters, first potentials and synapses under the names that a script reads."""
    late_ms = layout.timestep_ms if backend.stamps_start else 0.0
    arrays: dict[str, Any] = {}
    for name, part in layout.parts.items():
        for parameter, values in part.cells.parameters.items():
            arrays[f"cells.{name}.{parameter}"] = values
        arrays[f"start.{name}"] = part.cells.start_potential(part.start_ms + late_ms)
    for table in layout.synapses:
        prefix = f"synapses.{synapse_key(table.target, table.name)}.{table.receptor}."
        arrays[f"{prefix}pre"] = table.pre.astype(np.int32)
        arrays[f"{prefix}post"] = table.post.astype(np.int32)
        arrays[f"{prefix}weight"] = table.weight
        arrays[f"{prefix}delay"] = table.delay_ms
    return arrays


def synapse_key(target: str, name: str) -> str:
    """Return what the synapses of a projection are called."""
    return name if name == target else f"{target}.{name}"


def _before(layout: Layout, backend: Backend) -> str:
    """Return what a script does first, with the line break after it."""
    uses_delta = any(part.cells.model == "IF_curr_delta" for part in layout.parts.values())
    return f"{backend.before_delta}\n\n" if uses_delta and backend.before_delta else ""


def _number(value: Any) -> str:  # noqa: ANN401
    return repr(round(float(value), 9))


def _text(value: str) -> str:
    """Return a string as source, in double quotes."""
    escaped = repr(value)[1:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{escaped}"'


def _list(names: list[str]) -> str:
    return "[" + ", ".join(map(_text, names)) + "]"


def _lines(indent: int, lines: Any) -> str:  # noqa: ANN401
    return "\n".join(" " * indent + line for line in lines)
