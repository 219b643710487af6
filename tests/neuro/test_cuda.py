"""The backends that run on a GPU, against the step loop on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from populations import MODELS, population

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def moved(made, device):
    """The same population with leaves on a device."""
    parts = ("dense", "sparse", "feedforward", "late", "source", "drive")
    leaves = {name: getattr(made, name).detach().to(device).requires_grad_() for name in parts}
    return replace(made, edges=made.edges.to(device), **leaves)


def gradients(made, **options):
    run = made.run(**options)
    return run, torch.autograd.grad(run.spikes.sum() + run.potential.sum(), made.leaves())


@pytest.mark.parametrize("backend", ["loop", "sequence", "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_spikes_and_learns_as_the_step_loop_on_the_cpu(name, backend):
    expected, wanted = gradients(moved(population(name), "cpu"), backend="loop")
    run, found = gradients(moved(population(name), "cuda"), backend=backend)
    assert torch.equal(run.spikes.cpu(), expected.spikes)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-9, atol=1e-12)


def test_auto_takes_the_sequence_on_a_gpu():
    assert moved(population("zero"), "cuda").run(backend="auto").backend == "sequence"
