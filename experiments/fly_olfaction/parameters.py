"""The parameters of naming odors: parameters.toml and parameters_full.toml as checked values."""

from __future__ import annotations

import os
import tomllib
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from neuro.connectome.flywire import CELL_CLASSES
from neuro.connectome.lumped_inhibition import check_inhibition
from neuro.losses import SpikeCountBounds
from neuro.models import fly_olfaction, fly_pathway
from neuro.models.pathway_calibration import Targets
from neuro.models.typed_lif import NeuronSettings
from neuro.spiking.odor_trials import OdorLaw

if TYPE_CHECKING:
    from pathlib import Path

WIRINGS = {
    "compact": {"real": None, "shuffled": "targets"},
    "full": {
        "real": None,
        "shuffled": "targets",
        "shuffled_within_type": "targets_within_type",
        "signs_shuffled": "signs",
    },
}
Filled = TypeVar("Filled")


@dataclass(frozen=True)
class Parameters:
    """The keys of parameters.toml and parameters_full.toml, which say what each means.

    Attributes:
        compact: [network] of the compact network.
        full: [network], [neurons] and [gains] of the full one.
        calibration: [calibration], of the full one.
    """

    seed: int
    threads: int
    model: str
    classes: str
    receptor_map: str
    samples_per_class: dict[str, int]
    pn_to_kc: str
    inhibition: str
    epochs: int
    batch_size: int
    learning_rate: dict[str, float]
    odor: OdorLaw
    kc_spikes: SpikeCountBounds
    sign_rule: str = "published"
    compact: fly_olfaction.Settings | None = None
    full: fly_pathway.Settings | None = None
    calibration: Targets | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown choice, keys of tables that are missing or too many, and no numbers.

        Raises:
            ValueError: so it is.
        """
        kinds = ("lumped", "none") if self.model == "compact" else ("lumped", "none", "file")
        check_inhibition(self.inhibition, kinds)
        wirings = tuple(WIRINGS[self.model])
        for key, allowed in {"pn_to_kc": wirings}.items():
            if (value := getattr(self, key)) not in allowed:
                msg = f"{key} = {value!r} is none of {', '.join(map(repr, allowed))}"
                raise ValueError(msg)
        for key, names in {
            "samples_per_class": ["train", "validation"],
            "learning_rate": ["neurons", "readout"],
        }.items():
            value = getattr(self, key)
            if not isinstance(value, dict) or sorted(value) != names:
                msg = f"{key} = {value!r} must hold {' and '.join(names)}"
                raise ValueError(msg)
        self._check_numbers()

    def _check_numbers(self) -> None:
        counted = {key: getattr(self, key) for key in ("threads", "epochs", "batch_size")}
        counted |= {f"samples_per_class.{key}": one for key, one in self.samples_per_class.items()}
        for key, value in counted.items():
            if type(value) is not int or value < 1:
                msg = f"{key} = {value!r} must be a whole number of at least 1"
                raise ValueError(msg)
        settings = self.compact or self.full
        if settings and settings.dt_ms != self.dt_ms:
            msg = f"dt_ms = {settings.dt_ms!r} must be a whole number of ms: spikes are drawn so"
            raise ValueError(msg)
        self.odor.n_bins(self.dt_ms)
        for name in self.full.gains if self.full else ():
            if name.count("->") != 1 or not set(name.split("->")) <= set(CELL_CLASSES):
                known = ", ".join(CELL_CLASSES)
                msg = f"gains has {name!r}, which is no edge class 'FROM->TO' of {known}"
                raise ValueError(msg)
        if self.full and self.full.read_from_ms >= self.odor.trial_ms:
            msg = f"read_from_ms = {self.full.read_from_ms!r} lies beyond the trial"
            raise ValueError(msg)

    @property
    def dt_ms(self) -> int:
        """Length of a step of the network, in whole ms."""
        settings = self.compact or self.full
        return int(settings.dt_ms) if settings else 0


def read_parameters(params_file: Path) -> Parameters:
    """Read a parameter file; `./run --seed` reaches a script as ENGRAM_SEED.

    Raises:
        ValueError: a key is missing or unknown, or a value cannot be.
    """
    values = tomllib.loads(params_file.read_text(encoding="utf-8"))
    if (model := values.get("model")) not in WIRINGS:
        msg = f"model = {model!r} is none of {', '.join(map(repr, WIRINGS))}"
        raise ValueError(msg)
    if "ENGRAM_SEED" in os.environ:
        values["seed"] = int(os.environ["ENGRAM_SEED"])
    values["odor"] = filled(OdorLaw, "odor", values)
    values["kc_spikes"] = filled(SpikeCountBounds, "kc_spikes", values)
    if model == "compact":
        values["compact"] = filled(fly_olfaction.Settings, "network", values)
    else:
        values["calibration"] = filled(Targets, "calibration", values)
        network = table(values, "network")
        network["neurons"] = filled(NeuronSettings, "neurons", values)
        network["gains"] = table(values, "gains")
        network["segment_steps"] = network.get("segment_steps") or None
        values["full"] = filled(fly_pathway.Settings, "network", values)
    for name in ("network", "neurons", "gains"):
        values.pop(name, None)
    return filled(Parameters, "", {"": values})


def table(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a table of the parameters.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(found := values.get(name), dict):
        msg = f"the parameters have no table [{name}]"
        raise ValueError(msg)
    return found


def filled(kind: type[Filled], name: str, values: dict[str, Any]) -> Filled:
    """Make a value of a table, whose keys must be its fields.

    Raises:
        ValueError: a key is missing or unknown.
    """
    found, known = table(values, name), fields(kind)  # type: ignore[arg-type]
    needed = {one.name for one in known if one.default is one.default_factory is MISSING}
    missing = sorted(needed - set(found))
    unknown = sorted(set(found) - {one.name for one in known})
    if missing or unknown:
        where = f"[{name}]" if name else "the parameters"
        what = f"lack {missing!r}" if missing else f"hold {unknown!r}, which nothing reads"
        msg = f"{where}: keys {what}; see the parameter file of this experiment"
        raise ValueError(msg)
    return kind(**found)
