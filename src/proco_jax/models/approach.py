"""The reward of approaching objects, where that explains the usual reward.

A policy that is improved in a model finds what its reward misses: far from the logs a network
predicts a reward for driving away. Many rewards are the distance by which the agent came nearer to
something, e.g. a goal. Whether the reward of a task is one, is asked of the logs: it is fitted by
least squares to the changes of the distance to each ring's nearest object, and is used if it
explains nearly all of the usual reward on held-out logs. Imagined states know these distances,
even beyond the reach of a ring (`object_map`).
"""

import jax
import jax.numpy as jnp

from proco_jax.models import object_map
from proco_jax.models.dynamics_targets import Targets
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# Share of the variance of held-out rewards that must be explained.
EXPLAINED = 0.99
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
    weighted = closer * counts[:, None]
    ridge = 1e-6 * jnp.eye(len(spec.rings))
    weights = jnp.linalg.solve(weighted.T @ closer + ridge, weighted.T @ reward)
    closer, reward, counts = _table(spec, targets, resting, holdout)
    count = jnp.maximum(jnp.sum(counts), 1.0)
    mean = jnp.sum(counts * reward) / count
    variance = jnp.sum(counts * jnp.square(reward - mean)) / count
    error = jnp.sum(counts * jnp.square(reward - closer @ weights)) / count
    explained = (variance > 0.0) & (error < (1.0 - EXPLAINED) * variance)
    return jnp.where(explained, weights, 0.0)


def reward(spec: ObservationSpec, weights: Array, state: Array, next_state: Array) -> jax.Array:
    """The reward `[...]` of a step between imagined states `[..., S]`."""
    before, after = object_map.nearest(spec, state), object_map.nearest(spec, next_state)
    known = (before < object_map.NOWHERE / 2) & (after < object_map.NOWHERE / 2)
    return jnp.sum(jnp.where(known, weights * (before - after), 0.0), axis=-1)


def _table(
    spec: ObservationSpec, targets: Targets, resting: Array, data: Dataset
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Meters by which the nearest objects came closer `[N, R]`, rewards `[N]`, and 1 for the rows
    that count, those with a usual reward and without a jump, `[N]`."""
    at = data.obs_index
    closer = []
    for f in spec.rings:
        closeness = jnp.max(data.obs[:, spec.slices[f.name]], axis=1)
        closer.append(f.reach * (closeness[at + 1] - closeness[at]))
    moved = jnp.where(resting, jnp.stack(closer, axis=1), 0.0)
    low, high = targets.usual
    usual = (data.reward >= low) & (data.reward <= high)
    steady = jnp.all(jnp.abs(moved) <= LARGEST_CHANGE, axis=1)
    return moved, data.reward, (usual & steady).astype(jnp.float32)
