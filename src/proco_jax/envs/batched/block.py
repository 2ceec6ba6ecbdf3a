"""The protocol of a block of worlds whose arithmetic is vectorized."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class BlockStep(NamedTuple):
    """The result of a step of a block; rows that were not active are undefined.

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
    """The state of one world within an episode, from which the same actions give the same numbers.

    Attributes:
      seed: of the episode.
      step: number of steps taken.
      obs: `[O]` float64, the last observation.
      physics: MuJoCo's state, with the warm start of its solver.
      random: state of the world's random generator.
      rows: state of the task's rules, by name.
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
        """A snapshot of a world, from which `load` continues."""
        ...

    def load(self, rows: Sequence[int], snapshots: Sequence[Snapshot]) -> None:
        """Restores snapshots of this task in the given rows; threads may call it, like `place`."""
        ...

    def judge(self, actions: np.ndarray, active: np.ndarray) -> BlockStep:
        """Completes the step of the active rows, which were moved; `[N, A]` and `[N]` bool."""
        ...


def rows_of(mask: np.ndarray) -> list[int]:
    """The rows where a mask holds."""
    return np.flatnonzero(mask).tolist()
