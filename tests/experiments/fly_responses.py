"""A small made-up responses.npz, in the format that training runs write."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CLASSES = ["ALLN", "ALPN", "KC", "MBON", "APL"]
SIZES = [6, 12, 60, 4, 2]


def made_responses(*, n_odors: int = 24, n_repeats: int = 4, seed: int = 5) -> dict:
    """Poisson spikes of receptor neurons drive random sparse Kenyon cells."""
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(n_odors), n_repeats)
    n = len(label)
    drive = generator.gamma(0.6, 3.0, (n_odors, 20))
    orn_count = generator.poisson(drive[label])
    cell_class = np.repeat(CLASSES, SIZES)
    weights = generator.random((20, len(cell_class)))
    count = generator.poisson(orn_count @ weights / 8)
    kenyon = cell_class == "KC"
    sparse = generator.random((20, kenyon.sum())) < 0.2
    count[:, kenyon] = np.maximum(orn_count @ sparse - 14, 0) // 3
    logits = generator.normal(size=(n, n_odors))
    logits[np.arange(n), label] += 4
    types = [f"{name}{i % 3}" for i, name in enumerate(cell_class)]
    spikes = generator.integers(0, 50, 400)
    return {
        "odor": np.array([f"odor {i}" for i in range(n_odors)]),
        "chemical_class": np.array(["ester", "", "acid"])[np.arange(n_odors) % 3],
        "label": label,
        "decided": logits.argmax(axis=1),
        "logits": logits.astype(np.float32),
        "duration_ms": generator.integers(70, 500, n),
        "sample_id": label + n_odors * np.tile(np.arange(n_repeats), n_odors),
        "unit_id": np.arange(len(cell_class)) + 1000,
        "cell_class": cell_class,
        "cell_type": np.array(types),
        "side": np.array(["left", "right"])[np.arange(len(cell_class)) % 2],
        "count": count.astype(np.uint16),
        "orn_id": np.arange(20) + 100,
        "orn_glomerulus": np.array(["DM1", "DM2", "VA1v", "DA1"])[np.arange(20) % 4],
        "orn_count": orn_count.astype(np.uint16),
        "trial_ms": np.array(500.0),
        "dt_ms": np.array(10.0),
        "network": np.array("compact"),
        "raster_trial": np.sort(generator.integers(0, 3, 400)),
        "raster_step": spikes,
        "raster_unit": generator.integers(0, len(cell_class), 400),
    }


def write_responses(path: Path, **changed: object) -> Path:
    """Write them, some replaced or, with None, left out."""
    arrays = made_responses() | changed
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path
