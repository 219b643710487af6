"""Projections: which states they load, which arguments they refuse."""

from __future__ import annotations

import io

import pytest
import torch
from projections import (
    N_POST,
    N_PRE,
    POST_TYPE,
    PRE_TYPE,
    SIGNS,
    dense,
    magnitudes,
    make,
    random_edges,
    seeded,
    sparse,
)

from neuro.spiking.projection import SCOPES
from neuro.spiking.scaling import Labels

# What a state may be loaded into


def state_of(projection):
    """The state as it comes back from a file."""
    file = io.BytesIO()
    torch.save(projection.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("build", [dense, sparse])
def test_a_state_brings_weights_and_factors_back(scope, build):
    made = build(trainable=scope, signs=SIGNS, seed=0)
    with torch.no_grad():
        for one in made.parameters():
            one.add_(torch.randn(one.shape, generator=seeded(1), dtype=one.dtype))
    other = build(trainable=scope, signs=SIGNS, seed=0)
    other.load_state_dict(state_of(made))
    assert torch.equal(other.effective_weights(), made.effective_weights())


def test_weights_of_a_state_find_their_edges_in_any_order():
    edges = random_edges(20)
    weights = magnitudes(20)
    mixed = torch.randperm(20, generator=seeded(4))
    made = make(weights=weights, edges=edges, trainable="synapses")
    other = make(
        weights=torch.zeros(20, dtype=torch.float64),
        edges=(edges[0][mixed], edges[1][mixed]),
        trainable="synapses",
    )
    other.load_state_dict(state_of(made))
    assert torch.equal(other.effective_weights(), weights[mixed])


def changed(labels):
    ids = labels.ids.clone()
    ids[0] = (ids[0] + 1) % 2
    return Labels(ids, labels.names)


@pytest.mark.parametrize(
    ("build", "options", "named"),
    [
        (sparse, {"edges": random_edges(20, seed=5)}, r"wiring\.pre differs"),
        (sparse, {"edges": random_edges(21), "weights": torch.ones(21)}, r"shape \(21,\).*\(20,\)"),
        (
            sparse,
            {"delay_steps": 2},
            r"delay_steps differs: entry 0 is 2 here and 1 in the state",
        ),
        (sparse, {"n_channels": 2, "channel_of_pre": 1}, r"wiring\.target differs"),
        (dense, {"n_channels": 2, "channel_of_pre": 1}, r"wiring\.channel_of_pre differs"),
        (sparse, {"pre_type": changed(PRE_TYPE)}, r"scaling\.row_of_pre differs"),
        (dense, {"post_type": changed(POST_TYPE)}, r"scaling\.column_of_post differs"),
        (sparse, {"signs": 1}, r"sign_of_pre differs.*another wiring"),
    ],
)
def test_a_state_of_another_wiring_is_refused_by_name(build, options, named):
    state = state_of(
        unsigned(build, trainable="type_pairs", signs=1 if "signs" in options else None)
    )
    if "signs" in options:
        state["sign_of_pre"][2] = -1
    other = unsigned(build, trainable="type_pairs", **options)
    with pytest.raises(RuntimeError, match=named):
        other.load_state_dict(state)


def unsigned(build, **options):
    weights = torch.ones(20) if build is sparse else torch.ones(N_PRE, N_POST)
    edges = random_edges(20) if build is sparse else None
    return make(**{"weights": weights, "edges": edges, **options})


def test_a_refused_state_leaves_weights_and_edges_alone():
    state = state_of(make(weights=torch.ones(20), edges=random_edges(20, seed=5)))
    other = make(weights=torch.zeros(20), edges=random_edges(20))
    with pytest.raises(RuntimeError, match="differs"):
        other.load_state_dict(state)
    assert other.effective_weights().eq(0).all()
    assert torch.equal(other.synapses(None)[0].edges.pre, random_edges(20)[0].sort().values)


# What is refused

WEIGHTS = torch.ones(N_PRE, N_POST)
EDGES = random_edges(20)
TYPES = {"trainable": "type_pairs"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_post": 0}, "n_post = 0 must be at least 1"),
        ({"weights": torch.ones(N_POST, N_PRE)}, r"weights has shape \(5, 7\).*shape \(7, 5\)"),
        ({"weights": torch.ones(19), "edges": EDGES}, r"\(19,\).*shape \(20,\), one for each edge"),
        ({"weights": WEIGHTS.int()}, "torch.int32; it must be floating point"),
        ({"weights": WEIGHTS * float("nan")}, "not finite"),
        ({"trainable": "everything"}, "'everything' is none of 'frozen', 'synapses', 'type_pairs'"),
        ({"edges": (EDGES[0], EDGES[1][1:])}, r"shapes \(20,\) and \(19,\)"),
        ({"edges": ([0, 7], [0, 0])}, r"pre of an edge is 7, outside 0 \.\. 6"),
        ({"edges": ([0, 1], [0, -1])}, r"post of an edge is -1, outside 0 \.\. 4"),
        ({"edges": ([3, 3], [2, 2])}, "pre 3, post 2 occurs twice"),
        ({"delay_steps": -1}, "delay_steps = -1 must be whole numbers of steps, at least 0"),
        ({"delay_steps": 1.5}, "whole numbers"),
        ({"delay_steps": torch.ones(20, dtype=torch.int64)}, r"need edges: give edges=\(pre, post"),
        (
            {"delay_steps": torch.ones(9, dtype=torch.int64), "edges": EDGES},
            r"delay_steps has shape \(9,\); there are 20 edges",
        ),
        ({"channel_of_pre": 1}, r"channel_of_pre holds 1, outside 0 \.\. 0"),
        ({"channel_of_pre": torch.zeros(3, dtype=torch.int64)}, r"\(3,\).*each of the 7 units"),
        ({"signs": torch.ones(3)}, r"signs has shape \(3,\).*each of 7"),
        ({"signs": 0}, "signs holds 0; a sign is"),
        ({"signs": SIGNS}, r"weight at \(1, 0\) is 1\.0, but the sign.* is -1 \(15 contradict\)"),
        (
            {"trainable": "synapses", "signs": 1, "parametrization": "square"},
            "none of 'log', 'soft",
        ),
        (
            {"trainable": "synapses", "signs": 1, "weights": 0 * WEIGHTS},
            r"\(0, 0\) is 0 \(35 are\)",
        ),
        ({**TYPES, "pre_type": None}, "trainable = 'type_pairs' needs pre_type, which is missing"),
        ({**TYPES, "post_type": PRE_TYPE}, r"post_type has shape \(7,\).*each of the 5 units"),
        ({**TYPES, "pre_type": torch.ones(N_PRE)}, "pre_type .*torch.float32; give one integer"),
        (
            {**TYPES, "post_type": Labels(POST_TYPE.ids, ("soma",))},
            r"post_type holds 1, outside 0 \.\. 0, the kinds \('soma',\)",
        ),
        ({**TYPES, "pre_type": PRE_TYPE.ids - 1}, "pre_type holds -1"),
        ({**TYPES, "factors": torch.ones(2, 3)}, r"factors has shape \(2, 3\).*shape \(3, 2\)"),
        ({**TYPES, "factors": 0.0}, "factors holds 0.0; factors are positive"),
        ({"factors": 2.0}, "'frozen' has no factors; multiply them into weights"),
    ],
)
def test_bad_arguments_are_named(options, message):
    if "edges" in options and "weights" not in options:
        options = {**options, "weights": torch.ones(len(options["edges"][0]))}
    with pytest.raises(ValueError, match=message):
        make(**{"weights": WEIGHTS, **options})


def test_weights_that_contradict_signs_are_found_on_the_edges_as_given():
    pre, post = torch.tensor([5, 1, 0]), torch.tensor([0, 0, 0])
    with pytest.raises(ValueError, match=r"weight at \(1,\) is 2\.0.* is -1 \(1 contradict\)"):
        make(weights=torch.tensor([1.0, 2.0, 3.0]), edges=(pre, post), signs=SIGNS)


def test_factors_of_a_projection_without_any_are_refused():
    with pytest.raises(ValueError, match="'synapses' has no scaling factors"):
        _ = dense(trainable="synapses").scaling_factors
