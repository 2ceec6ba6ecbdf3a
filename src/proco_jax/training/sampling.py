"""Batches of logged transitions, and what the log did after them."""

import jax
import jax.numpy as jnp

from proco_jax.config.schema import AgentConfig
from proco_jax.models.normalizer import Scale
from proco_jax.types import Ahead, Array, Dataset, Transition


def gather(config: AgentConfig, data: Dataset, scale: Scale, index: Array) -> Transition:
    """Scaled transitions `index` of the logs, and what the steps after them earned."""
    at = data.obs_index[index]
    return Transition(
        obs=scale(data.obs[at]),
        action=data.action[index],
        discount=data.discount[index],
        next_obs=scale(data.obs[at + 1]),
        ahead=look_ahead(config, data, scale, index),
    )


def look_ahead(config: AgentConfig, data: Dataset, scale: Scale, index: Array) -> Ahead:
    """What the next `config.lookahead` steps from transitions `index` on earned."""
    at, within = steps_ahead(config, data, index)
    count = within.sum(axis=-1)
    powers = config.discount ** jnp.arange(config.lookahead)
    earned = jnp.where(within, powers * data.reward[at], 0.0)
    last = index + count - 1
    return Ahead(
        reward=jnp.sum(earned, axis=-1),
        discount=config.discount**count * data.discount[last],
        obs=scale(data.obs[data.obs_index[last] + 1]),
    )


def steps_ahead(config: AgentConfig, data: Dataset, index: Array) -> tuple[jax.Array, jax.Array]:
    """The next n = `config.lookahead` transitions from `index [B]` on.

    Returns:
      Their indices `[B, n]`, and whether they belong to the same episode.
    """
    step = jnp.arange(config.lookahead)
    within = step <= data.remaining[index][:, None]
    return jnp.minimum(index[:, None] + step, data.size - 1), within
