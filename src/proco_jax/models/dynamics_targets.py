"""Targets of the dynamics model: standardized changes of the observation, and the reward.

They are standardized by the size of usual changes, so that rare events do not dominate the fit: a
ring jumps when a goal is reached or an object occludes another, and a goal bonus is a hundred times
the usual reward.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# Smallest scale of the changes of a ring's nearest object, relative to that of its bins, so that an
# object that hardly moves does not dominate the loss.
NEAREST_FLOOR = 0.03
# Errors of rings beyond so many standardized units count linearly. Changes beyond these quantiles
# enter the scale as the quantile.
ROBUST = 3.0
USUAL, USUAL_NEAREST = 0.99, 0.95
# A reward that exceeds its usual range by so many times the range is a bonus. Bonuses may be more
# frequent than the quantiles of the usual range: they are first told by the range of all but the
# smallest and the largest COMMON of the rewards.
BONUS, COMMON = 5.0, 0.05
REWARDS = 2


class Targets(NamedTuple):
    """Scales of the predicted changes, and which dimensions are predicted.

    The last two dimensions are the reward, split into its usual range and the amount by which a
    rare bonus exceeds it. As one number, the bonus would dominate the fit.

    Attributes:
      shift: `[O + 2]`.
      size: `[O + 2]`.
      varies: `[O + 2]`, 0 for dimensions that never change.
      nearest: `[R]` scale of the changes of each ring's largest bin; `[1]` without rings.
      usual: `[2]` smallest and largest usual reward.
    """

    shift: Array
    size: Array
    varies: Array
    nearest: Array
    usual: Array


def fit_targets(spec: ObservationSpec, normalizer: Normalizer, data: Dataset) -> Targets:
    """Fits the standardization of the changes in the logs; the bins of a ring share one scale."""
    obs, next_obs = data.obs[data.obs_index], data.obs[data.obs_index + 1]
    change = np.asarray(next_obs - obs, np.float64)
    usual = usual_range(np.asarray(data.reward))
    reward = np.stack(split_reward(np.asarray(data.reward, np.float64), usual), axis=1)
    target = np.concatenate([change, reward], axis=1)
    shift, size = target.mean(0), target.std(0)
    # Orbax does not save empty arrays: without rings there is one entry that nothing reads.
    nearest = np.ones(max(len(spec.rings), 1))
    for i, f in enumerate(spec.rings):
        where = spec.slices[f.name]
        shift[where], size[where] = 0.0, _usual_size(target[:, where], USUAL)
        moved = np.max(next_obs[:, where], axis=1) - np.max(obs[:, where], axis=1)
        floor = NEAREST_FLOOR * size[where][0]
        nearest[i] = max(_usual_size(np.asarray(moved, np.float64), USUAL_NEAREST), floor, 1e-7)
    varies = np.append(np.asarray(normalizer.varies), [True, True]) & (size > 1e-7)
    size = np.where(varies, size, 1.0)
    return Targets(*(x.astype(np.float32) for x in (shift, size, varies, nearest, usual)))


def usual_range(reward: np.ndarray) -> np.ndarray:
    """The range of rewards `[N]` without bonuses and the outermost 1% on either side, `[2]`."""
    common = np.quantile(reward, (COMMON, 1.0 - COMMON))
    return np.quantile(reward[~_is_beyond(reward, common)], (1.0 - USUAL, USUAL))


def split_reward(reward: Array, usual: Array) -> tuple[Array, Array]:
    """The usual part of rewards, and the remainder; shapes as given."""
    kept = reward.clip(usual[0], usual[1])
    return kept, reward - kept


def is_bonus(targets: Targets, reward: Array) -> Array:
    """Whether rewards `[...]` are far outside of their usual range, as only a rare event is."""
    return _is_beyond(reward, targets.usual)


def _is_beyond(reward: Array, interval: Array) -> Array:
    """Whether rewards are outside of an interval `[2]` by more than BONUS times its length."""
    low, high = interval
    return abs(reward - reward.clip(low, high)) > BONUS * (high - low) + 1e-6


def _usual_size(change: np.ndarray, quantile: float) -> float:
    """Root mean square of changes, those beyond a quantile clipped to it."""
    size = np.abs(change)
    return float(np.sqrt(np.mean(np.minimum(size, np.quantile(size, quantile)) ** 2)))


def standardized(
    targets: Targets, normalizer: Normalizer, data: Dataset, index: Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalized observations, actions and standardized targets of transitions `index`."""
    at = data.obs_index[index]
    obs, next_obs = data.obs[at], data.obs[at + 1]
    reward = jnp.stack(split_reward(data.reward[index], targets.usual), axis=-1)
    target = jnp.concatenate([next_obs - obs, reward], axis=-1)
    return normalizer(obs), data.action[index], (target - targets.shift) / targets.size
