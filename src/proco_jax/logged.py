"""Batches of logged transitions, and what the log did after them."""

import jax.numpy as jnp

from proco_jax.config import AgentConfig
from proco_jax.scaling import Scale
from proco_jax.types import Ahead, Array, Dataset, Transition


def gather(config: AgentConfig, data: Dataset, scale: Scale, index: Array) -> Transition:
    """Scaled transitions `index` of the logs, and what the steps after them earned."""
    at = data.obs_index[index]
    return Transition(
        obs=scale(data.obs[at]),
        action=data.action[index],
        cost=data.cost[index],
        discount=data.discount[index],
        next_obs=scale(data.obs[at + 1]),
        ahead=look_ahead(config, data, scale, index),
    )


def look_ahead(config: AgentConfig, data: Dataset, scale: Scale, index: Array) -> Ahead:
    """The next `config.lookahead` steps from transitions `index` on."""
    step = jnp.arange(config.lookahead)
    count = jnp.minimum(config.lookahead, data.remaining[index] + 1)
    rewards = data.reward[jnp.minimum(index[:, None] + step, data.size - 1)]
    earned = jnp.where(step < count[:, None], config.discount**step * rewards, 0.0)
    last = index + count - 1
    return Ahead(
        reward=jnp.sum(earned, axis=-1),
        discount=config.discount**count * data.discount[last],
        obs=scale(data.obs[data.obs_index[last] + 1]),
    )


def unsafe_ahead(config: AgentConfig, data: Dataset, unsafe: Array, index: Array) -> Array:
    """Whether each of the next n states is unsafe, `[B, n]`; False behind an episode's end.

    Args:
      unsafe: `[N]` bool, of the next state of each transition.
      index: `[B]`.
    """
    step = jnp.arange(config.lookahead)
    within = step <= data.remaining[index][:, None]
    return unsafe[jnp.minimum(index[:, None] + step, data.size - 1)] & within
