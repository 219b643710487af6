"""Streams of input spikes that can be drawn in pieces and continued from a checkpoint.

A source says what the spikes are like, a state says where each trial stands:

    source = OdorMixtureInput(patterns_hz, mixture, dt_ms=1.0)
    state = source.start(n_trials=50, seed=43)
    spikes, activation, state = source.draw(state, n_steps=100)

Random numbers are drawn step by step, in an order that knows nothing of chunks: the same spikes
come out whether 1,000 steps are drawn at once or in pieces of any lengths. On another kind of
device another stream is drawn from the same seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from neuro.spiking.encoding import spike_probability


class InputState(NamedTuple):
    """Where B trials stand between two steps.

    Attributes:
        activation: of K odors, float64, shape (B, K); K = 0 for inputs without odors.
        random: state of the generator, bytes, on the CPU.
    """

    activation: torch.Tensor
    random: torch.Tensor


class InputChunk(NamedTuple):
    """T steps.

    Attributes:
        spikes: 0 or 1 in the type of the rates, shape (T, B, N).
        activation: of the odors during each step, shape (T, B, K).
        state: from which the next chunk goes on.
    """

    spikes: torch.Tensor
    activation: torch.Tensor
    state: InputState


class InputSource(Protocol):
    """What draws input spikes; without a state of its own."""

    def start(self, n_trials: int, *, seed: int) -> InputState:
        """Return the state before the first step."""

    def draw(self, state: InputState, n_steps: int) -> InputChunk:
        """Draw the next steps."""


@dataclass(frozen=True, eq=False)
class PoissonInput:
    """Independent spikes of constant rate: in each step with probability rate * dt.

    Attributes:
        rate_hz: shape (N,), or (B, N) for other rates in every trial.
        dt_ms: length of a time step.
    """

    rate_hz: torch.Tensor
    dt_ms: float

    def __post_init__(self) -> None:
        """Refuse rates that no step can hold.

        Raises:
            ValueError: `rate_hz` has other axes; see also `spike_probability`.
        """
        if self.rate_hz.ndim not in (1, 2):
            msg = (
                f"rate_hz has shape {tuple(self.rate_hz.shape)}, not (inputs,) or (trials, inputs)"
            )
            raise ValueError(msg)
        spike_probability(self.rate_hz, dt_ms=self.dt_ms)

    def start(self, n_trials: int, *, seed: int) -> InputState:
        """Return the state before the first step of B = `n_trials` trials.

        Raises:
            ValueError: `rate_hz` holds another number of trials.
        """
        if self.rate_hz.ndim == 2 and len(self.rate_hz) != n_trials:
            msg = f"n_trials = {n_trials!r}, but rate_hz holds {len(self.rate_hz)} trials"
            raise ValueError(msg)
        nothing = torch.empty(n_trials, 0, dtype=torch.float64, device=self.rate_hz.device)
        return InputState(nothing, _first_random(seed, nothing.device))

    def draw(self, state: InputState, n_steps: int) -> InputChunk:
        """Draw the next `n_steps` steps."""
        generator = _resume(state.random, self.rate_hz.device)
        n_trials = len(state.activation)
        chance = spike_probability(self.rate_hz, dt_ms=self.dt_ms)
        chance = chance.expand(n_trials, chance.shape[-1])
        spikes = chance.new_empty(n_steps, *chance.shape)
        for step in range(n_steps):
            spikes[step] = _draw_spikes(chance, generator)
        activation = state.activation.expand(n_steps, *state.activation.shape)
        return InputChunk(spikes, activation, InputState(state.activation, generator.get_state()))


@dataclass(frozen=True)
class OdorMixture:
    """How the odors of a mixture come and go: one Ornstein-Uhlenbeck process an odor.

        da = -a dt / tau + sigma sqrt(2 dt / tau) xi        a(0) = start
        mixture = softmax(a / temperature)

    Solved exactly for any dt, so that the stationary standard deviation is sigma and the
    autocorrelation is exp(-t / tau).

    Attributes:
        tau_ms: correlation time, > 0.
        sigma: stationary standard deviation, >= 0.
        temperature: > 0; the smaller, the more one odor dominates.
        start: activation of all odors at first.
    """

    tau_ms: float
    sigma: float
    temperature: float
    start: float = 1.0

    def __post_init__(self) -> None:
        """Refuse constants that make no process.

        Raises:
            ValueError: a constant is out of range.
        """
        for name in ("tau_ms", "temperature"):
            if not (value := getattr(self, name)) > 0:
                msg = f"{name} = {value!r} is not positive"
                raise ValueError(msg)
        if not self.sigma >= 0:
            msg = f"sigma = {self.sigma!r} is negative"
            raise ValueError(msg)

    def advance(
        self, activation: torch.Tensor, *, dt_ms: float, generator: torch.Generator
    ) -> torch.Tensor:
        """Take one step; every element of `activation` is a process of its own."""
        noise = torch.randn(
            activation.shape,
            generator=generator,
            dtype=activation.dtype,
            device=activation.device,
        )
        left = math.exp(-dt_ms / self.tau_ms)
        kick = self.sigma * math.sqrt(-math.expm1(-2 * dt_ms / self.tau_ms))
        return left * activation + kick * noise


@dataclass(frozen=True, eq=False)
class OdorMixtureInput:
    """Spikes of inputs that smell a changing mixture of odors; each trial has its own.

        rates = softmax(a / temperature) @ patterns_hz      spike with probability rate * dt

    Activations are kept in double precision: with tau = 700 s, a step of 1 ms takes away 1.4e-6,
    which single precision rounds by several per cent.

    Attributes:
        patterns_hz: rates of the N inputs under each of K odors, shape (K, N).
        mixture: how the mixture changes.
        dt_ms: length of a time step.
    """

    patterns_hz: torch.Tensor
    mixture: OdorMixture
    dt_ms: float

    def __post_init__(self) -> None:
        """Refuse rates that no step can hold.

        Raises:
            ValueError: `patterns_hz` is no table; see also `spike_probability`.
        """
        if self.patterns_hz.ndim != 2:
            msg = f"patterns_hz has shape {tuple(self.patterns_hz.shape)}, not (odors, inputs)"
            raise ValueError(msg)
        spike_probability(self.patterns_hz, dt_ms=self.dt_ms)

    def start(self, n_trials: int, *, seed: int) -> InputState:
        """Return the state before the first step of B = `n_trials` trials."""
        activation = torch.full(
            (n_trials, len(self.patterns_hz)),
            self.mixture.start,
            dtype=torch.float64,
            device=self.patterns_hz.device,
        )
        return InputState(activation, _first_random(seed, activation.device))

    def draw(self, state: InputState, n_steps: int) -> InputChunk:
        """Draw the next `n_steps` steps; the first is that of `state.activation`."""
        generator = _resume(state.random, self.patterns_hz.device)
        chance_of = spike_probability(self.patterns_hz, dt_ms=self.dt_ms)
        activation = state.activation
        activations = activation.new_empty(n_steps, *activation.shape)
        spikes = chance_of.new_empty(n_steps, len(activation), chance_of.shape[1])
        for step in range(n_steps):
            activations[step] = activation
            share = torch.softmax(activation / self.mixture.temperature, dim=-1)
            # One product a step: its rounding may depend on the number of rows.
            spikes[step] = _draw_spikes(share.to(chance_of.dtype) @ chance_of, generator)
            activation = self.mixture.advance(activation, dt_ms=self.dt_ms, generator=generator)
        return InputChunk(spikes, activations, InputState(activation, generator.get_state()))

    def rates_hz(self, activation: torch.Tensor) -> torch.Tensor:
        """Return the rates under such activations.

        Args:
            activation: shape (..., K).

        Returns:
            Rates in Hz, shape (..., N).
        """
        share = torch.softmax(activation / self.mixture.temperature, dim=-1)
        return share.to(self.patterns_hz.dtype) @ self.patterns_hz


class InputStream:
    """A source with its state, for training loops: draws on, and is saved in checkpoints."""

    def __init__(self, source: InputSource, *, n_trials: int, seed: int) -> None:
        """Begin before the first step.

        Args:
            source: what draws.
            n_trials: number of trials B.
            seed: of the random numbers, which are this stream's alone.
        """
        self.source = source
        self.state = source.start(n_trials, seed=seed)

    def draw(self, n_steps: int) -> InputChunk:
        """Draw the next `n_steps` steps."""
        chunk = self.source.draw(self.state, n_steps)
        self.state = chunk.state
        return chunk

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state as tensors."""
        return self.state._asdict()

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it is that of another number of trials or odors.
        """
        saved, here = state_dict["activation"], self.state.activation
        if saved.shape != here.shape:
            msg = (
                f"the saved input is of {tuple(saved.shape)} (trials, odors), this one of "
                f"{tuple(here.shape)}: resume with the parameters it was saved with"
            )
            raise ValueError(msg)
        self.state = InputState(saved.to(here.device), state_dict["random"].cpu())


def _first_random(seed: int, device: torch.device) -> torch.Tensor:
    """Return the state of a generator that was just seeded."""
    return torch.Generator(device=device).manual_seed(seed).get_state()


def _resume(random: torch.Tensor, device: torch.device) -> torch.Generator:
    """Return a generator in that state."""
    generator = torch.Generator(device=device)
    generator.set_state(random)
    return generator


def _draw_spikes(chance: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return whether a uniform number below 1 falls below each chance: never at 0, always at 1."""
    drawn = torch.rand(chance.shape, generator=generator, dtype=chance.dtype, device=chance.device)
    return drawn < chance
