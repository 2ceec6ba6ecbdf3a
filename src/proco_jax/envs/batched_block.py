"""A block of worlds whose arithmetic is done together: the contract."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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

    def judge(self, actions: np.ndarray, active: np.ndarray) -> BlockStep:
        """Ends the step of the rows that were moved; `[N, A]`, `[N]` bool."""
        ...


def rows_of(mask: np.ndarray) -> list[int]:
    """The rows where a mask holds."""
    return np.flatnonzero(mask).tolist()
