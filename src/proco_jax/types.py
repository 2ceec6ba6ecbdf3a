"""The words of the project: what the parts hand to each other.

Dimension letters, used in every docstring:
S seeds, N dataset, B batch, H horizon, E ensemble, O observation, A action.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from flax import struct

# A JAX or a NumPy array; functions on arrays take both.
Array: TypeAlias = Any


class Episode(NamedTuple):
    """One logged episode on the host, as NumPy arrays.

    Attributes:
      obs: `[T + 1, O]` float32, the last row is the final observation.
      action: `[T, A]` float32.
      reward: `[T]` float32.
      cost: `[T]` float32; `cost[t]` belongs to `obs[t + 1]`.
      terminated: whether the last step truly ended the episode (a time limit
        does not).
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: bool


class Transition(NamedTuple):
    """A batch of transitions.

    Attributes:
      obs: `[B, O]` normalised observations.
      action: `[B, A]` actions in [-1, 1].
      discount: `[B]`, 0 at a true termination, else 1. Never 0 at a time limit.
      next_obs: `[B, O]`.
      ahead: what the next steps earned.
    """

    obs: Array
    action: Array
    discount: Array
    next_obs: Array
    ahead: "Ahead"


class Ahead(NamedTuple):
    """The next n steps of a log, or those that are left of the episode.

    Attributes:
      reward: `[B]`, their discounted sum.
      discount: `[B]`, of what comes after them; 0 behind a true termination.
      obs: `[B, O]` normalised, the observation after them.
    """

    reward: Array
    discount: Array
    obs: Array


@struct.dataclass
class Dataset:
    """Logged transitions on the device; every observation is stored once.

    Transition `i` goes from `obs[obs_index[i]]` to `obs[obs_index[i] + 1]`.

    Attributes:
      obs: `[N + episodes, O]` float32, raw units, T + 1 rows per episode.
      obs_index: `[N]` int32.
      action: `[N, A]` float32.
      reward: `[N]` float32.
      cost: `[N]` float32, the cost of the next observation.
      discount: `[N]` float32, 0 at a true termination only.
      episode: `[N]` int32, the episode that a transition belongs to.
      remaining: `[N]` int32, transitions left in the episode after this one.
    """

    obs: Array
    obs_index: Array
    action: Array
    reward: Array
    cost: Array
    discount: Array
    episode: Array
    remaining: Array

    @property
    def size(self) -> int:
        """The number of transitions N."""
        return self.action.shape[0]


class LabeledStates(NamedTuple):
    """What a labeller says of states.

    Attributes:
      obs: `[M, O]` raw observations.
      unsafe: `[M]` probability of being unsafe, in [0, 1].
      margin: `[M]` signed distance to the boundary in the rule's own unit,
        positive inside the unsafe set; NaN where the labeller knows none.
      confidence: `[M]` in [0, 1]; votes that agree, over votes.
    """

    obs: np.ndarray
    unsafe: np.ndarray
    margin: np.ndarray
    confidence: np.ndarray
