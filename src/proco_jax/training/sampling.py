"""Training batches: logged transitions or segments, joined with imagined rows."""

from typing import Any

import jax
import jax.numpy as jnp

from proco_jax.augmentation.base import Augmentation, Context
from proco_jax.config.schema import TrainConfig
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Array, Dataset, NStep, Segment, Transition


def draw_transitions(
    config: TrainConfig,
    augmentation: Augmentation,
    context: Context,
    hyper: Any,
    state: Any,
    key: Array,
) -> Transition:
    """Logged rows with the augmentation's costs, followed by the augmentation's imagined rows.

    Args:
      hyper: hyperparameters of the augmentation.
      state: state of the augmentation.
    """
    logged_key, imagined_key = jax.random.split(key)
    index = jax.random.randint(logged_key, (config.batch,), 0, context.data.size)
    cost = augmentation.cost(context)
    batch = gather_transitions(context.data, context.normalizer, cost, index, config.n_step)
    if augmentation.sample is None:
        return batch
    imagined = augmentation.sample(imagined_key, hyper, context, state)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, imagined)


def draw_segments(
    config: TrainConfig, augmentation: Augmentation, context: Context, length: int, key: Array
) -> Segment:
    """Logged segments of `length` steps with the augmentation's costs.

    Imagined segments do not exist yet: an algorithm on segments sees the augmentation through the
    costs alone.
    """
    index = jax.random.randint(key, (config.batch,), 0, context.data.size)
    cost = augmentation.cost(context)
    return gather_segments(context.data, context.normalizer, cost, index, length)


def gather_transitions(
    data: Dataset, normalizer: Normalizer, cost: Array, index: Array, n: int
) -> Transition:
    """Transitions `index [B]` of the logs, each with the n steps that follow.

    Args:
      data: the logs.
      normalizer: of observations.
      cost: `[N]` cost of each logged transition, as the augmentation says.
      index: `[B]` int32.
      n: length of the window.
    """
    at = data.obs_index[index]
    step = jnp.arange(n)
    valid = step <= data.remaining[index][:, None]
    window = jnp.minimum(index[:, None] + step, data.size - 1)
    last = index + valid.sum(axis=1) - 1
    costs = jnp.where(valid, cost[window], 0.0)
    return Transition(
        obs=normalizer(data.obs[at]),
        action=data.action[index],
        reward=data.reward[index],
        cost=cost[index],
        next_obs=normalizer(data.obs[at + 1]),
        discount=data.discount[index],
        initial_obs=normalizer(data.obs[at - data.step[index]]),
        n_step=NStep(
            reward=jnp.where(valid, data.reward[window], 0.0),
            cost=costs,
            violation=costs > 0,
            valid=valid,
            obs=normalizer(data.obs[data.obs_index[last] + 1]),
            discount=data.discount[last],
        ),
        weight=jnp.ones(index.shape[0]),
        imagined=jnp.zeros(index.shape[0], bool),
    )


def gather_segments(
    data: Dataset, normalizer: Normalizer, cost: Array, index: Array, length: int
) -> Segment:
    """Segments of `length` steps that begin at transitions `index [B]` of the logs.

    Rows beyond the end of the episode repeat the last transition and are masked.
    """
    step = jnp.arange(length)
    mask = step <= data.remaining[index][:, None]
    at = index[:, None] + jnp.minimum(step, data.remaining[index][:, None])
    return_to_go = _to_go(data, data.reward)
    cost_to_go = _to_go(data, cost)
    return Segment(
        obs=normalizer(data.obs[data.obs_index[at]]),
        action=data.action[at],
        reward=jnp.where(mask, data.reward[at], 0.0),
        cost=jnp.where(mask, cost[at], 0.0),
        return_to_go=return_to_go[at],
        cost_to_go=cost_to_go[at],
        timestep=data.step[at],
        mask=mask,
    )


def _to_go(data: Dataset, value: Array) -> jax.Array:
    """Undiscounted sums `[N]` from each transition to the end of its episode."""
    first = data.step == 0

    def add(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        now, ends = inputs
        total = now + jnp.where(ends, 0.0, later)
        return total, total

    # The transition before the first one of an episode is the last one of another.
    ends = jnp.append(first[1:], True)
    return jax.lax.scan(add, jnp.zeros(()), (value, ends), reverse=True)[1]
