"""The points of a grid: copy this file to workspace/, edit the copy, and start `./run --grid`.

`configurations` yields the parameters and the name of each point; every point becomes a run. `base`
holds the experiment's parameters as a dict. All points are drawn and checked before the first run
starts, and the file's bytes go into the grid's record. As it stands it asks how much of a result is
luck: the same experiment with three seeds. A loop around it asks something, for spiking_digits
perhaps:

    for units in (32, 128, 512):
        for seed in SEEDS:
            yield {**base, "hidden_units": units, "seed": seed}, f"units={units},seed={seed}"

A grid that needs no code fits into experiment.toml: see [grid] in docs/experiment.md.
"""

SEEDS = (0, 1, 2)

DEVICES = None  # such as [0, 1]; None takes every GPU that is free to use, else the processors
SLOTS_PER_DEVICE = None  # how many points share a device at a time; None leaves it to engram
DEVICES_PER_RUN = None  # how many devices one point gets; None means 1
PRELOAD = ["torch"]  # modules to import once for all points; None imports nothing ahead
MAX_RETRIES = None  # how often a point that crashed is tried again; None means never
MEMORY = None  # "auto" packs as many points on a device as its memory holds


def configurations(base):  # noqa: ANN001, ANN201
    """Yield (parameters, name) of each point."""
    for seed in SEEDS:
        yield {**base, "seed": seed}, f"seed={seed}"
