"""What one thread steps together: the contract of a block of worlds."""

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

    Attributes:
      obs: `[N, O]` float64, the last observations.
    """

    obs: np.ndarray

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Starts the episodes of these seeds in the given rows."""
        ...

    def step(self, actions: np.ndarray, active: np.ndarray) -> BlockStep:
        """Steps the active worlds by `[N, A]` actions."""
        ...


def rows_of(mask: np.ndarray) -> list[int]:
    """The rows where a mask holds."""
    return np.flatnonzero(mask).tolist()
