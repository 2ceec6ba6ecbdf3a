"""The reward of approaching an object, where that explains the usual reward.

A policy that is improved in a model finds what its reward misses: far from the logs a network
predicts a reward for driving away. Many rewards are the distance by which the agent came nearer to
something, e.g. a goal. Whether the reward of a task is one, is asked of the logs: for each ring it
is fitted by least squares to the changes of the distance to the ring's nearest object, where that
is seen. The ring that explains held-out rewards best is used, if it explains nearly all of them.
Imagined states know the distance even beyond the reach of a ring (`object_map`).
"""

import jax
import jax.numpy as jnp

from proco_jax.models import object_map
from proco_jax.models.dynamics_targets import Targets
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# Share of the variance of held-out rewards that must be explained. A car tilts as it accelerates,
# which shifts what its lidar shows: there it is 0.97 to 0.99.
EXPLAINED = 0.95
# Larger changes of a distance in a step, in meters, are those to another object.
LARGEST_CHANGE = 0.2


def fit(
    spec: ObservationSpec, targets: Targets, resting: Array, data: Dataset, holdout: Dataset
) -> jax.Array:
    """The reward of a meter by which each ring's nearest object comes closer.

    Args:
      resting: `[R]` bool, the rings whose objects have places; others get no weight.
      data: the logs.
      holdout: held-out episodes.

    Returns:
      Weights `[R]`, all 0 if they do not explain the usual reward; `[1]` without rings.
    """
    if not spec.rings:
        return jnp.zeros(1)
    closer, reward, counts = _table(spec, targets, resting, data)
    weights = _mean(closer * reward, counts) / jnp.maximum(_mean(closer**2, counts), 1e-12)
    closer, reward, counts = _table(spec, targets, resting, holdout)
    variance = _mean((reward - _mean(reward, counts)) ** 2, counts)
    error = _mean((reward - closer * weights) ** 2, counts)
    explained = jnp.where(variance > 0.0, 1.0 - error / jnp.maximum(variance, 1e-12), -jnp.inf)
    best = jnp.arange(len(spec.rings)) == jnp.argmax(explained)
    return jnp.where(best & (explained >= EXPLAINED), weights, 0.0)


def reward(spec: ObservationSpec, weights: Array, state: Array, next_state: Array) -> jax.Array:
    """The reward `[...]` of a step between imagined states `[..., S]`."""
    before, after = object_map.nearest(spec, state), object_map.nearest(spec, next_state)
    known = object_map.known(before) & object_map.known(after)
    return jnp.sum(jnp.where(known, weights * (before - after), 0.0), axis=-1)


def _table(
    spec: ObservationSpec, targets: Targets, resting: Array, data: Dataset
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each ring: meters by which the nearest object came closer `[N, R]`, rewards `[N, 1]`, and
    which rows count, `[N, R]`: with a usual reward, an object seen before and after, and no jump.
    """
    at = data.obs_index
    closer, seen = [], []
    for f in spec.rings:
        closeness = jnp.max(data.obs[:, spec.slices[f.name]], axis=1)
        closer.append(f.reach * (closeness[at + 1] - closeness[at]))
        seen.append((closeness[at + 1] > 0.0) & (closeness[at] > 0.0))
    moved = jnp.stack(closer, axis=1)
    low, high = targets.usual
    usual = (data.reward >= low) & (data.reward <= high)
    counts = jnp.stack(seen, axis=1) & (jnp.abs(moved) <= LARGEST_CHANGE) & resting
    return moved, data.reward[:, None], counts & usual[:, None]


def _mean(values: Array, counts: Array) -> jax.Array:
    """Means `[R]` of `[N, R]` or `[N, 1]` over the rows that count."""
    return jnp.sum(jnp.where(counts, values, 0.0), axis=0) / jnp.maximum(jnp.sum(counts, axis=0), 1)
