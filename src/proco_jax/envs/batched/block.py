"""A block of worlds whose arithmetic is done together: the contract."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class BlockStep(NamedTuple):
    """What a step of a block gives; rows that were not active hold anything.

    Attributes:
      reward: `[N]` float64.
      cost: `[N]` bool.
      terminated: `[N]` bool, the episode truly ended.
      failed: `[N]` bool, the physics became unstable.
    """

    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    failed: np.ndarray


class Snapshot(NamedTuple):
    """One world amid an episode; the same actions lead it to the same numbers again.

    Attributes:
      seed: of the episode.
      step: steps done.
      obs: `[O]` float64, what it shows.
      physics: MuJoCo's state, warm start included.
      random: state of the world's random numbers.
      rows: what the rules keep, by name.
    """

    seed: int
    step: int
    obs: np.ndarray
    physics: np.ndarray
    random: Any
    rows: dict[str, np.ndarray]


class Block(Protocol):
    """N worlds of a task.

    `place` and `move` are MuJoCo's part: threads may call them at once for
    different rows. `start` and `judge` then do the arithmetic of all rows.

    Attributes:
      obs: `[N, O]` float64, the last observations.
    """

    obs: np.ndarray

    def place(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Builds the worlds of these seeds in the given rows."""
        ...

    def start(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Starts the episodes of worlds that were just placed."""
        ...

    def move(self, rows: Sequence[int], actions: np.ndarray) -> None:
        """Steps the physics of the given rows by their `[len(rows), A]` actions."""
        ...

    def save(self, row: int) -> Snapshot:
        """What it takes to go on from here later."""
        ...

    def load(self, rows: Sequence[int], snapshots: Sequence[Snapshot]) -> None:
        """Puts snapshots of this task's worlds into the given rows; as `place` is, for threads."""
        ...

    def judge(self, actions: np.ndarray, active: np.ndarray) -> BlockStep:
        """Ends the step of the rows that were moved; `[N, A]`, `[N]` bool."""
        ...


def rows_of(mask: np.ndarray) -> list[int]:
    """The rows where a mask holds."""
    return np.flatnonzero(mask).tolist()
