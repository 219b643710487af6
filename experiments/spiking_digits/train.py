"""Train two layers of spiking neurons to name handwritten digits.

Images of scikit-learn's digits become random spike trains, brighter pixels firing faster; the
output unit that fires most names the digit. Reads no input folder: scikit-learn brings the images.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from engram import metrics, progress
from engram.checkpoint import Checkpoints
from neuro.models.digits_classifier import DigitsClassifier, DigitsResponse
from neuro.spiking.encoding import encode_rate
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

N_CLASSES = 10
IMAGE_SHAPE = (8, 8)
PIXEL_MAX = 16.0


@dataclass(frozen=True)
class Parameters:
    """The keys of parameters.toml, which says what each means."""

    seed: int
    split_seed: int
    evaluation_seed: int
    threads: int
    validation_fraction: float
    test_fraction: float
    presentation_ms: float
    dt_ms: float
    rate_max_hz: float
    hidden_units: int
    tau_mem_ms: float
    surrogate_slope: float
    logit_per_spike: float
    epochs: int
    batch_size: int
    learning_rate: float
    learning_rate_decay: float

    @property
    def n_steps(self) -> int:
        """Time steps of a presentation."""
        return round(self.presentation_ms / self.dt_ms)


class Images(NamedTuple):
    """B images: brightness in 0 .. 1, shape (B, 64); the digits; their rows in the data set."""

    intensity: torch.Tensor
    label: torch.Tensor
    row: np.ndarray


class Splits(NamedTuple):
    """The images to learn from, to choose by, and to report on."""

    train: Images
    validation: Images
    test: Images


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int]:
    """Train, then test once, with the weights of the last epoch."""
    parameters = read_parameters(params_file)
    splits = load_splits(parameters)
    classifier = make_reproducible_classifier(parameters)
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        checkpoints = Checkpoints(output_dir, keep_last=2)
        train(
            classifier,
            splits,
            parameters,
            log=log,
            checkpoints=checkpoints,
            resume_from=resume_from,
        )
    input_spikes = encode_for_evaluation(splits.test, parameters)
    response = respond(classifier, input_spikes)
    decided = response.spike_count.argmax(dim=1)
    save_predictions(output_dir / "predictions.npz", splits.test, response)
    draw_figures(output_dir, splits.test, input_spikes, response, dt_ms=parameters.dt_ms)
    return {
        "test_accuracy": accuracy(decided, splits.test.label),
        "validation_accuracy": evaluate(classifier, splits.validation, parameters),
        "hidden_rate_hz": mean_rate_hz(response.hidden, parameters.dt_ms),
        "test_images": len(decided),
    }


def read_parameters(params_file: Path) -> Parameters:
    """Read parameters.toml; `./run --seed` has set the key `seed` in it."""
    return Parameters(**tomllib.loads(params_file.read_text(encoding="utf-8")))


def load_splits(parameters: Parameters) -> Splits:
    """Divide the 1,797 images, each class in the same shares."""
    digits = load_digits()
    rows = np.arange(len(digits.target))
    fractions = (
        parameters.test_fraction,
        parameters.validation_fraction / (1 - parameters.test_fraction),
    )
    parts = []
    for fraction in fractions:
        rows, part = train_test_split(
            rows,
            test_size=fraction,
            random_state=parameters.split_seed,
            stratify=digits.target[rows],
        )
        parts.append(part)
    test, validation = parts
    intensity = torch.from_numpy(digits.data / PIXEL_MAX).float()
    label = torch.from_numpy(digits.target).long()
    return Splits(
        *(Images(intensity[part], label[part], part) for part in (rows, validation, test))
    )


def make_reproducible_classifier(parameters: Parameters) -> DigitsClassifier:
    """Fix what bits depend on, threads and random stream, and draw the first weights."""
    torch.set_num_threads(parameters.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(parameters.seed)
    return DigitsClassifier(
        n_inputs=IMAGE_SHAPE[0] * IMAGE_SHAPE[1],
        n_hidden=parameters.hidden_units,
        n_classes=N_CLASSES,
        dt_ms=parameters.dt_ms,
        tau_mem_ms=parameters.tau_mem_ms,
        surrogate_slope=parameters.surrogate_slope,
    )


def train(
    classifier: DigitsClassifier,
    splits: Splits,
    parameters: Parameters,
    *,
    log: metrics.MetricsLog,
    checkpoints: Checkpoints,
    resume_from: Path | None,
) -> None:
    """Run the epochs that are left; each ends with a line of metrics and a checkpoint.

    Batch order and training spikes come from PyTorch's global random stream, which every checkpoint
    holds.
    """
    optimizer = torch.optim.Adam(classifier.parameters(), lr=parameters.learning_rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, parameters.learning_rate_decay)
    state: dict[str, Any] = {"classifier": classifier, "optimizer": optimizer, "schedule": schedule}
    done = checkpoints.resume(resume_from, **state).step
    n_batches = -(-len(splits.train.label) // parameters.batch_size)
    with progress.bar("train", total=(parameters.epochs - done) * n_batches) as bar:
        for epoch in range(done + 1, parameters.epochs + 1):
            losses = []
            for batch in torch.randperm(len(splits.train.label)).split(parameters.batch_size):
                losses.append(learn(classifier, optimizer, splits.train, batch, parameters))
                bar.advance()
            schedule.step()
            log(
                {
                    "train/loss": sum(losses) / len(losses),
                    "validation/accuracy": evaluate(classifier, splits.validation, parameters),
                },
                step=epoch,
            )
            checkpoints.save(epoch, **state)


def learn(
    classifier: DigitsClassifier,
    optimizer: torch.optim.Optimizer,
    images: Images,
    batch: torch.Tensor,
    parameters: Parameters,
) -> float:
    """Follow the gradient of the cross-entropy of one batch's spike counts; return the loss."""
    response = classifier(encode(images.intensity[batch], parameters))
    logits = parameters.logit_per_spike * response.spike_count
    loss = functional.cross_entropy(logits, images.label[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def encode(
    intensity: torch.Tensor, parameters: Parameters, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Turn brightness, shape (B, 64), into spikes, shape (T, B, 64)."""
    return encode_rate(
        intensity * parameters.rate_max_hz,
        n_steps=parameters.n_steps,
        dt_ms=parameters.dt_ms,
        generator=generator,
    )


def encode_for_evaluation(images: Images, parameters: Parameters) -> torch.Tensor:
    """Draw spike trains that are equal at every call and leave training's random stream alone."""
    generator = torch.Generator().manual_seed(parameters.evaluation_seed)
    return encode(images.intensity, parameters, generator)


@torch.no_grad()
def respond(classifier: DigitsClassifier, input_spikes: torch.Tensor) -> DigitsResponse:
    """Show spike trains, shape (T, B, 64), without learning from them."""
    return classifier(input_spikes)


def evaluate(classifier: DigitsClassifier, images: Images, parameters: Parameters) -> float:
    """Return the share of images that are named right."""
    response = respond(classifier, encode_for_evaluation(images, parameters))
    return accuracy(response.spike_count.argmax(dim=1), images.label)


def accuracy(decided: torch.Tensor, label: torch.Tensor) -> float:
    """Return the share of decisions that are right."""
    return (decided == label).double().mean().item()


def mean_rate_hz(spikes: torch.Tensor, dt_ms: float) -> float:
    """Return the firing rate in Hz over steps, images and units."""
    return spikes.double().mean().item() * MS_PER_S / dt_ms


def save_predictions(path: Path, images: Images, response: DigitsResponse) -> None:
    """Write each image's row in the data set, its digit, the decision and the output spikes."""
    count = response.spike_count.to(torch.int64).numpy()
    np.savez(
        path,
        row=images.row,
        label=images.label.numpy(),
        decided=count.argmax(axis=1),
        spike_count=count,
    )


def draw_figures(
    output_dir: Path,
    images: Images,
    input_spikes: torch.Tensor,
    response: DigitsResponse,
    *,
    dt_ms: float,
) -> None:
    """Draw confusion.png over all images and raster.png of the first."""
    # Training needs no drawing, which takes a second to import.
    from neuro import plots

    decided = response.spike_count.argmax(dim=1)
    share = accuracy(decided, images.label)
    with plots.publication():
        figure = plots.new_figure(width_in=3.5, height_in=3.5)
        axes = figure.subplots()
        counts = plots.count_confusions(images.label, decided, n_classes=N_CLASSES)
        plots.draw_confusion(axes, counts, labels=[str(digit) for digit in range(N_CLASSES)])
        axes.set_title(f"{share:.1%} of {len(decided)} test images named right")
        plots.save_png(figure, output_dir / "confusion.png")
        layers = {"Input": input_spikes, "Hidden": response.hidden, "Output": response.output}
        figure = plots.draw_presentation(
            images.intensity[0].reshape(IMAGE_SHAPE),
            {name: spikes[:, 0] for name, spikes in layers.items()},
            dt_ms=dt_ms,
            title=f"A test image of a {images.label[0]}",
        )
        plots.save_png(figure, output_dir / "raster.png")
