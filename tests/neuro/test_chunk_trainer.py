"""Truncated backpropagation through time against autograd by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import network, spike_trains
from torch import nn

from neuro.training.chunks import ChunkTrainer

CHUNK, N_CHUNKS = 5, 5


def chunks() -> list[torch.Tensor]:
    return list(spike_trains(n_steps=CHUNK * N_CHUNKS).split(CHUNK))


def weighted(simulation, state):
    """A loss with memory: spikes weighted by how many chunks went before."""
    before = torch.zeros(()) if state is None else state[0]
    return simulation.spikes.mean() * (1 + before), (before + 1,)


def trainer(net, *, chunks_per_update=1, clip_norm=1e9, rate=0.1, step_size=1):
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma=0.5)
    return ChunkTrainer(
        net, optimizer, chunks_per_update=chunks_per_update, clip_norm=clip_norm, schedule=schedule
    )


def values(net: nn.Module) -> list[torch.Tensor]:
    return [one.detach().clone() for one in net.parameters()]


def by_hand(net, inputs, *, rate, clip_norm) -> None:
    """One update from some chunks: the mean of their gradients, shortened, times the rate."""
    parameters, carry = list(net.parameters()), None
    total = [torch.zeros_like(one) for one in parameters]
    for number, spikes in enumerate(inputs):
        simulation = net({"feedforward": spikes}, carry=carry)
        carry = simulation.carry
        grads = torch.autograd.grad(simulation.spikes.mean() * (1 + number), parameters)
        total = [one + grad / len(inputs) for one, grad in zip(total, grads, strict=True)]
    norm = math.sqrt(sum(float(one.square().sum()) for one in total))
    with torch.no_grad():
        for one, grad in zip(parameters, total, strict=True):
            one -= rate * min(1.0, clip_norm / norm) * grad


@pytest.mark.parametrize("clip_norm", [1e9, 1e-3])
def test_update_is_the_mean_gradient_of_its_chunks_shortened(clip_norm):
    net = network("synapses")
    wanted = copy.deepcopy(net)
    by_hand(wanted, chunks()[:3], rate=0.1, clip_norm=clip_norm)
    learner = trainer(net, chunks_per_update=3, clip_norm=clip_norm)
    before = values(net)
    norms = [learner.learn({"feedforward": one}, weighted).grad_norm for one in chunks()[:3]]
    assert norms[:2] == [None, None]
    assert norms[2] > 0
    for found, one, start in zip(values(net), values(wanted), before, strict=True):
        torch.testing.assert_close(found - start, one - start, rtol=1e-4, atol=1e-14)


def test_state_of_the_cells_goes_on_and_gradients_end_where_a_chunk_begins():
    net = network("synapses")
    learner = trainer(net, rate=0.0)
    pieces = [learner.learn({"feedforward": one}, weighted).simulation for one in chunks()]
    whole = net({"feedforward": torch.cat(chunks())}).spikes
    assert torch.equal(torch.cat([one.spikes for one in pieces]), whole)
    assert not any(one.requires_grad for one in learner.carry.state if one is not None)


def test_new_pass_starts_at_rest_and_keeps_gradients_that_wait():
    net = network("synapses")
    learner = trainer(net, chunks_per_update=2, rate=0.0)
    first = learner.learn({"feedforward": chunks()[0]}, weighted)
    learner.start_pass()
    assert (learner.carry, learner.loss_state, learner.pending) == (None, None, 1)
    again = learner.learn({"feedforward": chunks()[0]}, weighted)
    assert torch.equal(first.simulation.spikes, again.simulation.spikes)
    assert again.grad_norm is not None


@pytest.mark.parametrize("done", range(1, N_CHUNKS))
def test_restored_trainer_goes_on_bit_for_bit_wherever_it_stopped(done):
    net = network("synapses")
    learner = trainer(net, chunks_per_update=2)
    for spikes in chunks()[:done]:
        learner.learn({"feedforward": spikes}, weighted)
    copied = network("synapses")
    copied.load_state_dict(net.state_dict())
    other = trainer(copied, chunks_per_update=2)
    other.optimizer.load_state_dict(learner.optimizer.state_dict())
    other.schedule.load_state_dict(learner.schedule.state_dict())
    other.load_state_dict(learner.state_dict())
    for spikes in chunks()[done:]:
        both = [one.learn({"feedforward": spikes}, weighted) for one in (learner, other)]
        assert both[0].loss == both[1].loss
    assert all(torch.equal(*pair) for pair in zip(values(net), values(copied), strict=True))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_gradient_that_is_not_finite_moves_nothing_and_says_so():
    net = network("synapses")
    learner = trainer(net)
    before = values(net)

    def exploding(simulation, state):
        return simulation.spikes.mean() * math.inf, state

    learned = learner.learn({"feedforward": chunks()[0]}, exploding)
    assert not math.isfinite(learned.grad_norm)
    assert all(torch.equal(*pair) for pair in zip(values(net), before, strict=True))
    assert math.isfinite(learner.learn({"feedforward": chunks()[1]}, weighted).grad_norm)


def test_update_of_no_chunks_is_refused():
    with pytest.raises(ValueError, match="chunks_per_update = 0"):
        trainer(network("synapses"), chunks_per_update=0)
