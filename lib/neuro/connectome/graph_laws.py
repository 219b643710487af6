"""Random graphs between two groups of cells, as lists of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# A round of swaps mends at least a few per cent of what is left, since at most half of all pairs
# are joined; what is left after so many has no mend, and another shuffle is needed.
MAX_ROUNDS = 200
MAX_SHUFFLES = 100


class Pairs(NamedTuple):
    """Joined cells: pre[i] projects to post[i], int64, shape (E,)."""

    pre: NDArray[np.int64]
    post: NDArray[np.int64]


def erdos_renyi(
    n_pre: int, n_post: int, probability: float, *, within: bool, generator: np.random.Generator
) -> Pairs:
    """Join every pair with the same probability, independently of all others.

    What is drawn is how many pairs to skip until the next joined one (geometric), so that time and
    memory grow with the number of edges and not with that of all pairs.

    Args:
        n_pre: cells that project.
        n_post: cells that are projected to.
        probability: of a pair, 0 .. 1.
        within: both are the same cells: none projects to itself.
        generator: source of the randomness.

    Returns:
        The pairs, none twice, sorted by (pre, post).
    """
    n_pairs = n_pre * (n_post - within)
    pre, post = np.divmod(_bernoulli_trials(n_pairs, probability, generator), n_post - within or 1)
    return Pairs(pre, post + (post >= pre) if within else post)


def configuration(
    n_pre: int, n_post: int, probability: float, *, within: bool, generator: np.random.Generator
) -> Pairs:
    """Join exactly round(probability * n_pre * n_post) pairs with degrees as even as can be.

    Each cell holds as many stubs as any other of its side, or one more. Outgoing and incoming
    stubs are matched at random; then repeated pairs and self-loops swap their incoming stub with
    pairs chosen at random, if both new pairs are new. Above half of all pairs, the pairs that are
    not joined are drawn instead, in the same way. Memory: one byte for each possible pair.

    Args:
        n_pre: cells that project.
        n_post: cells that are projected to.
        probability: share of joined pairs, 0 .. 1.
        within: both are the same cells: none projects to itself.
        generator: source of the randomness.

    Returns:
        The pairs, none twice, sorted by (pre, post). Two cells of a side differ by 1 pair at most.

    Raises:
        ValueError: there are fewer pairs than that.
        RuntimeError: no such graph was found within `MAX_SHUFFLES` shuffles.
    """
    n_edges = round(probability * n_pre * n_post)
    n_pairs = n_pre * (n_post - within)
    if n_edges > n_pairs:
        msg = (
            f"probability {probability!r} asks for {n_edges} edges from {n_pre} to {n_post} cells, "
            f"but without self-loops there are {n_pairs}: use at most {1 - 1 / n_post:g}, or "
            "'erdos-renyi'"
        )
        raise ValueError(msg)
    mostly = 2 * n_edges > n_pairs
    n_drawn = n_pairs - n_edges if mostly else n_edges
    for _ in range(MAX_SHUFFLES):
        joined = _match_stubs(n_drawn, n_pre, n_post, within=within, generator=generator)
        if joined is not None:
            break
    else:
        msg = (
            f"no graph of {n_edges} edges from {n_pre} to {n_post} cells with even degrees was "
            f"found in {MAX_SHUFFLES} shuffles; change the probability, or use 'erdos-renyi'"
        )
        raise RuntimeError(msg)
    if mostly:
        joined = ~joined
        if within:
            np.fill_diagonal(joined, val=False)
    return Pairs(*np.nonzero(joined))


LAWS: dict[str, Callable[..., Pairs]] = {
    "erdos-renyi": erdos_renyi,
    "configuration": configuration,
}


def check_law(law: str) -> None:
    """Refuse a law that does not exist.

    Raises:
        ValueError: `law` is no key of `LAWS`.
    """
    if law not in LAWS:
        msg = f"law = {law!r} is none of {', '.join(map(repr, LAWS))}"
        raise ValueError(msg)


def _bernoulli_trials(
    n_trials: int, probability: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return which of many independent trials succeed, in order."""
    if not n_trials * probability:
        return np.empty(0, dtype=np.int64)
    # Enough skips to pass the last trial nearly always: the mean and six standard deviations.
    n_skips = int(n_trials * probability + 6 * np.sqrt(n_trials * probability)) + 10
    passed, last = [], -1
    while last < n_trials:
        skips = np.minimum(generator.geometric(probability, size=n_skips), n_trials + 1)
        passed.append(last + np.cumsum(skips))
        last = int(passed[-1][-1])
    successes = np.concatenate(passed)
    return successes[successes < n_trials]


def _match_stubs(
    n_edges: int, n_pre: int, n_post: int, *, within: bool, generator: np.random.Generator
) -> NDArray[np.bool_] | None:
    """Match stubs once; return which pairs are joined, or None if swaps did not mend all."""
    pre = _stubs(n_edges, n_pre, generator)
    post = generator.permutation(_stubs(n_edges, n_post, generator))
    taken = np.zeros((n_pre, n_post), dtype=bool)
    if within:
        np.fill_diagonal(taken, val=True)
    key = pre * n_post + post
    first = np.zeros(n_edges, dtype=bool)
    first[np.unique(key, return_index=True)[1]] = True
    good = first & ~taken[pre, post]
    taken[pre[good], post[good]] = True
    for _ in range(MAX_ROUNDS):
        bad = np.flatnonzero(~good)
        if not bad.size or bad.size == n_edges:
            break
        _swap(pre, post, bad, good, taken, generator=generator)
    if not good.all():
        return None
    if within:
        np.fill_diagonal(taken, val=False)
    return taken


def _stubs(n_edges: int, n_cells: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Hand out stubs in turn, in a random order of cells, so that the last come out random."""
    return np.resize(generator.permutation(n_cells), n_edges)


def _swap(
    pre: NDArray[np.int64],
    post: NDArray[np.int64],
    bad: NDArray[np.int64],
    good: NDArray[np.bool_],
    taken: NDArray[np.bool_],
    *,
    generator: np.random.Generator,
) -> None:
    """Let bad edges swap their targets with good ones, all at once, in place.

    A swap takes place if neither of its two new pairs is taken or wanted by another swap.
    """
    partner = np.flatnonzero(good)
    n_swaps = min(len(bad), len(partner))
    partner = generator.choice(partner, size=n_swaps, replace=False)
    bad = generator.permutation(bad)[:n_swaps]
    new_pre = np.concatenate([pre[bad], pre[partner]])
    new_post = np.concatenate([post[partner], post[bad]])
    _, place, wanted = np.unique(
        new_pre * taken.shape[1] + new_post, return_inverse=True, return_counts=True
    )
    free = (~taken[new_pre, new_post] & (wanted[place] == 1)).reshape(2, n_swaps).all(axis=0)
    bad, partner = bad[free], partner[free]
    taken[pre[partner], post[partner]] = False
    post[bad], post[partner] = post[partner], post[bad]
    good[bad] = True
    taken[pre[bad], post[bad]] = True
    taken[pre[partner], post[partner]] = True
