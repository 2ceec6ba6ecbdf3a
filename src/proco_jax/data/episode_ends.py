"""Corrects final observations that belong to the reset of another episode.

Converters often store `next_observations` as `observations` shifted by one, and vectorized
environments return the observation after their automatic reset. The last transition of an episode
then leads to the start of another one. The true final observation is lost, so that transition is
dropped. The other episode may stand anywhere in a file that was reordered, may be missing in one
that was filtered, and numbers may have been rounded.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from proco_jax.data.checks import DataError
from proco_jax.types import Episode

# Largest relative difference of numbers that are equal but for rounding to float16.
CLOSE = 1e-3
# Rows from inside of episodes that tell how often an observation equals a start by chance.
CONTROLS = 5000
# A jump has at least this share of the smallest known one; other steps stay below that share.
JUMP, STEP = 0.7, 0.4
# Numbers in whose range at starts at most this share of the other rows lies set starts apart; a
# start has nearly all of them in that range.
RARE, LIKE = 0.1, 0.8
# Change of a number, in units of what nearly all steps stay below, at which it counts in full.
LARGEST_CHANGE = 4.0


class Corrected(NamedTuple):
    """Episodes after the correction.

    Attributes:
      episodes: those with at least one transition left.
      dropped_cost: for each of them, the cost of the transition that was dropped from its end.
      notes: one sentence for each kind of correction.
    """

    episodes: list[Episode]
    dropped_cost: list[float]
    notes: list[str]


def correct_ends(episodes: Sequence[Episode], where: str) -> Corrected:
    """Drops the transitions that lead into another episode; correct episodes stay as they are.

    Where final observations are resets, an end that is not marked cannot be seen from them, so
    jumps like those at the known ends are looked for inside of the episodes, which are split there.

    Args:
      episodes: in any order, of one size of observations.
      where: name of the dataset for errors.

    Raises:
      DataError: if ends are not marked and cannot be found, or nothing is left.
    """
    kept = Corrected(list(episodes), [0.0] * len(episodes), [])
    if not episodes:
        return kept
    first = np.stack([e.obs[0] for e in episodes])
    last = np.stack([e.obs[-1] for e in episodes])
    wrong = leads_to_another(first, last, _controls(episodes))
    changes = _changes(episodes)
    if not wrong.any() and len(episodes) == 1:
        wrong = _wraps_around(episodes[0], changes[0], where)
    if not wrong.any():
        wrong = _resets_of_absent(changes)
        if not wrong.any():
            return kept
        note = "jump, as to a reset, at their final observation"
    else:
        wrong |= _without_successor(episodes, wrong)
        note = "store the first observation of another episode as their final one"
        if len(episodes) == 1:
            note = "store their own first observation, or zeros, as their final one"
    notes = [
        f"{int(wrong.sum())} of {len(episodes)} episodes {note}; the last transition of each is "
        "dropped"
    ]
    hidden = _hidden_ends(episodes, changes, wrong, where)
    parts = [
        part
        for episode, ends, is_wrong in zip(episodes, hidden, wrong, strict=True)
        for part in _split(episode, ends, bool(is_wrong))
    ]
    count = sum(map(len, hidden))
    if count:
        notes.append(
            f"{count} ends that are not marked were found by jumps like those at the marked ones; "
            "the episodes are split there, without the transitions that jump"
        )
    costly = sum(cost > 0 for _, cost in parts)
    if costly:
        notes.append(f"{costly} dropped transitions have a cost; their episodes stay violating")
    parts = [(episode, cost) for episode, cost in parts if len(episode.reward)]
    if not parts:
        raise DataError(
            f"{where}: every transition leads into another episode; store the observation before "
            "the reset as the final one"
        )
    return Corrected([e for e, _ in parts], [cost for _, cost in parts], notes)


def leads_to_another(first: np.ndarray, last: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Which episodes end with the first observation of another one, but for rounding.

    A first observation that many episodes share proves nothing, and neither do final observations
    if other rows equal first ones as often.

    Args:
      first: `[E, O]` first observations.
      last: `[E, O]` final ones.
      controls: `[N, O]` other observations.

    Returns:
      `[E]` bool.
    """
    find = _Starts(first)
    same = find.near(first)
    count = np.array([len(found) for found in same])
    distinct = (1 / count).sum()
    telling = count == 1
    if distinct >= 5 and not np.array_equal(first, np.round(first)):
        # Episodes that a file holds more than once.
        telling |= count <= len(first) / 5
    wrong = np.array(
        [
            any(telling[j] and j not in own for j in found)
            for found, own in zip(find.near(last), same, strict=True)
        ]
    )
    if len(controls):
        chance = np.mean([any(telling[j] for j in found) for found in find.near(controls)])
        if wrong.mean() <= 10 * chance:
            wrong[:] = False
    return wrong


class _Starts:
    """Finds first observations that equal others but for rounding."""

    def __init__(self, first: np.ndarray) -> None:
        self._first = first.astype(np.float64)
        scale = np.abs(self._first).max(axis=0)
        self._spread = self._first.std(axis=0)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], first.shape[1])
        self._weights = signs / np.maximum(scale, 1e-12)
        projected = self._first @ self._weights
        self._order = np.argsort(projected, kind="stable")
        self._sorted = projected[self._order]
        # Close in every number implies close in the projection.
        self._window = 2 * CLOSE * first.shape[1]

    def near(self, rows: np.ndarray) -> list[list[int]]:
        """The indices of the first observations that are close to each row."""
        rows = rows.astype(np.float64)
        projected = rows @ self._weights
        low = np.searchsorted(self._sorted, projected - self._window)
        high = np.searchsorted(self._sorted, projected + self._window, side="right")
        return [
            self._close(row, self._order[begin:end]) if end > begin else []
            for row, begin, end in zip(rows, low, high, strict=True)
        ]

    def _close(self, row: np.ndarray, candidates: np.ndarray) -> list[int]:
        starts = self._first[candidates]
        tolerance = CLOSE * np.maximum(np.abs(starts), self._spread) + 1e-12
        return candidates[(np.abs(starts - row) <= tolerance).all(axis=1)].tolist()


def _controls(episodes: Sequence[Episode]) -> np.ndarray:
    """Observations from inside of episodes, evenly spaced over all of them."""
    rows = np.concatenate([e.obs[1:-1] for e in episodes])
    return (
        rows[np.unique(np.linspace(0, len(rows) - 1, CONTROLS).astype(int))] if len(rows) else rows
    )


def _changes(episodes: Sequence[Episode]) -> list[np.ndarray]:
    """How much each step changes the observation, `[T]` per episode, from 0 to LARGEST_CHANGE.

    A reset changes most numbers far more than an ordinary step does, while e.g. a new goal changes
    few of them: hence the mean of bounded changes.
    """
    steps = [np.abs(np.diff(e.obs.astype(np.float64), axis=0)) for e in episodes]
    inside = np.concatenate([x[:-1] for x in steps if len(x) > 1] or [np.concatenate(steps)])
    usual = np.quantile(inside, _nearly_all(steps), axis=0)
    varying = usual > 0
    if not varying.any():
        return [np.zeros(len(x)) for x in steps]
    return [np.minimum(x[:, varying] / usual[varying], LARGEST_CHANGE).mean(axis=1) for x in steps]


def _nearly_all(steps: Sequence[np.ndarray]) -> float:
    """A share of the steps that leaves out those to resets, if three of four ends are unmarked."""
    return 1 - min(max(0.01, 3 * len(steps) / sum(map(len, steps))), 0.2)


def _resets_of_absent(changes: list[np.ndarray]) -> np.ndarray:
    """Which episodes jump at their end while none does inside, as in a filtered file."""
    inside = np.concatenate([x[:-1] for x in changes])
    if not len(inside):
        return np.zeros(len(changes), bool)
    last = np.array([x[-1] for x in changes])
    if (last > max(1.5 * inside.max(), 1e-9)).sum() < max(3, len(changes) / 2):
        return np.zeros(len(changes), bool)
    # If most are resets, the others are too, but for those that change like an ordinary step.
    return last > np.quantile(inside, _nearly_all(changes))


def _without_successor(episodes: Sequence[Episode], wrong: np.ndarray) -> np.ndarray:
    """The last row of a shifted array has no next one: it is repeated, or zero."""
    if wrong.mean() < 0.5:
        return np.zeros(len(episodes), bool)
    return np.array([np.array_equal(e.obs[-1], e.obs[-2]) or not e.obs[-1].any() for e in episodes])


def _wraps_around(episode: Episode, changes: np.ndarray, where: str) -> np.ndarray:
    """`[1]` bool: whether the only episode of a file jumps to its own start, or to zeros.

    Raises:
      DataError: if it also jumps like that inside, so that it may be several episodes.
    """
    first, last = episode.obs[[0]], episode.obs[-1]
    back = bool(_Starts(first).near(last[None])[0]) or not last.any()
    inside = changes[:-1]
    if not back or not len(inside) or changes[-1] <= 1.5 * np.quantile(inside, 0.99):
        return np.zeros(1, bool)
    if (inside > JUMP * changes[-1]).any():
        step = int(np.argmax(inside > JUMP * changes[-1]))
        raise DataError(
            f"{where}: the final observation is the first one of the file, or zeros, and the only "
            f"episode jumps after step {step} as well; mark the end of every episode"
        )
    return np.ones(1, bool)


def _hidden_ends(
    episodes: Sequence[Episode], changes: list[np.ndarray], wrong: np.ndarray, where: str
) -> list[list[int]]:
    """For each episode, the steps inside of it that jump like the wrong final ones do."""
    nothing: list[list[int]] = [[] for _ in episodes]
    inside = np.concatenate([x[:-1] for x in changes])
    known = np.array([x[-1] for x, is_wrong in zip(changes, wrong, strict=True) if is_wrong])
    known = known[known > 0]
    if not len(inside) or not len(known):
        return nothing
    if np.quantile(inside, _nearly_all(changes)) < STEP * known.min():
        like_start = _like_starts(episodes)
        return [
            np.flatnonzero((x[:-1] > JUMP * known.min()) & like_start(e.obs[1:-1])).tolist()
            for e, x in zip(episodes, changes, strict=True)
        ]
    # Resets do not stand out from other steps, so only lengths can tell.
    lengths = np.array([len(e.reward) for e in episodes])
    values, counts = np.unique(lengths, return_counts=True)
    usual = values[np.argmax(counts)]
    longer = np.flatnonzero(lengths > usual)
    if len(longer) and counts.max() >= max(2, len(lengths) / 2):
        raise DataError(
            f"{where}: final observations are those of the next reset, and episode {longer[0]} has "
            f"{lengths[longer[0]]} steps while most have {usual}: ends of episodes seem not to be "
            "marked, and cannot be found; mark every end, or store the observation before the reset"
        )
    return nothing


def _like_starts(episodes: Sequence[Episode]) -> Callable[[np.ndarray], np.ndarray]:
    """Tells rows that resemble starts in what sets starts apart, e.g. a robot at rest.

    That are the numbers which other rows seldom have. Other events change many numbers as well: a
    pressed button moves the goal and all that is measured from it.
    """
    first = np.stack([e.obs[0] for e in episodes]).astype(np.float64)
    low, high = first.min(axis=0), first.max(axis=0)
    margin = 0.1 * (high - low) + CLOSE * np.maximum(np.abs(low), np.abs(high)) + 1e-6
    controls = _controls(episodes)

    def within(rows: np.ndarray) -> np.ndarray:
        return (rows >= low - margin) & (rows <= high + margin)

    typical = within(controls).mean(axis=0) <= RARE
    if not typical.any():
        return lambda rows: np.ones(len(rows), bool)
    return lambda rows: within(rows)[:, typical].mean(axis=1) >= LIKE


def _split(episode: Episode, ends: list[int], wrong: bool) -> list[tuple[Episode, float]]:
    """The parts between hidden ends, and the cost of the transition dropped after each."""
    steps = len(episode.reward)
    bounds = [-1, *ends, steps - 1 if wrong else steps]
    parts: list[tuple[Episode, Any]] = []
    for before, end in itertools.pairwise(bounds):
        begin = before + 1
        cut = end < steps
        parts.append(
            (
                Episode(
                    obs=episode.obs[begin : end + 1],
                    action=episode.action[begin:end],
                    reward=episode.reward[begin:end],
                    cost=episode.cost[begin:end],
                    terminated=episode.terminated and not cut,
                ),
                float(episode.cost[end]) if cut else 0.0,
            )
        )
    return parts
