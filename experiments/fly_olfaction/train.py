"""Train the fly's olfactory pathway to name odors.

Real wiring (FlyWire v783) and real receptor responses (DoOR); what is learned are gains, time
constants and biases by cell type, and a linear readout of Kenyon cells. Reads the tables that
`engram fetch fly_olfaction` builds.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from engram import metrics, progress
from engram.checkpoint import Checkpoints
from neuro.connectome.odors import Odors, load_odors
from neuro.connectome.olfactory_pathway import Pathway, check_inhibition, load_pathway
from neuro.metrics import activity
from neuro.metrics.ideal_observer import ideal_observer_decisions
from neuro.models.fly_olfaction import Drive, FlyOlfaction, FlyResponse, Settings
from neuro.spiking.odor_trials import OdorLaw, draw_counts
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

# Every trial has a random stream of its own, named by seed, purpose, odor and repeat, so that
# another number of trials changes no other trial.
TRAIN, VALIDATION, OBSERVER, SHUFFLE = range(4)
OBSERVER_SAMPLES = 10
CHOICES = {"classes": ("selection", "seed_compat"), "pn_to_kc": ("real", "shuffled")}


@dataclass(frozen=True)
class Parameters:
    """The keys of parameters.toml, which says what each means."""

    seed: int
    threads: int
    classes: str
    samples_per_class: dict[str, int]
    pn_to_kc: str
    inhibition: str
    epochs: int
    batch_size: int
    learning_rate: float
    odor: OdorLaw
    network: Settings

    def __post_init__(self) -> None:
        check_inhibition(self.inhibition)
        for key, allowed in CHOICES.items():
            if (value := getattr(self, key)) not in allowed:
                msg = f"{key} = {value!r} is none of {', '.join(map(repr, allowed))}"
                raise ValueError(msg)
        if sorted(self.samples_per_class) != ["train", "validation"]:
            msg = f"samples_per_class = {self.samples_per_class!r} must hold train and validation"
            raise ValueError(msg)


class Trials(NamedTuple):
    """B presentations: what drives PNs and LNs, in half precision; odors; durations."""

    drive: Drive
    label: torch.Tensor
    duration_ms: np.ndarray


class Task(NamedTuple):
    """The odors, the pathway that names them, and the trials; response has shape (odor, ORN)."""

    odors: Odors
    pathway: Pathway
    response: np.ndarray
    train: Trials
    validation: Trials


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int]:
    """Train, then report on the validation trials with the weights of the last epoch."""
    parameters = read_parameters(params_file)
    torch.set_num_threads(parameters.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(parameters.seed)
    odors, pathway = load_tables(find_tables(input_dir), parameters)
    classifier = FlyOlfaction(
        pathway,
        n_classes=len(odors.names),
        settings=parameters.network,
        inhibition=parameters.inhibition == "lumped",
    )
    task = make_task(odors, pathway, classifier, parameters)
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        history = train(
            classifier,
            task,
            parameters,
            log=log,
            checkpoints=Checkpoints(output_dir, keep_last=2),
            resume_from=resume_from,
        )
    response = respond(classifier, task.validation, parameters)
    summary = summarize(task.validation, response) | {
        "ideal_observer_accuracy": ideal_observer_accuracy(task.response, parameters),
        "classes": len(odors.names),
    }
    save_responses(output_dir / "responses.npz", task, response)
    ceiling = summary["ideal_observer_accuracy"]
    trial_s = parameters.odor.trial_ms / MS_PER_S
    draw_figures(output_dir, task, response, history, ceiling=ceiling, trial_s=trial_s)
    return summary


def read_parameters(params_file: Path) -> Parameters:
    """Read parameters.toml; `./run --seed` reaches a script as ENGRAM_SEED."""
    values = tomllib.loads(params_file.read_text(encoding="utf-8"))
    values["seed"] = int(os.environ.get("ENGRAM_SEED", values["seed"]))
    odor, network = OdorLaw(**values.pop("odor")), Settings(**values.pop("network"))
    return Parameters(**values, odor=odor, network=network)


def find_tables(input_dir: Path | None) -> Path:
    """Return the folder of tables among the inputs."""
    if input_dir is None or not (input_dir / "tables").is_dir():
        msg = (
            f"there is no folder 'tables' in the inputs ({input_dir}): the data are not part of "
            "the repository. Get them with `./run fetch fly_olfaction`"
        )
        raise FileNotFoundError(msg)
    return input_dir / "tables"


def load_tables(tables: Path, parameters: Parameters) -> tuple[Odors, Pathway]:
    """Load the odors, and the pathway with real or shuffled PN -> KC pairs."""
    odors = load_odors(tables, seed_compat=parameters.classes == "seed_compat")
    shuffled = parameters.pn_to_kc == "shuffled"
    shuffle = np.random.default_rng([parameters.seed, SHUFFLE]) if shuffled else None
    return odors, load_pathway(tables, shuffle=shuffle)


def make_task(
    odors: Odors, pathway: Pathway, classifier: FlyOlfaction, parameters: Parameters
) -> Task:
    """Draw all trials; only what the fixed weights make of them is kept."""
    response = odors.drive(pathway.cells.orn["door_receptors"])
    samples = parameters.samples_per_class
    n_trials = len(response) * sum(samples.values())
    with progress.bar("draw odor trials", total=n_trials) as bar:
        train, validation = (
            draw_trials(response, classifier, parameters, purpose, samples[name], bar)
            for purpose, name in ((TRAIN, "train"), (VALIDATION, "validation"))
        )
    return Task(odors, pathway, response, train, validation)


def draw_trials(
    response: np.ndarray,
    classifier: FlyOlfaction,
    parameters: Parameters,
    purpose: int,
    n_samples: int,
    bar: progress.Bar,
) -> Trials:
    """Draw `n_samples` trials of each odor, sample by sample."""
    drives, labels, durations = [], [], []
    for repeat in range(n_samples):
        for label in range(len(response)):
            generator = np.random.default_rng([parameters.seed, purpose, label, repeat])
            duration_ms = parameters.odor.draw_duration_ms(generator)
            counts = draw_counts(
                parameters.odor,
                response[label],
                duration_ms,
                dt_ms=int(parameters.network.dt_ms),
                generator=generator,
            )
            drive = classifier.project(torch.from_numpy(counts).float())
            drives.append(Drive(drive.pn.half(), drive.ln.half()))
            labels.append(label)
            durations.append(duration_ms)
            bar.advance()
    stacked = Drive(*(torch.stack(part, dim=1) for part in zip(*drives, strict=True)))
    return Trials(stacked, torch.tensor(labels), np.array(durations))


def ideal_observer_accuracy(response: np.ndarray, parameters: Parameters) -> float:
    """Return how often maximum likelihood on whole-trial receptor counts names the odor."""
    labels = np.repeat(np.arange(len(response)), OBSERVER_SAMPLES)
    generator = np.random.default_rng([parameters.seed, OBSERVER])
    law = parameters.odor
    counts = np.concatenate(
        [
            draw_counts(
                law,
                response[label],
                law.draw_duration_ms(generator),
                dt_ms=law.trial_ms,
                generator=generator,
            )
            for label in labels
        ]
    )
    return float((ideal_observer_decisions(counts, law, response) == labels).mean())


def train(
    classifier: FlyOlfaction,
    task: Task,
    parameters: Parameters,
    *,
    log: metrics.MetricsLog,
    checkpoints: Checkpoints,
    resume_from: Path | None,
) -> list[dict[str, float]]:
    """Run the epochs that are left; each ends with a line of metrics and a checkpoint.

    The batch order comes from PyTorch's global random stream, which every checkpoint holds.
    Returns what was logged, one entry an epoch, those before a resume included.
    """
    optimizer = torch.optim.Adam(classifier.parameters(), lr=parameters.learning_rate)
    state: dict[str, Any] = {"classifier": classifier, "optimizer": optimizer}
    start = checkpoints.resume(resume_from, **state)
    history = list(start.extra.get("history", []))
    n_batches = -(-len(task.train.label) // parameters.batch_size)
    with progress.bar("train", total=(parameters.epochs - start.step) * n_batches) as bar:
        for epoch in range(start.step + 1, parameters.epochs + 1):
            losses = []
            for batch in torch.randperm(len(task.train.label)).split(parameters.batch_size):
                losses.append(learn(classifier, optimizer, task.train, batch))
                bar.advance()
            summary = summarize(task.validation, respond(classifier, task.validation, parameters))
            row = {"train/loss": sum(losses) / len(losses)} | {
                name.replace("validation_", "validation/"): value for name, value in summary.items()
            }
            history.append(row)
            log(row, step=epoch)
            checkpoints.save(epoch, extra={"history": history}, **state)
    return history


def learn(
    classifier: FlyOlfaction,
    optimizer: torch.optim.Optimizer,
    trials: Trials,
    batch: torch.Tensor,
) -> float:
    """Follow the gradient of one batch's cross-entropy; return the loss."""
    response = classifier(drive_of(trials, batch))
    loss = functional.cross_entropy(response.logits, trials.label[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def drive_of(trials: Trials, batch: torch.Tensor) -> Drive:
    """Return the drive of some trials in single precision."""
    return Drive(*(part[:, batch].float() for part in trials.drive))


@torch.no_grad()
def respond(classifier: FlyOlfaction, trials: Trials, parameters: Parameters) -> FlyResponse:
    """Present trials without learning from them."""
    batches = torch.arange(len(trials.label)).split(parameters.batch_size)
    responses = [classifier(drive_of(trials, batch)) for batch in batches]
    return FlyResponse(*(torch.cat(part) for part in zip(*responses, strict=True)))


def summarize(trials: Trials, response: FlyResponse) -> dict[str, float]:
    """Measure how well odors are named and how active the neurons are."""
    correct = response.logits.argmax(dim=1) == trials.label
    accuracy = correct.double().mean().item()
    return {
        "validation_accuracy": accuracy,
        "validation_accuracy_se": activity.standard_error(accuracy, len(correct)),
        "kc_active_fraction": activity.active_fraction(response.kc_count),
        "pn_active_fraction": activity.active_fraction(response.pn_count),
        "kc_lifetime_sparseness": activity.lifetime_sparseness(response.kc_count),
        "pn_lifetime_sparseness": activity.lifetime_sparseness(response.pn_count),
        "kc_odor_correlation": activity.pair_correlation(response.kc_count),
        "pn_odor_correlation": activity.pair_correlation(response.pn_count),
    }


def save_responses(path: Path, task: Task, response: FlyResponse) -> None:
    """Write the validation trials: odor, duration, decision, spike counts, and whose they are."""
    np.savez(
        path,
        odor=np.array(task.odors.names),
        label=task.validation.label.numpy(),
        duration_ms=task.validation.duration_ms,
        decided=response.logits.argmax(dim=1).numpy(),
        pn_id=task.pathway.cells.pn["root_id"].to_numpy(),
        kc_id=task.pathway.cells.kc["root_id"].to_numpy(),
        pn_count=response.pn_count.to(torch.uint8).numpy(),
        kc_count=response.kc_count.to(torch.uint8).numpy(),
    )


def draw_figures(
    output_dir: Path,
    task: Task,
    response: FlyResponse,
    history: list[dict[str, float]],
    *,
    ceiling: float,
    trial_s: float,
) -> None:
    """Draw learning.png, activity.png and confusion.png."""
    # Training needs no drawing, which takes a second to import.
    from neuro import plots
    from neuro.plots import odors as figures

    label = task.validation.label
    n_odors = len(task.odors.names)
    right = history[-1]["validation/accuracy"]
    with plots.publication():
        learning = figures.draw_learning(
            [row["train/loss"] for row in history],
            [row["validation/accuracy"] for row in history],
            [row["validation/accuracy_se"] for row in history],
            ceiling=ceiling,
            chance=1 / n_odors,
        )
        activities = figures.draw_activity(
            {"PN": response.pn_count, "KC": response.kc_count},
            list(task.pathway.cells.kc["cell_type"]),
            trial_s=trial_s,
        )
        confusion = figures.draw_probabilities(
            response.logits.softmax(dim=1),
            label,
            task.odors.chemical_class,
            title=f"{right:.1%} of {len(label)} trials of {n_odors} odors named right",
        )
        for name, figure in (
            ("learning", learning),
            ("activity", activities),
            ("confusion", confusion),
        ):
            plots.save_png(figure, output_dir / f"{name}.png")
