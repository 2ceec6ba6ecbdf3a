"""Layouts at the start of an episode: the official draws, computed faster.

The random stream is the official package's, number for number: the same
`RandomState`, the same order of draws, the same rule of who may stand where.
Only the search is laid out for speed, because a crowded task rejects tens of
thousands of positions before it finds a layout.
"""

import dataclasses
import math
from typing import Any

import numpy as np

TRIES = 100  # positions tried for one object before the whole layout is dropped
LAYOUTS = 10_000  # layouts tried before giving up
GOALS = 10_000  # positions tried for a new goal before giving up
_SINGLES = 5  # positions checked one by one; later ones in one NumPy call
_BLOCK = 4096  # uniform numbers drawn at once


@dataclasses.dataclass(frozen=True)
class Placement:
    """One object's rectangle for its center, and the space it keeps free.

    Attributes:
      name: as in a layout.
      low, high: x and y of the rectangle's corners, in meters.
      keepout: radius in meters that it keeps free.
      apart: least distance to each of the objects placed before it.
    """

    name: str
    low: tuple[float, float]
    high: tuple[float, float]
    keepout: float
    apart: tuple[float, ...]


def placements_of(official_task: Any) -> tuple[Placement, ...]:
    """The placements of an official task, in the order in which it draws them.

    Raises:
      ValueError: if an object may stand in several rectangles; no task here
        has that, and the draws would differ.
    """
    official_task._build_placements_dict()
    extents = official_task.placements_conf.extents
    margin = official_task.placements_conf.margin
    rows: list[Placement] = []
    for name, (rectangles, keepout) in official_task.placements_conf.placements.items():
        rectangles = [extents] if rectangles is None else rectangles
        if len(rectangles) != 1 or margin != 0:
            raise ValueError(f"{name} has {len(rectangles)} rectangles and margin {margin}")
        x_low, y_low, x_high, y_high = rectangles[0]
        low = (x_low + keepout, y_low + keepout)
        apart = tuple(row.keepout + keepout for row in rows)
        rows.append(Placement(name, low, (x_high - keepout, y_high - keepout), keepout, apart))
    return tuple(rows)


def sample_layout(
    random: np.random.RandomState, placements: tuple[Placement, ...]
) -> dict[str, tuple[float, float]]:
    """A position for every object, as the official `build_layout` draws it.

    Args:
      random: just seeded, or anywhere in its stream; it advances by exactly as
        many draws as the official search makes.
      placements: from `placements_of`.

    Raises:
      ValueError: if no layout was found.
    """
    before = random.get_state()
    numbers = _Numbers(random)
    layout = None
    for _ in range(LAYOUTS):
        layout = _try_layout(numbers, placements)
        if layout is not None:
            break
    random.set_state(before)
    random.random_sample(numbers.used)
    if layout is None:
        raise ValueError(f"no room for {len(placements)} objects in {LAYOUTS} tries")
    return layout


def sample_goal(
    random: np.random.RandomState,
    goal: Placement,
    others: np.ndarray,
    keepouts: np.ndarray,
) -> tuple[float, float] | None:
    """A new position for the goal, or None where the official search gives up.

    Args:
      random: the world's random stream.
      goal: the goal's placement.
      others: `[K, 2]` positions of all other objects.
      keepouts: `[K]` space that they keep free.
    """
    for _ in range(GOALS):
        x = random.uniform(goal.low[0], goal.high[0])
        y = random.uniform(goal.low[1], goal.high[1])
        distance = np.sqrt(np.square(x - others[:, 0]) + np.square(y - others[:, 1]))
        if not (distance < keepouts + goal.keepout).any():
            return x, y
    return None


class _Numbers:
    """Uniform numbers of a random stream, drawn in blocks, with a count of those used.

    Attributes:
      array: the block.
      list: the same numbers; Python reads them faster one by one.
      at: the first unused one.
    """

    def __init__(self, random: np.random.RandomState):
        self._random = random
        self._passed = 0
        self.at = 0
        self.array = random.random_sample(_BLOCK)
        self.list = self.array.tolist()

    @property
    def used(self) -> int:
        return self._passed + self.at

    def ensure(self, count: int) -> None:
        """Ensures that the block has that many unused numbers."""
        if self.at + count > len(self.list):
            rest = self.array[self.at :]
            self._passed += self.at
            self.at = 0
            self.array = np.concatenate([rest, self._random.random_sample(_BLOCK)])
            self.list = self.array.tolist()


def _try_layout(
    numbers: _Numbers, placements: tuple[Placement, ...]
) -> dict[str, tuple[float, float]] | None:
    placed: list[tuple[float, float]] = []
    for placement in placements:
        numbers.ensure(2 * TRIES)
        position = _place(numbers, placement, placed)
        if position is None:
            return None
        placed.append(position)
    return {p.name: xy for p, xy in zip(placements, placed, strict=True)}


def _place(
    numbers: _Numbers, placement: Placement, placed: list[tuple[float, float]]
) -> tuple[float, float] | None:
    (x_low, y_low), (x_high, y_high) = placement.low, placement.high
    x_range, y_range = x_high - x_low, y_high - y_low
    apart, uniform, sqrt = placement.apart, numbers.list, math.sqrt
    for at in range(numbers.at, numbers.at + 2 * _SINGLES, 2):
        x, y = x_low + x_range * uniform[at], y_low + y_range * uniform[at + 1]
        for (other_x, other_y), least in zip(placed, apart, strict=True):
            dx, dy = x - other_x, y - other_y
            if sqrt(dx * dx + dy * dy) < least:
                break
        else:
            numbers.at = at + 2
            return x, y
    numbers.at += 2 * _SINGLES
    return _place_among_many(numbers, placement, np.array(placed), TRIES - _SINGLES)


def _place_among_many(
    numbers: _Numbers, placement: Placement, placed: np.ndarray, tries: int
) -> tuple[float, float] | None:
    uniform = numbers.array[numbers.at : numbers.at + 2 * tries]
    (x_low, y_low), (x_high, y_high) = placement.low, placement.high
    x = x_low + (x_high - x_low) * uniform[0::2]
    y = y_low + (y_high - y_low) * uniform[1::2]
    distance = np.subtract.outer(placed[:, 0], x)
    distance *= distance
    dy = np.subtract.outer(placed[:, 1], y)
    distance += dy * dy
    np.sqrt(distance, out=distance)
    taken = np.logical_or.reduce(distance < np.array(placement.apart)[:, None], axis=0)
    k = int(taken.argmin())
    if taken[k]:
        numbers.at += 2 * tries
        return None
    numbers.at += 2 * (k + 1)
    return float(x[k]), float(y[k])
