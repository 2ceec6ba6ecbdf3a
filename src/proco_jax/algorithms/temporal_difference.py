"""Temporal-difference targets and losses of reward and cost critics (BCQ-Lag, BEAR-Lag, CPQ)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from proco_jax.algorithms.base import Metrics
from proco_jax.algorithms.time_limits import end_at_time_limits
from proco_jax.models.losses import weighted_mean
from proco_jax.models.networks import Critic, apply
from proco_jax.types import Array, Transition


def td_targets(
    batch: Transition,
    next_q: Array,
    next_qc: Array,
    discount: Array,
    reward_scale: Array,
    as_published: bool,
) -> tuple[jax.Array, jax.Array]:
    """Targets of Q and Q_c, each `[B]`, without gradient.

    Both backups stop at true terminations and at no time limit. `as_published`, that of the reward
    stops at both, and that of the cost at neither.
    """
    chex.assert_equal_shape([batch.reward, batch.cost, batch.discount, next_q, next_qc])
    reward_goes_on = cost_goes_on = batch.discount
    if as_published:
        reward_goes_on = end_at_time_limits(batch).discount
        cost_goes_on = jnp.ones_like(batch.discount)
    target_q = reward_scale * batch.reward + discount * reward_goes_on * next_q
    target_qc = batch.cost + discount * cost_goes_on * next_qc
    return jax.lax.stop_gradient(target_q), jax.lax.stop_gradient(target_qc)


def td_loss(
    net: Critic, params: Any, batch: Transition, target: Array, weight: Array, name: str
) -> tuple[jax.Array, Metrics]:
    """The `squared_error` of a critic, and metrics.

    Args:
      target: `[B]`.
      weight: `[B]`.
      name: of the critic in metrics.
    """
    heads = apply(net, params, batch.obs, batch.action)
    loss = squared_error(heads, target, weight)
    return loss, {f"{name}_loss": loss, name: weighted_mean(jnp.mean(heads, axis=-1), weight)}


def squared_error(heads: Array, target: Array, weight: Array) -> jax.Array:
    """Squared errors summed over heads `[B, n]`, their mean over rows with weights `[B]`.

    Args:
      target: `[B]`, the same for all heads.
    """
    return weighted_mean(jnp.sum(jnp.square(heads - target[:, None]), axis=-1), weight)
