"""What of a transition the dynamics predict, and in which units.

Changes of the observation and the reward, standardised so that what happens
once in two hundred steps does not decide the fit: a ring jumps when a goal is
reached or an object hides another, and a bonus is a hundred times the reward on
the way to it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.models.normalizer import Scale
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# Least size of the changes of a ring's nearest object, against that of its bins: one
# that never moves must not outweigh everything else.
NEAREST_FLOOR = 0.03
# A ring jumps when a goal is reached or an object hides another. Errors beyond this many
# sizes count linearly, and changes beyond these quantiles as the quantile.
ROBUST = 3.0
USUAL, USUAL_NEAREST = 0.99, 0.95
REWARDS = 2


class Targets(NamedTuple):
    """Scale of the changes to be predicted, and which dimensions are.

    The last two dimensions are the reward: what is usual of it, and what a
    rare bonus exceeds that by. In one number the bonus would decide the fit,
    and the small rewards on the way to it would be lost.

    Attributes:
      shift: `[O + 2]`.
      size: `[O + 2]`.
      varies: `[O + 2]`, 0 for dimensions that never change.
      nearest: `[R]` size of the changes of each ring's largest bin.
      usual: `[2]` smallest and largest usual reward.
    """

    shift: Array
    size: Array
    varies: Array
    nearest: Array
    usual: Array


def fit_targets(spec: ObservationSpec, scale: Scale, data: Dataset) -> Targets:
    """Standardisation of the changes in the logs; a ring's bins share one size."""
    obs, next_obs = data.obs[data.obs_index], data.obs[data.obs_index + 1]
    change = np.asarray(next_obs - obs, np.float64)
    usual = np.quantile(data.reward, (1.0 - USUAL, USUAL))
    reward = np.stack(_split_reward(np.asarray(data.reward, np.float64), usual), axis=1)
    target = np.concatenate([change, reward], axis=1)
    shift, size = target.mean(0), target.std(0)
    nearest = np.ones(len(spec.rings))
    for i, f in enumerate(spec.rings):
        where = spec.slices[f.name]
        shift[where], size[where] = 0.0, _usual_size(target[:, where], USUAL)
        moved = np.max(next_obs[:, where], axis=1) - np.max(obs[:, where], axis=1)
        floor = NEAREST_FLOOR * size[where][0]
        nearest[i] = max(_usual_size(np.asarray(moved, np.float64), USUAL_NEAREST), floor, 1e-7)
    varies = np.append(np.asarray(scale.varies), [True, True]) & (size > 1e-7)
    size = np.where(varies, size, 1.0)
    return Targets(*(x.astype(np.float32) for x in (shift, size, varies, nearest, usual)))


def _split_reward(reward: Array, usual: Array) -> tuple[Array, Array]:
    """The usual part of rewards, and the rest; shapes as given."""
    kept = reward.clip(usual[0], usual[1])
    return kept, reward - kept


def _usual_size(change: np.ndarray, quantile: float) -> float:
    """Root mean square of changes, jumps beyond a quantile counted as that quantile."""
    size = np.abs(change)
    return float(np.sqrt(np.mean(np.minimum(size, np.quantile(size, quantile)) ** 2)))


def standardized(
    targets: Targets, scale: Scale, data: Dataset, index: Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scaled observations, actions and standardised targets of transitions `index`."""
    at = data.obs_index[index]
    obs, next_obs = data.obs[at], data.obs[at + 1]
    reward = jnp.stack(_split_reward(data.reward[index], targets.usual), axis=-1)
    target = jnp.concatenate([next_obs - obs, reward], axis=-1)
    return scale(obs), data.action[index], (target - targets.shift) / targets.size
