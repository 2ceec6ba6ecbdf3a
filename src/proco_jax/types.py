"""Types that the parts of the package exchange.

Dimension letters in docstrings: M members (seeds with hyperparameters), S seeds, N dataset,
B batch, H horizon, E ensemble, K elites or segment length, O observation, A action.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from flax import struct

from proco_jax.observation import ObservationSpec

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


class TaskSpec(NamedTuple):
    """What a learner must know of a task.

    Attributes:
      observation: the fields of an observation, O numbers in all.
      action_size: A, the number of action dimensions, each in [-1, 1].
      episode_steps: the time limit of an episode.
      cost_limit: cost per episode that a policy may cause.
    """

    observation: ObservationSpec
    action_size: int
    episode_steps: int
    cost_limit: float


class NStep(NamedTuple):
    """The next n steps of a trajectory, of which the first is the transition itself.

    Attributes:
      reward: `[B, n]`, 0 beyond the end of the trajectory.
      cost: `[B, n]`, 0 beyond the end.
      violation: `[B, n]` bool, whether the state after the step is unsafe; False beyond the end.
      valid: `[B, n]` bool, False beyond the end of the trajectory.
      obs: `[B, O]` normalized, the observation after the last valid step.
      discount: `[B]`, 0 if the last valid step is a true termination, else 1.
    """

    reward: Array
    cost: Array
    violation: Array
    valid: Array
    obs: Array
    discount: Array


class Transition(NamedTuple):
    """A batch of logged and imagined transitions.

    Attributes:
      obs: `[B, O]` normalized.
      action: `[B, A]` in [-1, 1].
      reward: `[B]`; of an imagined row, the usual part of the predicted reward.
      cost: `[B]`, the cost of the next state, as the augmentation says.
      next_obs: `[B, O]` normalized.
      discount: `[B]`, 0 at a true termination, else 1. Never 0 at a time limit.
      initial_obs: `[B, O]` normalized, the first observation of the trajectory.
      n_step: the next n steps.
      weight: `[B]`, of the row in a loss; 0 for a row to ignore.
      imagined: `[B]` bool, whether the row is a counterfactual of the dynamics model. It is False
        for rows of imagined episodes, which are learned from as logged ones are.
    """

    obs: Array
    action: Array
    reward: Array
    cost: Array
    next_obs: Array
    discount: Array
    initial_obs: Array
    n_step: NStep
    weight: Array
    imagined: Array


class Segment(NamedTuple):
    """A batch of stretches of K consecutive steps, for sequence models.

    Attributes:
      obs: `[B, K, O]` normalized.
      action: `[B, K, A]`.
      reward: `[B, K]`.
      cost: `[B, K]`, as the augmentation says.
      return_to_go: `[B, K]`, undiscounted sum of rewards from the step to the episode's end.
      cost_to_go: `[B, K]`, the same of costs.
      timestep: `[B, K]` int32, the step within the episode.
      mask: `[B, K]` bool, False beyond the end of the episode.
      imagined: `[B, K]` bool, whether the step comes from the dynamics model. The steps before the
        first imagined one of a segment are logged, with the sums of the imagined future.
    """

    obs: Array
    action: Array
    reward: Array
    cost: Array
    return_to_go: Array
    cost_to_go: Array
    timestep: Array
    mask: Array
    imagined: Array


class ToGo(NamedTuple):
    """Undiscounted sums from each logged transition to the end of its episode.

    Attributes:
      reward: `[N]`.
      cost: `[N]`, of the costs that the augmentation says.
    """

    reward: Array
    cost: Array


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
      step: `[N]` int32, transitions of the episode before this one.
    """

    obs: Array
    obs_index: Array
    action: Array
    reward: Array
    cost: Array
    discount: Array
    episode: Array
    remaining: Array
    step: Array

    @property
    def size(self) -> int:
        """The number of transitions N."""
        return self.action.shape[0]


class LabeledStates(NamedTuple):
    """Labels of states by a rule or a language model.

    Attributes:
      obs: `[M, O]` raw observations.
      unsafe: `[M]` probability of being unsafe, in [0, 1].
      margin: `[M]` signed distance to the boundary in the rule's own unit,
        positive inside the unsafe set; NaN where the labeler has none.
      confidence: `[M]` in [0, 1], the share of votes that agree.
    """

    obs: np.ndarray
    unsafe: np.ndarray
    margin: np.ndarray
    confidence: np.ndarray
